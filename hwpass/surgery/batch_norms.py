"""Batch normalisations folded into the products before them."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.model.model import Model
from hwpass.ops import rule_for
from hwpass.surgery.scaled_products import fusible, scale_outputs, takes_bias


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
        if fusible(product) and takes_bias(product) and _fitting(product, norm):
            fused += _fuse(product, norm)
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


def _fuse(product: gs.Node, norm: gs.Node) -> bool:
    scale, bias, mean, variance = (t.values.astype(np.float64) for t in norm.inputs[1:5])
    factor = scale / np.sqrt(variance + float(norm.attrs.get("epsilon", 1e-5)))
    output = norm.outputs[0]
    if not scale_outputs(product, factor, bias - mean * factor, f"bn_{output.name}"):
        return False
    norm.outputs.clear()
    product.outputs = [output]
    return True
