"""Residual streams centred, and turned to their principal axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.constant_channels import added_bias
from hwpass.coupling.groups import Coupling
from hwpass.coupling.residual_streams import Stream, Use, streams
from hwpass.model.model import Model
from hwpass.model.node_order import put_in_order
from hwpass.ops.rules.normalization import MEANLESS
from hwpass.surgery.constant_edits import ConstantEdits

Floats = NDArray[np.float64]


def rotate(model: Model, norms: Mapping[int, Norm], coupling: Coupling) -> dict[str, bool] | None:
    """Turn the streams between `norms`, which `without_means` took from the model that was coupled then.

    What is left of the norms, by the name of the output: whether it is only centred. None where no stream can be
    turned; the model is of no more use then.
    """
    found, unfit = streams(coupling, [node for node in coupling.nodes if id(node.gs) in norms])
    if not found:
        return None
    for norm, _ in unfit:
        norms[id(norm.gs)].undo()
    edits = ConstantEdits(coupling)
    for stream in found:
        _turn(model, edits, stream, norms)
    edits.apply()
    centred: dict[str, bool] = {}
    for stream in found:
        centred.update({norm.gs.outputs[0].name: stream.readers is None for norm, _ in stream.norms.values()})
    model.graph.cleanup(remove_unused_node_outputs=False)
    put_in_order(model.graph)
    model.invalidate_shapes()
    turned = (s.normalised for s in found if s.readers is not None)
    model.renewed = model.renewed.union(*(s.tensors for s in found), *turned)
    return centred


def principal_axes(moment: Floats) -> Floats:
    """Orthonormal eigenvectors of a symmetric [d, d] as columns, by falling eigenvalue, signs settled."""
    _, vectors = np.linalg.eigh(moment)
    vectors = vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    return np.asarray(vectors * np.where(largest < 0, -1.0, 1.0))


class Norm(NamedTuple):
    """A layer normalisation that was replaced: its scale and bias [d], and how to have it back."""

    scale: gs.Constant
    bias: gs.Constant | None
    undo: Callable[[], None]


def without_means(model: Model) -> dict[int, Norm]:
    """Turn layer normalisations over the last axis into RMS normalisations, as if all of their inputs were centred.

    Those of one operator and those of many, as exporters wrote them before operator set 17. By the identity of the new
    node, which an Add follows where there is a bias.
    """
    done: dict[int, Norm] = {}
    for node in list(model.graph.nodes):
        found = _fused(model, node) if node.op == "LayerNormalization" else _composed(model, node)
        if found is not None:
            done[id(found[0])] = found[1]
    return done


def _fused(model: Model, node: gs.Node) -> tuple[gs.Node, Norm] | None:
    parameters = list(node.inputs[1:])
    plain = len(node.outputs) == 1 and node.attrs.get("axis", -1) == -1
    if not plain or not all(isinstance(t, gs.Constant) and t.values.ndim == 1 for t in parameters):
        return None
    scale, bias = parameters[0], parameters[1] if len(parameters) > 1 else None
    inputs, output = list(node.inputs), node.outputs[0]
    add = gs.Node("Add", f"{output.name}_bias")
    node.op = MEANLESS
    node.inputs = [inputs[0], scale]
    if bias is not None:
        bare = gs.Variable(f"{output.name}_unbiased")
        node.outputs = [bare]
        add.inputs, add.outputs = [bare, bias], [output]
        model.graph.nodes.insert(model.graph.nodes.index(node) + 1, add)

    def undo() -> None:
        add.inputs.clear()
        add.outputs.clear()
        node.op, node.inputs, node.outputs = "LayerNormalization", inputs, [output]

    return node, Norm(scale, bias, undo)


def _composed(model: Model, node: gs.Node) -> tuple[gs.Node, Norm] | None:
    """Div(x - mean, Sqrt(mean((x - mean)^2) + epsilon)) * scale, and perhaps + bias, from its Div on."""
    if node.op != "Div":
        return None
    centred, root = (_maker(t) for t in node.inputs)
    shifted = _maker(root.inputs[0]) if root is not None and root.op == "Sqrt" else None
    if centred is None or centred.op != "Sub" or shifted is None or shifted.op != "Add":
        return None
    variance = next((m for m in map(_maker, shifted.inputs) if m is not None), None)
    epsilon = next((t for t in shifted.inputs if isinstance(t, gs.Constant) and t.values.size == 1), None)
    if variance is None or epsilon is None or not _over_last(variance):
        return None
    square = _maker(variance.inputs[0])
    if square is None or not (square.op == "Mul" or (square.op == "Pow" and _number(square.inputs[1]) == 2)):
        return None
    again = _maker(square.inputs[0])
    if again is None or again.op != "Sub" or (square.op == "Mul" and square.inputs[0] is not square.inputs[1]):
        return None
    x, means = centred.inputs[0], [_maker(sub.inputs[1]) for sub in (centred, again)]
    if again.inputs[0] is not x or not all(m is not None and _over_last(m) and m.inputs[0] is x for m in means):
        return None
    chain = [m for m in (*means, centred, again, square, variance, shifted, root, node) if m is not None]
    return _as_one(model, list({id(n): n for n in chain}.values()), x, float(epsilon.values.reshape(-1)[0]))


def _as_one(model: Model, chain: list[gs.Node], x: gs.Tensor, epsilon: float) -> tuple[gs.Node, Norm] | None:
    """One operator in place of a chain that normalises x, the Div last, and of the scale and bias behind it."""
    node = chain[-1]
    inside = {id(n) for n in chain}
    if any(id(r) not in inside for n in chain[:-1] for t in n.outputs for r in t.outputs):
        return None
    scaled = _only_reader(node, "Mul")
    scale = _vector(scaled)
    if scaled is None or scale is None or any(t in model.graph.outputs for n in chain for t in n.outputs):
        return None
    shift = _only_reader(scaled, "Add")
    bias = _vector(shift)
    chain.append(scaled)
    before = [(n, list(n.inputs), list(n.outputs)) for n in chain]
    if shift is not None and bias is not None:
        before.append((shift, list(shift.inputs), list(shift.outputs)))
        shift.inputs = [scaled.outputs[0], bias]
    output = scaled.outputs[0]
    for n in chain:
        n.inputs.clear()
        n.outputs.clear()
    attributes = {"axis": -1, "epsilon": epsilon}
    norm = gs.Node(MEANLESS, f"{output.name}_norm", attributes, [x, scale], [output])
    model.graph.nodes.insert(model.graph.nodes.index(scaled), norm)
    gone = {id(n) for n in chain}
    model.graph.nodes[:] = [n for n in model.graph.nodes if id(n) not in gone]

    def undo() -> None:
        norm.inputs.clear()
        norm.outputs.clear()
        for n, inputs, outputs in before:
            n.inputs, n.outputs = inputs, outputs
        model.graph.nodes.extend(chain)

    return norm, Norm(scale, bias, undo)


def _maker(tensor: gs.Tensor) -> gs.Node | None:
    return tensor.inputs[0] if len(tensor.inputs) == 1 else None


def _number(tensor: gs.Tensor) -> float | None:
    """The value of a constant of one element."""
    return float(tensor.values.reshape(-1)[0]) if isinstance(tensor, gs.Constant) and tensor.values.size == 1 else None


def _over_last(node: gs.Node) -> bool:
    """Whether a node is a mean over the last axis that stays as an axis of one."""
    if node.op != "ReduceMean" or not node.attrs.get("keepdims", 1):
        return False
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant):
        axes = node.inputs[1].values.reshape(-1).tolist()
    rank = len(node.inputs[0].shape) if node.inputs[0].shape is not None else 0
    return axes is not None and list(axes) in ([-1], [rank - 1])


def _only_reader(node: gs.Node, op: str) -> gs.Node | None:
    """The one reader of a node's output, when it is an `op`."""
    readers = node.outputs[0].outputs
    return readers[0] if len(readers) == 1 and readers[0].op == op else None


