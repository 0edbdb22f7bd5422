"""A target of measurements: fitted figures with their sources, errors of the fit, intervals, and the channel step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwpass.cost.figure_fit import FigureFit
from hwpass.cost.microbenchmarks import STEP_KINDS, STEPS, step_name
from hwpass.cost_models import Target, cost_model
from hwpass.cost_models.target import leaves
from hwpass.cost_models.work import Work
from hwpass.files.toml_text import toml_text

Floats = npt.NDArray[np.float64]

#: Of 90 % intervals.
SHARE = 0.9
#: A step pays where removing a step's channels saves at least this share of what the channels' share of the time is.
PAYS = 0.5


@dataclass(frozen=True)
class Errors:
    """How predictions agree with measurements that they were not fitted to."""

    models: int
    median: float
    nine_of_ten: float
    within_10: float
    within_20: float


def errors(residuals: Floats) -> Errors:
    """From log(predicted / measured)."""
    off = np.abs(np.expm1(residuals))
    return Errors(
        models=len(off),
        median=float(np.median(off)),
        nine_of_ten=float(np.quantile(off, 0.9)),
        within_10=float(np.mean(off <= 0.1)),
        within_20=float(np.mean(off <= 0.2)),
    )


def half_width(residuals: Floats) -> float:
    """The half width of the interval that holds SHARE of residuals to come, as these let expect: the quantile of n of
    them at (n + 1) x SHARE (conformal prediction), the largest where there are too few."""
    ordered = np.sort(np.abs(residuals))
    place = int(np.ceil((len(ordered) + 1) * SHARE)) - 1
    return float(ordered[min(place, len(ordered) - 1)])


def held(residuals: Floats) -> int:
    """How many of the residuals lie within the interval that the others give."""
    kept = [np.delete(residuals, i) for i in range(len(residuals))]
    return sum(bool(abs(r) <= half_width(rest)) for r, rest in zip(residuals, kept, strict=True) if len(rest))


def uncertainty(fit: FigureFit, works: Sequence[Work], whole: Sequence[bool]) -> dict[str, float]:
    """Half widths of 90 % intervals of log latency: `network` by the small networks, each predicted without its part of
    the measurements, and by kind of kernel the fit's own errors on chains that spend most of their time in it."""
    model = cost_model(fit.target)
    by_kind: dict[str, list[float]] = {}
    for work, residual, net in zip(works, fit.residuals, whole, strict=True):
        if not net:
            seconds = model.latency(work)[0]
            shares = {kind: float(seconds[work.kind == kind].sum()) for kind in set(map(str, work.kind))}
            kind = max(shares, key=lambda name: shares[name])
            if shares[kind] > 0.5 * seconds.sum():
                by_kind.setdefault(kind, []).append(residual)
    found = {}
    networks = fit.left_out[np.asarray(whole)]
    if len(networks):
        found["network"] = half_width(networks)
    found |= {kind: half_width(np.array(own)) for kind, own in sorted(by_kind.items()) if len(own) >= 4}
    return {kind: float(f"{width:.3g}") for kind, width in found.items()}


def step_shares(seconds: Mapping[str, float]) -> dict[int, float]:
    """For each channel step, what removing the channels above a multiple of it saves, over the channels' share of the
    time: 1 where time is proportional to channels, 0 where the step buys nothing, less where it costs. The median over
    the chains of widths in STEPS whose largest power of two is that step; `seconds` are by the name of the chain.
    """
    found: dict[int, list[float]] = {}
    for kind in STEP_KINDS:
        times = {w: seconds[step_name(kind, w)] for w in STEPS if step_name(kind, w) in seconds}
        for width in times:
            step = width & -width
            upper = -(-width // (2 * step)) * 2 * step
            if upper in times and upper > width:
                saved = (1 - times[width] / times[upper]) / (1 - width / upper)
                found.setdefault(step, []).append(min(max(saved, -1.0), 2.0))
    return {step: float(np.median(shares)) for step, shares in sorted(found.items())}


def best_step(shares: Mapping[int, float], otherwise: int) -> int:
    """The smallest step that pays and above which every step does; twice the largest that does not."""
    if not shares:
        return otherwise
    failing = [step for step, share in shares.items() if share < PAYS]
    return 2 * max(failing) if failing else min(shares)


def made(
    fit: FigureFit, base: Target, name: str, description: str, runtime: str, threads: int, says: Mapping[str, Any]
) -> Target:
    """The fitted target with its name and sources. `says` are `validation`, `uncertainty` and `align`."""
    whole = fit.target.model_dump(
        exclude={"sources", "extends", "aliases", "validation", "uncertainty", "name", "description"},
        exclude_none=True, exclude_unset=True,
    )  # fmt: skip
    whole |= {"threads": threads, "runtime": runtime, "align": says["align"]}
    whole["uncertainty"] = dict(says["uncertainty"])
    by_measurement = "fitted by `hwpass calibrate`; validation.measured says to what"
    unsure = f"the measurements do not determine it: near that of {base.name}"
    new = {key: by_measurement for key in fit.determined} | {key: unsure for key in fit.undetermined}
    new |= {"threads": "as measured"}
    sources: dict[str, Any] = {}
    for key in leaves(whole):
        text = new.get(key)
        if key.startswith("uncertainty."):
            text = "errors of small networks predicted without their part of the measurements, by `hwpass calibrate`"
            if key != "uncertainty.network":
                text = "errors of the fit on chains of such kernels, by `hwpass calibrate`"
        elif key == "align":
            text = says["step"]
        if text is None:
            try:
                text = f"that of {base.name}, not measured: {base.source(key)}"
            except KeyError:
                text = f"that of {base.name}, not measured"
        table = sources
        *tables, last = _parts(key)
        for part in tables:
            table = table.setdefault(part, {})
        table[last] = text
    head = {"name": name, "description": description}
    return Target.model_validate({**head, **whole, "validation": dict(says["validation"]), "sources": sources})


def _parts(key: str) -> list[str]:
    first, _, rest = key.partition(".")
    if not rest:
        return [first]
    return [first, *rest.rsplit(".", 1)] if first in ("memory", "energy") else [first, rest]


def text_of(target: Target) -> str:
    """The target's file."""
    return toml_text(target.model_dump(exclude_unset=True, exclude_none=True, exclude={"aliases", "extends"}))


def nearest(bases: Sequence[Target], works: Mapping[str, Mapping[str, Work]], seconds: Mapping[str, float]) -> Target:
    """The base to start at: one that prices the measured channel step as the smallest that pays, as a fit does not
    change blocks; among those the one whose predictions, after one scale, agree best. `works` are by base and model,
    `seconds` by model."""
    step = best_step(step_shares(seconds), 0)
    ranks = {}
    for base in bases:
        model = cost_model(base)
        predicted = {name: float(model.latency(works[base.name][name])[0].sum()) for name in seconds}
        logs = np.log([predicted[name] / seconds[name] for name in seconds])
        off = float(np.median(np.abs(logs - np.median(logs))))
        ranks[base.name] = (best_step(step_shares(predicted), 0) != step, off)
    return min(bases, key=lambda base: ranks[base.name])
