"""Arrays in files, read some rows at a time, and what readers of files share.

What a file declares is checked against what it holds before anything is read: a header is not believed.
"""

from __future__ import annotations

import os
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


@dataclass(frozen=True)
class Chosen:
    """Some rows of an array, by their numbers in rising order."""

    rows: Rows
    numbers: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.numbers), *self.rows.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return self.rows.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        wanted = self.numbers[start:stop]
        # Neighbours are read in one go.
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1)
        parts = [self.rows.read(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)]
        return np.concatenate(parts) if parts else self.rows.read(0, 0)


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
            raise InputError(f"{self.path}: cannot be read any more: {in_short(error)}") from error
        if values.size != (stop - start) * row:
            raise InputError(f"{self.path}: has become shorter while it was read; leave it alone during a run")
        return values.reshape((stop - start, *self.shape[1:]))


@contextmanager
def readable(source: str, form: str = "") -> Iterator[None]:
    """Turn what goes wrong while something is read into one line that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            yield
    except (RecursionError, MemoryError) as error:
        raise InputError(f"{source}: cannot be read{form}: too large or too deep; write it again") from error
    except (ValueError, TypeError, OSError, EOFError, RuntimeError, NotImplementedError, zlib.error,
            zipfile.BadZipFile) as error:  # fmt: skip
        raise InputError(f"{source}: cannot be read{form}: {in_short(error)}; write it again") from error


def unknown_input(source: str, name: str, specs: Sequence[InputSpec]) -> InputError:
    """The error for an array that belongs to no input."""
    return InputError(f"{source}: {name!r} is no input of the model; the inputs are {input_names(specs)}")


def npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
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


def as_batch(rows: Rows, rank: int) -> Rows:
    """A single sample (an axis short) becomes a batch of one."""
    return Held(whole(rows)[None]) if len(rows.shape) == rank - 1 else rows


def whole(rows: Rows) -> np.ndarray:
    """All rows; the value itself where there is no axis."""
    return rows.read(0, rows.shape[0] if rows.shape else 1)


def input_names(specs: Sequence[InputSpec]) -> str:
    """The names of inputs for a message."""
    return ", ".join(repr(spec.name) for spec in specs)


def in_short(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())[:160] or type(error).__name__
