"""Rows of what a product should give: the original's outputs, and what a residual stream lacks by then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwpass.data.dense_rows import LayerRows
from hwpass.data.sampled_rows import Ints
from hwpass.surgery.product_tail import Tail

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class WantedRows:
    """`original` are rows of the original's outputs; `now` is the other side of a residual sum as the pruned network
    has it, batch by batch, where there is one. `mask` are the channels that are kept."""

    original: LayerRows
    now: Sequence[np.ndarray] | None
    tail: Tail
    rows_of: Callable[[np.ndarray, tuple[Ints, ...]], Rows]
    mask: NDArray[np.bool_]
    axis: int
    groups: int

    def rows(self) -> Iterator[Rows]:
        """What the product should give, [rows, outputs] or [rows, groups, outputs], batch by batch."""
        for number in range(len(self.original.where)):
            rows = self._left(self.original.rows(number))
            if self.now is not None:
                assert self.tail.other is not None
                theirs = self._left(self.original.rows(number, self.tail.other))
                rows = rows + (theirs - self._now(number, self.now))
            yield self._by_group(rows)

    def offsets(self) -> Iterator[Rows]:
        """What is added to the product behind it in the pruned network, batch by batch."""
        kept = int(self.mask.sum())
        for number, places in enumerate(self.original.where):
            rows = np.zeros((len(places[0]), 1), np.float32)
            if self.now is not None:
                rows = self._now(number, self.now)
            if self.tail.constant is not None:
                rows = rows + self.tail.constant.astype(np.float32).reshape(1, -1)
            yield self._by_group(np.broadcast_to(rows, (len(rows), kept)))

    def _left(self, rows: Rows) -> Rows:
        return rows if self.mask.all() else rows[:, self.mask]

    def _now(self, number: int, now: Sequence[np.ndarray]) -> Rows:
        return self.rows_of(_spread(now[number], self.original.shapes[number], self.axis), self.original.where[number])

    def _by_group(self, rows: Rows) -> Rows:
        return rows if self.groups == 1 else rows.reshape(len(rows), self.groups, -1)


def _spread(value: np.ndarray, like: Sequence[int], axis: int) -> np.ndarray:
    """A value over the whole extents of another, the channel axis excepted: a branch that went left one for all."""
    shape = list(like)
    shape[axis] = value.shape[axis]
    return np.broadcast_to(value, shape)
