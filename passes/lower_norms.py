"""Norms that another pass left in a form of its own, written in standard operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwpass.contract import STANDARD_NORMS
from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwpass.context import Context
    from hwpass.model.model import Model


@register
@dataclass(frozen=True)
class LowerNorms(Pass):
    """What rotate-streams made of a layer normalisation -> standard operators, at the end of a pipeline.

    RMSNormalization where the model's operator set has it (23), else x scale / Sqrt(ReduceMean(Pow(x, 2)) + epsilon),
    which ONNX Runtime fuses into one kernel; LayerNormalization again (17) where the stream was neither turned nor
    thinned.
    A factor that thinning left behind goes into the scale. Does not fire on norms of the model's own.
    """

    name = "lower-norms"
    preparation = True
    in_place = True
    ensures = (STANDARD_NORMS,)

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.ops.rules.normalization import MEANLESS
        from hwpass.surgery.norm_forms import lowered_norm

        known = context.findings.centred_norms
        last = context.findings.last
        now: Mapping[str, str] = last.surgery.renamed if last is not None else {}
        ours = {now.get(name, name): centred and name not in now for name, centred in known.items()}
        norms = [n for n in model.graph.nodes if n.op == MEANLESS and n.outputs[0].name in ours]
        lowered = {id(norm): lowered_norm(norm, model.opset, ours[norm.outputs[0].name]) for norm in norms}
        model.graph.nodes[:] = [new for node in model.graph.nodes for new in lowered.get(id(node), [node])]
        if norms:
            model.graph.cleanup(remove_unused_node_outputs=False)
            model.invalidate_shapes()
        return PassResult(model, bool(norms))
