"""Data in a folder of `.npy`: one per input, or for a model with one input many, each a batch or a sample."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwpass.errors import InputError
from hwpass.runtime.reader import FOLDER, Batches, Reader, register
from hwpass.runtime.readers.npy import open_npy

if TYPE_CHECKING:
    from hwpass.runtime.inputs import InputSpec


@register
class Folder(Reader):
    """A folder of arrays."""

    suffixes = (FOLDER,)
    summary = "a folder of .npy: one per input, or many for one input"

    def read(self, path: Path, source: str, specs: Sequence[InputSpec]) -> Batches:
        from hwpass.runtime.array_files import as_batch, input_names, readable

        with readable(source):
            files = sorted(path / name for name in os.listdir(path) if name.endswith(".npy"))
        if not files:
            raise InputError(f"{source}: no .npy files in this folder")
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


def _file_name(name: str) -> str:
    """How an input's name appears in a file name.

    >>> _file_name("model/input:0")
    'model_input_0'
    """
    return re.sub(r'[/\\:*?"<>|]', "_", name)
