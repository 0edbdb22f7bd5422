"""The outcome of a run as its report: costs before and after, verdicts, groups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwpass.context import Context
from hwpass.cost.prediction import Cost
from hwpass.coupling.groups import couple
from hwpass.manager import PassRecord
from hwpass.model.model import Model
from hwpass.planning.stages import Pruned
from hwpass.reporting.groups import frozen_by_macs, macs_by_layer
from hwpass.reporting.schema import (
    Costs,
    ExactnessVerdict,
    FidelityVerdict,
    Frozen,
    GroupChange,
    MetricVerdict,
    ModelInfo,
    ProofLeg,
    Ratios,
    Report,
    Verdicts,
)
from hwpass.reporting.schema import PassRecord as ReportedPass
from hwpass.verdicts.proof import Proof
from hwpass.version import __version__


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
    findings = context.findings
    legs = findings.pruned or ([findings.whole] if findings.whole is not None else [])
    if context.target is not None:
        for leg in legs:
            leg.cost = leg.cost or Cost(leg.coupling, context.target)
    before, after = _costs(params, size, result, context, legs)
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
        groups=[change for leg in legs for change in _changes(leg)],
        frozen=_frozen(legs[0]) if legs else [],
        passes=[ReportedPass(name=r.name, seconds=round(r.seconds, 4), changed=r.changed) for r in records],
        warnings=context.warnings,
        trials=findings.trials,
        notes=findings.notes,
    )


def _frozen(leg: Pruned) -> list[Frozen]:
    macs = None if leg.cost is None else macs_by_layer(leg.cost.kernels)
    return [Frozen(node=node, reason=reason) for node, reason in frozen_by_macs(leg.coupling, macs)]


def _costs(params: int, size: int, result: Model, context: Context, legs: list[Pruned]) -> tuple[Costs, Costs]:
    """Predicted costs before and after. Both sides come from the same closed form where a plan was made."""
    target = context.target
    after_params, after_size = result.parameter_count(), result.size_bytes()
    if target is None:
        empty = {"macs": 0}
        return Costs(params=params, size_bytes=size, **empty), Costs(
            params=after_params, size_bytes=after_size, **empty
        )
    stages = context.findings.stages
    last = max((place for place, stage in enumerate(stages) if stage.pruned is not None), default=-1)
    if any(stage.effect == "format" for stage in stages[last + 1 :]):
        # Widths alone do not tell what other number formats cost.
        left = Cost(couple(result, context.dims), target).base
        first = _cost(legs[0], False) if legs else Cost(couple(stages[0].model, context.dims), target).base
        rows = [first, left]
    elif not legs:
        base = Cost(couple(result, context.dims), target).base
        rows = [base, base]
    else:
        rows = [_cost(legs[0], False), _cost(legs[-1], True)]
    return costs_from(rows[0], params, size), costs_from(rows[1], after_params, after_size)


def _cost(leg: Pruned, pruned: bool) -> dict[str, float]:
    """The predicted cost of the model that a removal began with, or that it left."""
    assert leg.cost is not None
    widths = leg.plan.widths()
    chosen = [widths[g.name] for g in leg.coupling.groups] if pruned else leg.cost.dense
    found = leg.cost(np.asarray([chosen], np.float64))
    return {metric: float(values[0]) for metric, values in found.items()}


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


def _changes(leg: Pruned) -> list[GroupChange]:
    coupling, cost, curves = leg.coupling, leg.cost, leg.curves
    widths = leg.plan.widths()
    current = np.asarray([widths[g.name] for g in coupling.groups], np.float64)
    gains: list[float | None] = [None] * len(coupling.groups)
    if cost is not None and len(coupling.groups):
        # What each group alone is worth: the latency of the plan with this group left dense, minus the plan's.
        restored = np.repeat(current[None, :], len(current), axis=0)
        np.fill_diagonal(restored, cost.dense)
        latency = cost(np.vstack([current[None, :], restored]), ("latency",))["latency"]
        gains = [float(v) for v in (latency[1:] - latency[0]) * 1e3]
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
    findings = context.findings
    return Verdicts(
        exactness=exactness_of(findings.proof) if findings.proof else None,
        fidelity=FidelityVerdict.of(findings.fidelity) if findings.fidelity else None,
        metric=MetricVerdict.of(findings.metric) if findings.metric is not None else None,
    )


def exactness_of(proof: Proof) -> ExactnessVerdict:
    """The proof as the report shows it."""
    return ExactnessVerdict(
        passed=None if proof.state == "not judged" else proof.state == "passed",
        state=proof.state,
        note=proof.reason or "",
        max_abs=proof.max_abs,
        max_rel=proof.max_rel,
        legs=[
            ProofLeg(
                name=leg.name, sides=leg.sides, state=leg.state, max_abs=leg.max_abs, max_rel=leg.max_rel, note=leg.note
            )
            for leg in proof.legs
        ],
    )
