"""Rows of what a product should give: the original's outputs, and what a residual stream lacks by then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwpass.data.sampled_rows import Ints
from hwpass.surgery.product_tail import Tail

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class WantedRows:
    """`outputs` are the original's, batch by batch; `lacking` the other side of a residual sum, as the original has it
    and as the pruned network has it. `where` are the sampled positions, `mask` the channels that are kept."""

    outputs: Sequence[np.ndarray]
    lacking: tuple[Sequence[np.ndarray], Sequence[np.ndarray]] | None
    tail: Tail
    where: Sequence[tuple[Ints, ...]]
    rows_of: Callable[[np.ndarray, tuple[Ints, ...]], Rows]
    mask: NDArray[np.bool_]
    axis: int
    groups: int

    def rows(self) -> Iterator[Rows]:
        """What the product should give, [rows, outputs] or [rows, groups, outputs], batch by batch."""
        for number, places in enumerate(self.where):
            rows = self.rows_of(self.outputs[number], places)[:, self.mask]
            if self.lacking is not None:
                theirs = self.rows_of(self.lacking[0][number], places)[:, self.mask]
                rows = rows + (theirs - self._now(number, self.lacking))
            yield self._by_group(rows)

    def offsets(self) -> Iterator[Rows]:
        """What is added to the product behind it in the pruned network, batch by batch."""
        kept = int(self.mask.sum())
        for number, places in enumerate(self.where):
            rows = np.zeros((len(places[0]), 1), np.float32)
            if self.lacking is not None:
                rows = self._now(number, self.lacking)
            if self.tail.constant is not None:
                rows = rows + self.tail.constant.astype(np.float32).reshape(1, -1)
            yield self._by_group(np.broadcast_to(rows, (len(rows), kept)))

    def _now(self, number: int, lacking: tuple[Sequence[np.ndarray], Sequence[np.ndarray]]) -> Rows:
        theirs, ours = lacking
        return self.rows_of(_spread(ours[number], theirs[number], self.axis), self.where[number])

    def _by_group(self, rows: Rows) -> Rows:
        return rows if self.groups == 1 else rows.reshape(len(rows), self.groups, -1)


class Without(Sequence[np.ndarray]):
    """Arrays without what was removed along one axis, made as they are asked for."""

    def __init__(self, values: Sequence[np.ndarray], kept: NDArray[np.bool_], place: int) -> None:
        self.values, self.kept, self.place = values, kept, place

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, number: Any) -> Any:
        return np.compress(self.kept, self.values[number], self.place)


def _spread(value: np.ndarray, like: np.ndarray, axis: int) -> np.ndarray:
    """A value over the whole extents of another, the channel axis excepted: a branch that went left one for all."""
    shape = list(like.shape)
    shape[axis] = value.shape[axis]
    return np.broadcast_to(value, shape)
