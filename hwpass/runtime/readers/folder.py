"""Data in a folder: `.npy`, one per input or for a model with one input many; or pictures, sounds or text."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwpass.errors import InputError
from hwpass.runtime.reader import FOLDER, Batches, Reader, register
from hwpass.runtime.readers.npy import open_npy
from hwpass.runtime.readers.text import read_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hwpass.runtime.inputs import InputSpec


@register
class Folder(Reader):
    """A folder of arrays."""

    suffixes = (FOLDER,)
    summary = "a folder of .npy (one per input, or many for one input), of pictures, of WAV files or of text"

    def read(self, path: Path, source: str, specs: Sequence[InputSpec]) -> Batches:
        from hwpass.runtime.array_files import as_batch, input_names, readable

        with readable(source):
            files = sorted(path / name for name in os.listdir(path) if name.endswith(".npy"))
        if not files:
            with readable(source):
                texts = text_files(path)
            return read_texts(texts, source, specs) if texts else _media(path, source, specs)
        for file in files:
            if not file.is_file():
                raise InputError(f"{source}/{file.name}: not a file that can be read; take it out of the folder")
        by_stem = {file.stem: file for file in files}
        wanted = {_file_name(spec.name): spec.name for spec in specs}
        if len(specs) == 1 and not (len(files) == 1 and files[0].stem in wanted):
            rank = len(specs[0].shape)
            opened = [(file, open_npy(file, f"{source}/{file.name}")) for file in files]
            return [{specs[0].name: as_batch(rows, rank)} for _, rows in opened]
        for stem in by_stem:
            if stem not in wanted:
                raise InputError(f"{source}: {stem}.npy belongs to no input; the inputs are {input_names(specs)}")
        return [{wanted[stem]: open_npy(file, f"{source}/{file.name}") for stem, file in by_stem.items()}]


def media_files(path: Path) -> list[Path]:
    """Pictures and sounds in a folder without arrays, and in the folders within it, in order.

    Raises OSError.
    """
    found = []
    for folder, inner, names in os.walk(path, onerror=_raise):
        inner.sort()
        if any(name.endswith(".npy") for name in names) and Path(folder) == path:
            return []
        found += [Path(folder, name) for name in names if not name.startswith(".") and _kind(name)]
    return sorted(found)


def text_files(path: Path) -> list[Path]:
    """A file of text; or those in a folder that holds neither arrays, pictures nor sounds, which text may go with.

    Raises OSError.
    """
    if path.is_dir():
        if media_files(path) or any(name.endswith(".npy") for name in os.listdir(path)):
            return []
        walked = os.walk(path, onerror=_raise)
        return sorted(Path(at, name) for at, _, names in walked for name in names if _is_text(name))
    return [path] if path.is_file() and _is_text(path.name) else []


def _is_text(name: str) -> bool:
    from hwpass.runtime.texts import SUFFIXES

    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def _raise(error: OSError) -> None:
    raise error


def _kind(name: str) -> Callable[[Path, str, InputSpec], NDArray[Any]] | None:
    from hwpass.runtime import pictures, waves

    suffix = Path(name).suffix.lower()
    return pictures.picture if suffix in pictures.SUFFIXES else waves.waveform if suffix in waves.SUFFIXES else None


def _media(path: Path, source: str, specs: Sequence[InputSpec]) -> Batches:
    """A sample or more of each picture or sound, in a file until it is wanted."""
    from hwpass.runtime.array_files import Spool, input_names, readable

    with readable(source):
        files = media_files(path)
    if not files:
        raise InputError(f"{source}: no .npy files, pictures, WAV files or text in this folder")
    if len({_kind(file.name) for file in files}) > 1:
        raise InputError(f"{source}: pictures and WAV files in one folder; put them apart")
    if len(specs) != 1:
        raise InputError(
            f"{source}: files for one input, but the model has {len(specs)}: {input_names(specs)}; use an .npz"
        )
    spool, (spec,) = Spool(), specs
    read = _kind(files[0].name)
    assert read is not None
    return [{spec.name: spool.put(read(file, source, spec))} for file in files]


def _file_name(name: str) -> str:
    """How an input's name appears in a file name.

    >>> _file_name("model/input:0")
    'model_input_0'
    """
    return re.sub(r'[/\\:*?"<>|]', "_", name)
