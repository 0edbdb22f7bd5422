"""Dynamic quantisation: weights of matrix products as integers, and each activation by its own range as it comes.

The form is the one that ONNX Runtime takes for one kernel. Its own quantiser would also rewrite every Gemm of the
model, those that stay in floating point included, so that nothing could be proved of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from hwpass.formats.qdq import rounded, weight_scales
from hwpass.model.model import Model
from hwpass.model.node_order import put_in_order


def fits(node: gs.Node) -> bool:
    """Whether a node is a matrix product with a constant float32 weight, as dynamic quantisation takes it."""
    if node.domain or node.op not in ("MatMul", "Gemm"):
        return False
    weight = node.inputs[1]
    if not isinstance(weight, gs.Constant) or weight.dtype != np.float32 or weight.values.ndim != 2:
        return False
    if node.op == "MatMul":
        return not isinstance(node.inputs[0], gs.Constant)
    plain = float(node.attrs.get("alpha", 1.0)) == float(node.attrs.get("beta", 1.0)) == 1.0
    return plain and not node.attrs.get("transA", 0)


def dynamic(model: Model, layers: Iterable[str], bits: int, *, per_channel: bool) -> Model:
    """A copy with matrix products, named by their outputs, on integers."""
    result = model.copy()
    wanted = set(layers)
    sources: dict[int, list[gs.Variable]] = {}
    made: list[gs.Node] = []
    gone = [node for node in result.graph.nodes if node.outputs[0].name in wanted and fits(node)]
    for node in gone:
        source = node.inputs[0]
        if id(source) not in sources:
            names = (f"{source.name}_{part}" for part in ("dynamic", "dynamic_scale", "dynamic_zero_point"))
            sources[id(source)] = [gs.Variable(name) for name in names]
            made.append(gs.Node("DynamicQuantizeLinear", f"{source.name}_quantize", {}, [source], sources[id(source)]))
        made += _product(node, sources[id(source)], bits, per_channel)
    kept = [node for node in result.graph.nodes if all(node is not other for other in gone)]
    for node in gone:
        node.inputs, node.outputs = [], []
    result.graph.nodes = [*kept, *made]
    put_in_order(result.graph)
    result.graph.cleanup(remove_unused_node_outputs=False)
    result.invalidate_shapes()
    return result


def _product(node: gs.Node, source: list[gs.Variable], bits: int, per_channel: bool) -> Iterator[gs.Node]:
    """The nodes that stand for a product, the last of which makes what it made."""
    name, output = node.name or node.outputs[0].name, node.outputs[0]
    values = node.inputs[1].values
    if node.op == "Gemm" and node.attrs.get("transB", 0):
        values = values.T
    axis = values.ndim - 1 if per_channel else None
    scales = weight_scales(values, axis, bits)
    label = f"{node.inputs[1].name}_of_{output.name}"
    weight = [
        gs.Constant(f"{label}_quantized", rounded(values, scales, axis, bits).astype(np.int8)),
        gs.Constant(f"{label}_scale", np.asarray(scales)),
        gs.Constant(f"{label}_zero_point", np.zeros(scales.shape, np.int8)),
    ]
    bias = node.inputs[2] if node.op == "Gemm" and len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    sums, wide = gs.Variable(f"{output.name}_sums"), gs.Variable(f"{output.name}_wide")
    scale = gs.Variable(f"{output.name}_scale")
    scaled = output if bias is None else gs.Variable(f"{output.name}_scaled")
    inputs = [source[0], weight[0], source[2], weight[2]]
    yield gs.Node("MatMulInteger", f"{name}_integer", {}, inputs, [sums])
    yield gs.Node("Cast", f"{name}_cast", {"to": int(TensorProto.FLOAT)}, [sums], [wide])
    yield gs.Node("Mul", f"{name}_scales", {}, [source[1], weight[1]], [scale])
    yield gs.Node("Mul", f"{name}_scaled", {}, [wide, scale], [scaled])
    if bias is not None:
        yield gs.Node("Add", f"{name}_bias", {}, [scaled, bias], [output])
