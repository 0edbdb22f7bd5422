"""Heads of attention turned to their principal axes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.attention_heads import Heads, Weight, heads
from hwpass.coupling.groups import Walked, walk
from hwpass.coupling.settled_numbers import settled_scales
from hwpass.model.model import Model
from hwpass.ops.axes import Ids
from hwpass.surgery.constant_edits import ConstantEdits
from hwpass.surgery.unpacking import unpack

Floats = NDArray[np.float64]

#: Added to moments, relative to their mean: a direction that no weight reaches has an inverse all the same.
RIDGE = 1e-6


def may_rotate(model: Model, walked: Walked) -> bool:
    """Whether `rotate_heads` has to be tried: a model has heads to turn, or numbers that may stand in their way."""
    return bool(_unturned(model, walked)) or any(True for _ in settled_scales(walked))


def rotate_heads(model: Model, dims: Mapping[str, int]) -> bool:
    """Turn the heads of a model, whose arrays are replaced, to their principal axes; whether there were any."""
    coupling = walk(model, dims)
    settled = list(settled_scales(coupling))
    for node, position, value in settled:
        # Read from the extent that is to shrink, the scale would be another.
        node.gs.inputs[position] = gs.Constant(f"{node.gs.outputs[0].name}_scale", np.array(value))
    if settled:
        model.graph.cleanup(remove_unused_node_outputs=False)
        coupling = walk(model, dims)
    found = _unturned(model, coupling)
    if unpack(model, found):
        coupling = walk(model, dims)
        found = _unturned(model, coupling)
    edits = ConstantEdits(coupling)
    for one in found:
        _turn(edits, one)
    edits.apply()
    model.renewed = model.renewed.union(*(one.tensors for one in found))
    model.principal = {**model.principal, **{name: axis for one in found for name, axis in one.operands.items()}}
    return bool(found)


def _unturned(model: Model, coupling: Walked) -> list[Heads]:
    return [one for one in heads(coupling)[0] if not one.operands.keys() <= model.principal.keys()]


def _turn(edits: ConstantEdits, found: Heads) -> None:
    for shared in found.shared:
        made = _moment(found.makers, shared.makers, bias=found.scores)
        read = _moment(found.readers, shared.readers)
        forth, back = principal_basis(made, read)
        for weight, orders, matrix in ((found.makers, shared.makers, forth.T), (found.readers, shared.readers, back)):
            blocks = [(order, matrix) for order in orders]
            edits.transform(weight.node, weight.position, weight.axis, blocks)
            if weight.bias is not None:
                holder, position = weight.bias
                node = edits.coupling.nodes[edits.index_of(holder)]
                edits.transform(node, position, edits.value(node, position).ndim - 1, blocks)


def principal_basis(made: Floats, read: Floats) -> tuple[Floats, Floats]:
    """T and its inverse, [d, d], for x -> x T in front of y -> T^-1 y, from the moments [d, d] of both sides.

    With U S V^T = made^1/2 read^1/2, T = made^-1/2 U S^1/2: both sides have the moment S then, by falling size, so that
    no choice of n dimensions leaves more of x y than the first n, for independent inputs of unit variance.
    """
    made, read = (m + RIDGE * (np.trace(m) / len(m) + np.finfo(float).tiny) * np.eye(len(m)) for m in (made, read))
    root, inverse = _root(made)
    vectors, sizes, _ = np.linalg.svd(root @ _root(read)[0])
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    vectors = vectors * np.where(largest < 0, -1.0, 1.0)
    scale = np.sqrt(np.maximum(sizes, RIDGE * max(float(sizes[0]), np.finfo(float).tiny)))
    return inverse @ vectors * scale, (vectors / scale).T @ root


def _root(moment: Floats) -> tuple[Floats, Floats]:
    """The symmetric root of a symmetric [d, d], and its inverse."""
    values, vectors = np.linalg.eigh(moment)
    values = np.sqrt(np.maximum(values, values[-1] * np.finfo(float).eps))
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def _moment(weight: Weight, orders: Ids, *, bias: bool = False) -> Floats:
    """Second moment of what weights make of independent inputs of unit variance, or read, over heads: [d, d]."""
    values = [(weight.node.gs.inputs[weight.position], weight.axis)]
    if bias and weight.bias is not None:
        constant = weight.bias[0].inputs[weight.bias[1]]
        values.append((constant, constant.values.ndim - 1))
    total = np.zeros((orders.shape[1], orders.shape[1]))
    for (constant, axis), order in ((v, o) for v in values for o in orders):
        rows = np.moveaxis(np.asarray(constant.values, np.float64), axis, 0)[order].reshape(len(order), -1)
        total += rows @ rows.T / len(orders)
    return total
