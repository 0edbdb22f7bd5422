"""Products whose outputs or inputs are scaled and shifted, channel by channel, in their constant weights."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.ops import rule_for, traits_of
from hwpass.ops.traits import Form

Floats = NDArray[np.float64]


def fusible(product: gs.Node) -> bool:
    """Whether a node computes x W + b with a constant table as weight, so that scales can go into it."""
    rule, form = rule_for(product), traits_of(product).form
    if form is None or not form.table or len(product.inputs) < 2 or len(product.outputs) != 1:
        return False
    if not all(isinstance(t, gs.Constant) for t in product.inputs[1:] if t.name) or rule.scaled(product):
        return False
    weight = product.inputs[1]
    if not isinstance(weight, gs.Constant):
        return False
    if form.kind == "transposed":
        return int(product.attrs.get("group", 1)) == 1
    if form.kind == "matrix":
        bias = product.inputs[2] if len(product.inputs) > 2 and product.inputs[2].name else None
        plain = bias is None or tuple(bias.shape) == (weight.shape[rule.weight_out(product)],)
        return len(weight.shape) == 2 and plain
    return True


def form_of(product: gs.Node) -> Form:
    """How the weights of a fusible product act."""
    form = traits_of(product).form
    assert form is not None
    return form


def takes_bias(product: gs.Node) -> bool:
    """Whether a product that is fusible has an input for a bias."""
    return form_of(product).bias


def outputs_of(product: gs.Node) -> int:
    """How many channels a fusible product makes."""
    return int(product.inputs[1].shape[rule_for(product).weight_out(product)])


def inputs_of(product: gs.Node) -> int:
    """How many channels a fusible product reads."""
    shape = product.inputs[1].shape
    kind = form_of(product).kind
    if kind == "matrix":
        return int(shape[1 - rule_for(product).weight_out(product)])
    return int(shape[1]) * int(product.attrs.get("group", 1)) if kind == "conv" else int(shape[0])


def scale_outputs(product: gs.Node, factor: Floats, shift: Floats | None, name: str) -> bool:
    """y -> y factor + shift, for [outputs]; False, and nothing changed, where a number would not be finite."""
    weight = product.inputs[1]
    axis = rule_for(product).weight_out(product)
    shape = [-1 if a == axis else 1 for a in range(len(weight.shape))]
    known = _bias(product)
    bias = shift if known is None else known * factor + (0.0 if shift is None else shift)
    return _write(product, _scaled(weight.values, factor.reshape(shape)), bias, name)


def scale_inputs(product: gs.Node, factor: Floats, shift: Floats | None, name: str) -> bool:
    """The same product of x factor + shift, for [inputs], as one of x; False where a number would not be finite."""
    weight = product.inputs[1].values
    kind, out = form_of(product).kind, rule_for(product).weight_out(product)
    if kind == "conv":
        groups = int(product.attrs.get("group", 1))
        seen = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        over = (groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        summed: tuple[int, ...] = tuple(range(2, seen.ndim))
    else:
        seen, over = weight, tuple(-1 if axis == 1 - out else 1 for axis in range(weight.ndim))
        summed = tuple(axis for axis in range(weight.ndim) if axis != out)
    bias = None
    if shift is not None:
        known = _bias(product)
        added = (seen.astype(np.float64) * shift.reshape(over)).sum(axis=summed).reshape(-1)
        bias = added if known is None else known + added
    return _write(product, _scaled(seen, factor.reshape(over)).reshape(weight.shape), bias, name)


def _bias(product: gs.Node) -> Floats | None:
    """The bias [outputs], None without one."""
    if len(product.inputs) > 2 and product.inputs[2].name:
        return np.asarray(product.inputs[2].values, np.float64)
    return None


def _scaled(weight: NDArray[np.floating], factor: Floats) -> NDArray[np.floating]:
    """Float32 throughout for the large array; the factors come in double."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(weight * factor.astype(np.result_type(weight.dtype, np.float32)), weight.dtype)


def _write(product: gs.Node, weight: NDArray[np.floating], bias: Floats | None, name: str) -> bool:
    """Give a product its weight and, where there is one, its bias."""
    with np.errstate(over="ignore", invalid="ignore"):
        added = None if bias is None else bias.astype(weight.dtype)
    if not np.isfinite(weight).all() or not (added is None or np.isfinite(added).all()):
        return False
    before = product.inputs[1].name.partition("_scaled_")[0]
    product.inputs[1] = gs.Constant(f"{before}_{name}", weight)
    if added is not None:
        constant = gs.Constant(f"{before}_bias_{name}", added)
        if len(product.inputs) > 2:
            product.inputs[2] = constant
        else:
            product.inputs.append(constant)
    return True
