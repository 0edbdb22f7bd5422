"""Choose a width for every group: the least loss that meets the budgets on the true cost model.

Costs are not separable (a convolution's cost is a product of two widths), so a multiple-choice knapsack on costs
linearised around the current widths is relaxed to a linear program (at most one group per budget comes out split
between two widths, and is rounded) for budgets that tighten in stages; local search on the true cost finishes the work.
Where that leaves a plan far within its budgets, or none, widths between the steps are tried too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from hwpass.cost.prediction import Prices
from hwpass.cost_models.work import Floats
from hwpass.coupling.groups import Coupling
from hwpass.planning.nearer import NEAR, finer, nearer, without_branches
from hwpass.spans import span

#: Widths offered per group and stage.
CHOICES = 14
#: A stage may take a group down to this share of its width: further, linearised costs are not to be believed.
TRUST = 0.6
STAGES = 6
#: Bounds on local search: single steps, and exchanges of a step between two groups.
MOVES = 400
EXCHANGES = 40
#: Times that local search starts again, from so many groups moved.
KICKS, KICKED = 16, 3
#: Plans that local search starts from where stages found none.
STARTS = 5
#: What a plan as slow as the dense model would cost, as a share of the loss of meeting the budgets: among plans of
#: about the same loss the faster one is wanted, also when the budget is on MACs or size.
HASTE = 1.0


@dataclass(frozen=True)
class Allocation:
    """Widths per group, [G], and whether they meet every budget."""

    widths: NDArray[np.int64]
    met: bool
    costs: dict[str, float]


def steps(coupling: Coupling, align: int) -> list[int]:
    """How many channels of each group make one alignment step of the tensors that they are in.

    A channel of a group may be several indices of a tensor (a head, a convolution group): `align` indices are then
    fewer channels.
    """
    owner = np.full(int(coupling.component.max()) + 1, -1, np.int64)
    for number, group in enumerate(coupling.groups):
        owner[group.components] = number
    multiples = [0] * len(coupling.groups)
    for node in coupling.nodes:
        if node.product is None:
            continue
        for axis in coupling.weight_axes(node):
            found = owner[coupling.components_of(axis)]
            counts = np.bincount(found[found >= 0], minlength=len(multiples))
            for number in np.flatnonzero(counts).tolist():
                multiples[number] = gcd(multiples[number], int(counts[number] // coupling.groups[number].width))
    return [max(1, align // gcd(align, max(m, 1))) for m in multiples]


def choices(width: int, step: int, least: int) -> NDArray[np.int64]:
    """Widths worth having, ascending: multiples of the step, finer ones where the group is narrow, and the whole."""
    while step > 1 and width < 2 * step:
        step = step // 2
    found = {width, *range(step, width, step)}
    if width < 4 * step:
        found |= set(range(max(step // 2, 1), width, max(step // 2, 1)))
    kept = sorted(w for w in found if w >= min(least, width))
    return np.asarray(kept, np.int64)


class Allocator:
    """One allocation problem: a coupled model, its loss curves, a target's cost and the groups that may shrink."""

    def __init__(
        self,
        coupling: Coupling,
        cost: Prices,
        curves: Sequence[Floats],
        limits: dict[str, float],
        *,
        align: int,
        least: int = 1,
        fixed: Sequence[bool] | None = None,
        removable: Sequence[bool] | None = None,
        widest: Sequence[int] | None = None,
        between: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """`between` allows widths that are no whole steps where those leave nothing near the budgets."""
        self.cost = cost
        self.curves = curves
        self.limits = {m: limit for m, limit in limits.items() if cost.base[m] > 0}
        self.asked = dict(self.limits)
        self.between = between
        self.hurry = "latency" not in limits
        whole = np.asarray([[float(group.width) for group in coupling.groups]])
        # A plan is never predicted slower than the dense model, as given or as it was prepared.
        slowest = max(cost.base["latency"], float(cost(whole, ("latency",))["latency"][0]))
        self.limits["latency"] = min(self.limits.get("latency", np.inf), slowest)
        self.metrics = tuple(self.limits)
        self.progress = progress or (lambda text: None)
        self.haste = 0.0
        fixed = fixed or [False] * len(coupling.groups)
        removable = removable or [False] * len(coupling.groups)
        self.options = [
            np.asarray([g.width]) if still else np.append([0] * goes, choices(g.width, step, least)).astype(np.int64)
            for g, step, still, goes in zip(coupling.groups, steps(coupling, align), fixed, removable, strict=True)
        ]
        if widest is not None:
            self.options = [o[o <= bound] for o, bound in zip(self.options, widest, strict=True)]

    def loss(self, group: int, width: int) -> float:
        """The loss of a group at a width."""
        return float(self.curves[group][len(self.curves[group]) - 1 - int(width)])

    def total_loss(self, widths: NDArray[np.int64]) -> float:
        """The loss of all groups."""
        return sum(self.loss(g, w) for g, w in enumerate(widths))

    def costs(self, widths: NDArray[np.int64]) -> dict[str, Floats]:
        """The limited metrics at widths [P, G]."""
        return self.cost(widths.astype(np.float64), self.metrics)

    def excess(self, costs: dict[str, Floats]) -> Floats:
        """How far each plan is over its worst budget, as a ratio; at most 1 when all are met."""
        ratios = [costs[m] / self.limits[m] for m in self.metrics]
        return np.asarray(np.max(ratios, axis=0))

    def losses(self, plans: NDArray[np.int64]) -> Floats:
        """The loss of plans [P, G]."""
        found = [curve[len(curve) - 1 - plans[:, g]] for g, curve in enumerate(self.curves)]
        return np.asarray(np.sum(found, axis=0), np.float64)

    def objective(self, plans: NDArray[np.int64]) -> Floats:
        """The loss of plans [P, G], and the price of what is left of the latency where haste was made."""
        losses = self.losses(plans)
        return losses + self.haste * self.costs(plans)["latency"] / self.cost.base["latency"] if self.haste else losses

    def share(self, costs: dict[str, float]) -> float:
        """How much of the budgets asked for a plan takes: of the one that it comes nearest to."""
        return max((costs[m] / limit for m, limit in self.asked.items()), default=1.0)

    def run(self) -> Allocation:
        """Widths in steps, and between steps where those leave nothing near the budgets."""
        return self.optima()[0]

    @span("allocation")
    def optima(self) -> list[Allocation]:
        """What `run` gives, and after it what local search finds from other starts, where that meets the budgets too.

        Losses are no more than near the truth: of plans that lose about the same another may be the better one.
        """
        found, *others = self._stepwise()
        whole = np.asarray([o[-1] for o in self.options], np.int64)
        if not len(whole) or (found.met and (self.share(found.costs) >= NEAR or (found.widths == whole).all())):
            return [found, *others]
        self.progress("choosing widths between steps")
        fine = self.finer()
        if not found.met and self.between:
            found = fine._stepwise()[0]
        plans = [found.widths, self.uniform().widths, without_branches(self, whole)]
        if not found.met:
            # The narrowest plan may be slower than the dense one, or than one between them.
            plans += [self._search(plan) for plan in (whole, *self._not_slower())]
        plans = [plan for plan in plans if self.excess(self.costs(plan[None, :]))[0] <= 1]
        if not plans:
            return [found]
        # The scale of what meeting the budgets costs, now that plans that do are known.
        scale = HASTE * float(self.losses(np.asarray(plans)).min()) if self.hurry else 0.0
        fine.haste = min(self.haste, scale) if self.haste else scale
        return [self._result(nearer(fine, plans)), *([found] if found.met else []), *others]

    def _not_slower(self) -> NDArray[np.int64]:
        """Of the plans of one share for all groups those that are no slower than the dense model; the first few of
        them that come nearest to the budgets."""
        plans = np.unique(self._uniform(), axis=0)
        costs = self.costs(plans)
        plans, excess = plans[kept := costs["latency"] <= self.limits["latency"]], self.excess(costs)[kept]
        return plans[np.argsort(excess, kind="stable")[:STARTS]]

    def finer(self) -> Allocator:
        """The same problem with widths between the steps, where those are allowed."""
        fine = copy(self)
        if self.between:
            fine.options = [finer(options) for options in self.options]
        return fine

    def _stepwise(self) -> list[Allocation]:
        """Stages of linearised knapsacks, then local search on the true cost; the best comes first."""
        widths = np.asarray([o[-1] for o in self.options], np.int64)
        narrowest = np.asarray([o[0] for o in self.options], np.int64)
        if self.excess(self.costs(widths[None, :]))[0] <= 1 + 1e-9:
            return [self._result(widths)]
        if min(self.excess(self.costs(narrowest[None, :]))[0], *self.excess(self.costs(self._uniform()))) > 1 + 1e-9:
            return [self._result(narrowest)]
        start = {m: float(v[0]) for m, v in self.costs(widths[None, :]).items()}
        # The scale of what meeting the budgets costs.
        self.haste = HASTE * self.total_loss(self.uniform().widths) if self.hurry else 0.0
        for stage in range(1, STAGES + 1):
            self.progress(f"choosing widths, stage {stage} of {STAGES}")
            share = stage / STAGES
            # Geometric: each stage asks for the same relative saving.
            limits = {m: min(start[m], start[m] ** (1 - share) * self.limits[m] ** share) for m in self.metrics}
            widths = self._knapsack(widths, limits)
        self.progress("choosing widths, local search")
        # Costs that jump leave local search wherever it starts: an even cut may lie on the better side.
        found = [self._search(start) for start in (widths, self.uniform().widths)]
        best = self._result(self._kicked(min(found, key=self._rank)))
        return [best, *(other for other in map(self._result, found) if other.met)]

    def _rank(self, widths: NDArray[np.int64]) -> tuple[float, float]:
        """How good a plan is: how far it is over its budgets, then its objective."""
        over = float(self.excess(self.costs(widths[None, :]))[0])
        return (0.0 if over <= 1 else over, float(self.objective(widths[None, :])[0]))

    def _kicked(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Iterated local search: a few groups are moved by chance, and what local search makes of that is kept where it
        is better."""
        rng, best = np.random.default_rng(0), self._rank(widths)
        free = np.flatnonzero([len(options) > 1 for options in self.options])
        for _ in range(KICKS if len(free) > 1 else 0):
            trial = widths.copy()
            for group in rng.choice(free, min(len(free), KICKED), replace=False):
                options = self.options[group]
                place = int(np.searchsorted(options, trial[group])) + int(rng.choice([-3, -2, -1, 1, 2, 3]))
                trial[group] = options[min(max(place, 0), len(options) - 1)]
            trial = self._search(trial)
            if (rank := self._rank(trial)) < best:
                widths, best = trial, rank
        return widths

    def improved(self, allocation: Allocation) -> Allocation:
        """A plan after local search: what its loss can still gain within the budgets."""
        return self._result(self._search(allocation.widths))

    def priced(self, allocation: Allocation) -> Allocation:
        """The same widths at the costs of this problem."""
        return self._result(allocation.widths)

    def _result(self, widths: NDArray[np.int64]) -> Allocation:
        costs = self.costs(widths[None, :])
        return Allocation(widths, bool(self.excess(costs)[0] <= 1 + 1e-9), {m: float(v[0]) for m, v in costs.items()})

    def _uniform(self) -> NDArray[np.int64]:
        """Plans of one share for all groups, the widest first, [P, G]."""
        shares = np.linspace(0.05, 1, 39)[::-1]
        plans = [[o[np.searchsorted(o, min(round(r * o[-1]), o[-1]))] for o in self.options] for r in shares]
        return np.asarray(plans, np.int64)

    def uniform(self) -> Allocation:
        """The widest plan of one share for all groups that meets the budgets; the narrowest where none does."""
        plans = self._uniform()
        met = np.flatnonzero(self.excess(self.costs(plans)) <= 1)
        return self._result(plans[met[0] if len(met) else -1])

    def _near(self, group: int, width: int) -> NDArray[np.int64]:
        """The widths a stage may choose for a group."""
        options = self.options[group]
        inside = options[(options >= TRUST * width) & (options <= width / TRUST)]
        if len(inside) < 2:
            place = int(np.searchsorted(options, width))
            inside = options[max(0, place - 1) : place + 2]
        if len(inside) > CHOICES:
            inside = np.unique(np.append(inside[np.linspace(0, len(inside) - 1, CHOICES).astype(int)], width))
        # A whole branch may go at any time.
        return np.unique(np.append(inside, options[0])) if options[0] == 0 else inside

    def _knapsack(self, widths: NDArray[np.int64], limits: dict[str, float]) -> NDArray[np.int64]:
        """The best widths near the current ones for costs linearised around them."""
        from scipy.optimize import linprog  # takes a third of a second to load; only choosing widths needs it

        near = [self._near(g, int(w)) for g, w in enumerate(widths)]
        owner = np.repeat(np.arange(len(near)), [len(n) for n in near])
        offered = np.concatenate(near)
        trials = np.repeat(widths[None, :], len(offered), axis=0)
        trials[np.arange(len(offered)), owner] = offered
        costs = self.costs(trials)
        current = {m: float(v[0]) for m, v in self.costs(widths[None, :]).items()}
        losses = np.asarray([self.loss(int(g), int(w)) for g, w in zip(owner, offered, strict=True)])
        objective = losses + self.haste * costs["latency"] / self.cost.base["latency"]
        pick = csr_array((np.ones(len(offered)), (owner, np.arange(len(offered)))), shape=(len(near), len(offered)))
        rows = np.asarray([(costs[m] - current[m]) / limits[m] for m in self.metrics])
        upper = np.asarray([1 - current[m] / limits[m] for m in self.metrics])
        solved = linprog(
            objective, A_ub=rows, b_ub=upper, A_eq=pick, b_eq=np.ones(len(near)), bounds=(0, 1), method="highs-ds"
        )
        worst = np.max([costs[m] / limits[m] for m in self.metrics], axis=0)
        starts = np.concatenate([[0], np.cumsum([len(n) for n in near])])
        chosen = np.empty(len(near), np.int64)
        for group, offers in enumerate(near):
            part = slice(starts[group], starts[group + 1])
            # Without a solution the stage asks for more than trust allows: take the cheapest offers.
            best = np.argmin(worst[part]) if solved.x is None else np.argmax(solved.x[part])
            chosen[group] = offers[int(best)]
        return chosen

    def _search(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Shrink by the cheapest loss until every budget is met, then give back what fits, then try exchanges."""
        widths = widths.copy()
        for _ in range(MOVES):
            costs = self.costs(widths[None, :])
            if self.excess(costs)[0] <= 1:
                break
            trials, moved = self._moves(widths, -1)
            if not len(trials):
                break
            gain = self._pressure(costs, self.costs(trials))
            price = np.asarray(
                [self.loss(g, int(t[g])) - self.loss(g, int(widths[g])) for g, t in zip(moved, trials, strict=True)]
            )
            ratio = np.where(gain > 0, price / np.maximum(gain, 1e-15), np.inf)
            if not np.isfinite(ratio).any():
                # No single step helps (a staircase): take the one that hurts least.
                ratio = price
            widths = trials[int(np.argmin(ratio))]
        exchanges = 0
        for _ in range(MOVES):
            trials, moved = self._moves(widths, +1)
            if not len(trials):
                break
            fits = self.excess(self.costs(trials)) <= 1
            relief = np.asarray(
                [self.loss(g, int(widths[g])) - self.loss(g, int(t[g])) for g, t in zip(moved, trials, strict=True)]
            )
            relief = np.where(fits, relief, -1)
            if relief.max() <= 0:
                exchanged = self._exchange(widths) if exchanges < EXCHANGES else None
                if exchanged is None:
                    break
                exchanges += 1
                widths = exchanged
                continue
            widths = trials[int(np.argmax(relief))]
        return widths

    def _pressure(self, before: dict[str, Floats], after: dict[str, Floats]) -> Floats:
        """How much each trial lowers the budgets that are not met, as ratios."""
        total: Floats = np.zeros(len(next(iter(after.values()))))
        for metric in self.metrics:
            if before[metric][0] > self.limits[metric]:
                total = total + (before[metric][0] - after[metric]) / self.limits[metric]
        return total

    def _moves(self, widths: NDArray[np.int64], direction: int) -> tuple[NDArray[np.int64], list[int]]:
        trials, moved = [], []
        for group, options in enumerate(self.options):
            place = int(np.searchsorted(options, widths[group])) + direction
            places = {place, 0} if direction < 0 < place and options[0] == 0 else {place}
            for p in sorted(places):
                if 0 <= p < len(options):
                    trial = widths.copy()
                    trial[group] = options[p]
                    trials.append(trial)
                    moved.append(group)
        return np.asarray(trials, np.int64).reshape(-1, len(widths)), moved

    def _exchange(self, widths: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Widen one group and narrow another where that lowers the loss within the budgets; None when none does."""
        up, gains = self._moves(widths, +1)
        down, losses = self._moves(widths, -1)
        if not len(up) or not len(down):
            return None
        relief = np.asarray(
            [self.loss(g, int(widths[g])) - self.loss(g, int(t[g])) for g, t in zip(gains, up, strict=True)]
        )
        price = np.asarray(
            [self.loss(g, int(t[g])) - self.loss(g, int(widths[g])) for g, t in zip(losses, down, strict=True)]
        )
        net = relief[:, None] - price[None, :]
        order = np.argsort(-net, axis=None)[:64]
        pairs = [divmod(int(i), len(down)) for i in order if net.flat[i] > 1e-9]
        pairs = [(a, b) for a, b in pairs if gains[a] != losses[b]]
        if not pairs:
            return None
        trials = np.asarray([up[a] + down[b] - widths for a, b in pairs], np.int64)
        fits = np.flatnonzero(self.excess(self.costs(trials)) <= 1)
        return trials[int(fits[0])] if len(fits) else None
