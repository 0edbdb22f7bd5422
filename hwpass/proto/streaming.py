"""Write a model as one file, weight by weight: ordinary serialisation would hold every weight two more times."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from typing import BinaryIO

import numpy as np
import onnx_graphsurgeon as gs
from google.protobuf.internal.encoder import _VarintBytes
from onnx import ModelProto, TensorProto

from hwpass.proto.exporting import LARGE, large

__all__ = ["LARGE", "contiguous", "large_constants", "release_pages", "write_single"]

# Tags of length-delimited fields in onnx.proto: field number << 3 | 2.
GRAPH, INITIALIZER, RAW_DATA = b"\x3a", b"\x2a", b"\x4a"


def large_constants(constants: Mapping[str, gs.Constant]) -> dict[str, gs.Constant]:
    """The constants that are written apart: whole bytes per element, and many of them."""
    return {name: tensor for name, tensor in constants.items() if large(tensor)}


def write_single(proto: ModelProto, constants: Mapping[str, gs.Constant], stream: BinaryIO) -> None:
    """Write a model whose large constants have no data of their own with that data inside. The proto is used up."""
    apart = [t for t in proto.graph.initializer if t.name in constants and not t.HasField("raw_data")]
    rest = [t for t in proto.graph.initializer if not (t.name in constants and not t.HasField("raw_data"))]
    headers = {t.name: _header(t, constants[t.name].values) for t in apart}
    copies = [TensorProto.FromString(t.SerializeToString()) for t in rest]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(copies)
    graph = proto.graph.SerializeToString(deterministic=True)
    sizes = {name: len(header) + constants[name].values.nbytes for name, header in headers.items()}
    total = len(graph) + sum(len(INITIALIZER) + len(_VarintBytes(s)) + s for s in sizes.values())
    outer = ModelProto()
    outer.CopyFrom(proto)
    outer.ClearField("graph")
    stream.write(outer.SerializeToString(deterministic=True))
    stream.write(GRAPH + _VarintBytes(total) + graph)
    for name, header in headers.items():
        stream.write(INITIALIZER + _VarintBytes(sizes[name]) + header)
        stream.write(contiguous(constants[name].values))


def contiguous(values: np.ndarray) -> memoryview:
    """An array's own bytes, in C order: nothing is copied on the way out where they lie so already."""
    return np.asarray(values, order="C").reshape(-1).view(np.uint8).data


def _header(tensor: TensorProto, values: np.ndarray) -> bytes:
    """A TensorProto without data, up to where the data begins."""
    return bytes(tensor.SerializeToString(deterministic=True) + RAW_DATA + _VarintBytes(values.nbytes))


def mapped_files(constants: Iterable[gs.Constant]) -> set[str]:
    """The files that weights are mapped from."""
    names = (getattr(tensor._values, "filename", None) for tensor in constants)
    return {str(name) for name in names if name is not None}


def release_pages(constants: Iterable[gs.Constant]) -> None:
    """Let the system take back the pages of memory-mapped weights; they are read again when needed."""
    for tensor in constants:
        mapping = getattr(tensor._values, "_mmap", None)
        if mapping is not None and hasattr(mapping, "madvise"):
            mapping.madvise(mmap.MADV_DONTNEED)
