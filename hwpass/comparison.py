"""How far two sets of outputs are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwpass.inputs import is_float

RELATIVE_TOLERANCE = {"float16": 1e-2, "bfloat16": 8e-2}
"""Tolerances of types coarser than float32, about ten of their rounding steps."""


@dataclass(frozen=True)
class Difference:
    """One output over all cases: the worst of each figure.

    `max_rel` is the largest absolute difference over the largest magnitude of the reference, `rms` the root
    mean square difference. `problem` says why the values could not be compared or must not be accepted;
    `proves_nothing` is set when the reference was empty, all zero or all NaN in every case.
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
    return {name: _worst(name, cases) for name, cases in found.items()}


def compare_arrays(name: str, wanted: np.ndarray, given: np.ndarray, *, atol: float = 0.0) -> Difference:
    """The difference between two arrays; see `Difference`."""
    wanted, given = np.asarray(wanted), np.asarray(given)
    kind = str(wanted.dtype)
    if wanted.shape != given.shape:
        return Difference(name, dtype=kind, problem=f"shape {list(given.shape)} instead of {list(wanted.shape)}")
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
    return Difference(
        name,
        max_abs=max_abs,
        max_rel=_ratio(max_abs, magnitude),
        rms=float(np.sqrt(np.mean(gap**2))),
        magnitude=magnitude,
        needed=_ratio(max(max_abs - atol, 0.0), magnitude),
        dtype=kind,
        problem=problem,
        proves_nothing=magnitude == 0.0,
    )


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
        proves_nothing=all(case.proves_nothing for case in cases),
    )
