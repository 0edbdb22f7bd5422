"""The numbers that options take."""

from __future__ import annotations

import math
from typing import Any

import click

from hwpass.runtime.threads import MOST_THREADS


class _NotNegative(click.FloatRange):
    """A number of at least 0; infinity and NaN are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class _Threads(click.IntRange):
    """A number of threads. The most depends on the machine, and so is not in the help."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number: int = super().convert(value, param, ctx)
        if number > MOST_THREADS:
            self.fail(f"{number} is more than the {MOST_THREADS} threads that are of use on this machine.", param, ctx)
        return number


NOT_NEGATIVE = _NotNegative(min=0)
COUNT = click.IntRange(0, 2**31 - 1)
CHANNELS = click.IntRange(1, 2**31 - 1)
THREADS = _Threads(1)
SEED = click.IntRange(0, 2**32 - 1)
SESSIONS = click.IntRange(1, 10_000)
RUNS = click.IntRange(1, 1_000_000)
TIMEOUT = click.FloatRange(0.001, 86_400)
MINUTES = click.FloatRange(0.01, 24 * 60)
