"""The whole job as one call: load, prepare, prune within the budgets, prove, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from hwpass import __version__
from hwpass.calibration import load_calibration
from hwpass.cost import METRICS, Cost
from hwpass.cost_models import Target, load_target
from hwpass.coupling import Coupling, couple
from hwpass.describe import frozen_by_macs, macs_by_layer
from hwpass.errors import UsageError
from hwpass.files import Source
from hwpass.inputs import input_specs
from hwpass.ir import Model
from hwpass.manager import Context, PassManager
from hwpass.plan import Plan
from hwpass.report import (
    Costs,
    ExactnessVerdict,
    FidelityVerdict,
    Frozen,
    GroupChange,
    MetricVerdict,
    ModelInfo,
    PassRecord,
    Ratios,
    Report,
    Verdicts,
)
from hwpass.sessions import ModelLike

#: What runs before channels are coupled, and so what group names in a plan refer to.
PREPARE = "fold,fuse-bn"


@dataclass(frozen=True)
class Result:
    """What a run gives: the pruned model, the plan that made it, and the report."""

    model: Model
    plan: Plan | None
    report: Report
    unmet: str | None = None  # why the budget was not met, when `force` kept the best effort

    def save(self, path: str | Path) -> None:
        """Write the model, whole or not at all."""
        self.model.save(path)


def load(source: Source) -> Model:
    """Load a model from a path, bytes, a binary stream or a `ModelProto`. Raises InputError."""
    return Model.load(source)


def run(
    source: Source | Model,
    target: str | Target,
    *,
    latency: str | float | None = None,
    energy: str | float | None = None,
    memory: str | float | None = None,
    size: str | float | None = None,
    macs: str | float | None = None,
    channels: str | float | None = None,
    calib: str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]] | np.ndarray | None = None,
    metric: str | None = None,
    max_drop: float | None = None,
    score: str = "auto",
    compensate: str = "auto",
    keep: Iterable[str] = (),
    min_channels: int = 1,
    align: int | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-9,
    fidelity: Iterable[str] = (),
    pipeline: str | None = None,
    seed: int = 0,
    threads: int = 1,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Prune a model for a target within the budgets given, and prove the rewrite.

    A budget is a share of the dense model (`0.6`, `"0.6x"`) or absolute (`"12ms"`, `"5mJ"`, `"2MiB"`, `"300M"`).
    Raises UsageError, InputError, BudgetError (unless `force`) or VerdictError; each message is one line.
    """
    budgets = {"latency": latency, "energy": energy, "memory": memory, "size": size, "macs": macs, "channels": channels}
    given = {key: _text(value) for key, value in budgets.items() if value is not None}
    if pipeline is None:
        if not given:
            raise UsageError("give a budget: --latency, --energy, --memory, --size, --macs or --channels")
        options = {
            **given,
            "score": score,
            "keep": "|".join(keep),
            "min_channels": str(min_channels),
            "align": str(align or 0),
        }
        checks = verify_step(rtol, atol, fidelity, metric, max_drop)
        pipeline = f"{PREPARE},prune-channels{_options(options)},{amends(compensate, calib)}{checks}"
    elif given:
        raise UsageError("--pipeline says what runs: put budgets into it, as in prune-channels{latency=0.6x}")
    return execute(
        source, pipeline, target=target, calib=calib, seed=seed, threads=threads, force=force, progress=progress
    )


def execute(
    source: Source | Model,
    pipeline: str,
    *,
    target: str | Target | None = None,
    calib: Any = None,
    seed: int = 0,
    threads: int = 1,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
    plan: Plan | None = None,
) -> Result:
    """Run a pipeline on a model and report. `run` and `hwpass apply` are both this."""
    start = time.perf_counter()
    progress = progress or (lambda text: None)
    # Everything that can be wrong with the request is found before the model is touched.
    manager = PassManager.parse(pipeline)
    chosen = load_target(target) if isinstance(target, str) else target
    progress("loading")
    model = source if isinstance(source, Model) else Model.load(source)
    original = _original(source, model)
    context = Context(target=chosen, original=original, threads=threads, seed=seed, force=force, progress=progress)
    context.found["prepare"] = preparation(manager)
    if plan is not None:
        context.found["given_plan"] = plan
    if calib is not None:
        context.calibration = load_calibration(calib, input_specs(model.interface()))
    nodes, params = len(model.graph.nodes), model.parameter_count()
    size = model.size_bytes()
    info = ModelInfo(path=model.path, sha256=model.sha256, nodes=nodes, opset=model.opset)
    result = manager.run(model, context)
    progress("reporting")
    report = _report(info, params, size, result, manager, context, asked(manager))
    report = report.model_copy(update={"seconds": round(time.perf_counter() - start, 3)})
    return Result(result, context.found.get("plan"), report, context.found.get("unmet"))


def amends(compensate: str, calib: Any) -> str:
    """The pipeline text of compensation: least squares that need the activations of real inputs."""
    if compensate not in ("auto", "off"):
        raise UsageError(f"--compensate {compensate}: choose auto or off")
    return "compensate," if compensate == "auto" and calib is not None else ""


def asked(manager: PassManager) -> dict[str, str]:
    """The budgets that a pipeline asks for, as text by metric."""
    steps = [step for step in manager.steps if step.name == "prune-channels"]
    found = {metric: getattr(step, metric, "") for step in steps for metric in (*METRICS, "channels")}
    return {metric: text for metric, text in found.items() if text}


def preparation(manager: PassManager) -> str:
    """The passes of a pipeline before channels are pruned: group names in the plan refer to what they leave."""
    before = takewhile(lambda step: step.name not in ("prune-channels", "apply-plan"), manager.steps)
    return ",".join(map(str, before))


