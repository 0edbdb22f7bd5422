"""Small files that are data (plans, targets): read whole, bounded, as text, with nothing read besides."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

from hwpass.errors import InputError


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


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path as it may stand in a message: printable, on one line, and of one that is too long its end."""
    text = shown(os.fspath(path), 5000)
    return text if len(text) <= 300 else "..." + text[-297:]


def shown(value: object, longest: int = 80) -> str:
    """A value from a file as it may stand in a message: short, printable, on one line.

    >>> shown("conv1"), shown("a\\nb"), shown("x" * 1000, 9)
    ('conv1', 'a\\\\nb', 'xxxxxx...')
    >>> shown({"deep": [1, 2]}), shown(10**5000)
    ('a table', 'a number of 16610 bits')
    """
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"  # Python refuses to write very long ones
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = (value if isinstance(value, str) else repr(value))[: longest + 1]
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= longest else text[: longest - 3] + "..."
