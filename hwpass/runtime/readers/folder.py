"""Data in a folder: `.npy`, one per input or for a model with one input many; or pictures or sounds for one input."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwpass.errors import InputError
from hwpass.runtime.reader import FOLDER, Batches, Reader, register
from hwpass.runtime.readers.npy import open_npy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hwpass.runtime.inputs import InputSpec


@register
class Folder(Reader):
    """A folder of arrays."""

    suffixes = (FOLDER,)
    summary = "a folder of .npy (one per input, or many for one input), or of pictures or WAV files"

    def read(self, path: Path, source: str, specs: Sequence[InputSpec]) -> Batches:
        from hwpass.runtime.array_files import as_batch, input_names, readable

        with readable(source):
            files = sorted(path / name for name in os.listdir(path) if name.endswith(".npy"))
        if not files:
            return _media(path, source, specs)
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
        raise InputError(f"{source}: no .npy files, pictures or WAV files in this folder")
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
