"""Figures of a target fitted to measured latencies, by least squares of logarithms with a base target as prior.

Any kind of hardware: what may vary are the numbers of the target's file, and the cost model says what they do. Errors
are cross-validated: each fifth of the models is predicted by figures that were fitted without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic.fields import FieldInfo
from scipy.optimize import least_squares

from hwpass.cost_models import Target, cost_model
from hwpass.cost_models.base import model_classes
from hwpass.cost_models.work import Work

Floats = npt.NDArray[np.float64]

#: Relative error of a prediction that counts as one; beyond so many of them, errors count ever less.
ERROR = 0.05
ROBUST = 3.0
#: How far a figure may be expected from the base's, in units of its logarithm.
PRIOR = 0.7
#: The same of what differs most from machine to machine, or is measured almost by itself.
LOOSE = 1.4
#: A figure is determined where the measurements leave it less than this share of its prior's width.
DETERMINED = 0.5
FOLDS = 5
#: Entries that a work keeps of what follows from targets.
MEMO = 64
STEP = 0.02


@dataclass(frozen=True)
class Free:
    """A figure that may vary, by its dotted key, between two bounds; `prior` is the width of what is expected."""

    key: str
    low: float = 0.0
    high: float = math.inf
    prior: float = PRIOR

    def inner(self, value: float) -> float:
        """The unbounded number that stands for a value: its logarithm, or log-odds between two bounds."""
        above = max(value - self.low, 1e-9)
        return math.log(above) if math.isinf(self.high) else math.log(above / max(self.high - value, 1e-9))

    def outer(self, number: float) -> float:
        """The value that a number stands for."""
        number = min(max(number, -40.0), 40.0)
        if math.isinf(self.high):
            return self.low + math.exp(number)
        return self.low + (self.high - self.low) / (1 + math.exp(-number))


@dataclass(frozen=True)
class FigureFit:
    """A fitted target, and what the fit says of itself. Residuals are log(predicted / measured), by model."""

    target: Target
    free: tuple[Free, ...]
    determined: tuple[str, ...]
    undetermined: tuple[str, ...]
    residuals: Floats  #: [N], of the fit
    left_out: Floats  #: [N], each predicted without its fold
    scale: float  #: the factor that the base's times were off by, as a whole


def figure(target: Target, key: str) -> float:
    """A figure by its dotted key."""
    found: Any = target
    for part in _parts(target, key):
        found = found[part] if isinstance(found, Mapping) else getattr(found, part)
    return float(found)


def with_figures(target: Target, values: Mapping[str, float]) -> Target:
    """The target with other figures, by their dotted keys; nothing is checked."""
    changes: dict[str, Any] = {}
    for key, value in values.items():
        first, *rest = _parts(target, key)
        if not rest:
            changes[first] = value
        elif first == "memory":
            levels = changes.setdefault(first, dict(target.memory))
            levels[rest[0]] = levels[rest[0]].model_copy(update={rest[1]: value})
        else:
            changes.setdefault(first, dict(getattr(target, first)))[rest[0]] = value
    return target.model_copy(update=changes)


def _parts(target: Target, key: str) -> list[str]:
    """The parts of a key: operators may have dots in their names, levels of memory have none."""
    first, _, rest = key.partition(".")
    if not rest:
        return [first]
    return [first, *rest.rsplit(".", 1)] if first == "memory" else [first, rest]


def seconds_of(target: Target, works: Sequence[Work]) -> Floats:
    """Predicted latency of each work of one plan, [N]."""
    model = cost_model(target)
    for work in works:
        if len(work.memo) > MEMO:  # a fit makes thousands of targets, and each leaves something there
            work.memo.clear()
    return np.array([float(model.latency(work)[0].sum()) for work in works])


def free_figures(target: Target) -> list[Free]:
    """The figures of a target that may vary: all that are above their lower bound. What is at it (a share of none, a
    gain of one) says that the runtime does not do this."""
    found = [Free("overhead_us", prior=LOOSE)]
    found += [Free(f"peak.{dtype}") for dtype in target.peak]
    found += [Free(f"memory.{level}.bandwidth_gbs") for level in target.memory]
    found += [Free(f"memory.{level}.capacity_kib", prior=LOOSE) for level in list(target.memory)[:-1]]
    fields = model_classes()[target.model].Constants.model_fields
    for key, value in target.constants.items():
        low, high = _bounds(fields.get(key))
        if isinstance(value, float | int) and low < value < high:
            found.append(Free(f"constants.{key}", low, high))
    for table in ("op_ns", "fused_ns"):
        found += [Free(f"{table}.{key}", prior=LOOSE) for key, value in getattr(target, table).items() if value > 0]
    return [free for free in found if figure(target, free.key) > free.low]


def _bounds(schema: FieldInfo | None) -> tuple[float, float]:
    low, high = 0.0, math.inf
    for limit in () if schema is None else schema.metadata:
        low = getattr(limit, "ge", None) or getattr(limit, "gt", None) or low
        high = getattr(limit, "le", None) or getattr(limit, "lt", None) or high
    return float(low), float(high)


def with_operators(target: Target, works: Sequence[Work]) -> Target:
    """The target with an entry of its own for each operator that is measured but priced as one of its kind; predictions
    do not change."""
    if not target.op_ns:
        return target
    table = dict(target.op_ns)
    for work in works:
        for op, kind, macs in zip(work.op, work.kind, work.macs[0], strict=True) if work.op.size else ():
            first = str(op).partition("+")[0]
            known = {str(op), first} & set(table)
            if not macs and str(kind) != "free" and first and not known:
                table[first] = target.op_ns.get(str(kind), target.op_ns.get("default", 0.0))
    return target.model_copy(update={"op_ns": table})


def scaled(target: Target, factor: float) -> Target:
    """The target with every time a factor longer: rates are divided by it, what is counted in ns or µs multiplied."""
    values = {"overhead_us": target.overhead_us * factor}
    values |= {f"peak.{key}": value / factor for key, value in target.peak.items()}
    values |= {f"memory.{key}.bandwidth_gbs": level.bandwidth_gbs / factor for key, level in target.memory.items()}
    for table in ("op_ns", "fused_ns"):
        values |= {f"{table}.{key}": value * factor for key, value in getattr(target, table).items()}
    for key, value in target.constants.items():
        if key.endswith(("_ns", "_us")):
            values[f"constants.{key}"] = value * factor
    return with_figures(target, values)


class _Problem:
    """Predictions as a function of the free figures, and their derivatives.

    A figure that makes a model no slower, doubled or halved, is taken to be none of its business.
    """

    def __init__(self, base: Target, free: Sequence[Free], works: Sequence[Work], seconds: Floats, weights: Floats):
        self.base, self.free, self.works = base, list(free), list(works)
        self.measured, self.weights = np.log(seconds), weights / ERROR
        self.start = np.array([f.inner(figure(base, f.key)) for f in self.free])
        self.prior = np.array([f.prior for f in self.free])
        middle = self.logs(self.start)
        touched = np.zeros((len(self.free), len(self.works)), dtype=bool)
        for i in range(len(self.free)):
            more = self.logs(self._moved(self.start, i, 0.7)) - middle
            # What makes models slower shows also where something else takes longer now.
            other = self.logs(self._moved(self.start, i, -0.7)) - middle if more.sum() < 0 else more
            touched[i] = np.maximum(np.abs(more), np.abs(other)) > 1e-9
        self.touched = touched

    @staticmethod
    def _moved(x: Floats, place: int, change: float) -> Floats:
        moved = x.copy()
        moved[place] += change
        return moved

    def target(self, x: Floats) -> Target:
        """The target at a point."""
        values = {f.key: f.outer(float(v)) for f, v in zip(self.free, x, strict=True)}
        return with_figures(self.base, values)

    def logs(self, x: Floats, which: Sequence[int] | None = None) -> Floats:
        """Logarithms of predicted seconds, of all models or of some."""
        works = self.works if which is None else [self.works[i] for i in which]
        return np.asarray(np.log(np.maximum(seconds_of(self.target(x), works), 1e-12)))

    def derivatives(self, x: Floats) -> Floats:
        """Of the logarithms of predicted seconds by each free figure, [N, F]."""
        middle = self.logs(x)
        found = np.zeros((len(self.works), len(self.free)))
        for i in range(len(self.free)):
            which = np.flatnonzero(self.touched[i])
            if which.size:
                found[which, i] = (self.logs(self._moved(x, i, STEP), list(which)) - middle[which]) / STEP
        return found

    def residuals(self, x: Floats) -> Floats:
        """Weighted errors, then what the figures have moved from the base, [N + F]."""
        return np.concatenate([(self.logs(x) - self.measured) * self.weights, (x - self.start) / self.prior])

    def jacobian(self, x: Floats) -> Floats:
        """Derivatives of the residuals, [N + F, F]."""
        return np.vstack([self.derivatives(x) * self.weights[:, None], np.diag(1 / self.prior)])


def fit_figures(
    base: Target,
    works: Sequence[Work],
    seconds: Floats,
    weights: Floats | None = None,
    groups: Sequence[str] | None = None,
    steps: int = 12,
    progress: Callable[[str], None] = lambda text: None,
) -> FigureFit:
    """Fit the figures of `base` to measured seconds [N] of works of one plan each.

    First every time is scaled by one factor, then each figure moves from there as far as the measurements ask for.
    `groups` [N]: models of one group are left out together in cross-validation.
    """
    weights = np.ones(len(works)) if weights is None else weights
    base = with_operators(base, works)
    scale = float(np.exp(np.median(np.log(seconds) - np.log(seconds_of(base, works)))))
    problem = _Problem(scaled(base, scale), free_figures(scaled(base, scale)), works, seconds, weights)
    progress("fitting the figures")
    x = problem.start
    for loss in ("linear", "soft_l1"):  # what is far off at the start is no outlier yet
        found = least_squares(
            problem.residuals, x, problem.jacobian, method="trf", loss=loss, f_scale=ROBUST, max_nfev=steps // 2
        )
        x = np.asarray(found.x)
    jacobian, residuals = problem.jacobian(x), problem.residuals(x)
    # The same weights as the loss gives: what is far off counts less.
    robust = (1 + (residuals / ROBUST) ** 2) ** -0.25
    robust[len(works) :] = 1.0
    jacobian, residuals = jacobian * robust[:, None], residuals * robust
    curvature = jacobian.T @ jacobian
    width = np.sqrt(np.diag(np.linalg.inv(curvature))) / problem.prior
    sure = [f.key for f, share in zip(problem.free, width, strict=True) if share < DETERMINED]
    unsure = [f.key for f in problem.free if f.key not in sure]
    progress("predicting each model without its part of the measurements")
    left_out = _left_out(problem, x, jacobian, residuals, groups)
    return FigureFit(
        target=_rounded(problem.target(x)),
        free=tuple(problem.free),
        determined=tuple(sure),
        undetermined=tuple(unsure),
        residuals=problem.logs(x) - problem.measured,
        left_out=left_out,
        scale=scale,
    )


def _left_out(
    problem: _Problem, x: Floats, jacobian: Floats, residuals: Floats, groups: Sequence[str] | None
) -> Floats:
    """log(predicted / measured) of each model by figures fitted without its fold: one Gauss-Newton step from the
    optimum of all, which is exact where predictions are linear in the logarithms of the figures."""
    count = len(problem.works)
    names = list(groups) if groups is not None else [str(i) for i in range(count)]
    fold = {name: place % FOLDS for place, name in enumerate(dict.fromkeys(names))}
    folds = np.array([fold[name] for name in names])
    found = np.zeros(count)
    for number in range(FOLDS):
        out = np.flatnonzero(folds == number)
        if not out.size:
            continue
        kept = np.setdiff1d(np.arange(len(residuals)), out)
        step = np.linalg.lstsq(jacobian[kept], -residuals[kept], rcond=None)[0]
        moved = x + np.clip(step, -1.0, 1.0)
        found[out] = problem.logs(moved, list(out)) - problem.measured[out]
    return found


def _rounded(target: Target) -> Target:
    """Figures of four digits; each level of memory holds more than the one before."""
    values = {free.key: figure(target, free.key) for free in free_figures(target)}
    below = 0.0
    for level in list(target.memory)[:-1]:
        key = f"memory.{level}.capacity_kib"
        values[key] = below = max(values[key], 1.01 * below)
    return with_figures(target, {key: float(f"{value:.4g}") for key, value in values.items()})
