"""What is given back, and when it is looked for."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from hwpass.runtime.memory import GROWTH_BYTES, release_memory


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
