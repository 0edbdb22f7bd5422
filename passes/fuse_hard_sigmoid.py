"""Hard sigmoids that are written out as one operator."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


@register
@dataclass(frozen=True)
class FuseHardSigmoid(Pass):
    """Clip(x + 3, 0, 6) / 6 -> HardSigmoid(x), and x Clip(x + 3, 0, 6) / 6 -> x HardSigmoid(x).

    Any shift, upper bound and slope of single numbers, with Mul or Div at the end: exporters write hard swishes of
    older operator sets out, as four kernels of which runtimes fuse none. Does not fire where the target's cost model
    predicts no gain (but with `always`), where a tensor in between has another reader or is an output, nor on other
    types than float32, for which ONNX Runtime has no such operator.
    """

    name = "fuse-hard-sigmoid"
    in_place = False
    preparation = True
    always: bool = field(default=False, metadata={"help": "also where the target does not gain by it"})

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.planning.gain import replaced_costs
        from hwpass.surgery.hard_sigmoids import fuse_hard_sigmoids

        if not any(node.op == "Clip" for node in model.graph.nodes):
            return PassResult(model, False, again="")
        changed = model.copy()
        costs = replaced_costs(model, changed, context, self.always) if fuse_hard_sigmoids(changed) else None
        if costs is None:
            return PassResult(model, False, again="")
        context.findings.given = context.findings.given or costs
        return PassResult(changed, True, again=str(replace(self, always=True)))
