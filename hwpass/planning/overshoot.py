"""Plans that take far less than their budgets allow: why nothing nearer was taken, and whether it is worth having."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwpass.cost_models.work import Floats
from hwpass.planning.allocation import Allocation, Allocator
from hwpass.planning.nearer import single_widenings

#: A plan that takes less than this share of what was asked for is said to remove more than was asked.
TOLD = 0.8

#: Below this share, a plan that also loses more than an even cut to what was asked is taken for no answer.
REFUSED = 0.5


@dataclass(frozen=True)
class Overshoot:
    """A plan that removes more than was asked: of the budget that it comes nearest to, and as shares of the dense."""

    metric: str
    asked: float
    given: float
    reason: str
    refused: bool


def overshoot(allocator: Allocator, allocation: Allocation, curves: Sequence[Floats]) -> Overshoot | None:
    """What a plan removes beyond its budgets; None where it is near one of them, or removes nothing.

    It is refused where it takes under half of what was asked and, by the loss curves that chose it, loses more than
    cutting every group evenly to the share asked for would: that cut takes no more than the budget where costs are
    products of widths, so such a plan buys nothing with what it loses. A plan that gets there on a stair of the
    target, or on channels that carry nothing, is worth having and only spoken of.
    """
    costs = allocation.costs
    metric = max(allocator.asked, key=lambda m: costs[m] / allocator.asked[m], default=None)
    whole = np.asarray([o[-1] for o in allocator.options], np.int64)
    if metric is None or not len(whole) or (allocation.widths == whole).all():
        return None
    base, limit = allocator.cost.base[metric], allocator.asked[metric]
    share = costs[metric] / limit
    if share >= TOLD:
        return None
    lost = sum(float(c[len(c) - 1 - int(w)]) for c, w in zip(curves, allocation.widths, strict=True))
    refused = share < REFUSED and lost > even_loss(allocator, curves, limit / base)
    return Overshoot(metric, limit / base, costs[metric] / base, _reason(allocator, allocation, metric), refused)


def even_loss(allocator: Allocator, curves: Sequence[Floats], share: float) -> float:
    """The loss of every group that may shrink at a share of its width, between whole widths interpolated."""
    total = 0.0
    for curve, options in zip(curves, allocator.options, strict=True):
        if len(options) > 1:
            width = len(curve) - 1
            total += float(np.interp((1 - share) * width, np.arange(width + 1), curve))
    return total


def _reason(allocator: Allocator, allocation: Allocation, metric: str) -> str:
    wider = single_widenings(allocator, allocation.widths)
    costs = allocator.costs(wider)
    base = allocator.cost.base
    within = np.max([costs[m] / limit for m, limit in allocator.asked.items()], axis=0) <= 1
    slower = costs["latency"] > base["latency"] * (1 + 1e-9)
    if (within & slower).any():
        return "what is nearer is predicted slower than the dense model"
    if within.any():
        return "what is nearer wins too little for the latency that it adds"
    return f"the next wider plan takes {float(costs[metric].min()) / base[metric]:.3g}x"
