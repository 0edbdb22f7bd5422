"""How long the parts of a run take, as a tree: rooms mark what they do, and the manager collects it for each pass."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Span:
    """One part of a run: its name, seconds of wall time, how often it ran, and its own parts.

    Parts of one name under one parent are one span: a loop over layers is a line, not hundreds.
    """

    name: str
    seconds: float = 0.0
    count: int = 0
    parts: dict[str, Span] = field(default_factory=dict)

    @property
    def rest(self) -> float:
        """Seconds that no part accounts for."""
        return max(0.0, self.seconds - sum(part.seconds for part in self.parts.values()))


_OPEN: ContextVar[Span | None] = ContextVar("span", default=None)


@contextmanager
def collected(name: str) -> Iterator[Span]:
    """Begin a tree of its own: what `span` marks inside is a part of it."""
    with _timed(Span(name)) as root:
        yield root


@contextmanager
def span(name: str) -> Iterator[None]:
    """Time a block as a part of what encloses it. Where nobody collects, nothing is timed."""
    parent = _OPEN.get()
    if parent is None:
        yield
        return
    with _timed(parent.parts.setdefault(name, Span(name))):
        yield


@contextmanager
def _timed(span: Span) -> Iterator[Span]:
    token = _OPEN.set(span)
    start = time.perf_counter()
    try:
        yield span
    finally:
        span.seconds += time.perf_counter() - start
        span.count += 1
        _OPEN.reset(token)
