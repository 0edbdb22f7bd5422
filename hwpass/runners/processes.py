"""Processes that time something for us: they end when we do, and when their time is up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue

from hwpass.errors import one_line


class TimeUp(Exception):
    """The process said nothing for too long."""


class Timed:
    """A process whose lines are read one by one, each within a time of its own. A context manager: it ends with it.

    Its standard input stays open for as long as we live, so that it can end when nobody waits for it any more. It is
    in a session of its own, so that an interrupt from the keyboard comes to us alone, and what it started ends with it.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Raises OSError where it cannot be started."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        try:
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                env=None if environment is None else {**os.environ, **environment}, start_new_session=True,
            )  # fmt: skip
        except BaseException:
            self._errors.close()
            raise
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(None)

    def __enter__(self) -> Timed:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def tell(self, line: str) -> None:
        """Send a line; a process that has ended already is noticed when it is asked for an answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def lines(self, timeout: float) -> Iterator[str]:
        """Lines of its standard output until it closes that; `TimeUp` when they take longer than this, all together."""
        end = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                raise TimeUp from None
            if line is None:
                self._lines.put(None)
                return
            yield line.decode(errors="replace").rstrip("\r\n")

    def complaint(self) -> str:
        """Once it has closed its output: the last line that it wrote to standard error, or its status where it wrote
        none, in one line."""
        status = self._status()
        self._errors.seek(0)
        said = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        return one_line(said[-1].strip()) if said else f"the process ended with status {status}"

    def _status(self) -> int:
        try:
            return self._process.wait(5)
        except subprocess.TimeoutExpired:
            return 0

    @property
    def status(self) -> int:
        """Its exit status once its output has ended; 0 where it goes on without one."""
        return self._status()
