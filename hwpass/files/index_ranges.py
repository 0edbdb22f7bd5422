"""Positions as people write them: `0-15,20`."""

from __future__ import annotations

import re
from collections.abc import Sequence

_RANGE = re.compile(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", re.ASCII)


def to_ranges(positions: Sequence[int]) -> str:
    """Ascending positions as text.

    >>> to_ranges([0, 1, 2, 5, 7, 8]), to_ranges([])
    ('0-2,5,7-8', '')
    """
    parts: list[list[int]] = []
    for position in positions:
        if parts and position == parts[-1][1] + 1:
            parts[-1][1] = position
        else:
            parts.append([position, position])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in parts)


def from_ranges(text: str, most: int) -> list[int]:
    """The positions that a text names, in its order. Raises ValueError for anything else, or for more than `most`.

    >>> from_ranges("0-2, 5,7-8", 100), from_ranges("", 100)
    ([0, 1, 2, 5, 7, 8], [])
    """
    positions: list[int] = []
    for part in text.split(",") if text.strip() else ():
        found = _RANGE.fullmatch(part)
        if found is None:
            raise ValueError(f"{part[:20]!r} is not a position or a range; write them as 0-15,20")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ValueError(f"the range {part.strip()} runs backwards")
        if len(positions) + last - first >= most:
            raise ValueError(f"more than {most} positions")
        positions.extend(range(first, last + 1))
    return positions
