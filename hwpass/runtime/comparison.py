"""How far two sets of outputs are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwpass.options import RunOptions
from hwpass.runtime.inputs import is_float

RELATIVE_TOLERANCE = {"float16": 1e-2, "bfloat16": 8e-2}
"""Tolerances of types coarser than float32, about ten of their rounding steps."""

DEFAULT_RTOL = 1e-4
DEFAULT_ATOL = RunOptions.atol

NOISE = 0.1
"""Share of a tensor's magnitude that counts as its channels' own where rounding of large values reaches small ones."""

SMALLEST = 10.0
"""A channel counts for at most so many times its own magnitude on that account,"""

FLOOR = 0.01
"""but for this share of the tensor's: at a tolerance of 1e-4 that is eight steps of float32, which no one escapes."""

VARIATION = 10.0
"""Values that vary by less than so many tolerances cannot show a difference of one."""


def tolerance_of(dtype: str, rtol: float | None) -> float:
    """The tolerance for a type: what was asked for, else 1e-4, or more for types of 16 bits."""
    return RELATIVE_TOLERANCE.get(dtype, DEFAULT_RTOL) if rtol is None else rtol


@dataclass(frozen=True)
class Difference:
    """One output over all cases: the worst of each figure.

    `max_rel` is the largest absolute difference over the largest magnitude of the reference, of the whole output and of
    every channel (axis 1) and column (last axis) of it: boxes of thousands do not cover scores below one. `rms` is the
    root mean square difference. `problem` says why the values could not be compared or must not be accepted;
    `proves_nothing` is set when the reference was empty, all zero or all NaN in every case. `spread` is how much the
    reference varied over cases and positions within a channel, over its magnitude; infinite where that is not told.
    """

    name: str
    max_abs: float = 0.0
    max_rel: float = 0.0
    rms: float = 0.0
    magnitude: float = 0.0
    needed: float = 0.0
    dtype: str = ""
    problem: str | None = None
    proves_nothing: bool = False
    spread: float = float("inf")
    unequal: float = 0.0  # share of integers that differ; 1 where shapes do

    def silent(self, rtol: float | None = None) -> bool:
        """Whether the reference varied too little to show anything."""
        return self.proves_nothing or self.spread <= VARIATION * tolerance_of(self.dtype, rtol)


def compare_outputs(
    reference: Sequence[Mapping[str, np.ndarray]],
    candidate: Sequence[Mapping[str, np.ndarray]],
    *,
    atol: float = 0.0,
) -> dict[str, Difference]:
    """Compare case by case; differences by output name, in the order of the reference.

    `needed` is the relative tolerance that would have passed after `atol`. NaN counts as equal only to NaN,
    Inf only to the same Inf; integers, booleans and strings must be equal.
    """
    if len(reference) != len(candidate):
        raise ValueError(f"{len(reference)} reference cases, {len(candidate)} candidates")
    names = list(dict.fromkeys(name for case in reference for name in case))
    found: dict[str, list[Difference]] = {name: [] for name in names}
    for wanted, given in zip(reference, candidate, strict=True):
        for name in names:
            if name not in wanted:
                continue
            if name in given:
                found[name].append(compare_arrays(name, wanted[name], given[name], atol=atol))
            else:
                found[name].append(Difference(name, problem="the output is missing"))
    return {
        name: replace(_worst(name, cases), spread=spread([case[name] for case in reference if name in case]))
        for name, cases in found.items()
    }


def compare_arrays(
    name: str, wanted: np.ndarray, given: np.ndarray, *, atol: float = 0.0, sums: bool = False
) -> Difference:
    """The difference between two arrays; see `Difference`.

    `sums` says that the values are sums of many terms: their rounding is in proportion to the terms, so that a channel
    is held to the tolerance of a tenth of the tensor's magnitude although its own is less.
    """
    wanted, given = np.asarray(wanted), np.asarray(given)
    kind = str(wanted.dtype)
    if wanted.shape != given.shape:
        shapes = f"shape {list(given.shape)} instead of {list(wanted.shape)}"
        return Difference(name, dtype=kind, problem=shapes, unequal=1.0)
    if wanted.dtype != given.dtype:
        return Difference(name, dtype=kind, problem=f"type {given.dtype} instead of {wanted.dtype}")
    if not wanted.size:
        return Difference(name, dtype=kind, proves_nothing=True)
    if not is_float(wanted.dtype) and wanted.dtype.kind != "c":
        return _exact(name, wanted, given)
    precise = np.complex128 if wanted.dtype.kind == "c" else np.float64
    left, right = wanted.astype(precise), given.astype(precise)
    problem = _non_finite(left, right)
    both = np.isfinite(left) & np.isfinite(right)
    if not both.all():
        left, right = left[both], right[both]
    if not left.size:
        return Difference(name, dtype=kind, problem=problem, proves_nothing=True)
    gap = np.abs(left - right)
    max_abs, magnitude = float(gap.max()), float(np.abs(left).max())
    needed = _ratio(max(max_abs - atol, 0.0), magnitude)
    channels = _by_channel(gap, np.abs(left), atol, sums) if both.all() else 0.0
    return Difference(
        name,
        max_abs=max_abs,
        max_rel=max(_ratio(max_abs, magnitude), channels),
        rms=float(np.sqrt(np.mean(gap**2))),
        magnitude=magnitude,
        needed=max(needed, channels),
        dtype=kind,
        problem=problem,
        proves_nothing=magnitude == 0.0,
    )


