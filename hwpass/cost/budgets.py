"""Budgets as people write them: `0.6x`, `12ms`, `5mJ`, `2MiB`, `300M`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from hwpass.cost.prediction import METRICS
from hwpass.errors import UsageError, option
from hwpass.figures import shown

_UNITS = {
    "latency": {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0},
    "energy": {"uj": 1e-6, "mj": 1e-3, "j": 1.0},
    "memory": {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
    "macs": {"": 1, "k": 1e3, "m": 1e6, "g": 1e9},
}
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
