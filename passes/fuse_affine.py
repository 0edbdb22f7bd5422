"""Scales and shifts by constants folded into the products beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


@register
@dataclass(frozen=True)
class FuseAffine(Pass):
    """Conv(x, W, b) s + t -> Conv(x, W s, b s + t), and Conv(x s + t, W, b) -> Conv(x, W s, b + W t).

    Mul, Div, Add and Sub by a constant number, or by one for each channel, before and behind Conv, ConvTranspose, Gemm
    and MatMul: learned scales of layers (ConvNeXt, PP-LCNet), normalisations written out. Where a convolution pads, a
    shift before it stays, and its scale goes behind it. Does not fire on what scales an input of the model, as that
    says how the input is scaled, where a tensor in between has another reader or is an output, nor for shared weights.
    """

    name = "fuse-affine"
    preparation = True
    in_place = False

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.planning.gain import replaced_costs
        from hwpass.surgery.affine_steps import fold_affine, step_of

        if not any(step_of(node) for node in model.graph.nodes):
            return PassResult(model, False)
        changed = model.copy()
        # A kernel less is always less.
        costs = replaced_costs(model, changed, context, always=True) if fold_affine(changed) else None
        if costs is None:
            return PassResult(model, False)
        context.findings.given = context.findings.given or costs
        return PassResult(changed, True)
