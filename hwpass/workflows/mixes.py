"""One budget met by several means together: fewer channels, lower rank, fewer bits, in the mix that loses least.

Coarse first, then fine: how much of the way to the budget each means goes is searched here, by running whole pipelines
and judging them on samples that nothing was chosen on; within its part each pass allots layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from hwpass.cost.budgets import parse_budgets
from hwpass.errors import BudgetError, UsageError, option
from hwpass.figures import shown
from hwpass.manager import Pass, PassManager
from hwpass.planning.analyses import base_cost
from hwpass.reporting.build import cost_of
from hwpass.workflows.job import Attempt, Job

#: What may help to meet a budget, in the order of a pipeline.
MEANS = ("prune", "factorize", "quantize")

#: Those that go as far as they are asked to.
SCALED = ("prune", "factorize")

#: Tries to bring means to the budget, how much less than the budget is as good, and how far below it a try aims.
TRIES, NEAR, AIM = 5, 0.95, 0.99

#: Powers by which a cost follows what is asked.
FLATTEST, STEEPEST = 0.25, 2.0

#: What a means leaves of a cost at least.
LEAST = 0.02


#: By means that are scaled, shares of costs by metric.
Shares = Mapping[str, Mapping[str, float]]

Make = Callable[[Sequence[str], Shares], Sequence[Pass]]
"""The passes of some means, judged at the end; the scaled ones leave such shares of each cost."""


@dataclass(frozen=True)
class Trial:
    """Means that were tried together: the attempt, each budgeted cost over its limit, and what was lost."""

    name: str
    used: Sequence[str]
    shares: Shares
    attempt: Attempt
    over: Mapping[str, float]
    loss: tuple[float, float]

    @property
    def worst(self) -> float:
        """The cost that is nearest to its limit, or furthest beyond, over it."""
        return max(self.over.values())

    @property
    def met(self) -> bool:
        """Whether every budget is met."""
        return self.worst <= 1 + 1e-9


def chosen_means(asked: Sequence[str]) -> tuple[str, ...]:
    """The means that are asked for besides pruning, in order. Raises UsageError."""
    for name in asked:
        if name not in MEANS[1:]:
            raise UsageError(f"{option('also', shown(name))}: choose {' or '.join(MEANS[1:])}")
    return ("prune", *(name for name in MEANS[1:] if name in asked))


def best_mix(job: Job, means: Sequence[str], asked: Mapping[str, str], make: Make, last: Make | None = None) -> Attempt:
    """The attempt within every budget that loses least on samples set apart, of all sets of means.

    `asked` are budgets as text by metric. `last` makes the passes of what was chosen, where these are to be others of
    the same structure. Losses are the relative L2 error, and the predicted drop of accuracy where outputs tell classes
    apart. Raises BudgetError where no set meets the budgets, unless the job is forced: then the
    nearest is kept.
    """
    force = job.context.force
    base = {**_costs(job.prepared, job), **job.context.findings.given}
    limits = {b.metric: b.limit(base[b.metric]) for b in parse_budgets(dict(asked))}
    limits = {metric: limit for metric, limit in limits.items() if base[metric] > 0}
    if not limits:
        raise BudgetError("nothing in this model costs anything that is bounded; see `hwpass profile`")
    trials = [
        trial
        for count in range(1, len(means) + 1)
        for some in combinations(means, count)
        for trial in _tried(job, some, limits, base, make)
    ]
    met = [trial for trial in trials if trial.met]
    best = min(met, key=lambda trial: trial.loss) if met else min(trials, key=lambda trial: trial.worst)
    chosen = best.attempt if last is None else job.attempt(PassManager(last(best.used, best.shares)), force=True)
    findings = chosen.context.findings
    findings.unmet = None
    chosen.context.force = force
    findings.note("allocation", {
        trial.name: {"of the budget": round(trial.worst, 3), "predicted drop": round(trial.loss[1], 4),
                     "relative L2 error": round(trial.loss[0], 4), "chosen": trial is best}
        for trial in trials
    })  # fmt: skip
    if not met:
        text = f"no mix of {', '.join(means)} meets the budget: the nearest takes {best.worst:.3f} of it"
        if not force:
            raise BudgetError(f"{text}; ask for more, or keep the best effort with {option('force', True)}")
        chosen.context.warn(text)
        findings.unmet = text
    return chosen


def _tried(
    job: Job, means: Sequence[str], limits: Mapping[str, float], base: Mapping[str, float], make: Make
) -> list[Trial]:
    """Means brought to the budget: the tries that meet it, or the last one."""
    scaled = [name for name in means if name in SCALED]
    # Ranks are priced in floating point: integers go their own way first, and ranks are left what these do not give.
    # Channels are priced as what follows leaves them.
    after = "quantize" in means and "prune" not in means
    whole = {metric: 1.0 if after else limits[metric] / base[metric] for metric in limits}
    found: list[Trial] = []
    before, lead = whole, 1.0 if len(scaled) < 2 else 0.5
    for _ in range(TRIES):
        # The first goes `lead` of the way, in logarithms, and the second the rest of it.
        parts = dict(zip(scaled, (lead, 1 - lead), strict=False))
        shares = {
            name: {metric: max(LEAST, min(1.0, reach) ** part) for metric, reach in whole.items()}
            for name, part in parts.items()
        }
        shares = {name: own for name, own in shares.items() if min(own.values()) < 1}
        used = [name for name in means if name not in SCALED or name in shares]
        name = " + ".join(f"{n} {min(shares[n].values()):.3g}x" if n in shares else n for n in used)
        job.context.progress(f"trying {name or 'nothing'}")
        attempt = job.attempt(PassManager(make(used, shares)), force=True)
        costs = _costs(attempt, job)
        trial = Trial(
            name or "nothing", used, shares, attempt, {m: costs[m] / limits[m] for m in limits}, loss_of(attempt)
        )
        failed = attempt.context.findings.unmet is not None
        if failed and lead < 1:
            lead = (1 + lead) / 2  # what is left of narrow layers has no rank to lose
            continue
        found.append(trial)
        if failed or not scaled or NEAR <= trial.worst <= 1 + 1e-9 or (trial.met and min(whole.values()) >= 1):
            break
        earlier = found[-2] if len(found) > 1 else None
        whole, before = {m: _next(m, whole, trial, before, earlier) for m in whole}, whole
    met = [trial for trial in found if trial.met]
    return met or found[-1:] or [trial]


def _next(
    metric: str, now: Mapping[str, float], trial: Trial, before: Mapping[str, float], earlier: Trial | None
) -> float:
    """The share of a cost to ask for next: what is asked and what is left go together by a power, at first by itself.

    What does not shrink with the channels (overhead of kernels, layers that stay) makes that power less than 1.
    """
    power = 1.0
    if earlier is not None and now[metric] != before[metric]:
        left = math.log(trial.over[metric] / earlier.over[metric])
        power = min(STEEPEST, max(FLATTEST, left / math.log(now[metric] / before[metric])))
    return min(1.0, now[metric] * math.pow(AIM / trial.over[metric], 1 / power))


def loss_of(attempt: Attempt) -> tuple[float, float]:
    """The largest relative L2 error of any output, and the largest predicted drop of accuracy.

    The error counts first: on few samples a drop is a handful of changed answers, which tell mixes apart by chance.
    """
    fidelity = attempt.context.findings.fidelity
    outputs = [] if fidelity is None else list(fidelity.outputs.values())
    drops = [output.drop.expected for output in outputs if output.drop is not None]
    return max((output.rel_l2 for output in outputs), default=0.0), max(drops, default=0.0)


def _costs(attempt: Attempt, job: Job) -> dict[str, float]:
    """What a model costs, whatever was done to it; as its plan says where nothing but channels went."""
    context, findings = job.context, attempt.context.findings
    assert context.target is not None
    last = findings.last
    if last is not None and last.cost is not None and not {"factor", "format"} & {s.effect for s in findings.stages}:
        return cost_of(last, True)
    return dict(base_cost(attempt.model, context.target, attempt.context))