def _vector(node: gs.Node | None) -> gs.Constant | None:
    """The constant [d] among the inputs of a node."""
    found = [t for t in node.inputs if isinstance(t, gs.Constant) and t.values.ndim == 1] if node is not None else []
    return found[0] if found else None


def _written(stream: Stream) -> Floats:
    """The covariance as far as weights tell: of what is written for independent inputs of unit variance, [d, d].

    With compensation after it, the covariance of the activations themselves did no better on a trained transformer.
    """
    moment = np.zeros((stream.width, stream.width))
    for use in stream.writes:
        values = np.moveaxis(np.asarray(use.node.gs.inputs[use.position].values, np.float64), use.axis, 0)
        for row in use.order:
            rows = values[row].reshape(stream.width, -1)
            if use.scale is not None:
                rows = rows * use.scale[:, None]
            rows = rows - rows.mean(axis=0)
            moment += rows @ rows.T
    return moment


def _turn(model: Model, edits: ConstantEdits, stream: Stream, norms: Mapping[int, Norm]) -> None:
    """Centre what is written to a stream, and turn it, with its readers, where there are no others."""
    matrix = np.eye(stream.width) - 1.0 / stream.width
    axes = principal_axes(_written(stream)) if stream.readers is not None else None
    if axes is not None:
        matrix = axes.T @ matrix
    for use in stream.writes:
        scaled = matrix if use.scale is None else matrix * use.scale
        edits.transform(use.node, use.position, use.axis, [(row, scaled) for row in use.order])
    for node in stream.scales:
        _bypass(node.gs)
    if axes is None or stream.readers is None:
        return
    for use, norm in stream.readers:
        scale, bias, _ = norms[id(norm.gs)]
        order = stream.norms[norm.index][1]
        factor = scale.values.astype(np.float64)[order]
        if bias is not None and np.any(bias.values):
            _shift(model, edits, stream, use, bias.values.astype(np.float64)[order])
        edits.transform(use.node, use.position, use.axis, [(use.order[0], axes.T * factor)])
    for norm, _ in stream.norms.values():
        scale, bias, _ = norms[id(norm.gs)]
        norm.gs.inputs[1] = gs.Constant(f"{norm.gs.outputs[0].name}_scale", np.ones_like(scale.values))
        if bias is not None:
            _bypass(norm.gs.outputs[0].outputs[0])


