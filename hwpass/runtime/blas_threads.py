"""How many threads matrix products and factorisations take.

Left alone, BLAS takes every core for each of thousands of small products, between runs of ONNX Runtime: its waiting
threads then cost more than they bring, twice the time on two cores, and many times that where something else runs
beside. Results are also the same on any number of cores that way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import scipy.linalg  # noqa: F401  # brings a BLAS of its own, which is to be found too
from threadpoolctl import ThreadpoolController

#: Products over fewer inputs than this are as fast on one thread.
DEEP = 1500


@contextmanager
def limited(threads: int, depth: int = DEEP) -> Iterator[None]:
    """At most so many threads for a while, where products go over `depth` inputs; one where those are few."""
    with _libraries().limit(limits=threads if depth >= DEEP else 1, user_api="blas"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
