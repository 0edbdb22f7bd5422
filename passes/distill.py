"""Training towards the original's outputs, after pruning and least squares."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hwpass.contract import PRUNED
from hwpass.errors import UsageError
from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


def installed() -> bool:
    """Whether torch is there."""
    return find_spec("torch") is not None


@register
@dataclass(frozen=True)
class Distill(Pass):
    """Weights -> weights that bring the pruned network closer to the original's outputs, by gradients, without labels.

    Learns on the calibration inputs (or what an auto score makes up in their place), shifted, mirrored and mixed where
    they are images or signals. An eighth of the samples is set apart and chooses among the states on the way, the first
    one included. Needs torch. Does not fire without data, before prune-channels, behind prune-weights, or where no
    state is better.
    """

    name = "distill"
    effect = "refit"
    in_place = True
    requires = (PRUNED,)
    preserves = ("shapes", "coupling", "cost")
    seconds: float = field(default=60.0, metadata={"help": "about how long one core trains"})
    most: float = field(default=0.0, metadata={"help": "the same where much is to be learned; 0 is seconds"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("seconds", "most"):
            if not 0 <= getattr(self, name) <= 1e6:
                raise UsageError(f"pass distill: option {name}={getattr(self, name):g}: give 0 to 1e6")

    def ready(self) -> None:
        """Raise UsageError where torch is missing, before the model is touched."""
        super().ready()
        if not installed():
            raise UsageError("pass distill needs torch: pip install 'hwpass[torch]'")

    def run(self, model: Model, context: Context) -> PassResult:
        import numpy as np

        from hwpass.cost.prediction import Cost
        from hwpass.cost_models import load_target
        from hwpass.data.sizes import peak_bytes, written_bytes
        from hwpass.ops import NoFunction
        from hwpass.planning.analyses import walked
        from hwpass.torch.distillation import Distillation, NothingLearned, Work

        findings = context.findings
        pruned = findings.last
        if findings.masked:
            context.warn("distill: nothing was trained, as it would fill the zeros that prune-weights set")
            return PassResult(model, False, reason="weights are masked")
        assert pruned is not None
        data = context.calibration if pruned.study is None else pruned.study.data
        if data is None:
            return PassResult(model, False, reason="no data to learn from")
        if not pruned.surgery.modified:
            return PassResult(model, False, reason="no channel was removed")
        build = walked(model, context).build
        cost = Cost(pruned.coupling, context.target or load_target("server-cpu"))
        widths = pruned.plan.widths()
        left = np.asarray([[widths[g.name] for g in pruned.coupling.groups]], np.float64)
        macs = float(cost(left, ("macs",))["macs"][0])
        work = Work(cost.base["macs"], macs, written_bytes(build), peak_bytes(build))
        worker = Distillation(pruned.coupling.build.model, model, context, self.seconds, self.most)
        try:
            found = worker.run(data, work)
        except (NoFunction, NothingLearned) as reason:
            context.warn(f"nothing was distilled: {reason}")
            return PassResult(model, False, reason=str(reason))
        findings.note(self.name, {
            "error before": float(f"{found.before:.4g}"), "error after": float(f"{found.after:.4g}"),
            "steps": found.steps, "samples": found.samples, "seconds": round(found.seconds, 1),
        })  # fmt: skip
        if found.early:
            context.warn(f"distilling was slow here and was cut down to {found.steps} steps; another run may differ")
        return PassResult(model, found.better)
