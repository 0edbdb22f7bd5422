"""Least squares for the weights of one product: rows of its input, rows of the wanted output, and the best new weights.

The solution is ridge regression towards the weights there are: minimise |T - X W - b|^2 + lambda |D (W - W0)|^2 with
D^2 the diagonal of X^T X, so that lambda has no unit. Lambda is chosen, and the whole step accepted, by the error on
rows that were held out.

Where the output goes through a clipping activation, what it clips does not count: a target below the lower bound is met
by anything below it. The fit then alternates between the least demanding target and the weights (as Zhang, Zou, He and
Sun 2015 did for low-rank layers).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError

from hwpass.data.row_table import RowTable, side_by_side
from hwpass.runtime.blas_threads import limited
from hwpass.spans import span
from hwpass.surgery.fit_rows import Clipping, Floats, Rows
from hwpass.surgery.ridge import Solve, System, system_for

LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

#: Rounds of the alternation behind a clipping activation; it ends before where a round gains less than such a share.
ROUNDS = 4
GAIN = 0.01

#: Errors below this share of the variance are rounding: nothing was lost before the layer, and nothing is to be fitted.
NOTHING = 1e-10


@dataclass(frozen=True)
class Fit:
    """New weights [.., d, n] and bias [.., n]; errors are held-out squared errors over the target's variance."""

    weights: Rows
    bias: Floats
    before: float
    after: float

    @property
    def taken(self) -> bool:
        """Whether the new weights are to be stored."""
        return self.after < self.before


@span("least squares")
def fit(
    x: RowTable,
    target: RowTable,
    weights: NDArray[np.floating],
    bias: Floats,
    held_out: int,
    *,
    has_bias: bool,
    clipping: Clipping | None = None,
    offset: RowTable | None = None,
    threads: int = 1,
) -> Fit:
    """Fit weights [d, n] and bias [n] to rows x [r, d] and target [r, n]; the last `held_out` rows judge.

    Or several products at once: rows [r, g, d] and [r, g, n], weights [g, d, n], bias [g, n]. What follows the output
    is `clipping(y + offset)`, the offset shaped as the target is. Never worse than the weights given, on the held-out
    rows: of the candidates (unchanged; bias alone corrected; ridge with each lambda, and behind a clipping activation
    each round of the alternation with the best of them) each product gets its best. Takes up to `threads` threads.
    """
    start = np.asarray(weights, np.float32)
    single = start.ndim == 2
    with limited(threads, start.shape[-2]):
        make = system_for(len(x) - held_out, start.shape[-2])
        found = _fit(
            make(
                x, target, offset, start[None] if single else start, bias[None] if single else bias, held_out,
                has_bias, clipping or Clipping(),
            )
        )  # fmt: skip
    return Fit(found.weights[0], found.bias[0], found.before, found.after) if single else found


#: Ridge of the scale of a channel: one unknown over all rows wants little.
CHANNEL_RIDGE = 1e-2


@span("least squares")
def fit_channels(x: RowTable, target: RowTable, scale: Floats, bias: Floats, held_out: int) -> Fit:
    """Fit a scale [n] and a bias [n] to rows x [r, n] and target [r, n], each channel for itself.

    The last `held_out` rows judge: a channel keeps what it has where they say that nothing else is better.
    """
    rows = len(x) - held_out
    mean_x, mean_t = np.zeros(len(scale)), np.zeros(len(scale))
    for a, t in side_by_side(0, rows, x, target):
        mean_x += a.sum(axis=0, dtype=np.float64) / max(rows, 1)
        mean_t += t.sum(axis=0, dtype=np.float64) / max(rows, 1)
    power, product = np.zeros(len(scale)), np.zeros(len(scale))
    for a, t in side_by_side(0, rows, x, target):
        centred = a - mean_x
        power += np.square(centred).sum(axis=0)
        product += (centred * (t - mean_t)).sum(axis=0)
    slope = (product + CHANNEL_RIDGE * power * scale) / (power * (1 + CHANNEL_RIDGE) + 1e-12)
    offset = mean_t - slope * mean_x
    mean, old, new = np.zeros(len(scale)), np.zeros(len(scale)), np.zeros(len(scale))
    for a, t in side_by_side(rows, len(x), x, target):
        mean += t.sum(axis=0, dtype=np.float64) / held_out
        old += np.square(t - a * scale - bias).sum(axis=0)
        new += np.square(t - a * slope - offset).sum(axis=0)
    variance = sum(np.square(t - mean).sum() for _, t in side_by_side(rows, len(x), x, target))
    better = new < old
    weights = np.where(better, slope, scale).astype(np.float32)
    before, after = (float(gap.sum()) / (float(variance) + 1e-30) for gap in (old, np.where(better, new, old)))
    return Fit(weights, np.where(better, offset, bias), before, after)


def _fit(problem: System) -> Fit:
    weights, bias = problem.weights, problem.bias
    least = before = problem.errors(weights, bias)
    best = (weights, bias)

    def consider(w: Rows, b: Floats) -> NDArray[np.bool_]:
        nonlocal least, best
        errors = problem.errors(w, b)
        better = errors < least
        least = np.where(better, errors, least)
        if better.all():
            best = (w, b)
        elif better.any():
            best = (np.where(better[:, None, None], w, best[0]), np.where(better[:, None], b, best[1]))
        return np.asarray(better)

    if before.sum() <= NOTHING:
        return Fit(weights, bias, float(before.sum()), float(before.sum()))
    wanted = problem.targets()
    if problem.has_bias:
        consider(weights, wanted.mean - (problem.mean_x[:, None] @ weights)[:, 0])
    try:
        chosen, solver = _strengths(problem, lambda solve: consider(*solve(wanted)))
        if problem.clipping.clips:
            again = problem.solver(chosen) if solver is None else solver
            for _ in range(ROUNDS):
                last = least.sum()
                if not consider(*again(problem.targets(best))).any() or least.sum() > (1 - GAIN) * last:
                    break
    except LinAlgError:
        pass
    return Fit(*best, float(before.sum()), float(least.sum()))


def _strengths(problem: System, better: Callable[[Solve], NDArray[np.bool_]]) -> tuple[Floats, Solve | None]:
    """The best lambda of each product, and the solver of these where it is at hand.

    Errors fall towards the best lambda and rise behind it: from the middle on one way is gone while that is better for
    any of the products, and the other way where it never was. Of large systems two lambdas are tried.
    """
    groups = len(problem.weights)
    chosen = np.full(groups, LAMBDAS[-1])
    middle = len(LAMBDAS) // 2
    at_hand: Solve | None = None

    def tried(strength: float) -> bool:
        nonlocal at_hand
        solve = problem.solver(np.full(groups, strength))
        found = better(solve)
        chosen[found] = strength
        if found.all():
            at_hand = solve
        elif found.any() or problem.large:
            at_hand = None
        return bool(found.any())

    if problem.large:
        tried(LAMBDAS[middle - 1])
        tried(LAMBDAS[middle])
        return chosen, at_hand
    tried(LAMBDAS[middle])
    for way in (LAMBDAS[:middle][::-1], LAMBDAS[middle + 1 :]):
        found = [tried(strength) for strength in way[:1]]
        while any(found[-1:]) and len(found) < len(way):
            found.append(tried(way[len(found)]))
        if any(found):
            break
    return chosen, at_hand
