"""The outcome of a run as its report: costs before and after, verdicts, groups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwpass import __version__
from hwpass.cost import Cost
from hwpass.coupling import Coupling, couple
from hwpass.describe import frozen_by_macs, macs_by_layer
from hwpass.ir import Model
from hwpass.manager import Context, PassRecord
from hwpass.plan import Plan
from hwpass.report import (
    Costs,
    ExactnessVerdict,
    FidelityVerdict,
    Frozen,
    GroupChange,
    MetricVerdict,
    ModelInfo,
    Ratios,
    Report,
    Verdicts,
)
from hwpass.report import PassRecord as ReportedPass


def report_of(
    info: ModelInfo,
    params: int,
    size: int,
    result: Model,
    records: list[PassRecord],
    context: Context,
    budget: dict[str, str],
) -> Report:
    """The report of a run that left `result` and `context`; `params` and `size` are the given model's."""
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
        passes=[ReportedPass(name=r.name, seconds=round(r.seconds, 4), changed=r.changed) for r in records],
        warnings=context.warnings,
        trials=context.found.get("trials", []),
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
    return costs_from(rows[0], params, size), costs_from(rows[1], after_params, after_size)


def costs_from(predicted: Mapping[str, float], params: int, size: int) -> Costs:
    """Predictions in the units of METRICS as the report's, with the counted parameters and stored bytes."""
    return Costs(
        latency_ms=predicted["latency"] * 1e3,
        energy_mj=predicted["energy"] * 1e3,
        macs=round(predicted["macs"]),
        params=params,
        size_bytes=size,
        peak_memory_bytes=round(predicted["memory"] - predicted["size"] + size),
    )


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
    return Verdicts(
        exactness=ExactnessVerdict(passed=exact.passed, max_abs=exact.max_abs, max_rel=exact.max_rel)
        if exact
        else None,
        fidelity=FidelityVerdict.of(faithful) if faithful else None,
        metric=MetricVerdict.of(*metric) if metric is not None else None,
    )
