"""Memory given back to the system: what closed sessions leave behind is as large as their models."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path

GROWTH_BYTES = 32 << 20
"""What objects in circles may hold before they are looked for."""


def release_memory(*, cycles: bool = True) -> None:
    """Give the pages of closed sessions back to the system: glibc keeps them (elsewhere a no-op).

    Objects that refer to each other in a circle go first, unless `cycles` is False. That takes up to a tenth of a
    second, so it waits until the process has grown by `GROWTH_BYTES` since the last time.
    """
    global _settled
    trim()
    resident = _resident()
    if cycles and (resident is None or resident > _settled + GROWTH_BYTES):
        gc.collect()
        trim()
        _settled = _resident() or 0
    elif resident is not None:
        _settled = min(_settled, resident)


_settled = 0  # resident bytes after the last collection, or fewer


def _resident() -> int | None:
    """Bytes of this process that lie in memory; None where the system does not say so in a file."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def trim() -> None:
    """Give freed pages back; glibc keeps them (elsewhere a no-op)."""
    if sys.platform.startswith("linux"):
        found = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if found is not None:
            found(0)
