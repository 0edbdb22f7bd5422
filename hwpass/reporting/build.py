"""The outcome of a run as its report: costs before and after, verdicts, groups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwpass.context import Context
from hwpass.cost.prediction import Cost
from hwpass.instrument import PassRecord
from hwpass.model.model import Model
from hwpass.planning.analyses import base_cost
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
from hwpass.reporting.schema_of_passes import MeasuredPart, TimedPart
from hwpass.reporting.schema_of_passes import PassRecord as ReportedPass
from hwpass.spans import Span
from hwpass.verdicts.findings import Measured
from hwpass.verdicts.legs import Proof
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
    if findings.measured:
        before, after = (
            _with_activations(*pair) for pair in ((before, findings.measured[0]), (after, findings.measured[-1]))
        )
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
        passes=[_reported(record) for record in records],
        warnings=context.warnings,
        trials=findings.trials,
        notes=findings.notes,
        measured=[_measured(item) for item in findings.measured],
    )


def _with_activations(costs: Costs, of: Measured) -> Costs:
    if of.activations is None or of.peak is None:
        return costs
    return costs.model_copy(update={"activation_bytes": round(of.activations), "peak_activation_bytes": round(of.peak)})


def _measured(item: Measured) -> MeasuredPart:
    return MeasuredPart(
        after=item.after,
        params=item.params,
        size_bytes=item.size_bytes,
        macs=item.macs,
        activation_bytes=item.activations,
        peak_activation_bytes=item.peak,
        latency_ms=None if item.latency is None else item.latency * 1e3,
        rel_l2=item.rel_l2,
    )


def _reported(record: PassRecord) -> ReportedPass:
    parts = [] if record.span is None else _parts(record.span)
    return ReportedPass(
        name=record.name,
        seconds=round(record.seconds, 4),
        changed=record.changed,
        status=record.status,
        skipped=record.skipped,
        parts=parts,
    )


def _parts(span: Span) -> list[TimedPart]:
    return [
        TimedPart(name=part.name, seconds=round(part.seconds, 4), count=part.count, parts=_parts(part))
        for part in span.parts.values()
    ]


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
    if any(stage.effect in ("mask", "factor", "format") for stage in stages):
        # No plan of widths tells what zeros and pairs of products cost.
        first = stages[0].effect == "cut"
        before = cost_of(legs[0], False) if first else base_cost(stages[0].model, target, context)
        rows = [{**before, **context.findings.given}, base_cost(result, target, context)]
    elif not legs:
        base = base_cost(result, target, context)
        rows = [base, base]
    else:
        rows = [cost_of(legs[0], False), cost_of(legs[-1], True)]
    return costs_from(rows[0], params, size), costs_from(rows[1], after_params, after_size)


def cost_of(leg: Pruned, pruned: bool) -> dict[str, float]:
    """The predicted cost of the model that a removal began with, or that it left."""
    assert leg.cost is not None
    if not pruned:
        return leg.cost.base
    widths = leg.plan.widths()
    chosen = [widths[g.name] for g in leg.coupling.groups]
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
