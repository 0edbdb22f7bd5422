"""Forms in which operators on stored integers stand for operators on numbers."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

from hwpass.verdicts.stored_values import Stored, quantised_weight


def quantised_table(node: gs.Node) -> tuple[gs.Node, Stored] | None:
    """The Gather and the table [rows, channels] of `DequantizeLinear(Gather(q, indices), s, z)`, with a scale for each
    channel or one for all; None for any other form."""
    gather = _maker(node.outputs[0], "DequantizeLinear", 0)
    gather = gather.inputs[0] if isinstance(gather, gs.Tensor) and gather.inputs else None
    if gather is None or gather.op != "Gather" or gather.domain or int(gather.attrs.get("axis", 0)) != 0:
        return None
    table = gather.inputs[0]
    channels = len(node.inputs[1].shape or ()) > 0 and node.inputs[1].shape != (1,)
    if not isinstance(table, gs.Constant) or table.values.ndim != 2 or (channels and node.attrs.get("axis", 1) != -1):
        return None
    weight = quantised_weight(None, table, node.inputs[1], node.inputs[2:3], axis=-1)
    return None if weight is None else (gather, weight)


def integer_product(tensor: gs.Tensor) -> tuple[gs.Tensor, Stored] | None:
    """The operand and the weight of `Cast(MatMulInteger(q, W, z, zw)) x (scale of q x scale of W)`; None for any other
    form."""
    outer = tensor.inputs[0] if tensor.inputs else None
    if outer is None or outer.op != "Mul":
        return None
    for wide, scale in (outer.inputs, outer.inputs[::-1]):
        product = _maker(_maker(wide, "Cast", 0), "MatMulInteger", None)
        if not isinstance(product, gs.Node) or not scale.inputs or scale.inputs[0].op != "Mul":
            continue
        source = product.inputs[0].inputs[0] if product.inputs[0].inputs else None
        if source is None or source.op != "DynamicQuantizeLinear" or not _reads(product, source):
            return None
        factors = scale.inputs[0].inputs
        own = [t for t in factors if isinstance(t, gs.Constant)]
        if len(own) != 1 or sum(t is source.outputs[1] for t in factors) != 1:
            return None
        weight = quantised_weight(None, product.inputs[1], own[0], product.inputs[3:4], axis=-1)
        return None if weight is None else (source.inputs[0], weight)
    return None


def _maker(tensor: Any, op: str, place: int | None) -> Any:
    """The node of an operator that makes a tensor, or its input at a place; None for another operator."""
    node = tensor.inputs[0] if isinstance(tensor, gs.Tensor) and tensor.inputs else None
    if node is None or node.op != op:
        return None
    return node if place is None else node.inputs[place]


def _reads(product: gs.Node, source: gs.Node) -> bool:
    """Whether a product on integers takes values and zero point of the same dynamic quantisation."""
    return product.inputs[0] is source.outputs[0] and len(product.inputs) > 2 and product.inputs[2] is source.outputs[2]
