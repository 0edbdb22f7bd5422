"""The whole job as one call: load, prepare, prune within the budgets, prove, report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

from hwpass.cost_models import Target
from hwpass.data_files import shown
from hwpass.errors import UsageError, option, words_of_a_pipeline
from hwpass.files import Source
from hwpass.ir import Model
from hwpass.job import Job, Result
from hwpass.manager import PassManager
from hwpass.metric import no_metric
from hwpass.pipeline_text import texts, written
from hwpass.plan import Plan
from hwpass.search import search

#: What runs before channels are coupled, and so what group names in a plan refer to.
PREPARE = "fold,fuse-bn,rotate-streams,fold-redundant"


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
    *,
    latency: str | float | None = None,
    energy: str | float | None = None,
    memory: str | float | None = None,
    size: str | float | None = None,
    macs: str | float | None = None,
    channels: str | float | None = None,
    calib: str | os.PathLike[str] | Mapping[str, Any] | Iterable[Mapping[str, Any]] | np.ndarray | None = None,
    metric: str | None = None,
    max_drop: float | None = None,
    score: str = "auto",
    compensate: str = "auto",
    keep: str | Iterable[str] = (),
    min_channels: int = 1,
    align: int | None = None,
    rtol: float | None = None,
    atol: float = 1e-9,
    fidelity: str | Iterable[str] = (),
    pipeline: str | None = None,
    seed: int = 0,
    threads: int = 1,
    force: bool = False,
    unproved: bool = False,
    allow_external: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Prune a model for a target within the budgets given, and prove the rewrite.

    A budget is a share of the dense model (`0.6`, `"0.6x"`) or absolute (`"12ms"`, `"5mJ"`, `"2MiB"`, `"300M"`).
    Without one, `metric` and `max_drop` are enough: the fastest model whose metric falls by at most that is searched.
    Layers that one of `keep` names stay whole: names, or globs as in `hwpass.globs`.
    `rtol` is the tolerance of the proof (1e-4, more for outputs of 16 bits); `unproved` accepts a result that a
    pipeline of your own leaves without a proof.
    External data is read from the model's own folder only, unless `allow_external` is given.
    Raises UsageError, InputError, BudgetError (unless `force`) or VerdictError; each message is one line.
    """
    budgets = {"latency": latency, "energy": energy, "memory": memory, "size": size, "macs": macs, "channels": channels}
    given = {key: as_text(key, value) for key, value in budgets.items() if value is not None}
    setting: dict[str, Any] = {"target": target, "calib": calib, "seed": seed, "threads": threads, "force": force,
                               "progress": progress}  # fmt: skip
    if pipeline is not None:
        setting["allow_external"] = allow_external
        if given:
            raise UsageError(
                f"{option('pipeline')} says what runs: put budgets into it, as in prune-channels{{latency=0.6x}}"
            )
        with words_of_a_pipeline():
            PassManager.parse(pipeline)
        return execute(source, pipeline, unproved=unproved, **setting)
    score = chosen_score(score, compensate, calib)
    prune = partial(prune_step, score=score, keep=keep, min_channels=min_channels, align=align)
    checks = partial(verify_step, rtol, atol, fidelity, metric)
    fixes = amends(compensate, calib, score)
    if given:
        text = f"{PREPARE},{prune(given)},{fixes}{checks(max_drop)}"
        return execute(source, text, unproved=unproved, allow_external=allow_external, **setting)
    if metric is None or max_drop is None:
        *names, last = map(option, budgets)
        raise UsageError(
            f"give a budget: {', '.join(names)} or {last}; or {option('metric')} with"
            f" {option('max_drop')}, which searches for it"
        )
    preparation = PassManager.parse(PREPARE)
    for text in (prune({"latency": "1x"}), fixes, checks(max_drop)):
        PassManager.parse(text)
    job = Job(trusted(source, allow_external), **setting)
    job.prepare(preparation)
    found = search(job, lambda share: prune({"latency": share}), fixes, checks, metric, max_drop)
    return job.result(found, unproved=unproved)


def execute(
    source: Source | Model,
    pipeline: str,
    *,
    target: str | os.PathLike[str] | Target | None = None,
    calib: Any = None,
    seed: int = 0,
    threads: int = 1,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
    plan: Plan | None = None,
    unproved: bool = False,
    allow_external: bool = False,
) -> Result:
    """Run a pipeline on a model and report. `run` and `hwpass apply` are both this."""
    # Everything that can be wrong with the request is found before the model is touched.
    manager = PassManager.parse(pipeline)
    source = trusted(source, allow_external)
    job = Job(source, target=target, calib=calib, seed=seed, threads=threads, force=force, progress=progress)
    job.context.plan = plan
    return job.result(job.attempt(manager), unproved=unproved)


def chosen_score(score: str, compensate: str, calib: Any) -> str:
    """The score that is meant: curves on made-up inputs suppose that weights are refitted, so without that it is l2."""
    return "l2" if score == "auto" and compensate == "off" and calib is None else score


def amends(compensate: str, calib: Any, score: str = "") -> str:
    """The pipeline text of what follows pruning, but for the verdicts: compensation, which wants the user's inputs or
    those that an auto score makes up, and norms in standard operators."""
    if compensate not in ("auto", "off"):
        raise UsageError(f"{option('compensate', shown(compensate))}: choose auto or off")
    wanted = compensate == "auto" and (calib is not None or score == "auto")
    return ("compensate," if wanted else "") + "lower-norms,"


def prune_step(
    budgets: Mapping[str, str],
    *,
    score: str = "auto",
    keep: str | Iterable[str] = (),
    min_channels: int = 1,
    align: int | None = None,
) -> str:
    """The pipeline text of pruning within budgets."""
    return "prune-channels" + _options({
        **budgets, "score": score, "keep": texts("keep", keep), "min_channels": min_channels, "align": align or 0,
    })  # fmt: skip


def verify_step(
    rtol: float | None = None,
    atol: float = 1e-9,
    fidelity: str | Iterable[str] = (),
    metric: str | None = None,
    max_drop: float | None = None,
) -> str:
    """The pipeline text of the verdicts. Raises UsageError for a drop that nothing can have."""
    if max_drop is not None and metric is None:
        raise no_metric()
    if max_drop is not None and not max_drop >= 0:
        raise UsageError(f"{option('max_drop', max_drop)}: a drop is at least 0")
    return "verify" + _options({
        "rtol": rtol, "atol": atol, "fidelity": texts("fidelity", fidelity), "metric": metric, "max_drop": max_drop,
    })  # fmt: skip


def as_text(metric: str, value: str | float) -> str:
    """A budget as it is written in a pipeline: numbers are shares of the dense model. Raises UsageError."""
    if isinstance(value, str) and value:
        return value
    if value == "":
        raise UsageError(f"{option(metric)}: it is empty; write 0.6x")
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(f"{option(metric)}: a {type(value).__name__} is no budget; write 0.6 or '0.6x'")
    return f"{float(value):g}x"


def _options(values: Mapping[str, Any]) -> str:
    given = [f"{key.replace('_', '-')}={written(value)}" for key, value in values.items() if value not in (None, ())]
    return "{" + ",".join(given) + "}"
