"""Arrays in files, read some rows at a time: `.npz`, `.npy` and folders of `.npy`.

Only compressed `.npz` members are held in memory, because they cannot be entered in the middle.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hwpass.errors import InputError
from hwpass.inputs import InputSpec


class Rows(Protocol):
    """An array that is read by rows of its first axis."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop."""


@dataclass(frozen=True)
class Held:
    """An array in memory."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.array[start:stop] if self.array.ndim else self.array


@dataclass(frozen=True)
class Filed:
    """Rows of a C-ordered array that starts at `offset` bytes of a file."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        row = int(np.prod(self.shape[1:], dtype=np.int64))
        stop = min(stop, self.shape[0])
        offset = self.offset + start * row * self.dtype.itemsize
        values = np.fromfile(self.path, self.dtype, (stop - start) * row, offset=offset)
        return values.reshape((stop - start, *self.shape[1:]))


def rows_from_path(path: Path, source: str, specs: Sequence[InputSpec]) -> list[dict[str, Rows]]:
    """The arrays by input name, a mapping per batch of files; `InputError` when they cannot be read."""
    if path.is_dir():
        return _from_folder(path, source, specs)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file or folder")
    if path.suffix == ".npy":
        if len(specs) != 1:
            raise InputError(f"{source}: one array, but the model has {len(specs)} inputs; use an .npz")
        return [{specs[0].name: _open_npy(path, source)}]
    if not zipfile.is_zipfile(path):
        raise InputError(f"{source}: not an .npz; pass an .npz, an .npy or a folder of .npy")
    return [_open_npz(path, source)]


def _open_npz(path: Path, source: str) -> dict[str, Rows]:
    arrays: dict[str, Rows] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as stream:
                    shape, fortran, dtype = _npy_header(stream)
                    start = stream.tell()
                    if member.compress_type != zipfile.ZIP_STORED or fortran or not shape:
                        stream.seek(0)
                        arrays[name] = Held(np.lib.format.read_array(stream, allow_pickle=False))
                        continue
                with open(path, "rb") as raw:  # the local header repeats the name and an extra field of its own
                    raw.seek(member.header_offset + 26)
                    name_bytes, extra_bytes = np.frombuffer(raw.read(4), "<u2").tolist()
                offset = member.header_offset + 30 + name_bytes + extra_bytes + start
                arrays[name] = Filed(path, offset, shape, dtype)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{source}: cannot be read as .npz: {_short(error)}") from error
    return arrays


def _open_npy(path: Path, source: str) -> Rows:
    try:
        with open(path, "rb") as stream:
            shape, fortran, dtype = _npy_header(stream)
            if fortran or not shape:
                stream.seek(0)
                return Held(np.lib.format.read_array(stream, allow_pickle=False))
            offset = stream.tell()
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{source}: cannot be read as .npy: {_short(error)}") from error
    if path.stat().st_size < offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
        raise InputError(f"{source}: the file is shorter than its header says; write it again")
    return Filed(path, offset, shape, dtype)


def _npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects; save plain numeric arrays")
    return shape, fortran, dtype


def _from_folder(path: Path, source: str, specs: Sequence[InputSpec]) -> list[dict[str, Rows]]:
    files = sorted(path.glob("*.npy"))
    if not files:
        raise InputError(f"{source}: no .npy files in this folder")
    by_stem = {file.stem: file for file in files}
    wanted = {_file_name(spec.name): spec.name for spec in specs}
    if len(specs) == 1 and not (len(files) == 1 and files[0].stem in wanted):
        rank = len(specs[0].shape)
        opened = [(file, _open_npy(file, f"{source}/{file.name}")) for file in files]
        return [{specs[0].name: as_batch(rows, rank)} for _, rows in opened]
    for stem in by_stem:
        if stem not in wanted:
            raise InputError(f"{source}: {stem}.npy belongs to no input; the inputs are {input_names(specs)}")
    return [{wanted[stem]: _open_npy(file, f"{source}/{file.name}") for stem, file in by_stem.items()}]


def as_batch(rows: Rows, rank: int) -> Rows:
    """A single sample (an axis short) becomes a batch of one."""
    return Held(whole(rows)[None]) if len(rows.shape) == rank - 1 else rows


def whole(rows: Rows) -> np.ndarray:
    """All rows; the value itself where there is no axis."""
    return rows.read(0, rows.shape[0] if rows.shape else 1)


def input_names(specs: Sequence[InputSpec]) -> str:
    """The names of inputs for a message."""
    return ", ".join(repr(spec.name) for spec in specs)


def _file_name(name: str) -> str:
    """How an input's name appears in a file name.

    >>> _file_name("model/input:0")
    'model_input_0'
    """
    return re.sub(r'[/\\:*?"<>|]', "_", name)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
