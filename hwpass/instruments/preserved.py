"""What passes say that they preserve, compared with what analyses find before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwpass.cost.prediction import Cost
from hwpass.cost_models import load_target
from hwpass.coupling.groups import Coupling, couple
from hwpass.errors import ProofError
from hwpass.instrument import Instrument, PassRecord, Step
from hwpass.spans import span

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model

#: What costs are compared on where a run has no target.
STAND_IN = "server-cpu"


class CheckPreserved(Instrument):
    """Analyses both models from nothing after every pass that changed something; a difference in what the pass
    preserves ends the run with ProofError. Statistics are not compared: they are those of the data as much."""

    needs_before: ClassVar[bool] = True

    def after(self, step: Step, before: Model, model: Model, record: PassRecord, context: Context) -> None:
        """Raise ProofError for an analysis that is not as the pass says."""
        wanted = [name for name in step.preserves if name in ("shapes", "coupling", "cost")]
        if not record.changed or not wanted:
            return
        with span("check what is preserved"):
            old, new = (couple(each, context.dims) for each in (before, model))
            for name in wanted:
                found = _difference(name, old, new, context)
                if found is not None:
                    raise ProofError(f"pass {step.name} declares that it preserves {name}, and does not: {found}")


def _difference(name: str, old: Coupling, new: Coupling, context: Context) -> str | None:
    if name == "cost":
        target = context.target or load_target(STAND_IN)
        first, second = (Cost(each, target).base for each in (old, new))
        return next((f"{m} was {first[m]:g} and is {second[m]:g}" for m in first if _apart(first[m], second[m])), None)
    before, after = (_shapes(each) if name == "shapes" else _groups(each) for each in (old, new))
    differ = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return None if not differ else f"{differ[0]} was {before.get(differ[0])} and is {after.get(differ[0])}"


def _apart(first: float, second: float) -> bool:
    return not np.isclose(first, second, rtol=1e-9, atol=0.0)


def _shapes(coupling: Coupling) -> dict[str, Any]:
    known = coupling.build.tensors.items()
    return {name: None if tensor.axes is None else tensor.shape for name, tensor in known}


def _groups(coupling: Coupling) -> dict[str, Any]:
    return {group.name: (group.width, group.layers) for group in coupling.groups}
