"""Plans nearer to a budget than alignment steps allow.

Where costs go in stairs, whole steps may leave nothing near a budget: then widths between the steps are tried, and
every stair at once rather than the next one alone, from several plans that meet the budget. Which branches go as a
whole is one of the choices: a few of them, with all others dense, often cost what thinning all of them would.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hwpass.cost_models.work import Floats

#: A plan that takes less than this share of its budget is looked at again.
NEAR = 0.9

#: Widths of a group between which alignment steps are divided.
FINE = 64

#: Wider widths tried per group and move, and moves.
OFFERS = 12
MOVES = 200
EXCHANGES = 20


class Problem(Protocol):
    """Widths per group, and what plans of them cost and lose; see `hwpass.planning.allocation.Allocator`."""

    options: list[NDArray[np.int64]]

    def costs(self, widths: NDArray[np.int64]) -> dict[str, Floats]:
        """The limited metrics at widths [P, G]."""

    def excess(self, costs: dict[str, Floats]) -> Floats:
        """How far each plan is over its worst budget, as a ratio."""

    def losses(self, plans: NDArray[np.int64]) -> Floats:
        """The loss of plans [P, G]."""

    def objective(self, plans: NDArray[np.int64]) -> Floats:
        """The loss of plans [P, G], and the price of haste."""

    def total_loss(self, widths: NDArray[np.int64]) -> float:
        """The loss of one plan."""


def finer(options: NDArray[np.int64]) -> NDArray[np.int64]:
    """A group's widths and those between them, ascending; of wide groups not every one, and none narrower.

    >>> finer(np.asarray([0, 2, 4])).tolist()
    [0, 2, 3, 4]
    """
    if len(options) < 2:
        return options
    whole = int(options[-1])
    between = np.arange(int(options[options > 0][0]), whole, max(1, -(-whole // FINE)))
    return np.unique(np.concatenate([options, between]))


def nearer(allocator: Problem, plans: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The best plan that widening and exchanging make of some that meet the budgets."""
    starts = {plan.tobytes(): plan for plan in plans}
    found = [_widened(allocator, plan) for plan in starts.values()]
    return found[int(np.argmin(allocator.objective(np.asarray(found))))]


def without_branches(allocator: Problem, whole: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the dense plan as few branches as meet the budgets, those first that lose least for what they save."""
    widths = whole.copy()
    while True:
        excess = allocator.excess(allocator.costs(widths[None, :]))[0]
        places = np.flatnonzero([o[0] == 0 and w > 0 for o, w in zip(allocator.options, widths, strict=True)])
        if excess <= 1 or not len(places):
            return widths
        trials = np.repeat(widths[None, :], len(places), axis=0)
        trials[np.arange(len(places)), places] = 0
        saved = np.maximum(excess - allocator.excess(allocator.costs(trials)), 1e-12)
        price = allocator.losses(trials) - allocator.total_loss(widths)
        widths = trials[int(np.argmin(price / saved))]


def single_widenings(allocator: Problem, widths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Plans with one group wider, [P, G]."""
    trials = []
    for group, options in enumerate(allocator.options):
        above = options[options > widths[group]]
        for width in above[np.unique(np.linspace(0, len(above) - 1, OFFERS).astype(int))] if len(above) else ():
            trial = widths.copy()
            trial[group] = width
            trials.append(trial)
    return np.asarray(trials, np.int64).reshape(-1, len(widths))


def _fits(allocator: Problem, plans: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(allocator.excess(allocator.costs(plans)) <= 1)


def _widened(allocator: Problem, widths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The plan after the widenings and exchanges that pay."""
    exchanges = 0
    for _ in range(MOVES):
        now = float(allocator.objective(widths[None, :])[0])
        wider = single_widenings(allocator, widths)
        chosen = _best(allocator, wider, now)
        if chosen is None and exchanges < EXCHANGES:
            exchanges += 1
            chosen = _best(allocator, _exchanged(allocator, widths, wider, now), now)
        if chosen is None:
            break
        widths = chosen
    return widths


def _best(allocator: Problem, trials: NDArray[np.int64], now: float) -> NDArray[np.int64] | None:
    """The trial of the least objective that meets the budgets and is better than now."""
    if not len(trials):
        return None
    objective = np.where(_fits(allocator, trials), allocator.objective(trials), np.inf)
    best = int(np.argmin(objective))
    return trials[best] if objective[best] < now - 1e-9 * (1 + abs(now)) else None


def _exchanged(
    allocator: Problem, widths: NDArray[np.int64], wider: NDArray[np.int64], now: float
) -> NDArray[np.int64]:
    """Plans with one group wider and another narrower or gone, the most promising first few, [P, G]."""
    narrower = []
    for group, options in enumerate(allocator.options):
        below = options[options < widths[group]]
        for width in np.unique(np.append(below[-2:], below[:1])):
            trial = widths.copy()
            trial[group] = width
            narrower.append(trial)
    if not narrower or not len(wider):
        return np.zeros((0, len(widths)), np.int64)
    down = np.asarray(narrower, np.int64)
    relief = now - allocator.losses(wider) - allocator.losses(down)[:, None]
    order = np.argsort(-relief, axis=None)[:256]
    pairs = [divmod(int(i), len(wider)) for i in order]
    trials = [wider[b] + down[a] - widths for a, b in pairs if not ((wider[b] != widths) & (down[a] != widths)).any()]
    return np.asarray(trials, np.int64).reshape(-1, len(widths))
