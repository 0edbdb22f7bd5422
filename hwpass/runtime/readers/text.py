"""Text, one sample a line, through a tokenizer; in a file, or in the files of a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwpass.errors import InputError
from hwpass.runtime.reader import Batches, Reader, register

if TYPE_CHECKING:
    from hwpass.runtime.inputs import InputSpec

#: Bytes of the longest line: what is longer is no text.
LONGEST = 1 << 20


@register
class Text(Reader):
    """Lines of text in UTF-8."""

    suffixes = (".txt",)
    summary = "text, one sample a line, through the tokenizer that is stated or lies beside the model"

    def read(self, path: Path, source: str, specs: Sequence[InputSpec]) -> Batches:
        return read_texts([path], source, specs)


def read_texts(files: Sequence[Path], source: str, specs: Sequence[InputSpec]) -> Batches:
    """The lines of files as token ids and what goes with them. Raises InputError."""
    from hwpass.runtime.texts import token_rows

    lines = _some(_lines(files, source))
    if not lines:
        raise InputError(f"{source}: no text in it; give a sample a line")
    return token_rows(lines, source, specs)


def _lines(files: Sequence[Path], source: str) -> Iterator[str]:
    from hwpass.runtime.array_files import readable

    for file in files:
        where = source if len(files) == 1 else f"{source}/{file.name}"
        with readable(where), open(file, "rb") as stream:
            number = 0
            while raw := stream.readline(LONGEST + 1):
                number += 1
                if len(raw) > LONGEST:
                    raise InputError(f"{where}: line {number} is longer than 1 MiB; write a sample a line")
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError:
                    raise InputError(f"{where}: line {number} is not in UTF-8; write it again") from None
                if line:
                    yield line


def _some(lines: Iterator[str]) -> list[str]:
    """The lines, or every so many of them from first to last where there are very many."""
    from hwpass.runtime.texts import MOST

    found: list[str] = []
    every = 1
    for number, line in enumerate(lines):
        if number % every == 0:
            found.append(line)
        if len(found) > MOST:
            found, every = found[::2], 2 * every
    return found
