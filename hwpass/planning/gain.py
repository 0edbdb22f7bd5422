"""Whether another form of a model pays on the target."""

from __future__ import annotations

from hwpass.cost.prediction import Cost
from hwpass.coupling.groups import couple
from hwpass.model.model import Model
from hwpass.planning.analyses import sample_dims
from hwpass.runtime.settings import Settings


def replaced_costs(model: Model, changed: Model, settings: Settings, always: bool = False) -> dict[str, float] | None:
    """What a model costs in whose place another form of it is taken, as budgets are shares of that: by metric, and
    nothing without a target. None where the target's cost model does not predict that the other is faster (but with
    `always`)."""
    target = settings.target
    if target is None:
        return {}
    before, after = (Cost(couple(m, sample_dims(m, settings)), target).base for m in (model, changed))
    return before if always or after["latency"] < before["latency"] else None
