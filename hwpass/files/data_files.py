"""Small files that are data (plans, targets): read whole, bounded, as text, with nothing read besides."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

from hwpass.errors import InputError
from hwpass.figures import shown_path


def read_data(path: str | os.PathLike[str], kind: str, limit: int) -> str:
    """The text of a file of at most `limit` bytes; `-` is standard input, a byte order mark is left out.

    Raises InputError, one line that begins with the path and says what `kind` of file was meant.
    """
    path = os.fspath(path)
    place = shown_path(path)
    try:
        if path == "-":
            place = "standard input"
            if sys.stdin is None:
                raise InputError(f"{place}: it is closed; name a file with the {kind}")
            data = _bounded(sys.stdin.buffer, limit)
        else:
            if os.path.isdir(path):
                raise InputError(f"{place}: is a folder, not a {kind}; name the file in it")
            with open(path, "rb") as stream:
                data = _bounded(stream, limit)
    except OSError as error:
        raise InputError(f"{place}: cannot be read as a {kind} ({error.strerror or error})") from None
    except ValueError:
        raise InputError(f"{place}: not the name of a file") from None
    if len(data) > limit:
        raise InputError(f"{place}: not a {kind}: it is larger than {limit >> 10} KiB, which none is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not a {kind}: not UTF-8 text (at byte {error.start})") from None


def _bounded(stream: BinaryIO, limit: int) -> bytes:
    # One byte more than is allowed tells a file that is too large from one that just fits.
    return stream.read(limit + 1)
