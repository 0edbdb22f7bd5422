"""Temporary folders that nobody has to clean up: a process that was killed leaves them to the next one.

A folder is locked for as long as its process lives (the system lets go of the lock, whatever ends it), so that what
is left over can be told from what is in use, across containers and user accounts too. Where a file system knows no
such locks, nothing is cleaned.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from hwpass import interrupts

try:
    import fcntl
except ImportError:  # pragma: no cover  # another system: nothing is cleaned
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"^\.?hwpass-[0-9]+-[A-Za-z0-9_]+$")
_swept: set[tuple[int, str]] = set()


class TemporaryFolder:
    """A folder of this process's own, as a context manager that gives its path; it goes when the context ends.

    It lies in the folder for temporary files, or hidden in `beside`, where what other runs have left is removed first.
    Raises OSError where it cannot be made.
    """

    def __init__(self, beside: str | os.PathLike[str] | None = None) -> None:
        home = tempfile.gettempdir() if beside is None else os.fspath(beside)
        if (os.getpid(), home) not in _swept:
            sweep(home)
            _swept.add((os.getpid(), home))
        prefix = f"{'' if beside is None else '.'}hwpass-{os.getpid()}-"
        self._lock: int | None = None
        while True:
            self.name = tempfile.mkdtemp(prefix=prefix, dir=home)
            interrupts.run.folders[self.name] = os.getpid()
            try:
                self._lock = _locked(self.name)
            except BlockingIOError:  # another run takes it for left over, since it was not locked yet
                interrupts.run.folders.pop(self.name)
                continue
            if os.path.isdir(self.name):  # nor has another run removed it before
                break
            self.cleanup()
        self.path = Path(self.name)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cleanup()

    def __del__(self) -> None:
        with suppress(Exception):
            self.cleanup()

    def cleanup(self) -> None:
        """Remove the folder and what is in it."""
        interrupts.remove([self.name])
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """A folder, made unless it is there; one that was made goes again when the context ends by an error."""
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise
        yield
        return
    interrupts.run.fresh.append(str(folder))
    try:
        yield
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise
    finally:
        interrupts.run.fresh.remove(str(folder))


def sweep(home: str | os.PathLike[str]) -> None:
    """Remove what runs that are no more have left in a folder; never what a process still holds."""
    if fcntl is None:
        return
    try:
        names = [entry.name for entry in os.scandir(home) if _NAME.match(entry.name)]
    except OSError:
        return
    for name in names:
        folder = os.path.join(home, name)
        with suppress(OSError):
            found = os.lstat(folder)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            lock = _locked(folder)  # raises where the folder is in use
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _locked(folder: str) -> int | None:
    """A descriptor that holds the folder's lock; None where there are no locks. Raises BlockingIOError where another
    process holds it."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
