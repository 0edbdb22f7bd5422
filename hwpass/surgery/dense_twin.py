"""The dense twin: the original graph with a pruned model's weights among zeros, which proves the surgery exact."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.groups import Coupling
from hwpass.model.model import Model
from hwpass.ops import Node, traits_of
from hwpass.ops.axes import Axis
from hwpass.ops.rule import Array
from hwpass.surgery.cut import Surgery

Mask = NDArray[np.bool_]


def dense_twin(coupling: Coupling, surgery: Surgery) -> Model:
    """The original graph with the pruned model's weights scattered back into zeros of the original shapes.

    Same inputs give the same outputs as the pruned model exactly when the surgery is exact. Entries that divide are
    filled with one instead (see `Node.fill`). Nodes are matched by the names of their outputs, so weights that were
    changed after the surgery, and biases that were added, are taken as they now are.
    """
    twin = coupling.build.model.copy()
    current: dict[str, list[gs.Node]] = {}
    for node in surgery.model.walk():
        current.setdefault(node.outputs[0].name if node.outputs else "", []).append(node)
    made: dict[tuple[str, bytes], gs.Constant] = {}
    biases = _constants_of(surgery)
    for analysed, target in zip(coupling.nodes, list(twin.walk()), strict=True):
        if analysed.index in biases:
            added = _bias_alone(analysed, target, biases[analysed.index], coupling, surgery)
            if added is not None:
                scope = next(g for g in twin.scopes() if any(n is target for n in g.nodes))
                scope.nodes.insert(next(i for i, n in enumerate(scope.nodes) if n is target) + 1, added)
            continue
        name = target.outputs[0].name if target.outputs else ""
        found = current.get(surgery.renamed.get(name, name))
        if not found or found[0].op != target.op or len(found[0].inputs) < len(target.inputs):
            continue
        for position, tensor in enumerate(found.pop(0).inputs):
            if not isinstance(tensor, gs.Constant):
                continue
            before = target.inputs[position] if position < len(target.inputs) else None
            if isinstance(before, gs.Constant) and before.values is tensor.values:
                continue
            masks = _masks(analysed, position, tensor, coupling, surgery)
            if masks is None:
                continue
            fill = analysed.fill.get(position, 0.0)
            key = (
                tensor.name,
                np.asarray(fill, np.float64).tobytes() + b"".join(np.packbits(m).tobytes() for m in masks),
            )
            if key not in made:
                values = np.full([len(m) for m in masks], fill, tensor.values.dtype)
                values[np.ix_(*[np.flatnonzero(m) for m in masks])] = tensor.values
                made[key] = gs.Constant(f"{tensor.name}_twin_{len(made)}", values)
            if position < len(target.inputs):
                target.inputs[position] = made[key]
            else:
                target.inputs.append(made[key])
    twin.invalidate_shapes()
    return twin


def _constants_of(surgery: Surgery) -> dict[int, Array]:
    """What stands where products without input channels were, by the number of the product."""
    if not surgery.constants:
        return {}
    values = {t.name: t.values for n in surgery.model.walk() for t in n.inputs if isinstance(t, gs.Constant)}
    return {index: values[name] for index, name in surgery.constants.items() if name in values}


def _bias_alone(node: Node, target: gs.Node, value: Array, coupling: Coupling, surgery: Surgery) -> gs.Node | None:
    """Make a product of the twin give a constant: no weights, and the constant as its bias.

    One that has no place for a bias needs an Add behind it, which is returned, where the constant is not zero.
    """
    product = node.product
    assert product is not None
    weight, name = target.inputs[1], target.outputs[0].name
    mask = coupling.kept(surgery.keep, coupling.weight_axes(node)[product.weight_out])
    target.inputs[1] = gs.Constant(f"{name}_no_weights", np.zeros_like(weight.values))
    bias = np.zeros(len(mask), value.dtype)
    bias[mask] = value.reshape(-1)
    form = traits_of(node.gs).form
    if form is not None and form.bias:
        alone = gs.Constant(f"{name}_alone", bias)
        target.inputs = [*list(target.inputs)[:2], alone]
        return None
    if not bias.any():
        return None
    result, bare = target.outputs[0], gs.Variable(f"{name}_bare")
    target.outputs = [bare]
    return gs.Node("Add", f"{name}_alone", {}, [bare, gs.Constant(f"{name}_alone", bias)], [result])


def _masks(node: Node, position: int, tensor: gs.Constant, coupling: Coupling, surgery: Surgery) -> list[Mask] | None:
    """Where the entries of a pruned constant go in the original's, axis by axis; None for one that stays as it is."""
    axes = _twin_axes(node, position, coupling)
    if axes is None:
        return None
    masks = [coupling.kept(surgery.keep, axis) for axis in axes]
    if tuple(int(m.sum()) for m in masks) != tensor.values.shape:
        return None
    if tensor.values.dtype.kind in "iu" and all(m.all() for m in masks):
        return None  # a shape operand, rewritten for the pruned widths
    return masks


def _twin_axes(node: Node, position: int, coupling: Coupling) -> tuple[Axis, ...] | None:
    """The axes of a constant of the original: one that was there, or a bias that was added to a product."""
    use = coupling.build.uses.get((node.index, position))
    if use is not None:
        return use.axes
    product = node.product
    if product is None or product.bias is not None or position != len(node.inputs):
        return None
    return (coupling.weight_axes(node)[product.weight_out],)
