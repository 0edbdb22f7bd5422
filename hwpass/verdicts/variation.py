"""Whether an output varies over draws and positions: one that does not shows nothing about a model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hwpass.cost_models.work import Floats

#: Standard deviation over magnitude up to which an output counts as constant.
CONSTANT = 1e-2

#: Magnitude up to which an output counts as zero; random inputs are of order one.
ZERO = 1e-6


@dataclass
class Variation:
    """Sums per channel over draws and positions; over everything where the number of channels changes."""

    seen: bool = False
    count: int = 0
    largest: float = 0.0
    sums: Floats = field(default_factory=lambda: np.zeros(0))
    squares: Floats = field(default_factory=lambda: np.zeros(0))

    def add(self, value: np.ndarray, channels: int) -> None:
        """Take in an output; `channels` is the axis of channels, or -1 of a scalar. Values that are not finite count
        as zero."""
        self.seen = True
        numbers = np.nan_to_num(np.atleast_1d(value).astype(np.float64), posinf=0.0, neginf=0.0)
        if not numbers.size:
            return
        # One axis is that of draws: then there are no channels.
        rows = np.moveaxis(numbers, channels, -1).reshape(-1, numbers.shape[channels] if value.ndim > 1 else 1)
        sums, squares, count = rows.sum(axis=0), np.square(rows).sum(axis=0), len(rows)
        if self.count and len(sums) != len(self.sums):
            sums, squares, count = sums.sum(keepdims=True), squares.sum(keepdims=True), rows.size
            self.count *= len(self.sums)
            self.sums, self.squares = self.sums.sum(keepdims=True), self.squares.sum(keepdims=True)
        self.sums = self.sums + sums if self.count else sums
        self.squares = self.squares + squares if self.count else squares
        self.count += count
        self.largest = max(self.largest, float(np.abs(numbers).max()))

    def nothing(self) -> str | None:
        """Why the output shows nothing, or None where it varies, or where there is only one draw to look at."""
        if not self.seen:
            return None
        if not self.count:
            return "it is empty on random inputs"
        if self.largest <= ZERO:
            return "it is nearly zero on random inputs"
        spread = self.squares - np.square(self.sums) / self.count
        if self.count > 1 and spread.clip(0).sum() <= CONSTANT**2 * self.squares.sum():
            return "it is nearly the same for all random inputs"
        return None
