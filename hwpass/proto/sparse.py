"""Constants with many zeros, written as sparse tensors: the values that differ from zero, and where they stand.

ONNX Runtime makes them dense when it loads a model. Places are flat indices, int64 by the standard; written as numbers
of variable length (`int64_data`), most take two or three bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_graphsurgeon as gs
from onnx import GraphProto, SparseTensorProto, TensorProto, numpy_helper

from hwpass.proto.exporting import bitwise

#: Places that are handed over at once.
PORTION = 1 << 16


def smaller(tensor: gs.Constant) -> bool:
    """Whether a constant takes fewer bytes as a sparse tensor."""
    return bool(bitwise(tensor.values.dtype)) and sparse_bytes(tensor.values) < tensor.values.nbytes


def sparse_bytes(values: np.ndarray) -> int:
    """Bytes of values and places."""
    where = np.flatnonzero(_bits(values))
    lengths = np.maximum(1, np.ceil(np.log2(where + 1.0) / 7)) if len(where) else np.zeros(0)
    return int(len(where) * values.dtype.itemsize + lengths.sum())


def sparse_proto(name: str, values: np.ndarray) -> SparseTensorProto:
    """An array as a sparse tensor. What is -0 keeps its sign: it is stored like any other value."""
    flat = np.ascontiguousarray(values).reshape(-1)
    where = np.flatnonzero(_bits(flat))
    places = TensorProto(name=f"{name}_indices", dims=[len(where)], data_type=TensorProto.INT64)
    for start in range(0, len(where), PORTION):  # as objects of Python's, numbers take several times the room
        places.int64_data.extend(where[start : start + PORTION].tolist())
    held = numpy_helper.from_array(flat[where], name)
    return SparseTensorProto(values=held, indices=places, dims=values.shape)


def make_sparse(graph: GraphProto, names: Collection[str], constants: Mapping[str, gs.Constant]) -> None:
    """Turn those initialisers of a graph into sparse ones, in place."""
    if not names:
        return
    rest = [t for t in graph.initializer if t.name not in names]
    chosen = [t.name for t in graph.initializer if t.name in names]
    if not chosen:
        return
    kept = [TensorProto.FromString(t.SerializeToString()) for t in rest]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.sparse_initializer.extend(sparse_proto(name, constants[name].values) for name in chosen)


def _bits(values: np.ndarray) -> np.ndarray:
    """Which entries have any bit: those that are not plain zero."""
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[values.dtype.itemsize]
    return np.asarray(np.ascontiguousarray(values).reshape(-1).view(kind) != 0)
