"""Fits a target to a device from whole networks: a few factors on its generic figures, each with a prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from hwpass.cost_models.base import cost_model
from hwpass.cost_models.target import Target
from hwpass.cost_models.work import Floats, Work
from hwpass.errors import InputError

#: Standard deviation of the logarithm of each factor before anything is measured. `rate` is the speed of the whole
#: device; `bandwidth`, `overhead` and `products` say how memory, the start of kernels and the peak differ from it.
PRIORS = {"rate": 1.0, "bandwidth": 0.7, "overhead": 0.9, "products": 0.2}
#: Standard deviation of the logarithm of a measured latency around the prediction of a model that is true.
NOISE = 0.08
#: A factor is determined if measurements leave less than this share of its prior standard deviation.
DETERMINED = 0.7
#: Half of the width of a central interval that holds 90 % of a normal distribution, standard deviations.
NORMAL_90 = 1.645


@dataclass(frozen=True)
class Factor:
    """A factor on figures of the target: its value, the factor either way within which it lies (90 %), and whether the
    measurements determined it."""

    value: float
    within: float
    determined: bool


@dataclass(frozen=True)
class Fitted:
    """A target fitted to whole networks. Errors are shares of the measured latency."""

    target: Target
    factors: Mapping[str, Factor]
    errors: Floats  #: predicted over measured - 1 of each network, [N]
    left_out: Floats  #: the same, each predicted by a fit to the others, [N]; empty if there is one network

    @property
    def error(self) -> float:
        """Median absolute error of networks that the fit did not see; of those it saw if there is only one."""
        return float(np.median(np.abs(self.left_out if self.left_out.size else self.errors)))

    @property
    def undetermined(self) -> list[str]:
        """Factors that stay what the generic target says, as the networks do not tell them apart."""
        return [name for name, factor in self.factors.items() if not factor.determined]


def fit_target(base: Target, works: Sequence[Work], seconds: Sequence[float], leave_out: bool = True) -> Fitted:
    """The target `base` with factors on its figures, so that it predicts the measured latency of whole networks.

    `works`: one plan each, [1, K], in the number format that was measured; `seconds`: the latency of each, [N]. Every
    kind of cost model can be fitted: `rate` multiplies the peak, the clock and bandwidths and divides times; beside
    it `bandwidth` multiplies that of every memory level, `overhead` the time to start a kernel and `products` the
    peak. The logarithm of each has a Gaussian prior around 0, so that one network is enough and ten are used.
    `leave_out`: also
    fit without each network in turn, and say how wrong the prediction for it is.

    Raises InputError when there is nothing to fit to, or a latency is no positive number.
    """
    measured = np.asarray(seconds, np.float64)
    if not len(works) or len(works) != measured.size:
        raise InputError(f"fit: {len(works)} networks and {measured.size} latencies; give at least one of each")
    if not (np.isfinite(measured) & (measured > 0)).all():
        raise InputError("fit: a latency is no positive number of seconds")
    everything = list(range(measured.size))
    found, spread = _solve(base, works, measured, everything)
    errors = _predicted(scaled(base, found), works) / measured - 1
    left_out = np.zeros(0)
    if leave_out and measured.size > 1:
        others = [[other for other in everything if other != number] for number in everything]
        left_out = np.array([
            _predicted(scaled(base, _solve(base, works, measured, rest)[0]), [works[number]])[0] / measured[number] - 1
            for number, rest in zip(everything, others, strict=True)
        ])  # fmt: skip
    factors = {
        name: Factor(found[name], float(np.exp(NORMAL_90 * sd)), bool(sd < DETERMINED * PRIORS[name]))
        for name, sd in zip(PRIORS, spread, strict=True)
    }
    target = _described(scaled(base, found), base, found, errors, left_out)
    return Fitted(target, factors, np.asarray(errors), left_out)


def scaled(base: Target, factors: Mapping[str, float]) -> Target:
    """`base` with `factors` of PRIORS (1 where absent) on its figures; its sources are left as they are."""
    rate, products = factors.get("rate", 1.0), factors.get("products", 1.0)
    bandwidth, overhead = rate * factors.get("bandwidth", 1.0), factors.get("overhead", 1.0) / rate

    def timed(table: Mapping[str, float]) -> dict[str, float]:
        each = {"_ns": 1 / rate, "_us": overhead}
        return {key: value * each.get(key[-3:], 1.0) for key, value in table.items()}

    memory = {
        name: level.model_copy(update={"bandwidth_gbs": level.bandwidth_gbs * bandwidth})
        for name, level in base.memory.items()
    }
    changes: dict[str, Any] = {
        "peak": {dtype: value * rate * products for dtype, value in base.peak.items()},
        "memory": memory,
        "overhead_us": base.overhead_us * overhead,
        "op_ns": {op: value / rate for op, value in base.op_ns.items()},
        "fused_ns": {op: value / rate for op, value in base.fused_ns.items()},
        "constants": timed(base.constants),
    }
    if base.clock_ghz is not None:
        changes["clock_ghz"] = base.clock_ghz * rate
    return base.model_copy(update={key: value for key, value in changes.items() if key in base.model_fields_set})


def _predicted(target: Target, works: Sequence[Work]) -> Floats:
    model = cost_model(target)
    return np.array([model.latency(work).sum() for work in works])


def _solve(
    base: Target, works: Sequence[Work], measured: Floats, chosen: Sequence[int]
) -> tuple[dict[str, float], Floats]:
    """Factors by maximum a posteriori, and the posterior standard deviation of each logarithm."""
    own, seconds = [works[number] for number in chosen], measured[list(chosen)]
    priors = np.array(list(PRIORS.values()))
    # The scale alone, first: with it the problem is nearly linear.
    start = np.zeros(len(priors))
    start[0] = float(np.clip(np.median(np.log(_predicted(base, own) / seconds)), -5, 5))

    def residuals(logs: Floats) -> Floats:
        predicted = _predicted(scaled(base, _factors(logs)), own)
        return np.concatenate([np.log(predicted / seconds) / NOISE, logs / priors])

    # One network that was measured badly counts by its error, not by the square of it.
    solved = least_squares(residuals, start, loss="soft_l1", diff_step=1e-4)
    covariance = np.linalg.inv(solved.jac.T @ solved.jac)
    return _factors(solved.x), np.sqrt(np.diag(covariance))


def _factors(logs: Floats) -> dict[str, float]:
    return dict(zip(PRIORS, map(float, np.exp(np.clip(logs, -10, 10))), strict=True))


def _described(target: Target, base: Target, factors: Mapping[str, float], errors: Floats, left_out: Floats) -> Target:
    """The same figures with sources that say how they were fitted, and the interval that the errors allow."""
    judged = left_out if left_out.size else errors
    how = f"fitted to {errors.size} networks: "
    quality = f"median error {np.median(np.abs(judged)):.1%}" + (" of those left out" if left_out.size else "")
    shares = {
        "peak": factors["rate"] * factors["products"],
        "clock_ghz": factors["rate"],
        "memory": factors["rate"] * factors["bandwidth"],
        "overhead_us": factors["overhead"] / factors["rate"],
        "op_ns": 1 / factors["rate"],
        "fused_ns": 1 / factors["rate"],
    }
    sources = dict(base.sources)
    for key, share in shares.items():
        if key in sources:
            sources[key] = f"{how}{share:.3g} times the figure of {base.name}; {quality}"
    if "constants" in sources and any(key.endswith(("_ns", "_us")) for key in base.constants):
        slower = 1 / factors["rate"]
        text = f"of {base.name}; times {how}_ns by {slower:.3g}, _us by {slower * factors['overhead']:.3g}"
        sources["constants"] = text
    changes: dict[str, Any] = {"sources": sources, "validation": {"networks": how + quality}}
    if left_out.size > 2:  # fewer say nothing of a spread
        spread = float(np.sqrt(np.mean(np.log1p(np.maximum(left_out, -0.99)) ** 2)))
        changes["uncertainty"] = {**base.uncertainty, "network": NORMAL_90 * spread}
        sources["uncertainty"] = f"{how}1.645 times the root mean square of the logarithms of errors left out"
    return target.model_copy(update=changes)
