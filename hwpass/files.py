"""Files that appear whole or not at all, and what a model may be read from."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import onnx

from hwpass.errors import InputError

Source = str | os.PathLike[str] | bytes | onnx.ModelProto | BinaryIO


def check_writable(target: Path) -> None:
    """Raise InputError when a file cannot be created at `target`."""
    folder = target.parent
    if not folder.is_dir():
        raise InputError(f"{target}: the folder {folder} does not exist; create it first")
    if target.is_dir():
        raise InputError(f"{target}: is a folder; name a file")
    if target.exists() and not target.is_file():
        # The file that is put in its place would take the device's name away from everybody.
        raise InputError(f"{target}: is a device or a pipe, not a file; name a file, or - for standard output")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{target}: cannot write there ({error.strerror}); choose another folder") from None


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise InputError when a file cannot be put at `target`, or when what is done to write it fails (a full disk)."""
    check_writable(target)
    try:
        yield
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error}); choose another folder") from error


@contextmanager
def spilling() -> Iterator[None]:
    """Raise InputError when the folder for temporary files has no room for what is put aside there."""
    try:
        yield
    except OSError as error:
        # NumPy's own is without a number where it could not write all of an array.
        if error.errno not in (None, errno.ENOSPC, errno.EDQUOT):
            raise
        reason = error.strerror or error
        raise InputError(f"no room in the folder {tempfile.gettempdir()}: {reason}; make room or set TMPDIR") from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all."""
    target = Path(path)
    with writing(target):
        descriptor, draft = tempfile.mkstemp(dir=target.parent, prefix=".hwpass-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.chmod(draft, 0o644)
            os.replace(draft, target)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
