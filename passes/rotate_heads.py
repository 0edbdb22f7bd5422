"""Heads of attention turned to their principal axes, so that their dimensions can be thinned like channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


@register
@dataclass(frozen=True)
class RotateHeads(Pass):
    """q k^T -> (q T) (T^-1 k^T) and v Wo -> (v T) (T^-1 Wo) in every head, with T in the weights around them.

    T takes a head's dimensions to the principal axes of the product of both weights, by falling size: then dimensions
    are removed, the same number of every head, and not whole heads. Nothing but moves, biases and one scale for all may
    stand between weights and products: with a rotary embedding, or a norm of queries and keys, heads stay whole, as do
    those whose weights have other uses or are not float32. Where one product makes queries, keys and values, each gets
    a product of its own, so that their widths are chosen apart.
    """

    name = "rotate-heads"
    preparation = True
    in_place = False

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.planning.analyses import sample_dims, walked
        from hwpass.surgery.head_rotation import may_rotate, rotate_heads

        if not may_rotate(model, walked(model, context)):
            return PassResult(model, False)
        changed = model.copy()
        if not rotate_heads(changed, sample_dims(model, context)):
            return PassResult(model, False)
        return PassResult(changed, True)
