"""Data that a model keeps in files beside it: where they may lie, whether they fit, and their arrays."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path, PosixPath, WindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from hwpass.errors import InputError, option

if sys.platform == "win32":
    _Native = WindowsPath
else:
    _Native = PosixPath


class TrustedPath(_Native):
    """The path of a model whose external data lies outside its folder, and may: `--allow-external` was given.

    ONNX Runtime refuses such places, so that sessions are handed the data (`hwpass.runtime.sessions.open_session`).
    """


#: Bits of an element, for types that share bytes.
NARROW_BITS = {
    getattr(TensorProto, kind): bits
    for kind, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2), ("FLOAT6E2M3", 6),
                       ("FLOAT6E3M2", 6))
    if hasattr(TensorProto, kind)
}  # fmt: skip


def data_bytes(tensor: TensorProto) -> int:
    """Bytes that the elements of a tensor take, by its dims and type."""
    bits = NARROW_BITS.get(tensor.data_type)
    if bits is None:
        bits = 8 * np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    return int(prod(tensor.dims) * bits + 7) // 8


@dataclass(frozen=True)
class Home:
    """Where a model's files are: the folder its locations are relative to, and what else is its own.

    `path` is the model file, None for what came as bytes or as a proto. With `anywhere` data may lie outside.
    """

    path: Path | None
    anywhere: bool = False

    def find(self, tensor: TensorProto, where: str, name: str) -> tuple[Path, int]:
        """The file of a tensor's data and the offset in it, in bytes.

        Nothing outside the model's folder is opened or even looked at. `where` names the tensor. Raises InputError.
        """
        given = {entry.key: entry.value for entry in tensor.external_data}
        location = given.get("location", "")
        if not isinstance(location, str) or not location or "\0" in location:
            raise InputError(f"{name}: {where}: external data without a location; export the model again")
        offset, length = (_number(given.get(key), key, where, name) for key in ("offset", "length"))
        needed = data_bytes(tensor)
        if length is not None and length < needed:
            raise InputError(
                f"{name}: {where}: {length} bytes of external data are too short: {needed} are needed; export it again"
            )
        if self.path is None:
            raise InputError(
                f"{name}: {where}: its external data file {location} is missing: what is not a file has no folder to"
                " find it in; name the model's file"
            )
        path = self.path.parent / location
        if not self.anywhere and not self.holds(location):
            raise InputError(
                f"{name}: {where}: its data lies outside the model's folder ({location}); move it there, or give"
                f" {option('allow_external', True)} if you trust the file"
            )
        try:
            size = path.stat().st_size if path.is_file() else None
        except (OSError, ValueError):
            size = None
        if size is None:
            raise InputError(f"{name}: {where}: its external data file {location} is missing; put it beside the model")
        if (offset or 0) + needed > size:
            raise InputError(
                f"{name}: {where}: external data {location} is too short: {(offset or 0) + needed} bytes are needed,"
                f" there are {size}; copy the whole file"
            )
        return path, offset or 0

    def holds(self, location: str) -> bool:
        """Whether a location leads to a place inside the model's folder, links followed."""
        assert self.path is not None
        if Path(location).is_absolute() or ".." in Path(location).parts:
            return False
        try:
            place = (self.path.parent / location).resolve()
            # Caches keep models as links into a folder of blobs: what lies beside the model itself is its own.
            roots = (self.path.parent.resolve(), self.path.resolve().parent)
        except (OSError, RuntimeError, ValueError):  # a circle of links
            return False
        return any(place.is_relative_to(root) for root in roots)


def _number(text: Any, key: str, where: str, name: str) -> int | None:
    if text is None or text == "":
        return None
    if not isinstance(text, str) or not (text.isascii() and text.isdigit()):
        raise InputError(f"{name}: {where}: the {key} of its external data is {text!r}, not a number of bytes")
    return int(text)


def mapped(tensor: TensorProto, home: Home, name: str) -> NDArray[Any]:
    """External data as a read-only memory map, so that a model larger than memory can still be loaded."""
    path, offset = home.find(tensor, f"tensor {tensor.name!r}", name)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    shape = tuple(tensor.dims)
    if tensor.data_type in NARROW_BITS:
        with open(path, "rb") as stream:
            stream.seek(offset)
            data = stream.read(data_bytes(tensor))
        whole = TensorProto(name=tensor.name, dims=shape, data_type=tensor.data_type, raw_data=data)
        return np.asarray(numpy_helper.to_array(whole))
    if prod(shape) == 0:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)


def external(tensor: TensorProto) -> bool:
    """Whether a tensor's data is in a file of its own."""
    return bool(external_data_helper.uses_external_data(tensor))
