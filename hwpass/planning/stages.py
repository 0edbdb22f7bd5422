"""The models on the way of a run, and how each came from the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hwpass.figures import brief

if TYPE_CHECKING:
    from hwpass.cost.prediction import Cost
    from hwpass.cost_models.work import Floats
    from hwpass.coupling.groups import Coupling
    from hwpass.model.model import Model
    from hwpass.planning.allocation import Allocation
    from hwpass.planning.plan import Plan
    from hwpass.planning.study import Study
    from hwpass.surgery.cut import Surgery

Effect = Literal["none", "exact", "cut", "refit", "format", "any"]
"""What a pass does: it changes nothing; it rewrites the graph and no value that the model computes; it removes
channels; it changes weights and keeps the structure; it changes the number formats of weights and activations, or the
statistics of normalisations, and keeps the operators; or anything, so that nothing can be proved of it."""


@dataclass
class Pruned:
    """One removal of channels: the plan, what it was made from, and why those widths."""

    plan: Plan
    coupling: Coupling
    surgery: Surgery
    cost: Cost | None = None
    curves: list[Floats] | None = None  # per group, [width + 1]
    allocation: Allocation | None = None
    study: Study | None = None
    budgets: tuple[str, ...] = ()  # the metrics that are bounded

    def __repr__(self) -> str:
        return brief(self, repr(self.plan), repr(self.coupling))


@dataclass(frozen=True)
class Stage:
    """A model on the way, and how it came from the one before."""

    effect: Effect
    passes: tuple[str, ...]
    model: Model
    pruned: Pruned | None = None

    def __repr__(self) -> str:
        return brief(self, self.effect, " ".join(self.passes), repr(self.model))
