"""Statistics of batch normalisations, taken again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwpass.errors import UsageError
from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


@register
@dataclass(frozen=True)
class RecalibrateBatchNorm(Pass):
    """BatchNormalization(x, mean, var) -> BatchNormalization(x, mean', var'), with those of x on calibration data.

    In order, each on what the ones before it give by then. For networks whose activations are no longer those of
    training: channels are gone, weights are rounded. Does not fire on batch normalisations that were folded into
    products, whose statistics are no constants, that are in training mode or in bodies of If, Loop and Scan; where
    statistics are what they were; with fewer than 64 values of a channel.
    """

    name = "recalibrate-bn"
    effect = "format"
    samples: int = field(default=512, metadata={"help": "most calibration samples to use"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.samples <= 1 << 20:
            raise UsageError(f"pass recalibrate-bn: option samples={self.samples}: give 1 to {1 << 20}")

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.errors import option
        from hwpass.formats.integers import samples_of, warn_made_up
        from hwpass.formats.statistics import recalibrate, standing

        if not any(standing(model)):
            return PassResult(model, False)
        last = context.findings.last
        synthetic = last.study.synthetic if last is not None and last.study is not None else None
        found = samples_of(model, context, synthetic)
        if found is None:
            raise UsageError(f"recalibrate-bn needs samples, and none made up run; give some by {option('calib')}")
        warn_made_up(found[2], "statistics of batch normalisations are those", context)
        changed = model.copy()
        names = recalibrate(changed, context.calibration or found[0], self.samples, context)
        if not names:
            return PassResult(model, False)
        context.findings.note(self.name, {"batch normalisations": names})
        return PassResult(changed, True)
