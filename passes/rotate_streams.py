"""Residual streams turned to their principal axes, so that their channels can be thinned at the least loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


@register
@dataclass(frozen=True)
class RotateStreams(Pass):
    """LayerNormalization(x) -> RMS normalisation of Q (x - mean x), with Q and the mean in the weights around it.

    For a residual stream that nothing reads but layer normalisations: whatever is added to it is centred beforehand, so
    that nothing is left of the mean that couples all channels, and turned by an orthonormal Q to the principal axes of
    the weights that write to it, so that few channels carry most of it (after SliceGPT). Scale and bias of the norms
    go into the products behind them; where something else stands there, Q is the identity. `lower-norms` writes the
    norms in standard operators at the end. Does not fire on a stream that a depthwise layer writes to, that is an
    output of the model, whose weights have other uses or are not float32.
    """

    name = "rotate-streams"
    preparation = True
    in_place = False

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.planning.analyses import coupled
        from hwpass.planning.gain import replaced_costs
        from hwpass.surgery.rotation import rotate, without_means

        changed = model.copy()
        norms = without_means(changed)
        centred = rotate(changed, norms, coupled(changed, context, own=True)) if norms else None
        if centred is None:
            return PassResult(model, False)
        context.findings.centred_norms.update(centred)
        # A target may run the new norms in several kernels: budgets are shares of what the model takes as it was given.
        costs = replaced_costs(model, changed, context, always=True)
        context.findings.given = context.findings.given or costs or {}
        return PassResult(changed, True)
