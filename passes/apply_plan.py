"""Apply a plan that was made before."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwpass.coupling import couple
from hwpass.errors import UsageError
from hwpass.ir import Model
from hwpass.manager import Context, Pass, PassResult, register
from hwpass.passes.prune_channels import check_finite, operate
from hwpass.plan import Plan


@register
@dataclass(frozen=True)
class ApplyPlan(Pass):
    """A network and a plan -> the network with the plan's channels.

    Does not fire when the plan keeps everything. The plan is the context's (`found["given_plan"]`) or read from
    `plan`; it must belong to the model.
    """

    name = "apply-plan"
    plan: str = field(default="", metadata={"help": "the plan's JSON file"})

    def run(self, model: Model, context: Context) -> PassResult:
        plan = context.found.get("given_plan")
        if plan is None:
            if not self.plan:
                raise UsageError("apply-plan needs a plan: write apply-plan{plan=FILE.json}")
            plan = Plan.read(self.plan)
        assert isinstance(plan, Plan)
        if plan.model_sha256 != model.sha256:
            context.warn("the plan was made for a model of other bytes; it fits this one's groups, and was applied")
        check_finite(model)
        surgery = operate(couple(model), plan, context)
        return PassResult(surgery.model if surgery.modified else model, surgery.modified)
