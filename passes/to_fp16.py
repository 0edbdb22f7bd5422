"""Weights and activations in half precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwpass.errors import UsageError
from hwpass.manager import Pass, PassResult, register
from hwpass.pipeline_text import texts

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


@register
@dataclass(frozen=True)
class ToFp16(Pass):
    """Operators on 32-bit numbers -> the same on 16-bit numbers, with casts where both kinds meet.

    Values of every tensor are seen on calibration data (or what is made up in its place) first. An operator stays in 32
    bits where a value comes within a factor of four of the largest of 16 bits, where a constant is too large (a mask
    of -1e9), or one that stands alone too small (an epsilon), and where it sums many terms (normalisations, means).
    Layers are left in 32 bits, the worst first, until the loss is within bounds on samples of which no value was taken.
    Inputs and outputs of the model stay as they are. Does not fire in bodies of If, Loop and Scan, on operators that
    have no 16-bit form, or on layers that `keep` names.
    """

    name = "to-fp16"
    effect = "format"
    max_drop: float = field(
        default=0.002, metadata={"help": "largest predicted drop of accuracy, as a share; negative: any"}
    )
    max_error: float = field(
        default=0.02, metadata={"help": "largest relative L2 error of outputs that tell no classes; negative: any"}
    )
    samples: int = field(default=128, metadata={"help": "most calibration samples to see values on"})
    keep: tuple[str, ...] = field(default=(), metadata={"help": "layers that stay as they are; globs joined by |"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", texts("keep", self.keep))
        super().__post_init__()
        if not 1 <= self.samples <= 1 << 20:
            raise UsageError(f"pass to-fp16: option samples={self.samples}: give 1 to {1 << 20}")

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.formats.halving import halved

        last = context.findings.last
        synthetic = last.study.synthetic if last is not None and last.study is not None else None
        found = halved(model, context, synthetic, self.samples, self.max_drop, self.max_error, self.keep)
        if found is None:
            return PassResult(model, False)
        context.findings.note(self.name, found.note)
        return PassResult(found.model, True)