def verify_step(
    rtol: float = 1e-4,
    atol: float = 1e-9,
    fidelity: Iterable[str] = (),
    metric: str | None = None,
    max_drop: float | None = None,
) -> str:
    """The pipeline text of the verdicts."""
    return "verify" + _options({
        "rtol": f"{rtol!r}", "atol": f"{atol!r}", "fidelity": "|".join(fidelity), "metric": metric or "",
        "max_drop": "" if max_drop is None else f"{max_drop!r}",
    })  # fmt: skip


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}x"


def _options(values: Mapping[str, str]) -> str:
    texts = [f"{key.replace('_', '-')}={value}" for key, value in values.items() if value]
    for text in texts:
        if any(c in text for c in ",{}"):
            raise UsageError(f"{text}: commas and braces cannot stand in an option")
    return "{" + ",".join(texts) + "}"


def _original(source: Source | Model, model: Model) -> ModelLike:
    """What the verdicts compare with: the file where there is one, so that it is not held in memory."""
    if isinstance(source, str | Path) and Path(source).is_file():
        return Path(source)
    return model.proto()


def _report(
    info: ModelInfo,
    params: int,
    size: int,
    result: Model,
    manager: PassManager,
    context: Context,
    budget: dict[str, str],
) -> Report:
    coupling: Coupling | None = context.found.get("coupling")
    plan: Plan | None = context.found.get("plan")
    before, after = _costs(params, size, result, context)
    return Report(
        schema=1,
        hwpass=__version__,
        model=info,
        target=context.target.name if context.target is not None else None,
        budget=budget,
        before=before,
        after=after,
        ratio=Ratios.of(before, after),
        verdicts=verdicts_of(context),
        groups=_changes(coupling, plan, context) if coupling is not None and plan is not None else [],
        frozen=_frozen(coupling, context) if coupling is not None else [],
        passes=[PassRecord(name=r.name, seconds=round(r.seconds, 4), changed=r.changed) for r in manager.records],
        warnings=context.warnings,
    )


def _frozen(coupling: Coupling, context: Context) -> list[Frozen]:
    cost: Cost | None = context.found.get("cost")
    macs = None if cost is None else macs_by_layer(cost.kernels)
    return [Frozen(node=node, reason=reason) for node, reason in frozen_by_macs(coupling, macs)]


def _costs(params: int, size: int, result: Model, context: Context) -> tuple[Costs, Costs]:
    """Predicted costs before and after. Both sides come from the same closed form where a plan was made."""
    coupling, plan = context.found.get("coupling"), context.found.get("plan")
    target = context.target
    after_params, after_size = result.parameter_count(), result.size_bytes()
    if target is None:
        empty = {"macs": 0}
        return Costs(params=params, size_bytes=size, **empty), Costs(
            params=after_params, size_bytes=after_size, **empty
        )
    if coupling is None or plan is None:
        cost = Cost(couple(result), target)
        rows = [cost.base, cost.base]
    else:
        cost = context.found.get("cost") or Cost(coupling, target)
        context.found["cost"] = cost
        widths = np.asarray([plan.widths()[g.name] for g in coupling.groups], np.float64)
        found = cost(np.stack([cost.dense, widths]))
        rows = [{m: float(v[i]) for m, v in found.items()} for i in range(2)]
    made = []
    for row, count, stored in zip(rows, (params, after_params), (size, after_size), strict=True):
        made.append(
            Costs(
                latency_ms=row["latency"] * 1e3, energy_mj=row["energy"] * 1e3, macs=round(row["macs"]), params=count,
                size_bytes=stored, peak_memory_bytes=round(row["memory"] - row["size"] + stored),
            )
        )  # fmt: skip
    return made[0], made[1]


def _changes(coupling: Coupling, plan: Plan, context: Context) -> list[GroupChange]:
    widths = plan.widths()
    current = np.asarray([widths[g.name] for g in coupling.groups], np.float64)
    gains: list[float | None] = [None] * len(coupling.groups)
    cost: Cost | None = context.found.get("cost")
    if cost is not None and len(coupling.groups):
        # What each group alone is worth: the latency of the plan with this group left dense, minus the plan's.
        restored = np.repeat(current[None, :], len(current), axis=0)
        np.fill_diagonal(restored, cost.dense)
        latency = cost(np.vstack([current[None, :], restored]), ("latency",))["latency"]
        gains = [float(v) for v in (latency[1:] - latency[0]) * 1e3]
    curves = context.found.get("curves")
    return [
        GroupChange(
            name=g.name, before=g.width, after=widths[g.name],
            loss=None if curves is None else float(curves[i][g.width - widths[g.name]]),
            latency_gain_ms=gains[i], layers=list(g.layers),
        )
        for i, g in enumerate(coupling.groups)
    ]  # fmt: skip


def verdicts_of(context: Context) -> Verdicts:
    """What the verify pass found, as the report shows it."""
    exact, faithful, metric = (context.found.get(key) for key in ("exactness", "fidelity", "metric"))
    task = None
    if metric is not None:
        name, before, after, allowed = metric
        bound = allowed if allowed >= 0 else None
        drop = before - after
        task = MetricVerdict(
            passed=bound is None or drop <= bound + 1e-12,
            name=name,
            before=before,
            after=after,
            drop=drop,
            max_drop=bound,
        )
    return Verdicts(
        exactness=ExactnessVerdict(passed=exact.passed, max_abs=exact.max_abs, max_rel=exact.max_rel)
        if exact
        else None,
        fidelity=FidelityVerdict(
            passed=faithful.passed, outputs={name: output.figures() for name, output in faithful.outputs.items()}
        )
        if faithful
        else None,
        metric=task,
    )
