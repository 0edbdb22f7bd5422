"""What bounds a kernel, and the next width at which it gets faster."""

from __future__ import annotations

import numpy as np

from hwpass.cost.prediction import Cost
from hwpass.cost_models import CostModel
from hwpass.cost_models.work import Floats, Work

#: A kernel that spends more than this share of its time before any work is bound by its overhead.
OVERHEAD = 0.5

#: Narrower widths that are looked at, at most, and first: few stairs are wider.
REACH, FIRST = 64, 16

#: A width counts as faster where it saves so much of the kernels that read or write its channels, a channel saved.
GAIN = 1e-3


def bounds(model: CostModel, work: Work, seconds: Floats) -> list[str]:
    """What bounds each kernel of one plan: `overhead`, `memory`, `compute`, or nothing for one that is free, [K]."""
    overhead = model.target.overhead_us * 1e-6
    activations = work.read + work.written
    memory = model.memory_seconds(activations, activations) + model.memory_seconds(
        work.weights, model.resident_set(work)
    )
    found = []
    for total, moved in zip(seconds[0], memory[0], strict=True):
        if not total:
            found.append("")
        elif overhead > OVERHEAD * total:
            found.append("overhead")
        else:
            # Kinds of hardware hide one behind the other, or add them up: what is larger is what it waits for.
            found.append("memory" if moved > total - overhead - moved else "compute")
    return found


def peak_share(model: CostModel, work: Work, seconds: Floats) -> Floats:
    """The share of the peak rate that each kernel of one plan reaches, [K]; the rest is padding, waiting, overhead."""
    ideal = work.macs[0] / model.peak(work)
    return np.asarray(np.divide(ideal, seconds[0], out=np.zeros_like(ideal), where=seconds[0] > 0))


def next_stairs(cost: Cost) -> list[int | None]:
    """Per group the largest narrower width with which the model is predicted faster; None where none is near."""
    base = float(cost(cost.dense[None, :], ("latency",))["latency"][0])
    return [_next(cost, base, group, int(width)) for group, width in enumerate(cost.dense)]


def _next(cost: Cost, base: float, group: int, width: int) -> int | None:
    for least, most in ((1, FIRST), (FIRST + 1, REACH)):
        lower = np.arange(width - least, max(width - most - 1, 0), -1)
        if not len(lower):
            return None
        plans = np.repeat(cost.dense[None, :], len(lower), axis=0)
        plans[:, group] = lower
        saved = base - cost(plans, ("latency",))["latency"]
        faster = np.flatnonzero(saved > GAIN * base / len(cost.dense) * (width - lower) / width)
        if len(faster):
            return int(lower[faster[0]])
    return None
