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

#: Bytes of a table that stay in memory, where it has no room to share with others.
HELD = 2 * PORTION


class Room:
    """Bytes that some tables may hold in memory together."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, size: int) -> bool:
        """Whether there is room for so many bytes more, which is then taken."""
        if size > self.left:
            return False
        self.left -= size
        return True


class RowTable:
    """Rows of float32, all of one shape, in portions: each has about `PORTION` bytes."""

    def __init__(
        self, parts: Iterable[NDArray[np.generic]] = (), room: Room | None = None, portion: int | None = None
    ) -> None:
        """The rows of all parts, one below the other; a part is let go before the next is asked for.

        Without parts, `add` enters them, and `finish` is called before rows are read.
        """
        self.row: tuple[int, ...] = ()
        self._room = Room(HELD) if room is None else room
        self._portion = PORTION if portion is None else portion
        self._portions: list[Held | Spooled] = []
        self._spool: Spool | None = None
        self._pending: list[NDArray[np.float32]] = []
        self._waiting = 0
        for part in parts:
            self.add(part)
        self.finish()

    def add(self, part: NDArray[np.generic]) -> None:
        """Enter rows."""
        self.row = part.shape[1:]
        most = max(self._portion // (4 * max(int(np.prod(self.row, dtype=np.int64)), 1)), 1)
        for start in range(0, len(part), most):
            piece = np.array(part[start : start + most], np.float32, order="C")
            if self._waiting + piece.nbytes > self._portion:
                self.finish()
            self._pending.append(piece)
            self._waiting += piece.nbytes

    def finish(self) -> None:
        """Put aside what waits."""
        if self._pending:
            pieces, self._pending, self._waiting = self._pending, [], 0
            self._put(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))

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

    def _put(self, rows: NDArray[np.float32]) -> None:
        if self._room.take(rows.nbytes):
            self._portions.append(Held(rows))
            return
        self._spool = self._spool or Spool()
        put = self._spool.put(rows)
        self._portions.append(put if isinstance(put, Spooled) else Held(put))


def side_by_side(start: int, stop: int, *tables: RowTable | None) -> Iterator[list[Any]]:
    """The rows of several tables from `start` to before `stop`, a portion of the widest at a time."""
    widest = max((t for t in tables if t is not None), key=lambda table: int(np.prod(table.row, dtype=np.int64)))
    for where in widest.places(start, stop):
        yield [None if table is None else table[where] for table in tables]
