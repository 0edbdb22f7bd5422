"""Write a model as one file, weight by weight: ordinary serialisation would hold every weight two more times."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import onnx_graphsurgeon as gs
from google.protobuf.internal.encoder import _VarintBytes  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto
from onnx_graphsurgeon.exporters.onnx_exporter import dtype_to_onnx

if TYPE_CHECKING:
    from hwpass.ir import Model

#: Constants below this size stay in the graph's own message.
LARGE = 1024

# Tags of length-delimited fields in onnx.proto: field number << 3 | 2.
GRAPH, INITIALIZER, RAW_DATA = b"\x3a", b"\x2a", b"\x4a"


@contextmanager
def emptied(constants: dict[str, gs.Constant]) -> Iterator[dict[str, np.ndarray]]:
    """Constants without their values for a while, so that a proto can be made of the rest; yields the values."""
    held = {key: tensor._values for key, tensor in constants.items()}
    try:
        for key, tensor in constants.items():
            tensor._values = np.zeros((0,), held[key].dtype)
        yield held
    finally:
        for key, tensor in constants.items():
            tensor._values = held[key]


def large_constants(model: Model) -> dict[str, gs.Constant]:
    """The constants of the main graph that are worth writing apart: whole bytes per element, and many of them."""
    inner = {t.name for body in model.graph.subgraphs(recursive=True) for t in body.tensors().values()}
    return {
        key: tensor
        for key, tensor in model.constants().items()
        if key not in inner and isinstance(tensor._values, np.ndarray) and tensor._values.nbytes >= LARGE
        and tensor._values.dtype.itemsize * 8 in (8, 16, 32, 64) and "4" not in str(tensor._values.dtype)[-5:]
    }  # fmt: skip


def write_single(model: Model, stream: BinaryIO) -> None:
    """Write the model with its weights inside; the bytes are those of an ordinary ModelProto."""
    constants = large_constants(model)
    with emptied(constants) as held:
        proto = model.proto()
    names = [t.name for t in proto.graph.initializer if t.name in held]
    rest = [t for t in proto.graph.initializer if t.name not in held]
    copies = [TensorProto.FromString(t.SerializeToString()) for t in rest]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(copies)
    graph = proto.graph.SerializeToString(deterministic=True)
    headers = {name: _header(name, held[name]) for name in names}
    sizes = {name: len(headers[name]) + held[name].nbytes for name in names}
    total = len(graph) + sum(len(INITIALIZER) + len(_VarintBytes(s)) + s for s in sizes.values())
    outer = ModelProto()
    outer.CopyFrom(proto)
    outer.ClearField("graph")
    stream.write(outer.SerializeToString(deterministic=True))
    stream.write(GRAPH + _VarintBytes(total) + graph)
    for name in names:
        stream.write(INITIALIZER + _VarintBytes(sizes[name]) + headers[name])
        # A view of the array's own bytes: nothing is copied on the way out.
        stream.write(np.asarray(held[name], order="C").reshape(-1).view(np.uint8).data)


def _header(name: str, values: np.ndarray) -> bytes:
    """A TensorProto up to its data."""
    tensor = TensorProto(name=name, dims=values.shape, data_type=dtype_to_onnx(values.dtype))
    return bytes(tensor.SerializeToString(deterministic=True) + RAW_DATA + _VarintBytes(values.nbytes))


def mapped_files(model: Model) -> set[str]:
    """The files that weights are mapped from."""
    names = (getattr(tensor._values, "filename", None) for tensor in model.constants().values())
    return {str(name) for name in names if name is not None}


def release_pages(model: Model) -> None:
    """Let the system take back the pages of memory-mapped weights; they are read again when needed."""
    for tensor in model.constants().values():
        mapping = getattr(tensor._values, "_mmap", None)
        if mapping is not None and hasattr(mapping, "madvise"):
            mapping.madvise(mmap.MADV_DONTNEED)
