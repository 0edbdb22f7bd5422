"""Least squares on the weights that stayed, after pruning."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hwpass.contract import PRUNED
from hwpass.errors import UsageError
from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


@register
@dataclass(frozen=True)
class Compensate(Pass):
    """Weights W, b of a pruned product -> W', b' that best give the original's outputs from the pruned inputs.

    Goes through the network in order, so that every layer is fitted on what the corrected layers before it compute;
    where the output is added to a residual stream, what the stream already lacks is asked of it too. Batch
    normalisations that stand alone get a new scale and bias the same way. Does not fire without calibration data
    (or what an auto score makes up in their place), before prune-channels, behind prune-weights, on weights that are
    not floating point, or where held-out rows say it would not help.
    """

    name = "compensate"
    effect = "refit"
    in_place = True
    requires = (PRUNED,)
    preserves = ("shapes", "coupling")
    samples: int = field(default=1024, metadata={"help": "most calibration samples to use"})
    rows: int = field(default=16384, metadata={"help": "most rows of a layer's input and output to fit on"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("samples", "rows"):
            if not 1 <= getattr(self, option) <= 1 << 31:
                raise UsageError(f"pass compensate: option {option}={getattr(self, option)}: give 1 or more")

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.surgery.compensation import Compensation

        findings = context.findings
        pruned = findings.last
        if findings.masked:
            context.warn("compensate: nothing was refitted, as it would fill the zeros that prune-weights set")
            return PassResult(model, False, reason="weights are masked")
        assert pruned is not None
        data = context.calibration if pruned.study is None else pruned.study.data
        if data is None:
            return PassResult(model, False, reason="no data to fit on")
        if not pruned.surgery.modified:
            return PassResult(model, False, reason="no channel was removed")
        now = replace(pruned.surgery, model=model)
        # A bias that was not there before takes room that a budget may not leave.
        spare = not {"size", "memory"} & set(pruned.budgets)
        worker = Compensation(pruned.coupling, now, context, samples=self.samples, rows=self.rows, spare=spare)
        findings.gains = worker.run(data)
        model.invalidate_shapes()
        return PassResult(model, worker.changed)
