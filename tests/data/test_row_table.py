"""Rows that are put aside come back as they were, in any portion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwpass.data import row_table
from hwpass.data.row_table import Room, RowTable, side_by_side
from hwpass.runtime.array_files import Held, Spooled


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    width=st.integers(1, 700),
    bounds=st.tuples(st.integers(0, 250), st.integers(0, 250)),
    portion=st.sampled_from([64, 1 << 17, 1 << 20]),
)
def test_rows_are_the_parts_one_below_the_other(
    lengths: list[int], width: int, bounds: tuple[int, int], portion: int
) -> None:
    parts = [np.random.default_rng(i).standard_normal((n, width)) for i, n in enumerate(lengths)]
    whole = np.concatenate(parts).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_table, "PORTION", portion)
        patch.setattr(row_table, "HELD", portion)
        table, other = RowTable(iter(parts)), RowTable([whole[:, :1]])
        start, stop = sorted(min(b, len(whole)) for b in bounds)
        assert len(table) == len(whole)
        np.testing.assert_array_equal(table[start:stop], whole[start:stop])
        found = list(side_by_side(start, stop, table, None, other))
    assert all(rows[1] is None and len(rows[0]) == len(rows[2]) for rows in found)
    seen = np.concatenate([whole[:0], *(rows[0] for rows in found)])
    np.testing.assert_array_equal(seen, whole[start:stop])
    np.testing.assert_array_equal(np.concatenate([whole[:0, :1], *(r[2] for r in found)]), whole[start:stop, :1])


def test_many_rows_lie_in_a_file_and_not_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_table, "PORTION", 1 << 18)
    monkeypatch.setattr(row_table, "HELD", 1 << 18)
    table = RowTable(np.full((64, 2048), i, np.float32) for i in range(16))
    held = sum(isinstance(portion, Held) for portion in table._portions)
    assert (held, len(table._portions)) == (1, 32)


def test_tables_share_a_room() -> None:
    """What one holds in memory, the other cannot; rows may come one part after the other."""
    room = Room(1 << 18)
    first, second = (RowTable(room=room, portion=1 << 17) for _ in range(2))
    parts = [np.full((64, 512), i, np.float32) for i in range(2)]
    for table in (first, second):
        for part in parts:
            table.add(part)
        table.finish()
        np.testing.assert_array_equal(table[:], np.concatenate(parts))
    assert [type(portion) for portion in first._portions] == [Held, Held]
    assert [type(portion) for portion in second._portions] == [Spooled, Spooled]
