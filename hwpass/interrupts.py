"""What a signal ends: temporary folders go, one line says what was written, and the status is 128 and the signal.

The command line ends in the handler itself, not by an exception: libraries swallow exceptions, and print what they
swallow. Imported before everything else, so it imports next to nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

#: What the line calls each signal that ends a run.
WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}

#: Clears a status line and shows the cursor again.
PLAIN_SCREEN = b"\r\x1b[2K\x1b[?25h"


class _Run:
    """What this process has under way."""

    def __init__(self) -> None:
        self.watched = False  # whether signals end the process here
        self.held = 0  # depth of `held`
        self.pending: int | None = None
        self.folders: dict[str, int] = {}  # temporary folders of this process, and the process that made them
        self.written: list[str] | None = None  # the outputs that have their names, where anybody is to be told
        self.fresh: list[str] = []  # folders for outputs that were made and have nothing in them yet
        self.streaming = False  # whether a result is on its way to standard output
        self.drawing = False  # whether a status line is on the screen


run = _Run()


def watch() -> None:
    """From now on signals end the process with one line. Those that the parent has it ignore (`nohup`) stay ignored."""
    for name in WORDS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _received)
    run.watched = True


def watched() -> bool:
    """Whether an interrupt ends the process by itself, so that a KeyboardInterrupt can only be somebody's own."""
    return run.watched


@contextmanager
def held() -> Iterator[None]:
    """Let a signal wait, while files get their names."""
    run.held += 1
    try:
        yield
    finally:
        run.held -= 1
        if not run.held and run.pending is not None:
            end(run.pending)


def outcome(word: str) -> str:
    """The line's text: what happened, and what has been written.

    >>> outcome("interrupted")
    'interrupted, nothing was written'
    """
    if run.written:
        return f"{word} after {written()}"
    return f"{word}, " + ("standard output was cut short" if run.streaming else "nothing was written")


def wrote(*names: str) -> None:
    """Outputs have got their names."""
    if run.written is not None:
        run.written += names


def written() -> str:
    """The outputs that are there: `a.onnx and b.json were written`; empty where there are none."""
    if not run.written:
        return ""
    *first, last = run.written
    if len(first) > 3:
        return f"{run.written[0]} and {len(first)} others were written"
    return f"{', '.join(first)} and {last} were written" if first else f"{last} was written"


def end(number: int) -> NoReturn:
    """End the process as the signal asks."""
    for name in WORDS:
        with suppress(AttributeError, ValueError):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    remove(list(run.folders))
    for folder in run.fresh:
        with suppress(OSError):
            os.rmdir(folder)
    word = WORDS[signal.Signals(number).name]
    line = f"hwpass: {' '.join(outcome(word).split())}\n".encode(errors="backslashreplace")
    with suppress(OSError):
        os.write(2, (PLAIN_SCREEN if run.drawing else b"") + line)
    os._exit(128 + number)


def remove(folders: Sequence[str]) -> None:
    """Remove temporary folders that this process made; a forked child leaves its parent's alone."""
    if not folders:
        return
    import shutil

    for folder in folders:
        if run.folders.pop(folder, None) == os.getpid():
            shutil.rmtree(folder, ignore_errors=True)


def _received(number: int, frame: FrameType | None) -> None:
    if run.held:
        run.pending = number
        return
    end(number)
