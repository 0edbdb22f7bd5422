"""Single-node models as torch functions, and how their results are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import torch
from node_cases import Case
from onnx import helper

from hwpass.model.model import Model
from hwpass.ops.functions.common import array_of, tensor_of
from hwpass.torch.graph import TorchGraph


def single(case: Case) -> onnx.ModelProto:
    """A model of the case's node alone, all of its operands being inputs."""
    named = zip(case.node.input, case.types, strict=True)
    inputs = [helper.make_value_info(name, kind) for name, kind in named if name and kind is not None]
    outputs = [helper.make_value_info(name, kind) for name, kind, _ in case.outputs]
    graph = helper.make_graph([case.node], case.name, inputs, outputs)
    imports = [helper.make_opsetid(domain, version) for domain, version in case.opsets]
    return helper.make_model(graph, opset_imports=imports)


def graph_of(proto: onnx.ModelProto) -> TorchGraph:
    """The torch function of a model that need not be one that ONNX Runtime knows."""
    return TorchGraph(Model(gs.import_onnx(proto), ""))


def fed(value: Any) -> Any:
    """An input as torch wants it; lists are lists of tensors."""
    return [fed(v) for v in value] if isinstance(value, list) else tensor_of(np.asarray(value))


def results(graph: TorchGraph, feed: Mapping[str, Any]) -> list[Any]:
    """The outputs as arrays."""
    return [[array_of(v) for v in y] if isinstance(y, list) else array_of(y) for y in graph(feed).values()]


def by_runtime(proto: onnx.ModelProto, feed: Mapping[str, Any]) -> list[Any]:
    """The outputs that ONNX Runtime computes, without rewriting the graph."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed)))


def node_model(
    op: str, attributes: Mapping[str, Any], inputs: Sequence[Any], opset: int = 17, outputs: int = 1, domain: str = "",
    constant: Sequence[int] = (),
) -> tuple[onnx.ModelProto, dict[str, Any]]:  # fmt: skip
    """A model of one node, and its inputs; the inputs in `constant` are initialisers."""
    names = ["" if value is None else f"i{number}" for number, value in enumerate(inputs)]
    node = helper.make_node(op, names, [f"o{n}" for n in range(outputs)], domain=domain, **attributes)
    live = [n for n, value in enumerate(inputs) if value is not None and n not in constant]
    kinds = [helper.make_tensor_value_info(f"i{n}", helper.np_dtype_to_tensor_dtype(np.asarray(inputs[n]).dtype),
                                           np.asarray(inputs[n]).shape) for n in live]  # fmt: skip
    held = [onnx.numpy_helper.from_array(np.asarray(inputs[n]), f"i{n}") for n in constant]
    graph = helper.make_graph([node], op, kinds, [onnx.ValueInfoProto(name=name) for name in node.output], held)
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=8), {f"i{n}": np.asarray(inputs[n]) for n in live}


def gap(wanted: Any, found: Any) -> float:
    """The largest difference over the largest magnitude; infinite where shapes, or what is finite, differ."""
    if isinstance(wanted, list):
        return max((gap(a, b) for a, b in zip(wanted, found, strict=True)), default=0.0)
    a, b = np.asarray(wanted), np.asarray(found)
    if a.dtype.kind in "OSU":
        return 0.0 if np.array_equal(a.astype(str), b.astype(str)) else np.inf
    if a.shape != b.shape or a.dtype != b.dtype:
        return np.inf
    a, b = a.astype(np.complex128 if a.dtype.kind == "c" else np.float64), b.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)) or not np.array_equal(
        a[~np.isfinite(a)], b[~np.isfinite(b)], True
    ):
        return np.inf
    finite = np.isfinite(a)
    scale = float(np.abs(a[finite]).max(initial=0.0)) or 1.0
    return float(np.abs(a - b)[finite].max(initial=0.0)) / scale


torch.manual_seed(0)
