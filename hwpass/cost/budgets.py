"""Budgets as people write them: `0.6x`, `12ms`, `5mJ`, `2MiB`, `300M`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hwpass.cost.prediction import METRICS, Prices
from hwpass.errors import UsageError, option
from hwpass.figures import human_bytes, shown

_UNITS = {
    "latency": {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0},
    "energy": {"uj": 1e-6, "mj": 1e-3, "j": 1.0},
    "memory": {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
    "macs": {"": 1, "k": 1e3, "m": 1e6, "g": 1e9},
}
#: What a target's limits are on, in words.
_LIMITED = {"ram": "RAM", "flash": "flash", "memory": "memory"}
#: Metrics that are counts, and what they count.
COUNTED = {"memory": "byte", "size": "byte", "macs": "multiply-accumulate"}
_UNITS["size"] = _UNITS["memory"]
_EXAMPLES = {"latency": "0.6x or 12ms", "energy": "0.7x or 5mJ", "memory": "0.8x or 2MiB", "size": "0.5x or 4MiB",
             "macs": "0.5x or 300M", "channels": "0.7x"}  # fmt: skip
_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(e[+-]?[0-9]+)?\s*([a-z]*)", re.ASCII)
#: Characters of the longest text that can be a budget.
_LONGEST = 64


@dataclass(frozen=True)
class Budget:
    """At most `value` of a metric: a share of the dense model's when `relative`, else in the units of METRICS."""

    metric: str
    value: float
    relative: bool
    text: str
    of: str = ""  #: the target whose limit it is; empty for what a user asks for

    @classmethod
    def parse(cls, metric: str, given: str | float) -> Budget:
        """Read a budget. A bare number between 0 and 1 is a share. Raises UsageError."""
        text = str(given).strip()
        said = option(metric, shown(text))
        wrong = UsageError(f"{said}: not a budget; write {_EXAMPLES[metric]}")
        found = _NUMBER.fullmatch(text.lower()) if len(text) <= _LONGEST and text.isascii() else None
        if found is None:
            raise wrong
        number, unit = float(found[1] + (found[2] or "")), found[3]
        if unit == "x" or (unit == "" and isinstance(given, float)):
            if not 0 < number <= 1:
                raise UsageError(f"{said}: a share of the dense model lies above 0 and at most 1x")
            return cls(metric, number, True, f"{number:g}x")
        units = _UNITS.get(metric, {})
        if unit not in units or not 0 < number * units[unit] < math.inf:
            raise wrong
        if metric in COUNTED and number * units[unit] < 1:
            raise UsageError(f"{said}: less than one {COUNTED[metric]}; a share of the dense model is written {text}x")
        return cls(metric, number * units[unit], False, text)

    @classmethod
    def limit_of(cls, target: str, metric: str, value: float) -> Budget:
        """A target's hard limit on a metric."""
        return cls(metric, value, False, human_bytes(value), target)

    def __str__(self) -> str:
        if self.of:
            return f"the {self.text} of {_LIMITED.get(self.metric, self.metric)} that {self.of} has"
        return option(self.metric, self.text)

    def limit(self, dense: float) -> float:
        """The bound in the metric's unit, given what the dense model takes."""
        return self.value * dense if self.relative else self.value


def parse_budgets(given: Mapping[str, str | float | None]) -> list[Budget]:
    """The budgets among options; `channels` excludes all others. Raises UsageError."""
    budgets = [Budget.parse(m, v) for m, v in given.items() if v is not None and m in (*METRICS, "channels")]
    names = [b.metric for b in budgets]
    if "channels" in names and len(names) > 1:
        other = next(n for n in names if n != "channels")
        raise UsageError(
            f"{option('channels')} sets every width itself and conflicts with {option(other)}; give one of them"
        )
    return budgets


def hard_limits(cost: Prices) -> list[Budget]:
    """The limits of a cost's target as budgets."""
    return [Budget.limit_of(cost.target.name, metric, bound) for metric, bound in cost.limits().items()]


def misfits(dense: Mapping[str, float], limits: Iterable[Budget]) -> list[str]:
    """Where the dense model's costs break limits, and by how much: a line each."""
    found = []
    for limit in limits:
        over = dense[limit.metric] - limit.value
        if over > 0:
            taken = human_bytes(dense[limit.metric])
            found.append(f"the model as it is does not fit: it takes {taken}, {human_bytes(over)} more than {limit}")
    return found
