"""What the weights of one product are fitted on, and judged by: rows of its input and of the output that is wanted.

Where the output goes through a clipping activation, what it clips does not count: a target below the lower bound is met
by anything below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwpass.data.row_table import RowTable, side_by_side

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]

#: Bytes of rows of several products that are laid out product by product once, and not each time they are looked at.
LAID_OUT = 24 << 20


@dataclass(frozen=True)
class Clipping:
    """What follows the output: clip(y + offset, low, high); the offset, one for each y, is the rest of a stream."""

    low: float = -np.inf
    high: float = np.inf

    def __call__(self, total: Rows) -> Rows:
        """What comes out of the activation, of y + offset."""
        return np.clip(total, self.low, self.high)

    def relaxed(self, target: Rows, found: Rows, offset: Rows | None = None) -> Rows:
        """The target nearest to what was found among those that the activation cannot tell from the target."""
        wanted, given = (target, found) if offset is None else (target + offset, found + offset)
        total = wanted
        if np.isfinite(self.low):
            total = np.where(wanted <= self.low, np.minimum(given, self.low), total)
        if np.isfinite(self.high):
            total = np.where(wanted >= self.high, np.maximum(given, self.high), total)
        return np.asarray(total if offset is None else total - offset, np.float32)

    @property
    def clips(self) -> bool:
        """Whether there is anything to clip."""
        return bool(np.isfinite(self.low) or np.isfinite(self.high))


@dataclass
class FitRows:
    """One or more products side by side: x [r, g, d], target and offset [r, g, n], weights [g, d, n], bias [g, n].

    The last `held_out` rows judge. The rows are looked at in portions.
    """

    x: RowTable
    target: RowTable
    offset: RowTable | None
    weights: Rows
    bias: Floats
    held_out: int
    has_bias: bool
    clipping: Clipping

    def __post_init__(self) -> None:
        self.rows = len(self.x) - self.held_out
        self._laid_out = self._by_product()
        self.scale = self._variance(self.weights.shape[2]) * self.held_out + 1e-30

    def errors(self, weights: Rows, bias: Floats) -> Floats:
        """Per product, as shares of the variance of all targets, on the rows that were held out."""
        found = np.zeros(len(weights))
        for x, target, offset in self.side_by_side(self.rows, len(self.x), self.x, self.target, self.offset):
            gap = self._seen(target, offset)
            gap -= self._seen(_outputs(x, weights, bias), offset)
            found += np.square(gap).sum(axis=(1, 2), dtype=np.float64)
        return found / self.scale

    def fitted(self) -> Iterator[Rows]:
        """Rows [g, r, d] of the input that are fitted on, portion by portion."""
        for (x,) in self.side_by_side(0, self.rows, self.x):
            yield x

    def wanted(self, best: tuple[Rows, Floats] | None = None) -> Iterator[tuple[Rows, Rows]]:
        """Rows of the input and of the target, [g, r, d] and [g, r, n], that are fitted on, portion by portion.

        With the best weights and bias so far, targets are the least demanding ones around what these give.
        """
        for x, target, offset in self.side_by_side(0, self.rows, self.x, self.target, self.offset):
            yield x, target if best is None else self.clipping.relaxed(target, _outputs(x, *best), offset)

    def side_by_side(self, start: int, stop: int, *tables: RowTable | None) -> Iterator[list[Any]]:
        """Rows of several tables, [g, r, ..], a portion at a time."""
        if self._laid_out:
            yield [None if table is None else self._laid_out[id(table)][:, start:stop] for table in tables]
            return
        for found in side_by_side(start, stop, *tables):
            yield [None if rows is None else _by_group(rows) for rows in found]

    def _seen(self, y: Rows, offset: Rows | None) -> Rows:
        """What comes out of the activation, an array of its own."""
        return self.clipping(y if offset is None else y + offset)

    def _variance(self, outputs: int) -> float:
        """The variance of what is seen of the targets, all outputs together, on the rows that were held out."""
        total, first = 0.0, np.zeros((len(self.weights), outputs))
        for repeat in range(2):
            for target, offset in self.side_by_side(self.rows, len(self.x), self.target, self.offset):
                seen = self._seen(target, offset).astype(np.float64)
                if not repeat:
                    first += seen.sum(axis=1) / self.held_out
                else:
                    total += float(np.square(seen - first[:, None]).sum()) / self.held_out
        return total

    def _by_product(self) -> dict[int, Rows]:
        """All rows of each table, [g, r, ..], where there are several products and the rows are not too many."""
        tables = [t for t in (self.x, self.target, self.offset) if t is not None]
        size = sum(4 * len(t) * int(np.prod(t.row, dtype=np.int64)) for t in tables)
        if len(self.weights) == 1 or size > LAID_OUT:
            return {}
        return {id(table): _by_group(table[:]) for table in tables}


def _outputs(x: Rows, weights: Rows, bias: Floats) -> Rows:
    found = x @ weights
    found += bias[:, None].astype(np.float32)
    return found


def _by_group(rows: Rows) -> Rows:
    """Rows of one product side by side, [g, r, ..]: matrix products over strided ones are several times slower."""
    return rows[None] if rows.ndim == 2 else np.asarray(rows.swapaxes(0, 1), order="C")
