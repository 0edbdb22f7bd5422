"""Residual streams turned to their principal axes, so that their channels can be thinned at the least loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.constants import added_bias
from hwpass.coupling import couple
from hwpass.edits import ConstantEdits
from hwpass.ir import Model
from hwpass.manager import Context, Pass, PassResult, register
from hwpass.ops.normalization import MEANLESS
from hwpass.streams import Stream, Use, streams
from hwpass.study import sample_dims

Floats = NDArray[np.float64]

#: Scale and bias of a layer normalisation.
Parameters = tuple[gs.Constant, gs.Constant | None]


@register
@dataclass(frozen=True)
class RotateStreams(Pass):
    """LayerNormalization(x) -> RMS normalisation of Q (x - mean x), with Q and the mean in the weights around it.

    For a residual stream that nothing reads but layer normalisations: whatever is added to it is centred beforehand, so
    that nothing is left of the mean that couples all channels, and turned by an orthonormal Q to the principal axes of
    the weights that write to it, so that few channels carry most of it (after SliceGPT). Scale and bias of the norms
    go into the products behind them; where something else stands there, Q is the identity. `lower-norms` writes the
    norms in standard operators at the end. Does not fire on a stream that a depthwise layer writes to, that is an
    output of the model, whose weights have other uses or are not float32.
    """

    name = "rotate-streams"

    def run(self, model: Model, context: Context) -> PassResult:
        changed = model.copy()
        norms = _without_means(changed)
        if not norms:
            return PassResult(model, False)
        coupling = couple(changed, sample_dims(model, context))
        found, unfit = streams(coupling, [node for node in coupling.nodes if id(node.gs) in norms])
        for norm, _ in unfit:
            _with_mean(changed, norm.gs, norms[id(norm.gs)])
        if not found:
            return PassResult(model, False)
        edits = ConstantEdits(coupling)
        for stream in found:
            _turn(changed, edits, stream, norms)
        edits.apply()
        record = context.found.setdefault("meanless", {})
        for stream in found:
            record.update({norm.gs.outputs[0].name: stream.readers is None for norm, _ in stream.norms.values()})
        changed.graph.cleanup(remove_unused_node_outputs=False).toposort()
        changed.invalidate_shapes()
        return PassResult(changed, True)


def principal_axes(moment: Floats) -> Floats:
    """Orthonormal eigenvectors of a symmetric [d, d] as columns, by falling eigenvalue, signs settled."""
    _, vectors = np.linalg.eigh(moment)
    vectors = vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    return np.asarray(vectors * np.where(largest < 0, -1.0, 1.0))


def _without_means(model: Model) -> dict[int, Parameters]:
    """Turn layer normalisations over the last axis into RMS normalisations, as if all of their inputs were centred.

    Returns by the identity of each what its scale and bias were.
    """
    done: dict[int, Parameters] = {}
    nodes: list[gs.Node] = []
    for node in model.graph.nodes:
        nodes.append(node)
        parameters = list(node.inputs[1:])
        plain = node.op == "LayerNormalization" and len(node.outputs) == 1 and node.attrs.get("axis", -1) == -1
        if not plain or not all(isinstance(t, gs.Constant) and t.values.ndim == 1 for t in parameters):
            continue
        scale, bias = parameters[0], parameters[1] if len(parameters) > 1 else None
        node.op = MEANLESS
        node.inputs = [node.inputs[0], scale]
        if bias is not None:
            output = node.outputs[0]
            bare = gs.Variable(f"{output.name}_unbiased")
            node.outputs = [bare]
            nodes.append(gs.Node("Add", f"{output.name}_bias", {}, [bare, bias], [output]))
        done[id(node)] = (scale, bias)
    model.graph.nodes[:] = nodes
    return done


def _with_mean(model: Model, node: gs.Node, parameters: Parameters) -> None:
    """Make it a layer normalisation again."""
    scale, bias = parameters
    node.op = "LayerNormalization"
    node.inputs = [node.inputs[0], scale, *([bias] if bias is not None else [])]
    if bias is not None:
        add = node.outputs[0].outputs[0]
        output = add.outputs[0]
        add.inputs.clear()
        add.outputs.clear()
        node.outputs = [output]


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


def _turn(model: Model, edits: ConstantEdits, stream: Stream, parameters: Mapping[int, Parameters]) -> None:
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
        scale, bias = parameters[id(norm.gs)]
        order = stream.norms[norm.index][1]
        factor = scale.values.astype(np.float64)[order]
        if bias is not None and np.any(bias.values):
            _shift(model, edits, use, bias.values.astype(np.float64)[order])
        edits.transform(use.node, use.position, use.axis, [(use.order[0], axes.T * factor)])
    for norm, _ in stream.norms.values():
        scale, bias = parameters[id(norm.gs)]
        norm.gs.inputs[1] = gs.Constant(f"{norm.gs.outputs[0].name}_scale", np.ones_like(scale.values))
        if bias is not None:
            _bypass(norm.gs.outputs[0].outputs[0])


def _shift(model: Model, edits: ConstantEdits, use: Use, bias: Floats) -> None:
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
