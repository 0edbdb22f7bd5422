"""Batch normalisations folded into the products before them."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.model.model import Model
from hwpass.ops import rule_for, traits_of


def fuse(model: Model) -> bool:
    """Fuse every batch normalisation that can be; whether there was one."""
    outputs = {id(t) for t in model.graph.outputs}
    fused = 0
    for norm in list(model.graph.nodes):
        if norm.op != "BatchNormalization" or norm.domain or not _plain(norm):
            continue
        x = norm.inputs[0]
        if len(x.inputs) != 1 or len(x.outputs) != 1 or id(x) in outputs:
            continue
        product = x.inputs[0]
        if _fusible(product) and _fitting(product, norm):
            _fuse(product, norm)
            fused += 1
    if fused:
        model.graph.cleanup(remove_unused_node_outputs=False)
    return fused > 0


def _plain(norm: gs.Node) -> bool:
    """Whether a normalisation is by constants, channel by channel: old operator sets have other forms (`spatial=0`, or
    `is_test`, without which it is in training)."""
    attributes = norm.attrs
    return (
        len(norm.outputs) == 1
        and len(norm.inputs) == 5
        and not attributes.get("training_mode", 0)
        and bool(attributes.get("spatial", 1))
        and "is_test" not in attributes
        and all(isinstance(t, gs.Constant) and len(t.shape) == 1 for t in norm.inputs[1:])
    )


def _fitting(product: gs.Node, norm: gs.Node) -> bool:
    """Whether each parameter of the normalisation has an entry for each channel of the product."""
    weight = product.inputs[1]
    axis = rule_for(product).weight_out(product)
    return len(weight.shape) > axis and all(tuple(t.shape) == (weight.shape[axis],) for t in norm.inputs[1:])


def _fusible(product: gs.Node) -> bool:
    rule, form = rule_for(product), traits_of(product).form
    if form is None or not form.table or not form.bias or len(product.inputs) < 2:
        return False
    if not all(isinstance(t, gs.Constant) for t in product.inputs[1:]) or rule.scaled(product):
        return False
    if form.kind == "transposed":
        return int(product.attrs.get("group", 1)) == 1
    if form.kind == "matrix":
        width = product.inputs[1].shape[rule.weight_out(product)]
        return len(product.inputs) < 3 or tuple(product.inputs[2].shape) == (width,)
    return True


def _fuse(product: gs.Node, norm: gs.Node) -> None:
    scale, bias, mean, variance = (t.values.astype(np.float64) for t in norm.inputs[1:5])
    factor = scale / np.sqrt(variance + float(norm.attrs.get("epsilon", 1e-5)))
    weight = product.inputs[1]
    axis = rule_for(product).weight_out(product)
    shape = [1] * len(weight.shape)
    shape[axis] = -1
    dtype = weight.values.dtype
    # float32 throughout for the large array; the factors are computed in double.
    scaled = weight.values * factor.reshape(shape).astype(np.result_type(dtype, np.float32))
    has_bias = len(product.inputs) > 2 and bool(product.inputs[2].name)
    before = product.inputs[2].values.astype(np.float64) if has_bias else 0.0
    shifted = ((before - mean) * factor + bias).astype(dtype)
    output = norm.outputs[0]
    product.inputs[1] = gs.Constant(f"{weight.name}_bn_{output.name}", scaled.astype(dtype))
    fused_bias = gs.Constant(f"{weight.name}_bias_bn_{output.name}", shifted)
    if len(product.inputs) > 2:
        product.inputs[2] = fused_bias
    else:
        product.inputs.append(fused_bias)
    norm.outputs.clear()
    product.outputs = [output]
