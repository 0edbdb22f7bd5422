"""Neurons that do nothing on the data, removed as channels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hwpass.errors import UsageError
from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


@register
@dataclass(frozen=True)
class PruneActivations(Pass):
    """Channels that are constant on the data, or nearly so -> no channels, their means in the biases behind them.

    What the data does not show may have moved them: the result equals the original on such data to within `most` of
    what varies in the output of each layer behind, and the verdict on it is that of fidelity. Channels go as far as the
    target's steps make it worth while, together with all that is coupled to them; the layers behind are refitted.

    Does not fire without calibration data, behind prune-weights, or on channels that anything but a product reads.
    """

    name = "prune-activations"
    effect = "refit"
    in_place = False
    most: float = field(
        default=1e-4,
        metadata={"help": "most that removed channels may give of what varies in the output of a layer behind"},
    )
    refit: bool = field(default=True, metadata={"help": "fit the layers behind on the data"})
    samples: int = field(default=1024, metadata={"help": "most calibration samples to fit on"})
    rows: int = field(default=16384, metadata={"help": "most rows of a layer's input and output to fit on"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.most < 1:
            raise UsageError(f"pass {self.name}: option most={self.most:g}: give a share of at least 0, less than 1")
        for name in ("samples", "rows"):
            if not 1 <= getattr(self, name) <= 1 << 31:
                raise UsageError(f"pass {self.name}: option {name}={getattr(self, name)}: give 1 or more")

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.planning.analyses import coupled
        from hwpass.planning.idle_channels import idle
        from hwpass.planning.removal import check_finite
        from hwpass.planning.stages import Stage
        from hwpass.surgery.compensation import Compensation

        data = context.calibration
        if data is None:
            context.warn(f"{self.name}: nothing was removed, as there is no calibration data to see channels on")
            return PassResult(model, False, reason="no data to see channels on")
        if context.findings.masked:
            raise UsageError(f"{self.name} goes before prune-weights in a pipeline: a cut breaks patterns of zeros")
        check_finite(model)
        coupling = coupled(model, context, own=True)
        align = 1 if context.target is None else context.target.align
        found = idle(model, data, context, self.most, align)
        if found is None:
            return PassResult(model, False, reason="every channel varies on the data")
        context.findings.add(Stage("mask", (self.name,), found.unread, declared=found.masks))
        context.findings.add(Stage("cut", (self.name,), found.pruned.surgery.model, found.pruned))
        surgery = replace(found.pruned.surgery, model=found.pruned.surgery.model.copy())
        if self.refit:
            Compensation(coupling, surgery, context, samples=self.samples, rows=self.rows).run(data)
            surgery.model.invalidate_shapes()
        channels = {name: f"{after} of {before}" for name, (before, after) in found.counts.items()}
        context.findings.note(self.name, {"channels left, by group": channels})
        return PassResult(surgery.model, True)
