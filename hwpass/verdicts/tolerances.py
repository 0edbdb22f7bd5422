"""Conditions on fidelity, as they are written: `cosine>=0.99`, `logits:top1>=98%`, `drop<=0.01`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from hwpass.errors import UsageError

METRICS = ("max_abs", "rel_l2", "cosine", "snr_db", "top1", "drop")
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class FidelityTolerance:
    """A condition on one metric of one output, or of every output it applies to (`output` None)."""

    metric: str
    comparison: str
    value: float
    output: str | None = None

    def __str__(self) -> str:
        prefix = f"{self.output}:" if self.output else ""
        return f"{prefix}{self.metric}{self.comparison}{self.value:g}"

    def accepts(self, value: float) -> bool:
        """Whether the value meets the condition."""
        return OPERATORS[self.comparison](value, self.value)


def parse_fidelity(text: str) -> FidelityTolerance:
    """Parse `[output:]metric>=value`; `%` divides by 100.

    >>> parse_fidelity("cosine>=0.99")
    FidelityTolerance(metric='cosine', comparison='>=', value=0.99, output=None)
    >>> str(parse_fidelity("logits:top1 >= 98%"))
    'logits:top1>=0.98'

    Raises `UsageError`, one line, for anything else.
    """
    # The bound keeps the search short; no output's name is that long.
    found = len(text) <= 1000 and re.fullmatch(r"(?:(.+):)?\s*(\w+)\s*(>=|<=|>|<)\s*(\S+?)\s*(%?)\s*", text.strip())
    if not found:
        raise UsageError(f"fidelity {text[:80]!r}: write it as metric>=value, for example cosine>=0.99")
    output, metric, comparison, number, percent = found.groups()
    metric = {"top1_agreement": "top1", "snr": "snr_db"}.get(metric, metric)
    if metric not in METRICS:
        raise UsageError(f"fidelity {text!r}: no metric {metric!r}; there are {', '.join(METRICS)}")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        raise UsageError(f"fidelity {text!r}: {number!r} is not a number") from None
    if not math.isfinite(value):
        raise UsageError(f"fidelity {text!r}: {number!r} is not a finite number")
    return FidelityTolerance(metric, comparison, value, output)
