"""How many threads may be asked for."""

from __future__ import annotations

import os

from hwpass.errors import UsageError, option

#: More would wait for each other: four for each core of this machine, and no fewer than a large machine has.
MOST_THREADS = max(64, 4 * (os.cpu_count() or 1))


def check_threads(threads: int) -> None:
    """Raise UsageError for a number of threads that nothing can be computed with."""
    if not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise UsageError(f"{option('threads', threads)}: give a number from 1 to {MOST_THREADS}")
