"""What a model takes and loses after every pass: size, activations, multiply-accumulates, latency, fidelity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hwpass.instrument import Instrument, PassRecord, Step
from hwpass.planning.analyses import priced_as_it_is
from hwpass.spans import span
from hwpass.verdicts.fidelity import fidelity
from hwpass.verdicts.findings import Measured

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.cost.prediction import Cost
    from hwpass.cost_models import Target
    from hwpass.cost_models.work import Floats
    from hwpass.model.model import Model

#: Samples that models are compared on.
SAMPLES = 64


class MeasureEach(Instrument):
    """Measures the model as it was given and after each pass that changed it; the rows go into the findings.

    Weights are counted; activations, multiply-accumulates and latency are predicted, from a walk over the graph alone.
    With `compare` each model is also run on the samples and its outputs compared with the original's.
    """

    def __init__(self, compare: bool = True) -> None:
        self.compare = compare

    def begin(self, steps: Sequence[Step], model: Model, context: Context) -> None:
        """Add a row for the model as it was given, unless an earlier part of the run has one."""
        if not context.findings.measured:
            context.findings.measured.append(self._measured("as given", model, context, compare=False))

    def after(self, step: Step, before: Model, model: Model, record: PassRecord, context: Context) -> None:
        """Add a row where the pass changed the model."""
        if record.changed:
            context.findings.measured.append(self._measured(record.name, model, context, compare=self.compare))

    def _measured(self, name: str, model: Model, context: Context, *, compare: bool) -> Measured:
        with span("measures"):
            found = Measured(name, model.parameter_count(), model.size_bytes())
            if context.target is not None:
                cost, widths = self._priced(model, context.target, context)
                total, peak = cost.activations(widths)
                macs, latency = (float(cost(widths[None, :], (name,))[name][0]) for name in ("macs", "latency"))
                found = replace(found, macs=macs, latency=latency, activations=total, peak=peak)
            return replace(found, rel_l2=self._lost(model, context)) if compare else found

    @staticmethod
    def _priced(model: Model, target: Target, context: Context) -> tuple[Cost, Floats]:
        """What prices a model, and the widths [G] at which it does: those of the plan that has just been carried out,
        else those that there are."""
        stages = context.findings.stages
        leg = stages[-1].pruned if stages and stages[-1].model is model else None
        if leg is not None and leg.cost is not None and leg.cost.target is target:
            widths = leg.plan.widths()
            return leg.cost, np.asarray([widths[group.name] for group in leg.coupling.groups], np.float64)
        cost = priced_as_it_is(model, target, context)
        return cost, cost.dense

    @staticmethod
    def _lost(model: Model, context: Context) -> float | None:
        data = context.apart if context.apart is not None else context.calibration
        if data is None or context.original is None:
            return None
        feeds = list(data.batches(16, limit=SAMPLES))
        found = fidelity(context.original, model.proto(), feeds, (), context.threads, accepted=True)
        told = [output.rel_l2 for output in found.outputs.values() if output.problem is None]
        return max(told, default=None)
