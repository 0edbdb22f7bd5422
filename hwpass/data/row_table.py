"""Rows of one product, such as sampled positions of its input: in memory while they are few, else in a file.

Least squares reads them a portion at a time, so that their number is no matter of memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwpass.runtime.array_files import Held, Spool, Spooled

#: Bytes of rows that are put aside, and worked on, at once.
PORTION = 8 << 20

#: Bytes of a table that stay in memory.
HELD = 2 * PORTION


class RowTable:
    """Rows of float32, all of one shape, in portions: each has about `PORTION` bytes."""

    def __init__(self, parts: Iterable[NDArray[np.generic]]) -> None:
        """The rows of all parts, one below the other; a part is let go before the next is asked for."""
        self.row: tuple[int, ...] = ()
        self._portions: list[Held | Spooled] = []
        self._spool: Spool | None = None
        self._size = 0
        pending: list[NDArray[np.float32]] = []
        waiting = 0
        for part in parts:
            self.row = part.shape[1:]
            most = max(PORTION // (4 * max(int(np.prod(self.row, dtype=np.int64)), 1)), 1)
            for start in range(0, len(part), most):
                piece = np.array(part[start : start + most], np.float32, order="C")
                if waiting + piece.nbytes > PORTION and pending:
                    self._put(pending)
                    pending, waiting = [], 0
                pending.append(piece)
                waiting += piece.nbytes
        if pending:
            self._put(pending)

    def __len__(self) -> int:
        return sum(portion.shape[0] for portion in self._portions)

    def __getitem__(self, where: slice) -> NDArray[np.float32]:
        start, stop, _ = where.indices(len(self))
        found, first = [], 0
        for portion in self._portions:
            last = first + portion.shape[0]
            low, high = max(start, first), min(stop, last)
            if low < high:
                found.append(portion.read(low - first, high - first))
            first = last
        return found[0] if len(found) == 1 else np.concatenate([np.zeros((0, *self.row), np.float32), *found])

    def places(self, start: int, stop: int) -> Iterator[slice]:
        """The portions between two rows."""
        first = 0
        for portion in self._portions:
            last = first + portion.shape[0]
            if max(start, first) < min(stop, last):
                yield slice(max(start, first), min(stop, last))
            first = last

    def _put(self, pieces: list[NDArray[np.float32]]) -> None:
        rows = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        self._size += rows.nbytes
        if self._size > HELD:
            self._spool = self._spool or Spool()
            put = self._spool.put(rows)
            self._portions.append(put if isinstance(put, Spooled) else Held(put))
        else:
            self._portions.append(Held(rows))


def side_by_side(start: int, stop: int, *tables: RowTable | None) -> Iterator[list[Any]]:
    """The rows of several tables from `start` to before `stop`, a portion of the widest at a time."""
    widest = max((t for t in tables if t is not None), key=lambda table: int(np.prod(table.row, dtype=np.int64)))
    for where in widest.places(start, stop):
        yield [None if table is None else table[where] for table in tables]
