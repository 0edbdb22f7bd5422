"""Batch normalisation folded into the product before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwpass.contract import NO_NORM_BEHIND_CONV
from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


@register
@dataclass(frozen=True)
class FuseBatchNorm(Pass):
    """BatchNormalization(Conv(x, W, b)) -> Conv(x, W s, (b - mean) s + bias), s = scale / sqrt(var + epsilon).

    Conv, ConvTranspose, Gemm, and any operator whose rule says that it has a weight and a bias. Does not fire when the
    product's output has another reader or is an output of the model, when a parameter is not constant or not one for
    each channel, when the normalisation is in training mode, when a Gemm is transposed on its output side, scaled, or
    has a bias of another shape, or for a grouped ConvTranspose.
    """

    name = "fuse-bn"
    preparation = True
    in_place = True
    ensures = (NO_NORM_BEHIND_CONV,)

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.surgery.batch_norms import fuse

        return PassResult(model, fuse(model))
