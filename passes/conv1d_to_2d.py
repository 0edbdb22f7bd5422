"""Convolutions over sequences as convolutions over images of one row."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


@register
@dataclass(frozen=True)
class Conv1dTo2d(Pass):
    """Conv over [N, C, L] -> Conv over [N, C, 1, L], with the pools, activations and sums around it.

    Runtimes have blocked kernels for images and none for sequences: in ONNX Runtime on x86 a depthwise convolution runs
    in a third of the time. Values stay the same. Does not fire where the target's cost model predicts no gain (but
    with `always`), nor for weights that are not constant.
    """

    name = "conv1d-to-2d"
    in_place = False
    preparation = True
    always: bool = field(default=False, metadata={"help": "also where the target does not gain by it, or is not known"})

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.planning.gain import replaced_costs
        from hwpass.surgery.one_row import in_one_row, sequences

        if not (self.always or context.target) or not sequences(model):
            return PassResult(model, False, again="")
        changed = model.copy()
        costs = replaced_costs(model, changed, context, self.always) if in_one_row(changed) else None
        if costs is None:
            return PassResult(model, False, again="")
        context.findings.given = context.findings.given or costs
        return PassResult(changed, True, again=str(replace(self, always=True)))
