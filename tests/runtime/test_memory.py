"""What is given back, and when it is looked for."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest

from hwpass.runtime.memory import GROWTH_BYTES, release_memory

BLOCKS = """
import ctypes
import numpy as np
import sys

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split())]

libc = ctypes.CDLL(None)
if not hasattr(libc, "mallinfo2"):
    print("elsewhere")
    sys.exit()
libc.mallinfo2.restype = Info
from hwpass.runtime.memory import map_large_blocks
if sys.argv[1] == "mapped":
    map_large_blocks()
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.free(libc.malloc(30 << 20))  # after this glibc would keep blocks of 20 MB in its heap
before = libc.mallinfo2().hblks
held = libc.malloc(20 << 20)
print(libc.mallinfo2().hblks - before)
"""


class Circle:
    """Refers to itself, so that only a collection ends it."""

    def __init__(self, size: int) -> None:
        self.values = np.ones(size, np.uint8)
        self.itself = self


@pytest.fixture(autouse=True)
def _by_request_alone() -> object:
    gc.disable()
    yield
    gc.enable()


def test_what_is_large_in_a_circle_goes_and_what_is_small_waits() -> None:
    gc.collect()
    release_memory()
    small = weakref.ref(Circle(1 << 10))
    release_memory()
    assert small() is not None
    large = weakref.ref(Circle(GROWTH_BYTES + (8 << 20)))
    release_memory(cycles=False)
    assert large() is not None
    release_memory()
    assert large() is None
    assert small() is None


def test_what_is_live_is_not_looked_through_again(monkeypatch: pytest.MonkeyPatch) -> None:
    held = np.ones(GROWTH_BYTES + (8 << 20), np.uint8)
    release_memory()
    monkeypatch.setattr(gc, "collect", lambda: pytest.fail("a second collection"))
    release_memory()
    assert held.any()


def test_where_nobody_says_how_much_is_held_it_is_looked_for_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwpass.runtime.memory._resident", lambda: None)
    small = weakref.ref(Circle(1 << 10))
    release_memory()
    assert small() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc alone")
def test_a_large_block_is_mapped_by_itself() -> None:
    found = [
        subprocess.run([sys.executable, "-c", BLOCKS, how], capture_output=True, text=True, check=True).stdout.strip()
        for how in ("alone", "mapped")
    ]
    assert found in (["0", "1"], ["elsewhere", "elsewhere"])
