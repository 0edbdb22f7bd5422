"""The whole job as one call: load, prepare, prune within the budgets, prove, report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hwpass.cost.budgets import parse_budgets
from hwpass.cost.prediction import METRICS
from hwpass.cost_models import Target, load_target
from hwpass.errors import HwpassError, UsageError, option, words_of_a_pipeline
from hwpass.manager import Pass, PassManager
from hwpass.model.model import Model
from hwpass.model.sources import Source
from hwpass.options import RunOptions, chosen, signature
from hwpass.planning.plan import Plan
from hwpass.workflows.job import Job, Result
from hwpass.workflows.metric_search import search
from hwpass.workflows.steps import PREPARE, amends, budgets, check_inputs, format_steps, prune_step, usual, verify_step


def load(source: Source, *, allow_external: bool = False) -> Model:
    """Load a model from a path, bytes, a binary stream or a `ModelProto`. Raises InputError.

    Its external data is read from its own folder only, unless `allow_external` is given.
    """
    return Model.load(source, allow_external=allow_external)


def trusted(source: Source | Model, allow_external: bool) -> Source | Model:
    """The model, loaded with its external data from anywhere where that is allowed; else what was given."""
    return load(source, allow_external=True) if allow_external and not isinstance(source, Model) else source


def run(
    source: Source | Model,
    target: str | os.PathLike[str] | Target,
    options: RunOptions | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    **asked: Any,
) -> Result:
    """Prune a model for a target within the budgets given, and prove the rewrite.

    What is asked is given by name, as `run(model, "mobile-cpu", latency=0.6)`, or as `RunOptions`; names go first.
    A budget is a share of the dense model (`0.6`, `"0.6x"`) or absolute (`"12ms"`, `"5mJ"`, `"2MiB"`, `"300M"`).
    Without one, `metric` and `max_drop` are enough: the fastest model whose metric falls by at most that is searched.
    Layers that one of `keep` names stay whole: names, or globs as in `hwpass.globs`.
    `rtol` is the tolerance of the proof (1e-4, more for outputs of 16 bits); `unproved` accepts a result that a
    pipeline of your own leaves without a proof.
    External data is read from the model's own folder only, unless `allow_external` is given.
    Raises UsageError, InputError, BudgetError (unless `force`) or VerdictError; each message is one line.
    """
    options = chosen("run", options, asked)
    given = budgets(options)
    parse_budgets(given)
    check_inputs(options)
    setting = options.given(("calib", "input", "seed", "threads", "dtype", "dim", "force"))
    setting |= {"target": target, "progress": progress}
    if options.pipeline is not None:
        if given:
            raise UsageError(
                f"{option('pipeline')} says what runs: put budgets into it, as in prune-channels{{latency=0.6x}}"
            )
        with words_of_a_pipeline():
            steps = PassManager.parse(options.pipeline).steps
    elif given or load_target(target).limits:
        steps = usual(options)
    elif options.metric is None or options.max_drop is None:
        raise UsageError(
            f"give a budget: {', '.join(map(option, METRICS))} or {option('channels')}; or {option('metric')} with"
            f" {option('max_drop')}, which searches for it"
        )
    else:
        return _searched(source, options, setting)
    try:
        return execute(source, steps, unproved=options.unproved, allow_external=options.allow_external, **setting)
    except HwpassError as error:
        if options.pipeline is not None:  # the usual passes are no concern of a reader who has not named them
            error.say_place()
        raise


def _searched(source: Source | Model, options: RunOptions, setting: dict[str, Any]) -> Result:
    """The fastest model within the largest drop."""

    def prune(share: str) -> Pass:
        return prune_step(options, {"latency": share})

    def verify(max_drop: float | None) -> Pass:
        return verify_step(options, max_drop)

    assert options.metric is not None
    assert options.max_drop is not None
    # Everything that can be wrong with the request is found before the model is touched.
    fixes = (*amends(options), *format_steps(options))
    prune("1x")
    verify(options.max_drop)
    job = Job(trusted(source, options.allow_external), **setting)
    job.prepare(PassManager(PREPARE))
    found = search(job, prune, fixes, verify, options.metric, options.max_drop)
    return job.result(found, unproved=options.unproved)


run.__signature__ = signature(run, "run")  # type: ignore[attr-defined]


def execute(
    source: Source | Model,
    pipeline: str | Sequence[Pass],
    *,
    target: str | os.PathLike[str] | Target | None = None,
    calib: Any = None,
    input: str | Iterable[str] = (),
    seed: int = 0,
    threads: int = 1,
    dtype: str | None = None,
    dim: str | Iterable[str] = (),
    force: bool = False,
    progress: Callable[[str], None] | None = None,
    plan: Plan | None = None,
    unproved: bool = False,
    allow_external: bool = False,
) -> Result:
    """Run a pipeline, as text or passes, on a model and report. `run` and `hwpass apply` are both this."""
    # Everything that can be wrong with the request is found before the model is touched.
    manager = PassManager.parse(pipeline) if isinstance(pipeline, str) else PassManager(pipeline)
    source = trusted(source, allow_external)
    job = Job(
        source, target=target, calib=calib, input=input, seed=seed, threads=threads, dtype=dtype, dim=dim, force=force,
        progress=progress,
    )  # fmt: skip
    job.context.plan = plan
    return job.result(job.attempt(manager), unproved=unproved)
