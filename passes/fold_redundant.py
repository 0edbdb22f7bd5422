"""Channels that carry nothing of their own: what they contribute moves elsewhere, and nobody reads them any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


@register
@dataclass(frozen=True)
class FoldRedundant(Pass):
    """y = W x + b -> y = W' x + b', where W' is zero for the channels of x that carry nothing of their own.

    That is: channels with negligible weights already; constant ones, which b' takes over; duplicates, whose weights are
    added to those of the channel that they equal. Nothing else changes, and no width: a layer of 59 channels may be
    slower than one of 64. What nobody reads costs prune-channels nothing and goes first, as far as the target's
    alignment makes it worth while. Does not fire on a constant that meets zero padding, or a reader that is not a Conv,
    a Gemm or a MatMul with a bias; on channels that a softmax, a normalisation or a product of activations mixes; on
    quantised weights; on frozen channels.
    """

    name = "fold-redundant"
    preparation = True
    in_place = True
    preserves = ("shapes", "coupling")

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.planning.analyses import coupled
        from hwpass.proto.streaming import release_pages
        from hwpass.surgery.redirection import redirect

        modified = redirect(coupled(model, context, own=True))
        release_pages(model.constants().values())
        return PassResult(model, modified)
