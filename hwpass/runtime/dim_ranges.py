"""Sizes of dynamic axes as people state them: `N=8`, `N=1..8`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from hwpass.errors import UsageError, option
from hwpass.figures import shown

#: No axis is longer.
LONGEST = 1 << 24

_RANGE = re.compile(r"(?P<name>.+?)=(?P<low>[0-9]{1,9})(?:\.\.(?P<high>[0-9]{1,9}))?", re.ASCII)


def dim_ranges(given: str | Iterable[str], known: Collection[str]) -> dict[str, tuple[int, int]]:
    """The least and the largest size of each axis that is named, of those that are `known`. Raises UsageError.

    >>> dim_ranges("N=1..8", ["N"])
    {'N': (1, 8)}
    """
    found: dict[str, tuple[int, int]] = {}
    for text in [given] if isinstance(given, str) else given:
        match = _RANGE.fullmatch(text.strip())
        said = option("dim", shown(text))
        if match is None:
            raise UsageError(f"{said}: not a size; write N=8 or N=1..8")
        low = int(match["low"])
        high = int(match["high"] or low)
        if not 1 <= low <= high <= LONGEST:
            raise UsageError(f"{said}: sizes go from 1 to {LONGEST}, the smaller first")
        if match["name"] not in known:
            names = ", ".join(shown(name, 40) for name in sorted(known)) or "none"
            raise UsageError(f"{said}: the model has no dynamic axis of that name; it has {names}")
        if match["name"] in found:
            raise UsageError(f"{said}: {shown(match['name'], 40)} is there twice")
        found[match["name"]] = (low, high)
    return found
