"""Apply a plan that was made before."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwpass.errors import UsageError
from hwpass.manager import Pass, PassResult, register
from hwpass.passes.prune_channels import outcome

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


@register
@dataclass(frozen=True)
class ApplyPlan(Pass):
    """A network and a plan -> the network with the plan's channels.

    Does not fire when the plan keeps everything. The plan is the context's, or read from the file `plan`; it
    must belong to the model.
    """

    name = "apply-plan"
    effect = "cut"
    in_place = False
    plan: str = field(default="", metadata={"help": "the plan's JSON file"})

    def __post_init__(self) -> None:
        if isinstance(self.plan, os.PathLike):
            object.__setattr__(self, "plan", os.fspath(self.plan))
        super().__post_init__()

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.planning.analyses import coupled
        from hwpass.planning.plan import Plan
        from hwpass.planning.removal import check_finite, operate

        plan = context.plan
        if plan is None:
            if not self.plan:
                raise UsageError("apply-plan needs a plan: write apply-plan{plan=FILE.json}")
            plan = Plan.read(self.plan)
        if plan.model_sha256 != model.sha256:
            context.warn("the plan was made for a model of other bytes; it fits this one's groups, and was applied")
        check_finite(model)
        return outcome(operate(coupled(model, context), plan, context), model)
