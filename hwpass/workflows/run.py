"""The whole job as one call: load, prepare, prune within the budgets, prove, report."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from hwpass.cost.budgets import parse_budgets
from hwpass.cost.prediction import METRICS
from hwpass.cost_models import Target, load_target
from hwpass.errors import HwpassError, UsageError, option, words_of_a_pipeline
from hwpass.instrument import Instrument
from hwpass.instruments.recording import Recording
from hwpass.manager import Pass, PassManager
from hwpass.model.model import Model
from hwpass.model.sources import Source
from hwpass.options import RunOptions, chosen, left_out, signature
from hwpass.pipeline import Group
from hwpass.pipeline_text import texts
from hwpass.planning.plan import Plan
from hwpass.reporting.schema_of_passes import Asked
from hwpass.workflows.job import Job, Result
from hwpass.workflows.metric_search import search
from hwpass.workflows.mixes import best_mix, chosen_means
from hwpass.workflows.presets import preset
from hwpass.workflows.reproduce import reproduce
from hwpass.workflows.steps import (
    PREPARE,
    amends,
    budgets,
    check_inputs,
    distill_step,
    format_steps,
    mixed_steps,
    prune_step,
    usual,
    verify_step,
)
from hwpass.workflows.watching import instruments, refuse_beside_search


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
    steps = pipeline_of(target, options)
    setting = options.given(("calib", "input", "seed", "threads", "dtype", "dim", "force"))
    setting |= {"target": target, "progress": progress}
    if steps is None:
        refuse_beside_search(options)
        searched = _mixed if options.also else _searched
        return _with_options(searched(source, options, setting), target, options)
    setting["instruments"] = instruments(options)
    setting |= options.given(("unproved", "allow_external", "reproducer"))
    try:
        return _with_options(execute(source, steps, **setting), target, options)
    except HwpassError as error:
        if options.pipeline is not None:  # the usual passes are no concern of a reader who has not named them
            error.say_place()
        raise


def pipeline_of(target: str | os.PathLike[str] | Target, options: RunOptions) -> tuple[Pass | Group, ...] | None:
    """The pipeline that `run` would run; None where it looks for the budget itself. Raises UsageError or InputError.

    Everything that can be wrong with the options is found here, before a model is touched.
    """
    given = budgets(options)
    parse_budgets(given)
    check_inputs(options)
    if options.also:
        if options.pipeline is not None or options.preset or not given:
            raise UsageError(f"{option('also')} needs a budget, such as {option('latency', '0.5x')}, and no pipeline")
        if options.quantize != "off":
            raise UsageError(f"{option('also', 'quantize')} decides on that; leave {option('quantize')} out")
        if "channels" in given:
            raise UsageError(f"{option('channels')} sets every width itself and conflicts with {option('also')}")
        chosen_means(texts("also", options.also))
        return None
    if options.pipeline is not None:
        if given:
            raise UsageError(
                f"{option('pipeline')} says what runs: put budgets into it, as in prune-channels{{latency=0.6x}}"
            )
        if options.preset:
            raise UsageError(f"{option('pipeline')} and {option('preset')} both say what runs; give one of them")
        return stated(options.pipeline).pipeline
    if options.preset:
        return preset(load_target(target), options).steps
    if given or load_target(target).limits:
        return usual(options)
    if options.metric is None or options.max_drop is None:
        raise UsageError(
            f"give a budget: {', '.join(map(option, METRICS))} or {option('channels')}; or {option('metric')} with"
            f" {option('max_drop')}, which searches for it"
        )
    return None


def stated(pipeline: str | Sequence[Pass | Group]) -> PassManager:
    """A pipeline that somebody wrote, as text or as objects. Raises UsageError in the words of its text."""
    with words_of_a_pipeline():
        return PassManager.parse(pipeline) if isinstance(pipeline, str) else PassManager(pipeline)


def _with_options(result: Result, target: str | os.PathLike[str] | Target, options: RunOptions) -> Result:
    """The result, its report saying what was asked for."""
    told = {"target": Asked(value=target.name if isinstance(target, Target) else os.fsdecode(target))}
    for item in dataclasses.fields(options):
        value = getattr(options, item.name)
        if not left_out(item, value):
            told[item.name] = Asked(value=str(stated(value)) if item.name == "pipeline" else _said(value))
    return dataclasses.replace(result, report=result.report.model_copy(update={"options": told}))


def _said(value: Any) -> str:
    """An option's value in a few words; data that is no path by its type alone."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float | os.PathLike):
        return str(value)
    if isinstance(value, list | tuple) and all(isinstance(each, str | int | float | os.PathLike) for each in value):
        return ", ".join(map(str, value))
    return getattr(value, "__qualname__", type(value).__name__)


def _mixed(source: Source | Model, options: RunOptions, setting: dict[str, Any]) -> Result:
    """The mix of means within the budgets that loses least; it alone is distilled, where that is asked for."""
    means, asked = chosen_means(texts("also", options.also)), budgets(options)
    make = partial(mixed_steps, replace(options, distill="off"))
    last = partial(mixed_steps, options) if distill_step(options) else None
    (last or make)(means, {name: dict.fromkeys(asked, 0.5) for name in means})
    job = Job(trusted(source, options.allow_external), **setting)
    job.prepare(PassManager(PREPARE))
    found = best_mix(job, means, asked, make, last)
    return job.result(found, unproved=options.unproved)


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
    pipeline: str | Sequence[Pass | Group],
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
    instruments: Sequence[Instrument] = (),
    reproducer: str | os.PathLike[str] | None = None,
) -> Result:
    """Run a pipeline, as text or passes, on a model and report. `run` and `hwpass apply` are both this.

    `instruments` watch it. Where a pass fails, or its proof, the least that shows it is written to the folder
    `reproducer`, see `hwpass.workflows.reproduce`.
    """
    # Everything that can be wrong with the request is found before the model is touched.
    recording = Recording()
    watching = [*instruments, *([recording] if reproducer is not None else [])]
    if isinstance(pipeline, str):
        manager = PassManager.parse(pipeline, instruments=watching)
    else:
        manager = PassManager(pipeline, instruments=watching)
    source = trusted(source, allow_external)
    job = Job(
        source, target=target, calib=calib, input=input, seed=seed, threads=threads, dtype=dtype, dim=dim, force=force,
        progress=progress,
    )  # fmt: skip
    job.context.plan = plan
    try:
        attempt = job.attempt(manager)
    except Exception as error:
        if reproducer is not None:
            reproduce(recording, manager.steps, job.context, reproducer, error)
        raise
    return job.result(attempt, unproved=unproved)
