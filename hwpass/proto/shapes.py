"""The shapes of inner tensors, written into a model again after a rewrite that made the recorded ones stale."""

from __future__ import annotations

import onnx
from onnx import TensorProto

#: Graphs of more nodes are written without: inference is linear, but viewers and runtimes do well without it there.
MOST_NODES = 50_000


def with_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with an entry for each inner tensor of the main graph whose shape ONNX can infer, in the nodes' order.

    Initialisers without their data do no harm: they are marked as lying elsewhere for the time of the inference.
    """
    graph = proto.graph
    if len(graph.node) > MOST_NODES:
        return proto
    found = inferred(proto, values=False)
    if found is None:
        return proto
    known = {value.name: value for value in (*found.graph.value_info, *graph.value_info)}
    ends = {value.name for value in (*graph.input, *graph.output)}
    names = [name for node in graph.node for name in node.output if name in known and name not in ends]
    values = [onnx.ValueInfoProto.FromString(known[name].SerializeToString()) for name in names]
    del graph.value_info[:]
    graph.value_info.extend(values)
    return proto


def inferred(proto: onnx.ModelProto, *, values: bool = True) -> onnx.ModelProto | None:
    """The model with what ONNX infers of inner tensors, None where it fails; `values` follows those of shapes too."""
    trial = onnx.ModelProto()
    trial.CopyFrom(proto)
    for tensor in trial.graph.initializer:
        if empty(tensor):
            tensor.data_location = TensorProto.EXTERNAL
    try:
        return onnx.shape_inference.infer_shapes(trial, data_prop=values)
    except Exception:  # an operator that does not fit its schema, though ONNX Runtime runs it; types differ
        return None


def empty(tensor: TensorProto) -> bool:
    """Whether an initialiser has dims but no data."""
    return not tensor.HasField("raw_data") and all(
        not len(getattr(tensor, field)) for field in ("float_data", "int32_data", "int64_data", "double_data",
                                                      "uint64_data", "string_data")
    )  # fmt: skip
