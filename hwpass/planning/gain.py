"""Whether another form of a model pays on the target."""

from __future__ import annotations

from hwpass.cost.prediction import Cost
from hwpass.cost_models import Target
from hwpass.coupling.groups import walk
from hwpass.model.model import Model
from hwpass.planning.analyses import as_walked, sample_dims
from hwpass.runtime.settings import Settings


def as_it_is(model: Model, target: Target, settings: Settings) -> Cost:
    """What prices a model at the widths that it has, for data as they come."""
    return as_walked(walk(model, sample_dims(model, settings)), target)


def replaced_costs(model: Model, changed: Model, settings: Settings, always: bool = False) -> dict[str, float] | None:
    """What a model costs in whose place another form of it is taken, as budgets are shares of that: by metric, and
    nothing without a target. None where the target's cost model does not predict that the other is faster (but with
    `always`)."""
    target = settings.target
    if target is None:
        return {}
    before, after = (as_it_is(m, target, settings).base for m in (model, changed))
    return before if always or after["latency"] < before["latency"] else None