def _by_channel(gap: np.ndarray, size: np.ndarray, atol: float, sums: bool) -> float:
    """The worst channel's (axis 1) and column's (last axis) difference over what counts as its magnitude."""
    worst, whole = 0.0, float(size.max())
    for axis in {1, gap.ndim - 1} if gap.ndim > 1 else ():
        if gap.shape[axis] < 2:
            continue
        others = tuple(a for a in range(gap.ndim) if a != axis)
        gaps, own = np.maximum(gap.max(axis=others) - atol, 0.0), size.max(axis=others)
        scale = own + (NOISE * whole if sums else np.minimum(NOISE * whole, SMALLEST * own + FLOOR * whole))
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = max(worst, float(np.where(gaps > 0, gaps / scale, 0.0).max()))
    return worst


def spread(cases: Sequence[np.ndarray]) -> float:
    """How much values vary over cases and positions within a channel, over their largest magnitude.

    The entries of a tensor of one axis are positions where its extent differs between cases (a batch), and channels
    where it does not. Infinite for what is no number.
    """
    numbers = [np.asarray(case) for case in cases]
    numbers = [case for case in numbers if case.size]
    if not numbers:
        return 0.0
    if not all(is_float(case.dtype) or case.dtype.kind in "iub" for case in numbers):
        return float("inf")
    if {case.ndim for case in numbers} == {1} and len({case.size for case in numbers}) > 1:
        numbers = [case.reshape(-1, 1) for case in numbers]
    lows, highs, magnitude = [], [], 0.0
    for case in numbers:
        values = np.where(np.isfinite(case), case, 0).astype(np.float64) if is_float(case.dtype) else case
        values = values.astype(np.float64)
        magnitude = max(magnitude, float(np.abs(values).max()))
        axis = 1 if values.ndim > 3 else values.ndim - 1
        others = tuple(a for a in range(values.ndim) if a != axis)
        lows.append(values.min(axis=others) if others else values.reshape(-1))
        highs.append(values.max(axis=others) if others else values.reshape(-1))
    if not magnitude:
        return 0.0
    found = max(float((high - low).max()) for low, high in zip(lows, highs, strict=True))
    widths = {len(low) for low in lows}
    for width in widths:
        low = np.min([v for v in lows if len(v) == width], axis=0)
        high = np.max([v for v in highs if len(v) == width], axis=0)
        found = max(found, float((high - low).max()))
    return found / magnitude


def _exact(name: str, wanted: np.ndarray, given: np.ndarray) -> Difference:
    unequal = int(np.count_nonzero(wanted != given))
    problem = f"{unequal} of {wanted.size} {wanted.dtype} values differ" if unequal else None
    if wanted.dtype.kind not in "iub":
        return Difference(name, dtype=str(wanted.dtype), problem=problem)
    gap = np.abs(wanted.astype(np.float64) - given.astype(np.float64))
    magnitude = float(np.abs(wanted.astype(np.float64)).max())
    return Difference(
        name,
        max_abs=float(gap.max()),
        max_rel=_ratio(float(gap.max()), magnitude),
        rms=float(np.sqrt(np.mean(gap**2))),
        magnitude=magnitude,
        dtype=str(wanted.dtype),
        problem=problem,
        proves_nothing=magnitude == 0.0,
        unequal=unequal / wanted.size,
    )


def _non_finite(left: np.ndarray, right: np.ndarray) -> str | None:
    """Why values that are not finite must not be accepted."""
    only_left = np.isnan(left) & ~np.isnan(right)
    only_right = np.isnan(right) & ~np.isnan(left)
    if only_left.any() or only_right.any():
        return f"{int(only_right.sum())} new NaN, {int(only_left.sum())} NaN gone"
    infinite = (np.isinf(left) | np.isinf(right)) & ~(np.isnan(left) | np.isnan(right))
    wrong = int(np.count_nonzero(infinite & (left != right)))
    return f"{wrong} values are infinite on one side only" if wrong else None


def _ratio(value: float, magnitude: float) -> float:
    if value == 0.0:
        return 0.0
    return value / magnitude if magnitude else float("inf")


def _worst(name: str, cases: Sequence[Difference]) -> Difference:
    return Difference(
        name,
        max_abs=max(case.max_abs for case in cases),
        max_rel=max(case.max_rel for case in cases),
        rms=max(case.rms for case in cases),
        magnitude=max(case.magnitude for case in cases),
        needed=max(case.needed for case in cases),
        dtype=cases[0].dtype,
        problem=next((case.problem for case in cases if case.problem), None),
        unequal=max(case.unequal for case in cases),
        proves_nothing=all(case.proves_nothing for case in cases),
    )
