"""Memory given back to the system: what closed sessions leave behind is as large as their models."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

GROWTH_BYTES = 32 << 20
"""What objects in circles may hold before they are looked for."""

BLOCK_BYTES = 16 << 20
"""Larger blocks are mapped by themselves, and gone once they are freed."""

# Options of glibc's mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


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
    found = _of_glibc("malloc_trim")
    if found is not None:
        found(0)


@cache
def map_large_blocks() -> None:
    """Have glibc map each block above `BLOCK_BYTES` by itself (elsewhere a no-op).

    Left alone, glibc raises that bound to the largest block freed, up to 32 MB, and puts smaller tensors into its
    heap, where what lives longer keeps the freed ones resident: one inference of a window transformer took 0.9 or
    1.9 GB, as it fell.
    """
    found = _of_glibc("mallopt")
    if found is not None:
        found(_M_MMAP_THRESHOLD, BLOCK_BYTES)
        found(_M_TRIM_THRESHOLD, GROWTH_BYTES)


def _of_glibc(name: str) -> Callable[..., int] | None:
    found: Callable[..., int] | None = None
    if sys.platform.startswith("linux"):
        found = getattr(ctypes.CDLL(None), name, None)
    return found
