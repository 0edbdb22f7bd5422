"""Data in one `.npy`, for a model with one input."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from hwpass.errors import InputError
from hwpass.runtime.reader import Batches, Reader, register

if TYPE_CHECKING:
    from hwpass.runtime.array_files import Rows
    from hwpass.runtime.inputs import InputSpec


@register
class Npy(Reader):
    """One array."""

    suffixes = (".npy",)
    summary = "one array, for a model with one input"

    def read(self, path: Path, source: str, specs: Sequence[InputSpec]) -> Batches:
        if len(specs) != 1:
            raise InputError(f"{source}: one array, but the model has {len(specs)} inputs; use an .npz")
        return [{specs[0].name: open_npy(path, source)}]


def open_npy(path: Path, source: str) -> Rows:
    """The array in a file, entered where it lies. Raises InputError."""
    from numpy.lib.format import read_array

    from hwpass.runtime.array_files import Filed, Held, npy_header, readable

    with readable(source, " as .npy"), open(path, "rb") as stream:
        shape, fortran, dtype = npy_header(stream)
        offset = stream.tell()
        if os.fstat(stream.fileno()).st_size < offset + prod(shape) * dtype.itemsize:
            raise InputError(f"{source}: the file is shorter than its header says; write it again")
        if fortran or not shape:
            stream.seek(0)
            return Held(read_array(stream, allow_pickle=False))
    return Filed(path, offset, shape, dtype)
