"""Files that appear whole or not at all: made as drafts beside their place, and named when all of them are made.

Drafts lie in a hidden folder beside the file, so that a rename is all that is left to do; a run that was killed leaves
at most that folder, which the next one removes. A link keeps its place: what it leads to is replaced.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from hwpass import interrupts
from hwpass.errors import InputError
from hwpass.files.temporary import TemporaryFolder


@dataclass(frozen=True)
class Draft:
    """A file that has been made, the place it goes to, and what the user calls that place (None: not told)."""

    file: Path
    place: Path
    name: str | None = None


class _Batch(ExitStack):
    """Drafts that wait for each other, and their folders."""

    def __init__(self) -> None:
        super().__init__()
        self.drafts: list[Draft] = []


#: Where the drafts of several files are collected, so that none appears before all are made.
_TOGETHER: ContextVar[_Batch | None] = ContextVar("together", default=None)


def resolved(target: str | os.PathLike[str]) -> Path:
    """The place that a file at `target` would have, links followed. Raises InputError when none can be there."""
    text = _text(target)
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(text)  # a path that is too long is told at once: links in it are looked for step by step
        place = Path(os.path.realpath(text))
        if os.path.islink(place):
            raise InputError(f"{text}: is a link that leads back to itself; name a file")
        folder = place.parent
        try:
            found: os.stat_result | None = os.stat(place)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if not os.path.isdir(folder):
            raise InputError(f"{text}: the folder {folder} does not exist; create it first")
    except (OSError, ValueError) as error:
        raise InputError(f"{text!s}: cannot be written ({_reason(error)}); choose another name") from None
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise InputError(f"{text}: is a folder; name a file")
    if text.endswith(os.sep):
        raise InputError(f"{text}: the name of a folder; name a file")
    if found is not None and not stat.S_ISREG(found.st_mode):
        # The file that is put in its place would take the device's name away from everybody.
        raise InputError(f"{text}: is a device or a pipe, not a file; name a file, or - for standard output")
    return place


def check_writable(target: str | os.PathLike[str]) -> None:
    """Raise InputError when a file cannot be created at `target`."""
    place = resolved(target)
    check_folder(place.parent, _text(target))


def check_folder(folder: Path, name: str) -> None:
    """Raise InputError when no file can be made in a folder; `name` is what the user called the file."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{name}: cannot write there ({error.strerror}); choose another folder") from None


@contextmanager
def whole(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to make a file at, which becomes `target` when the context ends without an error.

    What else is made beside the draft (the weights of a large model) gets its place first, beside the target. Inside
    `together` the files appear when that ends. New files have the mode that the umask gives; a file that is
    replaced hands on its own. Raises InputError when the file cannot be put there, and the old one stays as it was.
    """
    text, batch = _text(target), _TOGETHER.get()
    place = resolved(target)
    check_folder(place.parent, text)
    with ExitStack() as stack:
        with _told(text):
            folder = stack.enter_context(TemporaryFolder(place.parent))
            draft = folder / place.name
            yield draft
            made = [Draft(file, place.parent / file.name) for file in sorted(folder.iterdir()) if file != draft]
            if made and os.path.islink(text):
                raise InputError(
                    f"{text}: a model of this size has its weights in a second file beside it, where a link does not"
                    " lead; name the file itself"
                )
            made.append(Draft(draft, place, text))
            for one in made:
                resolved(one.place)
                _sync(one.file)
        if batch is None:
            put(made)
        else:
            batch.drafts += made
            batch.push(stack.pop_all())


@contextmanager
def together() -> Iterator[None]:
    """Files that are written in this context appear when it ends, all of them, or none when it ends by an error.

    Inside another such context they wait for that one.
    """
    if _TOGETHER.get() is not None:
        yield
        return
    with _Batch() as batch:
        token = _TOGETHER.set(batch)
        try:
            yield
        finally:
            _TOGETHER.reset(token)
        put(batch.drafts)


@contextmanager
def apart() -> Iterator[None]:
    """Files that code of the user's writes in this context do not wait for ours."""
    token = _TOGETHER.set(None)
    try:
        yield
    finally:
        _TOGETHER.reset(token)


def put(drafts: Sequence[Draft]) -> None:
    """Give drafts their places, all of them or none. Raises InputError.

    Each is on the disk before it replaces what was there, and what was there comes back when a later one fails. Signals
    wait meanwhile.
    """
    with interrupts.held():
        undo: list[Callable[[], object]] = []
        try:
            for number, draft in enumerate(drafts):
                with _told(draft.name or str(draft.place)):
                    undo.append(_handed_on(draft, number))
                    os.replace(draft.file, draft.place)
        except BaseException:
            for step in reversed(undo):
                with suppress(OSError):
                    step()
            raise
        for folder in {draft.place.parent for draft in drafts}:
            with suppress(OSError):  # not every file system has it
                _sync(folder)
        interrupts.wrote(*(draft.name for draft in drafts if draft.name is not None))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all."""
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="", errors="backslashreplace")


@contextmanager
def spilling() -> Iterator[None]:
    """Raise InputError when the folder for temporary files has no room for what is put aside there."""
    try:
        yield
    except OSError as error:
        # NumPy's own is without a number where it could not write all of an array.
        if error.errno not in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        reason = error.strerror or error
        raise InputError(f"no room in the folder {tempfile.gettempdir()}: {reason}; make room or set TMPDIR") from error


def _handed_on(draft: Draft, number: int) -> Callable[[], object]:
    """Give a draft the mode and the owner of the file that it will replace; returns what brings that one back."""
    try:
        found = os.stat(draft.place)
    except FileNotFoundError:
        return lambda: None if draft.file.exists() else draft.place.unlink()
    with suppress(OSError, AttributeError):
        os.chown(draft.file, found.st_uid, found.st_gid)
    os.chmod(draft.file, stat.S_IMODE(found.st_mode))
    old = draft.file.with_name(f".hwpass-old-{number}")
    try:
        os.link(draft.place, old)
    except OSError:  # a file system without hard links: what has been replaced cannot come back
        return lambda: None
    return lambda: os.replace(old, draft.place)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{name}: cannot be written ({_reason(error)}); choose another folder") from error


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _text(target: str | os.PathLike[str]) -> str:
    return os.fsdecode(os.fspath(target))