def _shift(model: Model, edits: ConstantEdits, stream: Stream, use: Use, bias: Floats) -> None:
    """Have a product add what it made of a bias [d] of its input. Comes before the weight is changed."""
    product, node = use.node.product, use.node
    assert product is not None
    weight = np.moveaxis(edits.value(node, use.position).astype(np.float64), (use.axis, product.weight_out), (0, 1))
    taps = tuple(range(2, weight.ndim))
    per_input = weight.sum(axis=taps) if taps else weight
    shift = bias @ per_input[use.order[0]]
    if node.op != "MatMul":
        edits.add(node, 2, shift)
        return
    output = node.gs.outputs[0]
    holder, position = added_bias(output, len(shift))
    if holder is not None:
        stream.normalised.add(output.name)  # until the Add behind it
        edits.add(holder, position, shift)
        return
    bare = gs.Variable(f"{output.name}_unbiased")
    node.gs.outputs = [bare]
    constant = gs.Constant(f"{output.name}_shift", shift.astype(edits.value(node, use.position).dtype))
    model.graph.nodes.append(gs.Node("Add", f"{output.name}_shift", {}, [bare, constant], [output]))


def _bypass(node: gs.Node) -> None:
    """Take a node with one data input away: what read its output reads that input."""
    data = next(t for t in node.inputs if not isinstance(t, gs.Constant))
    output = node.outputs[0]
    for reader in list(output.outputs):
        for position, tensor in enumerate(reader.inputs):
            if tensor is output:
                reader.inputs[position] = data
    node.inputs.clear()
    node.outputs.clear()
