"""A plan made of widths, and carried out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwpass.cost_models.work import Floats
from hwpass.coupling.groups import Coupling
from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.ops import traits_of
from hwpass.planning.plan import Plan, PlannedWeight
from hwpass.planning.stages import Pruned
from hwpass.proto.streaming import release_pages
from hwpass.runtime.settings import Settings
from hwpass.surgery.cut import prune

#: Squares of larger weights than this overflow.
LARGEST_WEIGHT = 1e15


def select(importance: Floats, width: int) -> NDArray[np.int64]:
    """The positions of the `width` most important channels, ascending; of equals the earlier stays."""
    order = np.argsort(-importance, kind="stable")
    return np.sort(order[:width])


def check_finite(model: Model) -> None:
    """Raise InputError when a weight has NaN, or one of a product has values that no training leaves (or infinity): no
    score of it means anything."""
    weights = {id(t) for node in model.walk() if traits_of(node).form is not None for t in node.inputs}
    with np.errstate(invalid="ignore", over="ignore"):
        for tensor in model.constants().values():
            values = tensor.values
            # Infinity is a mask's fill and means what it says; NaN never does.
            if values.dtype.kind == "f" and np.isnan(np.sum(values, dtype=np.float32)) and np.isnan(values).any():
                raise InputError(f"weight {tensor.name} has NaN in it; train or export the model again")
            if id(tensor) in weights and values.dtype.kind == "f" and values.size:
                largest = float(np.maximum(values.max(), -values.min()))
                if largest > LARGEST_WEIGHT:
                    raise InputError(f"weight {tensor.name} has values of {largest:.2g}; export the model again")


def operate(coupling: Coupling, plan: Plan, context: Settings) -> Pruned:
    """Apply a plan to the model that was coupled."""
    context.progress("rewriting")
    surgery = prune(coupling, plan.keep(coupling))
    release_pages(coupling.build.model.constants().values())
    nodes = coupling.nodes
    weights = [
        PlannedWeight(
            node=nodes[s.node].name,
            input=s.position,
            tensor=nodes[s.node].gs.inputs[s.position].name,
            kept=[None if m.all() else [int(i) for i in np.flatnonzero(m)] for m in s.kept],
        )
        for s in surgery.slices
    ]
    if plan.weights and plan.weights != weights:
        context.warn("the plan's `weights` disagree with its groups, which decide: they were worked out again")
    return Pruned(plan.completed(coupling, weights), coupling, surgery)
