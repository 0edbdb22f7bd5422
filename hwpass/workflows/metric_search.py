"""The fastest model whose metric stays within an allowed drop: a search over the latency budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from hwpass.errors import BudgetError, option
from hwpass.manager import Pass, PassManager
from hwpass.verdicts.findings import Trial
from hwpass.verdicts.task_metric import TaskMetric, evaluate_metric, task_metric
from hwpass.workflows.job import Attempt, Job

#: Shares of the dense latency tried first, as long as the drop allows; then the bracket is halved.
COARSE = (0.5, 0.35)
#: The search ends when the bracket is this narrow, as a share of the dense latency, or after so many models.
BRACKET = 0.02
TRIALS = 8


def search(
    job: Job,
    prune: Callable[[str], Pass],
    amend: Sequence[Pass],
    verify: Callable[[float | None], Pass],
    metric: str | TaskMetric,
    max_drop: float,
) -> Attempt:
    """The fastest attempt found whose metric is at most `max_drop` below the original's, verified.

    `prune` gives the pass for a latency budget such as `0.5x`, `amend` are those that follow it, and `verify` gives the
    verdicts on the winner for an allowed drop. Every model that was measured stands in the report. Raises
    BudgetError when none is within the drop, unless the job is forced: then the one that dropped least is kept.
    """
    context = job.context
    context.progress("running the metric on the original model")
    score, before = task_metric(metric), context.metric_before(metric)
    trials: list[Trial] = []
    best: tuple[Trial, Attempt] | None = None
    nearest: tuple[Trial, Attempt] | None = None
    refusal: BudgetError | None = None
    seen: dict[bytes, Trial] = {}
    low, high = 0.0, 1.0
    while high - low >= BRACKET and len(trials) < TRIALS:
        share = _next(low, high)
        text = f"{share:g}x"
        context.progress(f"trying {option('latency', text)}")
        try:
            made = job.attempt(PassManager([prune(text)]), force=False)
        except BudgetError as error:
            refusal, low = error, share
            continue
        pruned = made.context.findings.last
        assert pruned is not None
        assert pruned.allocation is not None
        assert pruned.cost is not None
        widths = pruned.allocation.widths
        trial = seen.get(widths.tobytes())
        if trial is None:
            made = job.further(made, PassManager(amend))
            context.progress(f"running the metric at {option('latency', text)}")
            after = evaluate_metric(score, made.model.proto(), context.threads)
            ratio = pruned.allocation.costs["latency"] / pruned.cost.base["latency"]
            drop = before - after
            trial = Trial(asked=text, latency=ratio, metric=after, drop=drop, passed=drop <= max_drop + 1e-12)
            trials.append(trial)
            seen[widths.tobytes()] = trial
            if trial.passed and (best is None or trial.latency < best[0].latency):
                best = trial, made
            if nearest is None or trial.drop < nearest[0].drop:
                nearest = trial, made
        low, high = (low, min(share, trial.latency)) if trial.passed else (share, high)
    if nearest is None:
        assert refusal is not None
        raise refusal
    trial, chosen = best or nearest
    chosen.context.findings.trials = trials
    if best is None:
        text = (
            f"{option('max_drop', max_drop)}: none of {len(trials)} pruned models stays within it, the least drop is"
            f" {trial.drop:.3g} at {trial.latency:.3f}x of the latency; allow more"
            + ("" if context.calibration is not None else f", or give inputs with {option('calib')}")
        )
        if not context.force:
            raise BudgetError(text)
        chosen.context.findings.unmet = text
        chosen.context.warn(text)
        kept = job.further(chosen, PassManager([verify(None)]))
        found = kept.context.findings.metric
        assert found is not None
        kept.context.findings.metric = replace(found, max_drop=max_drop)
        return kept
    return job.further(chosen, PassManager([verify(max_drop)]))


def _next(low: float, high: float) -> float:
    """The next share to try: a coarse one below every share that passed, else the middle, in thousandths."""
    coarse = next((share for share in COARSE if low < share < high), None)
    return coarse if coarse is not None else float(np.round((low + high) / 2, 3))
