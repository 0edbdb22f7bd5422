"""A model on integers, by any of the modes, and what a report says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hwpass.cost.prediction import Cost
from hwpass.cost_models.target import Int8
from hwpass.cost_models.work import Floats
from hwpass.coupling.groups import couple
from hwpass.data.synthetic_inputs import Synthetic, synthesise
from hwpass.errors import UsageError, option
from hwpass.formats import blocks, dynamic, tables
from hwpass.formats.nearness import Near, Nearness
from hwpass.formats.placement import FEWEST_ELEMENTS
from hwpass.formats.quantising import LOST, StaticOptions, quantise
from hwpass.formats.sensitivity import left_alone
from hwpass.formats.worthwhile import slower_on_integers
from hwpass.globs import matches
from hwpass.model.model import Model
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.settings import Settings

#: The first operator set that has what a mode writes, and that in which weights have a scale for each channel.
SINCE = {"static": 10, "dynamic": 11, "weights": 1}
PER_CHANNEL = 13


class Asked(Protocol):
    """What is asked of a quantisation: the options of the pass."""

    @property
    def mode(self) -> str: ...

    @property
    def ranges(self) -> str: ...

    @property
    def per_channel(self) -> bool: ...

    @property
    def bias_correction(self) -> bool: ...

    @property
    def max_drop(self) -> float: ...

    @property
    def max_error(self) -> float: ...

    @property
    def samples(self) -> int: ...

    @property
    def bits(self) -> int: ...

    @property
    def block(self) -> int: ...

    @property
    def faster(self) -> bool: ...

    @property
    def keep(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Changed:
    """The new model, what was added to biases, and figures for the report."""

    model: Model
    moved: Mapping[str, Floats] = field(default_factory=dict)
    note: Mapping[str, Any] = field(default_factory=dict)


def samples_of(
    model: Model, settings: Settings, synthetic: Synthetic | None
) -> tuple[Calibration, Calibration, Synthetic | None] | None:
    """Samples to learn from and others to choose by (the same where there are few), and what was made up for them.

    Without the user's, those that the run has made up already, or new ones. None where none that were made run.
    """
    data, made = settings.calibration, None
    if data is None:
        made = synthetic or synthesise(
            model, seed=settings.seed, threads=settings.threads, stated=settings.stated, progress=settings.progress
        )
        if made is None:
            return None
        data = made.calibration
    learn, choose = data.split()
    return learn, choose or learn, made


def warn_made_up(made: Synthetic | None, what: str, settings: Settings) -> None:
    """Say what stood in for calibration data."""
    if made is not None:
        settings.warn(
            f"no calibration data: {what} on {made.what}; give real inputs with {option('calib')} to keep more accuracy"
        )


def on_integers(model: Model, settings: Settings, asked: Asked, synthetic: Synthetic | None) -> Changed | None:
    """Quantise a model; None where nothing in it can be. Raises UsageError where samples are missed."""
    rules = settings.target.int8 if settings.target is not None else Int8()
    least = SINCE[asked.mode]
    if model.opset < least:
        settings.warn(f"quantize: operator set {model.opset} cannot say it, {least} can: export the model again")
        return None
    samples = samples_of(model, settings, synthetic)
    if asked.mode == "static":
        if samples is None:
            raise UsageError(f"quantize needs samples, and none that were made up run; give some by {option('calib')}")
        warn_made_up(samples[2], "ranges of activations are those", settings)
        found = _static(model, rules, samples, settings, asked)
    else:
        found = _weights(model, rules, samples, settings, asked)
    return found if asked.mode == "weights" else _with_tables(model, found, samples, settings, asked)


def _with_tables(
    model: Model, found: Changed | None, samples: tuple[Calibration, Calibration, Synthetic | None] | None,
    settings: Settings, asked: Asked,
) -> Changed | None:  # fmt: skip
    """Tables that rows are picked from as integers too, where what is lost stays within what is allowed."""
    before = model if found is None else found.model
    names = tables.tables(before, asked.keep)
    if not names:
        return found
    settings.progress("tables as integers")
    channels = asked.per_channel and model.opset >= PER_CHANNEL
    result = tables.as_integers(before, names, per_channel=channels)
    near = None if samples is None else Nearness(model, samples[1], settings.threads).of(result)
    if near is not None and not near.within(asked.max_drop, asked.max_error):
        return found
    moved, note = ({}, {}) if found is None else (found.moved, found.note)
    return Changed(result, moved, {**note, "tables on integers": len(names), **_told(model, result, near, {})})


def speak_of_latency(before: Model, after: Model, settings: Settings) -> None:
    """Warn where the target is predicted to be slower on integers than on what was there before."""
    if settings.target is None:
        return
    first, second = (Cost(couple(m, settings.dims), settings.target).base["latency"] for m in (before, after))
    if second > first:
        settings.warn(
            f"quantize: {settings.target.name} is predicted to take {second / first:.2f}x as long on integers; "
            "what is gained is size"
        )


def _static(
    model: Model, rules: Int8, samples: tuple[Calibration, Calibration, Synthetic | None], settings: Settings,
    asked: Asked,
) -> Changed | None:  # fmt: skip
    channels = asked.per_channel and model.opset >= PER_CHANNEL
    if channels != asked.per_channel:
        settings.warn(
            f"quantize: operator set {model.opset} has one scale for a weight; export the model with {PER_CHANNEL} or "
            "later, and each channel gets its own"
        )
    options = StaticOptions(
        asked.ranges,
        channels,
        asked.bias_correction,
        asked.max_drop,
        asked.max_error,
        asked.samples,
        asked.keep,
        slower_on_integers(model, settings.target, settings, asked.keep) if asked.faster and settings.target else {},
    )
    found = quantise(model, rules, samples[0], samples[1], settings, options)
    if found is None:
        return None
    _speak(found.near, found.floating, asked, settings)
    layers = [n for n, node in found.placement.nodes.items() if node.op in rules.products]
    if not layers:
        return None
    reasons = {_node(model, n): reason for n, reason in found.placement.reasons.items()}
    note = {"layers on integers": len(layers), "ranges": found.method, "biases moved": len(found.shifts)}
    return Changed(found.model, found.shifts, {**note, **_told(model, found.model, found.near, reasons)})


def _weights(
    model: Model, rules: Int8, samples: tuple[Calibration, Calibration, Synthetic | None] | None, settings: Settings,
    asked: Asked,
) -> Changed | None:  # fmt: skip
    """The modes that need no ranges; samples choose what stays as it is, where there are some."""
    fits = dynamic.fits if asked.mode == "dynamic" else blocks.fits
    nodes = [n for n in model.graph.nodes if fits(n) and n.inputs[1].values.size >= FEWEST_ELEMENTS]
    layers = [n.outputs[0].name for n in nodes if not any(matches(glob, n.name) for glob in asked.keep)]
    if not layers:
        return None

    def make(left: frozenset[str]) -> Model:
        rest = [name for name in layers if name not in left]
        if asked.mode == "dynamic":
            return dynamic.dynamic(model, rest, rules.weight_bits, per_channel=asked.per_channel)
        return blocks.in_blocks(model, rest, asked.bits, asked.block)

    left: frozenset[str] = frozenset()
    near = None
    if samples is None:
        settings.warn("quantize: what is lost was not measured, as no inputs that were made up run")
        result = make(left)
    else:
        warn_made_up(samples[2], "what quantisation loses was measured", settings)
        near_by = Nearness(model, samples[1], settings.threads)
        left, result, near = left_alone(make, layers, near_by, asked.max_drop, asked.max_error, settings.progress)
        _speak(near, left, asked, settings)
    if len(left) == len(layers):
        return None
    reasons = {_node(model, name): LOST for name in left}
    note = {"layers on integers": len(layers) - len(left)}
    return Changed(result, {}, {**note, **_told(model, result, near, reasons)})


def _told(before: Model, after: Model, near: Near | None, reasons: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"size": round(after.size_bytes() / max(before.size_bytes(), 1), 4)}
    if near is not None:
        found["relative error on other samples"] = float(f"{near.error:.3g}")
        if near.drop is not None:
            found["predicted drop on other samples"] = float(f"{near.drop:.3g}")
    if reasons:
        found["in floating point"] = dict(reasons)
    return found


def _speak(near: Near | None, left: Sequence[str] | frozenset[str], asked: Asked, settings: Settings) -> None:
    if near is not None and not near.within(asked.max_drop, asked.max_error):
        settings.warn("quantize: what is allowed to be lost cannot be met, whatever is left in floating point")


def _node(model: Model, output: str) -> str:
    """The name of the node that makes a tensor."""
    return next((n.name for n in model.graph.nodes if n.outputs and n.outputs[0].name == output), "") or output
