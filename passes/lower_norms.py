"""Norms that another pass left in a form of its own, written in standard operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.ir import Model
from hwpass.manager import Context, Pass, PassResult, register
from hwpass.ops.normalization import MEANLESS
from hwpass.rewrite import Surgery


@register
@dataclass(frozen=True)
class LowerNorms(Pass):
    """What rotate-streams made of a layer normalisation -> standard operators, at the end of a pipeline.

    RMSNormalization where the model's operator set has it (23), else x scale / Sqrt(ReduceMean(Pow(x, 2)) + epsilon),
    which ONNX Runtime fuses into one kernel; LayerNormalization again (17) where the stream was neither turned nor
    thinned.
    A factor that thinning left behind goes into the scale. Does not fire on norms of the model's own.
    """

    name = "lower-norms"

    def run(self, model: Model, context: Context) -> PassResult:
        known: dict[str, bool] = context.found.get("meanless", {})
        surgery: Surgery | None = context.found.get("surgery")
        now: Mapping[str, str] = surgery.renamed if surgery is not None else {}
        ours = {now.get(name, name): centred and name not in now for name, centred in known.items()}
        norms = [n for n in model.graph.nodes if n.op == MEANLESS and n.outputs[0].name in ours]
        lowered = {id(norm): _lowered(norm, model.opset, ours[norm.outputs[0].name]) for norm in norms}
        model.graph.nodes[:] = [new for node in model.graph.nodes for new in lowered.get(id(node), [node])]
        if norms:
            model.graph.cleanup(remove_unused_node_outputs=False)
            model.invalidate_shapes()
        return PassResult(model, bool(norms))


def _lowered(norm: gs.Node, opset: int, whole: bool) -> list[gs.Node]:
    """The nodes in place of a norm; `whole` when the mean of its input is zero."""
    x, scale, output = norm.inputs[0], norm.inputs[1], norm.outputs[0]
    epsilon = float(norm.attrs.get("epsilon", 1e-5))
    factor = _behind(output, "Mul", 1)
    if factor is not None:
        scale = gs.Constant(f"{scale.name}_{output.name}", scale.values * factor[1].values)
        output = _take(factor[0])
    if whole and opset >= 17:
        bias = _behind(output, "Add", scale.values.size)
        inputs = [x, scale, *([bias[1]] if bias is not None else [])]
        output = _take(bias[0]) if bias is not None else output
        norm.outputs.clear()
        return [gs.Node("LayerNormalization", norm.name, {"axis": -1, "epsilon": epsilon}, inputs, [output])]
    norm.outputs.clear()
    if opset >= 23:
        return [gs.Node("RMSNormalization", norm.name, {"axis": -1, "epsilon": epsilon}, [x, scale], [output])]
    kind = scale.values.dtype
    base = output.name
    nodes: list[gs.Node] = []

    def then(op: str, *inputs: gs.Tensor, result: gs.Tensor | None = None, **attributes: object) -> gs.Tensor:
        made = result if result is not None else gs.Variable(f"{base}_{op}")
        nodes.append(gs.Node(op, f"{base}_{op}", attributes, list(inputs), [made]))
        return made

    square = then("Pow", x, gs.Constant(f"{base}_two", np.asarray(2, kind)))
    if opset >= 18:
        mean = then("ReduceMean", square, gs.Constant(f"{base}_axes", np.asarray([-1], np.int64)), keepdims=1)
    else:
        mean = then("ReduceMean", square, axes=[-1], keepdims=1)
    root = then("Sqrt", then("Add", mean, gs.Constant(f"{base}_epsilon", np.asarray(epsilon, kind))))
    then("Mul", then("Div", x, root), scale, result=output)
    norm.inputs.clear()
    return nodes


def _behind(tensor: gs.Tensor, op: str, size: int) -> tuple[gs.Node, gs.Constant] | None:
    """The only reader of a tensor, when it is `op` with a constant of this size."""
    if len(tensor.outputs) != 1 or tensor.outputs[0].op != op:
        return None
    for constant in tensor.outputs[0].inputs:
        if isinstance(constant, gs.Constant) and constant.values.size == size and constant.values.ndim <= 1:
            return tensor.outputs[0], constant
    return None


def _take(node: gs.Node) -> gs.Tensor:
    """The output of a node that goes."""
    output = node.outputs[0]
    node.inputs.clear()
    node.outputs.clear()
    return output
