"""How many threads may be asked for."""

from __future__ import annotations

import os
from numbers import Integral

from hwpass.errors import UsageError, option

#: More would wait for each other: four for each core of this machine, and no fewer than a large machine has.
MOST_THREADS = max(64, 4 * (os.cpu_count() or 1))


def check_threads(threads: int) -> None:
    """Raise UsageError for a number of threads that nothing can be computed with.

    Every function that takes `threads` asks here, before any work; the command line takes the same numbers.
    """
    if not isinstance(threads, Integral) or isinstance(threads, bool) or not 1 <= threads <= MOST_THREADS:
        raise UsageError(f"{option('threads', threads)}: give a number from 1 to {MOST_THREADS}")
