"""Constants as arrays, however a model writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hwpass.proto import adapter
from hwpass.proto.external import Home, external, mapped


def materialise_constants(scope: gs.Graph, home: Home, name: str) -> None:
    """Turn Constant nodes into initialisers and lazily held protos into arrays, in place."""
    kept = []
    for node in scope.nodes:
        if node.op == "Constant" and node.domain in (None, "", "ai.onnx"):
            value = _constant_value(node)
            if value is not None:
                output = node.outputs[0]
                node.outputs.clear()
                output.to_constant(value)
                continue
        kept.append(node)
    outputs = {id(tensor) for tensor in scope.outputs}
    scope.nodes = kept
    seen: set[int] = set()
    for node in kept:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant) and id(tensor) not in seen:
                seen.add(id(tensor))
                _materialise(tensor, home, name)
        for value in node.attrs.values():  # a view of one would keep the whole protobuf, weights included, alive
            if isinstance(value, gs.Constant):
                _materialise(value, home, name)
    for position, tensor in enumerate(scope.outputs):
        # A constant may not be a graph output in every runtime: pass it through an Identity.
        if isinstance(tensor, gs.Constant) and id(tensor) in outputs:
            _materialise(tensor, home, name)
            output = gs.Variable(tensor.name, dtype=tensor.dtype, shape=list(tensor.shape))
            tensor.name += "_value"
            scope.nodes.append(gs.Node("Identity", name=tensor.name, inputs=[tensor], outputs=[output]))
            scope.outputs[position] = output


def _constant_value(node: gs.Node) -> NDArray[Any] | Any | None:
    attributes = node.attrs
    if "value" in attributes:
        return adapter.held(attributes["value"])
    for key, dtype in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64),
                       ("value_ints", np.int64)):  # fmt: skip
        if key in attributes:
            return np.asarray(attributes[key], dtype=dtype)
    if "value_string" in attributes:
        return np.asarray(attributes["value_string"], dtype=object)
    if "value_strings" in attributes:
        return np.asarray(attributes["value_strings"], dtype=object)
    return None


def _materialise(tensor: gs.Constant, home: Home, name: str) -> None:
    values = adapter.held(tensor)
    if isinstance(values, np.ndarray):
        return
    proto = adapter.lazy_proto(values)
    if proto is not None:
        found = mapped(proto, home, name) if external(proto) else numpy_helper.to_array(proto)
        adapter.hold(tensor, found)
        tensor.data_location = None
        if found.dtype != np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type)):
            tensor.export_dtype = proto.data_type
    else:
        adapter.hold(tensor, values.load())
