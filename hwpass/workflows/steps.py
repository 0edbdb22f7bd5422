"""The passes of a usual run, made of what is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from hwpass.cost.prediction import METRICS
from hwpass.errors import UsageError, option
from hwpass.figures import shown
from hwpass.manager import Pass
from hwpass.options import EFFORTS, RunOptions
from hwpass.passes.compensate import Compensate
from hwpass.passes.conv1d_to_2d import Conv1dTo2d
from hwpass.passes.distill import Distill, installed
from hwpass.passes.factorize import Factorize
from hwpass.passes.fold import Fold
from hwpass.passes.fold_redundant import FoldRedundant
from hwpass.passes.fuse_affine import FuseAffine
from hwpass.passes.fuse_bn import FuseBatchNorm
from hwpass.passes.fuse_hard_sigmoid import FuseHardSigmoid
from hwpass.passes.lower_norms import LowerNorms
from hwpass.passes.prune_channels import PruneChannels
from hwpass.passes.prune_vocabulary import PruneVocabulary
from hwpass.passes.quantize import Quantize
from hwpass.passes.rotate_heads import RotateHeads
from hwpass.passes.rotate_streams import RotateStreams
from hwpass.passes.share_rows import ShareRows
from hwpass.passes.to_fp16 import ToFp16
from hwpass.passes.verify import Verify
from hwpass.pipeline_text import texts
from hwpass.planning.score import makes_inputs
from hwpass.verdicts.task_metric import no_metric

#: What runs before channels are coupled, and so what group names in a plan refer to.
PREPARE: tuple[Pass, ...] = (
    Fold(), FuseBatchNorm(), FuseHardSigmoid(), FuseAffine(), Conv1dTo2d(), RotateStreams(), RotateHeads(),
    FoldRedundant(),
)  # fmt: skip


#: Distillation that is left open takes so many times as long where much is to be learned.
MORE = 4.0


@dataclass(frozen=True)
class Effort:
    """What the passes of a run get: rounds of loss curves (0 decides by the model's work), samples they are measured on
    (0 is all), samples and rows of a refit, and seconds of distillation where that is left open."""

    rounds: int = 0
    measured: int = 0
    samples: int = Compensate.samples
    rows: int = Compensate.rows
    seconds: float = Distill.seconds

    @property
    def most(self) -> float:
        """Seconds of distillation where much is to be learned."""
        return MORE * self.seconds


WORK = {
    "quick": Effort(rounds=1, measured=64, samples=128, rows=4096, seconds=0.0),
    "normal": Effort(),
    "thorough": Effort(rounds=3, samples=4096, rows=32768, seconds=300.0),
}

#: What number formats a run may end in.
FORMATS: dict[str, tuple[Quantize | ToFp16, ...]] = {
    "off": (),
    "int8": (Quantize(),),
    "dynamic": (Quantize(mode="dynamic"),),
    "int4-weights": (Quantize(mode="weights"),),
    "fp16": (ToFp16(),),
}

BUDGETS = (*METRICS, "channels")


def budgets(options: RunOptions) -> dict[str, str]:
    """The budgets that are asked for, as text."""
    return {name: _text(name, value) for name, value in options.given(BUDGETS).items() if value is not None}


def prune_step(options: RunOptions, asked: dict[str, str], *, integers: bool = False) -> PruneChannels:
    """Pruning within budgets, priced as on `integers` where these follow. Raises UsageError."""
    score = options.score
    if makes_inputs(score) and options.compensate == "off" and options.calib is None:
        score = "l2"  # curves on made-up inputs suppose that weights are refitted
    given: dict[str, Any] = {**asked, "keep": options.keep}  # one text stands for a tuple of one
    work = effort(options)
    given |= {"rounds": work.rounds, "samples": work.measured}
    given |= {"align": _or(options.align, 0), "integers": integers}
    return PruneChannels(score=score, min_channels=options.min_channels, **given)


def effort(options: RunOptions) -> Effort:
    """What is asked of the passes. Raises UsageError."""
    if options.effort not in WORK:
        raise UsageError(
            f"{option('effort', shown(options.effort))}: choose {', '.join(EFFORTS[:-1])} or {EFFORTS[-1]}"
        )
    return WORK[options.effort]


def check_inputs(options: RunOptions, *, made_up: bool = True) -> None:
    """What is said of inputs has a use: they are made up, or read from pictures, sounds or text. Raises UsageError."""
    if options.input and options.calib is None and not made_up:
        raise UsageError(f"{option('input')} has no effect without {option('calib')}: give that, or leave it out")
    makes = makes_inputs(options.score) and options.compensate != "off"
    if options.input and options.calib is None and options.pipeline is None and not makes:
        raise UsageError(
            f"{option('input')} has no effect: inputs are made up for {option('score', 'auto')} with a refit"
        )


def amends(options: RunOptions, *, made_up: bool = True, once: bool = False) -> tuple[Pass, ...]:
    """What follows pruning, but for the verdicts: compensation and distillation, which want the user's inputs or those
    that a score has made up, and norms in standard operators. Raises UsageError.

    `once` tells that one model is made and not many, which would each be distilled.
    """
    if options.compensate not in ("auto", "off"):
        raise UsageError(f"{option('compensate', shown(options.compensate))}: choose auto or off")
    known = options.calib is not None or (made_up and makes_inputs(options.score))
    work = effort(options)
    fit = (Compensate(work.samples, work.rows),) if options.compensate == "auto" and known else ()
    return (*fit, *(distill_step(options) if known and once else ()), *vocabulary_steps(options), LowerNorms())


def vocabulary_steps(options: RunOptions) -> tuple[Pass, ...]:
    """Rows of embedding tables that no sample needs, where they are asked for. Raises UsageError without samples."""
    if not options.prune_vocabulary:
        return ()
    if options.calib is None:
        raise UsageError(f"{option('prune_vocabulary')} keeps the tokens of samples: give some by {option('calib')}")
    return (PruneVocabulary(), ShareRows())


def distill_step(options: RunOptions) -> tuple[Pass, ...]:
    """Distillation, where it is asked for or torch is there. Raises UsageError."""
    asked = options.distill
    seconds = effort(options).seconds
    if asked == "off" or (asked == "auto" and not (installed() and seconds)):
        return ()
    if asked == "auto":
        return (Distill(seconds, effort(options).most),)
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|min|)", str(asked).strip())
    if found is None or isinstance(asked, bool):
        raise UsageError(f"{option('distill', shown(asked))}: choose auto or off, or give a time such as 60s or 5min")
    step = Distill(seconds=float(found[1]) * (60 if found[2] == "min" else 1))
    step.ready()
    return (step,)


def verify_step(options: RunOptions, max_drop: float | None = None) -> Verify:
    """The verdicts. Raises UsageError for a drop that nothing can have."""
    if max_drop is not None and options.metric is None:
        raise no_metric()
    if max_drop is not None and not max_drop >= 0:
        raise UsageError(f"{option('max_drop', max_drop)}: a drop is at least 0")
    given: dict[str, Any] = {"fidelity": options.fidelity, "metric": _or(options.metric, "")}
    return Verify(rtol=_or(options.rtol, -1.0), atol=options.atol, max_drop=_or(max_drop, -1.0), **given)


def usual(options: RunOptions) -> tuple[Pass, ...]:
    """A whole run within the budgets that are asked for. Raises UsageError."""
    asked = budgets(options)
    return (
        *PREPARE, prune_step(options, asked), *amends(options, once=True), *format_steps(options),
        verify_step(options, options.max_drop),
    )  # fmt: skip


def format_steps(options: RunOptions) -> tuple[Pass, ...]:
    """Other number formats, where they are asked for. Raises UsageError."""
    if options.quantize not in FORMATS:
        known = list(FORMATS)
        raise UsageError(
            f"{option('quantize', shown(options.quantize))}: choose {', '.join(known[:-1])} or {known[-1]}"
        )
    if options.max_drop is None:
        return FORMATS[options.quantize]
    # What is lost is predicted without labels, so that what the metric is measured on chooses nothing.
    return tuple(replace(step, max_drop=options.max_drop) for step in FORMATS[options.quantize])


def mixed_steps(
    options: RunOptions, means: Sequence[str], shares: Mapping[str, Mapping[str, float]]
) -> tuple[Pass, ...]:
    """Some means to meet a budget, and the verdicts: fewer channels first, then lower rank, then integers. `shares` are
    what a means leaves of each cost. Raises UsageError."""
    steps: list[Pass] = []
    if "prune" in shares:
        left = {metric: f"{share:.4f}x" for metric, share in shares["prune"].items()}
        steps += [prune_step(options, left, integers="quantize" in means)]
        steps += amends(options, once=True)
    else:
        steps += [LowerNorms()]
    if "factorize" in shares:
        own: dict[str, Any] = {
            metric: f"{share:.4f}x" for metric, share in shares["factorize"].items() if metric in ("latency", "size")
        }
        steps += [Factorize(keep=texts("keep", options.keep), **own)] if own else []
    if "quantize" in means:
        # Bytes are worth integers everywhere, time only where these are faster.
        faster = set(budgets(options)) <= {"latency", "energy"}
        steps += [Quantize(faster=faster, keep=texts("keep", options.keep))]
    return (*steps, verify_step(options, options.max_drop))


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _text(metric: str, value: str | float) -> str:
    """A budget as it is written in a pipeline: numbers are shares of the dense model. Raises UsageError."""
    if isinstance(value, str) and value:
        return value
    if value == "":
        raise UsageError(f"{option(metric)}: it is empty; write 0.6x")
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(f"{option(metric)}: a {type(value).__name__} is no budget; write 0.6 or '0.6x'")
    return f"{float(value):g}x"
