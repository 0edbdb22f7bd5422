"""Least squares for the weights of one product: rows of its input, rows of the wanted output, and the best new weights.

The solution is ridge regression towards the weights there are: minimise |T - X W - b|^2 + lambda |D (W - W0)|^2 with
D^2 the diagonal of X^T X, so that lambda has no unit. Lambda is chosen, and the whole step accepted, by the error on
rows that were held out.

Where the output goes through a clipping activation, what it clips does not count: a target below the lower bound is met
by anything below it. The fit then alternates between the least demanding target and the weights (as Zhang, Zou, He and
Sun 2015 did for low-rank layers).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]

LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

#: Of systems larger than this the middle lambdas are tried alone: each costs a factorisation.
LARGE = 1500

#: Rounds of the alternation behind a clipping activation.
ROUNDS = 4


@dataclass(frozen=True)
class Clipping:
    """What follows the output: clip(y + offset, low, high), offset [r, n] being the rest of a residual stream."""

    low: float = -np.inf
    high: float = np.inf
    offset: Rows | None = None

    def __call__(self, y: Rows) -> Rows:
        """What comes out of the activation."""
        total = y if self.offset is None else y + self.offset
        return np.clip(total, self.low, self.high)

    def rows(self, part: slice) -> Clipping:
        """The same for some rows."""
        return Clipping(self.low, self.high, None if self.offset is None else self.offset[part])

    def relaxed(self, target: Rows, found: Rows) -> Rows:
        """The target nearest to what was found among those that the activation cannot tell from the target."""
        offset: Rows | float = 0.0 if self.offset is None else self.offset
        wanted, given = target + offset, found + offset
        below = np.minimum(given, self.low)
        above = np.maximum(given, self.high)
        total = np.where(wanted <= self.low, below, np.where(wanted >= self.high, above, wanted))
        return np.asarray(total - offset, np.float32)

    @property
    def clips(self) -> bool:
        """Whether there is anything to clip."""
        return bool(np.isfinite(self.low) or np.isfinite(self.high))


@dataclass(frozen=True)
class Fit:
    """New weights [d, n] and bias [n]; errors are held-out squared errors over the target's variance."""

    weights: Floats
    bias: Floats
    before: float
    after: float


@dataclass
class _Problem:
    x: Rows
    target: Rows
    weights: Floats
    bias: Floats
    held_out: int
    has_bias: bool
    clipping: Clipping
    mean_x: Floats = field(init=False)
    gram: Floats = field(init=False)

    def __post_init__(self) -> None:
        rows = len(self.x) - self.held_out
        self.train, self.test = slice(0, rows), slice(rows, len(self.x))
        x = self.x[self.train]
        self.mean_x = x.mean(axis=0, dtype=np.float64) if self.has_bias else np.zeros(x.shape[1])
        self.gram = (x.T @ x).astype(np.float64) - rows * np.outer(self.mean_x, self.mean_x)
        diagonal = np.diag(self.gram)
        self.diagonal = np.maximum(diagonal, diagonal.max() * 1e-9 + 1e-30)
        self.judge = self.clipping.rows(self.test)
        self.reference = self.judge(self.target[self.test])
        self.scale = float(np.var(self.reference, axis=0, dtype=np.float64).sum()) * self.held_out + 1e-30

    def output(self, part: slice, weights: Floats, bias: Floats) -> Rows:
        return np.asarray(self.x[part] @ weights.astype(np.float32) + bias.astype(np.float32), np.float32)

    def error(self, weights: Floats, bias: Floats) -> float:
        gap = self.reference - self.judge(self.output(self.test, weights, bias))
        return float(np.einsum("ij,ij->", gap, gap, dtype=np.float64)) / self.scale

    def cross(self, target: Rows) -> tuple[Floats, Floats]:
        """X^T T about the means where a bias takes them, and the mean of T."""
        x = self.x[self.train]
        mean = target.mean(axis=0, dtype=np.float64) if self.has_bias else np.zeros(target.shape[1])
        cross = (x.T @ target).astype(np.float64) - len(x) * np.outer(self.mean_x, mean)
        if not self.has_bias:
            cross -= x.sum(axis=0, dtype=np.float64)[:, None] * self.bias[None, :]
        return cross, mean

    def solve(
        self, factor: tuple[Floats, bool], strength: float, cross: tuple[Floats, Floats]
    ) -> tuple[Floats, Floats]:
        right = cross[0] + strength * self.diagonal[:, None] * self.weights
        found = cho_solve(factor, right, overwrite_b=True, check_finite=False)
        return found, cross[1] - self.mean_x @ found if self.has_bias else self.bias


def fit(
    x: Rows,
    target: Rows,
    weights: Floats,
    bias: Floats,
    held_out: int,
    *,
    has_bias: bool,
    clipping: Clipping | None = None,
) -> Fit:
    """Fit weights [d, n] and bias [n] to rows x [r, d] and target [r, n]; the last `held_out` rows judge.

    Never worse than the weights given, on the held-out rows: of the candidates (unchanged; bias alone corrected; ridge
    with each lambda, and behind a clipping activation each round of the alternation with the best of them) the best is
    returned.
    """
    problem = _Problem(x, target, weights, bias, held_out, has_bias, clipping or Clipping())
    before = problem.error(weights, bias)
    best = (before, weights, bias)

    def consider(w: Floats, b: Floats) -> bool:
        nonlocal best
        candidate = problem.error(w, b)
        if candidate >= best[0]:
            return False
        best = (candidate, w, b)
        return True

    cross = problem.cross(target[problem.train])
    if has_bias:
        consider(weights, cross[1] - problem.mean_x @ weights)
    chosen = None
    for strength in LAMBDAS if len(problem.gram) <= LARGE else LAMBDAS[1:3]:
        try:
            factor = cho_factor(
                problem.gram + np.diag(strength * problem.diagonal), check_finite=False, overwrite_a=True
            )
        except LinAlgError:
            continue
        w, b = problem.solve(factor, strength, cross)
        if consider(w, b) or chosen is None:
            chosen = (factor, strength, w, b)
    around = problem.clipping.rows(problem.train)
    if chosen is not None and around.clips:
        factor, strength, w, b = chosen
        for _ in range(ROUNDS):
            wanted = around.relaxed(target[problem.train], problem.output(problem.train, w, b))
            w, b = problem.solve(factor, strength, problem.cross(wanted))
            consider(w, b)
    return Fit(best[1], best[2], before, best[0])
