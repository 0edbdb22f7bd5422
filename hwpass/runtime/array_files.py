"""Arrays in files, read some rows at a time: `.npz`, `.npy` and folders of `.npy`.

Only compressed `.npz` members are held in memory, because they cannot be entered in the middle. What a file declares is
checked against what it holds before anything is read: neither a header nor an archive's directory is believed.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
import warnings
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hwpass.errors import InputError
from hwpass.files.whole_files import spilling
from hwpass.runtime.inputs import InputSpec

HELD_BYTES = 1 << 30
"""Compressed arrays of one archive may not take more memory than this."""

SPOOLED_BYTES = 1 << 16
"""Smaller arrays are not worth a place in a file."""


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


class Spool:
    """Large arrays in one temporary file without a name, which goes when nobody knows one of them any more."""

    def __init__(self) -> None:
        self.stream = tempfile.TemporaryFile(prefix="hwpass-")  # noqa: SIM115
        weakref.finalize(self, self.stream.close)

    def put(self, array: np.ndarray) -> np.ndarray | Spooled:
        """The array as rows of the file; a small one is handed back."""
        if array.nbytes < SPOOLED_BYTES or not array.ndim or array.dtype.hasobject:
            return array
        with spilling():
            offset = self.stream.seek(0, os.SEEK_END)
            self.stream.write(np.ascontiguousarray(array).view(np.uint8).data)
        return Spooled(self, offset, array.shape, array.dtype)


@dataclass(frozen=True)
class Spooled:
    """Rows of an array in a spool."""

    spool: Spool
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        row = prod(self.shape[1:]) * self.dtype.itemsize
        stop = min(stop, self.shape[0])
        with spilling():
            self.spool.stream.seek(self.offset + start * row)
            data = self.spool.stream.read((stop - start) * row)
        return np.frombuffer(data, self.dtype).reshape((stop - start, *self.shape[1:]))


@dataclass(frozen=True)
class Filed:
    """Rows of a C-ordered array that starts at `offset` bytes of a file."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        row = prod(self.shape[1:])
        stop = min(stop, self.shape[0])
        offset = self.offset + start * row * self.dtype.itemsize
        try:
            values = np.fromfile(self.path, self.dtype, (stop - start) * row, offset=offset)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read any more: {_short(error)}") from error
        if values.size != (stop - start) * row:
            raise InputError(f"{self.path}: has become shorter while it was read; leave it alone during a run")
        return values.reshape((stop - start, *self.shape[1:]))


def rows_from_path(path: Path, source: str, specs: Sequence[InputSpec]) -> list[dict[str, Rows]]:
    """The arrays by input name, a mapping per batch of files; `InputError` when they cannot be read."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file or folder") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)[-200:]}: cannot be read: {_short(error)}; give another path") from error
    if stat.S_ISDIR(mode):
        return _from_folder(path, source, specs)
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: neither a file nor a folder; pass an .npz, an .npy or a folder of .npy")
    with _readable(source):
        path.open("rb").close()
    if path.suffix == ".npy":
        if len(specs) != 1:
            raise InputError(f"{source}: one array, but the model has {len(specs)} inputs; use an .npz")
        return [{specs[0].name: _open_npy(path, source)}]
    if not zipfile.is_zipfile(path):
        raise InputError(f"{source}: not an .npz; pass an .npz, an .npy or a folder of .npy")
    return [_open_npz(path, source, specs)]


@contextmanager
def _readable(source: str, form: str = "") -> Iterator[None]:
    """Turn what goes wrong while something is read into one line that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            yield
    except (RecursionError, MemoryError) as error:
        raise InputError(f"{source}: cannot be read{form}: too large or too deep; write it again") from error
    except (ValueError, TypeError, OSError, EOFError, RuntimeError, NotImplementedError, zlib.error,
            zipfile.BadZipFile) as error:  # fmt: skip
        raise InputError(f"{source}: cannot be read{form}: {_short(error)}; write it again") from error


def unknown_input(source: str, name: str, specs: Sequence[InputSpec]) -> InputError:
    """The error for an array that belongs to no input."""
    return InputError(f"{source}: {name!r} is no input of the model; the inputs are {input_names(specs)}")


def _open_npz(path: Path, source: str, specs: Sequence[InputSpec]) -> dict[str, Rows]:
    arrays: dict[str, Rows] = {}
    held = 0
    with _readable(source, " as .npz"), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            where = f"{source}/{member.filename}"
            if name not in {spec.name for spec in specs}:
                raise unknown_input(source, name, specs)
            if name in arrays:
                raise InputError(f"{where}: is in the archive twice; write it again")
            if member.flag_bits & 1:
                raise InputError(f"{where}: is encrypted; save it without a password")
            with _readable(where), archive.open(member) as stream:
                shape, fortran, dtype = _npy_header(stream)
                start, size = stream.tell(), prod(shape) * dtype.itemsize
                if start + size > member.file_size:
                    raise InputError(f"{where}: is shorter than its header says; write it again")
                if member.compress_type != zipfile.ZIP_STORED or fortran or not shape:
                    held += size
                    if held > HELD_BYTES:
                        raise InputError(
                            f"{where}: {held / 1e9:.1f} GB of compressed arrays would be held in memory; save them with"
                            " numpy.savez, which does not compress, or give fewer samples"
                        )
                    stream.seek(0)
                    arrays[name] = Held(np.lib.format.read_array(stream, allow_pickle=False))
                    continue
            with _readable(where), open(path, "rb") as raw:  # the local header repeats the name and an extra field
                raw.seek(member.header_offset + 26)
                name_bytes, extra_bytes = np.frombuffer(raw.read(4), "<u2").tolist()
                offset = member.header_offset + 30 + name_bytes + extra_bytes + start
                if offset + size > os.fstat(raw.fileno()).st_size:
                    raise InputError(f"{where}: the archive ends in the middle of it; write it again")
            arrays[name] = Filed(path, offset, shape, dtype)
    return arrays


def _open_npy(path: Path, source: str) -> Rows:
    with _readable(source, " as .npy"), open(path, "rb") as stream:
        shape, fortran, dtype = _npy_header(stream)
        offset = stream.tell()
        if os.fstat(stream.fileno()).st_size < offset + prod(shape) * dtype.itemsize:
            raise InputError(f"{source}: the file is shorter than its header says; write it again")
        if fortran or not shape:
            stream.seek(0)
            return Held(np.lib.format.read_array(stream, allow_pickle=False))
    return Filed(path, offset, shape, dtype)


def _npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the format is unknown")
    first = version == (1, 0)
    try:
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile):
        raise
    except Exception as error:  # a Python literal, which tokenizer and parser refuse each in its own way
        raise ValueError("its header is no description of an array") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects; save plain numeric arrays, and text as numpy strings")
    if any(size < 0 for size in shape):
        raise ValueError(f"a shape of {list(shape)}")
    return shape, fortran, dtype


def _from_folder(path: Path, source: str, specs: Sequence[InputSpec]) -> list[dict[str, Rows]]:
    with _readable(source):
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
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())[:160] or type(error).__name__
