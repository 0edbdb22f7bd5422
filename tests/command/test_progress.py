"""What is told of a long run where there is no terminal."""

from __future__ import annotations

from hwpass.command.shell import QUIET, now_and_then


def test_a_line_now_and_then() -> None:
    told: list[str] = []
    times = iter([1.0, QUIET, QUIET + 1, 2.5 * QUIET, 2.6 * QUIET])
    progress = now_and_then(lambda: next(times), told.append)
    for step in ("loading", "batch 1", "batch 2", "batch 3", "batch 4"):
        progress(step)
    assert told == ["after 20 s: batch 1", "after 50 s: batch 3"]
