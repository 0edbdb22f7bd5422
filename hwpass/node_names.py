"""Node names as people read them: exporters repeat every scope, which drowns what tells two nodes apart."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from hwpass.errors import UsageError


def short(name: str) -> str:
    """A name without the scopes that the next scope repeats.

    >>> short("/features/features.2/conv/conv.0/conv.0.0/Conv")
    'features.2/conv.0.0/Conv'
    >>> short("node_conv2d")
    'node_conv2d'
    """
    parts = [part for part in name.split("/") if part]
    pairs = zip(parts, [*parts[1:], ""], strict=True)
    return "/".join(part for part, following in pairs if not _repeats(part, following)) or name


def _repeats(scope: str, following: str) -> bool:
    return following == scope or following.startswith(f"{scope}.")


def shortened(names: Iterable[str], width: int | None = None) -> dict[str, str]:
    """Short forms by name, all different; cut off at the left to `width` where that leaves them different.

    >>> shortened(["/a/a.0/Conv", "/b/Conv"])
    {'/a/a.0/Conv': 'a.0/Conv', '/b/Conv': 'b/Conv'}
    >>> shortened(["/block.1/mixer/out/Conv", "/block.2/mixer/out/Conv"], 10)
    {'/block.1/mixer/out/Conv': '…1/mixer/out/Conv', '/block.2/mixer/out/Conv': '…2/mixer/out/Conv'}
    """
    distinct = list(dict.fromkeys(names))
    found = {name: short(name) for name in distinct}
    if len(set(found.values())) < len(found):
        found = {name: name for name in distinct}
    longest = max(map(len, found.values()), default=0)
    if width is None or longest <= width:
        return found
    for wide in range(width, longest):
        cut = {name: text if len(text) <= wide else "…" + text[1 - wide :] for name, text in found.items()}
        if len(set(cut.values())) == len(cut):
            return cut
    return found


def printable(text: object) -> object:
    r"""Text without the stand-ins that bytes of a file name get which are no UTF-8.

    >>> printable("m" + chr(0xDCFF))
    'm\\udcff'
    """
    return text.encode(errors="backslashreplace").decode() if isinstance(text, str) else text


#: A path in a report.
Printable = Annotated[str, BeforeValidator(printable)]


def short_path(path: str, width: int = 60) -> str:
    """A path that fits: relative to the current folder where it is below it, its end where it is long.

    >>> short_path("/" + "deep/" * 20 + "model.onnx", 20)
    '…/deep/model.onnx'
    """
    text = path
    with suppress(OSError, ValueError):  # a working folder that was deleted has no path; a path may lie elsewhere
        text = str(Path(path).relative_to(Path.cwd())) if Path(path).is_absolute() else path
    parts = list(Path(text).parts)
    while len(text) > width and len(parts) > 1:
        parts = parts[1:]
        text = "…/" + "/".join(parts)
    return text


def find(wanted: str, names: Sequence[str], what: str = "node", hint: str = "") -> str:
    """The name that `wanted` means: itself, its short form, or the only one that contains it.

    >>> find("conv2", ["/1/conv1/Conv", "/1/conv2/Conv"])
    '/1/conv2/Conv'

    Raises UsageError, one line, that names the candidates.
    """
    if wanted in names:
        return wanted
    tail = wanted.removeprefix("…")
    same = [name for name in names if short(name) == wanted]
    part = [name for name in names if tail and (tail in name or tail in short(name))]
    for found in (same, part):
        if len(found) == 1:
            return found[0]
        if found:
            few = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
            raise UsageError(f"{what} {wanted!r} is in the names of {len(found)}: {few}; be more specific")
    raise UsageError(f"there is no {what} {wanted!r}{_nearest(wanted, names)}{hint}")


def _nearest(wanted: str, names: Sequence[str]) -> str:
    """The names that look most like what was written."""
    words = {short(name).lower(): name for name in reversed(names)}
    near = difflib.get_close_matches(short(wanted).lower(), words, n=3, cutoff=0.3)
    # A long name hides a short word from the ratio: compare with its parts too.
    if not near:
        parts = {part: name for text, name in words.items() for part in re.split(r"[/_]", text)}
        near = [short(parts[p]).lower() for p in difflib.get_close_matches(wanted.lower(), parts, n=3)]
    return "; the nearest are " + ", ".join(words[n] for n in dict.fromkeys(near)) if near else ""
