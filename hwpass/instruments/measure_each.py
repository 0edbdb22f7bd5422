"""What a model takes and loses after every pass: size, activations, multiply-accumulates, latency, fidelity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwpass.instrument import Instrument, PassRecord, Step
from hwpass.planning.analyses import base_cost
from hwpass.spans import span
from hwpass.verdicts.fidelity import fidelity
from hwpass.verdicts.findings import Measured

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model

#: Samples that models are compared on.
SAMPLES = 64


class MeasureEach(Instrument):
    """Measures the model as it was given and after each pass that changed it; the rows go into the findings."""

    def begin(self, steps: Sequence[Step], model: Model, context: Context) -> None:
        context.findings.measured.append(self._measured("as given", model, context, compare=False))

    def after(self, step: Step, before: Model, model: Model, record: PassRecord, context: Context) -> None:
        """Add a row where the pass changed the model."""
        if record.changed:
            context.findings.measured.append(self._measured(record.name, model, context, compare=True))

    def _measured(self, name: str, model: Model, context: Context, *, compare: bool) -> Measured:
        with span("measure each"):
            found = Measured(name, model.parameter_count(), model.size_bytes())
            costs = {} if context.target is None else base_cost(model, context.target, context)
            return Measured(
                name, found.params, found.size_bytes, costs.get("macs"),
                costs["memory"] - costs["size"] if costs else None, costs.get("latency"),
                self._lost(model, context) if compare else None,
            )  # fmt: skip

    @staticmethod
    def _lost(model: Model, context: Context) -> float | None:
        data = context.apart if context.apart is not None else context.calibration
        if data is None or context.original is None:
            return None
        feeds = list(data.batches(16, limit=SAMPLES))
        found = fidelity(context.original, model.proto(), feeds, (), context.threads, accepted=True)
        told = [output.rel_l2 for output in found.outputs.values() if output.problem is None]
        return max(told, default=None)
