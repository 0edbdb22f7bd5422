"""Two forms of a normalisation without a mean: one operator while channels are cut, standard operators in a file."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.model.model import Model
from hwpass.ops.rules.normalization import MEANLESS, RMS_NORM_SINCE
from hwpass.surgery.cut import Surgery


def lowered_norm(norm: gs.Node, opset: int, whole: bool) -> list[gs.Node]:
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
    if opset >= RMS_NORM_SINCE:
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


def raised(model: Model, surgery: Surgery) -> Model:
    """A model that lower-norms has been through, with its norms in the form of the surgery's model again.

    Its scales and biases are its own, so that a model tuned afterwards can be compared weight by weight.
    """
    model = model.copy()
    makers = {tensor.name: node for node in model.graph.nodes for tensor in node.outputs}
    nodes = list(model.graph.nodes)
    for norm in (n for n in surgery.model.graph.nodes if n.op == MEANLESS):
        bare, scale = norm.outputs[0], norm.inputs[1]
        factor = _behind(bare, "Mul", 1)
        result = factor[0].outputs[0] if factor is not None else bare
        bias = _behind(result, "Add", scale.values.size)
        found = makers.get(result.name)
        if found is None and bias is not None:
            found = makers.get(bias[0].outputs[0].name)
        new = _raised(found, norm, factor, bias) if found is not None else []
        if new and found is not None:
            found.inputs.clear()
            nodes[nodes.index(found) : nodes.index(found) + 1] = new
    model.graph.nodes[:] = nodes
    model.graph.cleanup(remove_unused_node_outputs=False)
    return model


def centred_like(model: Model, lowered: Model) -> Model | None:
    """A model with layer normalisations of those norms that lower-norms wrote as such; None where there is none.

    They centre their input. That changes nothing as long as what is written there is centred, which compensation need
    not keep: the lowered model is then what is meant. Nothing here is shared with how norms are lowered.
    """
    makers = {tensor.name: node.op for node in lowered.graph.nodes for tensor in node.outputs}
    changed = model.copy()
    found = False
    for node in changed.graph.nodes:
        if node.op != MEANLESS:
            continue
        behind = node.outputs[0]
        names = {behind.name}
        while len(behind.outputs) == 1 and behind.outputs[0].op in ("Mul", "Add"):
            behind = behind.outputs[0].outputs[0]
            names.add(behind.name)
        if "LayerNormalization" in {makers.get(name) for name in names}:
            node.op, found = "LayerNormalization", True
    return changed if found else None


#: A node and the constant that it reads.
Behind = tuple[gs.Node, gs.Constant]


def _raised(found: gs.Node, norm: gs.Node, factor: Behind | None, bias: Behind | None) -> list[gs.Node]:
    """The nodes in place of the last one of a lowered norm; none where it is not one."""
    scale, inputs, output = norm.inputs[1].name, list(found.inputs), found.outputs[0]
    constants = [t for t in inputs[1:] if isinstance(t, gs.Constant)]
    new = gs.Node(MEANLESS, norm.name, dict(norm.attrs))
    if found.op == "LayerNormalization" and constants:
        found.outputs.clear()
        new.inputs = [inputs[0], gs.Constant(scale, constants[0].values)]
        if bias is None or len(constants) < 2:
            new.outputs = [output]
            return [new]
        new.outputs = [gs.Variable(norm.outputs[0].name)]
        shift = gs.Constant(bias[1].name, constants[1].values)
        return [new, gs.Node("Add", bias[0].name, {}, [new.outputs[0], shift], [output])]
    if found.op == "RMSNormalization" and constants:
        x = inputs[0]
    elif found.op == "Mul" and constants and len(inputs[0].inputs) == 1 and inputs[0].inputs[0].op == "Div":
        x = inputs[0].inputs[0].inputs[0]
    else:
        return []
    found.outputs.clear()
    values = constants[0].values
    if factor is None:
        new.inputs, new.outputs = [x, gs.Constant(scale, values)], [output]
        return [new]
    new.inputs = [x, gs.Constant(scale, values / factor[1].values)]
    new.outputs = [gs.Variable(norm.outputs[0].name)]
    by = gs.Constant(factor[1].name, factor[1].values)
    return [new, gs.Node("Mul", factor[0].name, {}, [new.outputs[0], by], [output])]


def _behind(tensor: gs.Tensor, op: str, size: int) -> Behind | None:
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
