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
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from hwpass.blas import limited

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]

LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

#: Of systems larger than this the middle lambdas are tried alone: each costs a factorisation.
LARGE = 1500

#: Systems up to this size are solved many at a time.
SMALL = 64

#: Rows of a matrix that are worked on at once.
PORTION = 256

#: Rounds of the alternation behind a clipping activation.
ROUNDS = 4


@dataclass(frozen=True)
class Clipping:
    """What follows the output: clip(y + offset, low, high); the offset, shaped as y is, is the rest of a stream."""

    low: float = -np.inf
    high: float = np.inf
    offset: Rows | None = None

    def __call__(self, y: Rows) -> Rows:
        """What comes out of the activation."""
        total = y if self.offset is None else y + self.offset
        return np.clip(total, self.low, self.high)

    def rows(self, part: slice) -> Clipping:
        """The same for some rows."""
        return Clipping(self.low, self.high, None if self.offset is None else self.offset[..., part, :])

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
    """New weights [.., d, n] and bias [.., n]; errors are held-out squared errors over the target's variance."""

    weights: Floats
    bias: Floats
    before: float
    after: float


@dataclass
class _Problem:
    """One or more products side by side: x [g, r, d], target [g, r, n], weights [g, d, n], bias [g, n]."""

    x: Rows
    target: Rows
    weights: Floats
    bias: Floats
    held_out: int
    has_bias: bool
    clipping: Clipping
    mean_x: Floats = field(init=False)  # [g, d]
    gram: Floats = field(init=False)  # [g, d, d]

    def __post_init__(self) -> None:
        rows = self.x.shape[1] - self.held_out
        self.train, self.test = slice(0, rows), slice(rows, self.x.shape[1])
        x = self.x[:, self.train]
        self.mean_x = x.mean(axis=1, dtype=np.float64) if self.has_bias else np.zeros((len(x), x.shape[2]))
        self.gram = (x.swapaxes(1, 2) @ x).astype(np.float64)
        for start in range(0, x.shape[2], PORTION):  # a few rows at a time: matrices of thousands of rows are large
            part = slice(start, start + PORTION)
            self.gram[:, part] -= rows * self.mean_x[:, part, None] * self.mean_x[:, None, :]
        diagonal = np.diagonal(self.gram, axis1=1, axis2=2)
        self.diagonal = np.maximum(diagonal, diagonal.max(axis=1, keepdims=True) * 1e-9 + 1e-30)
        self.judge = self.clipping.rows(self.test)
        self.reference = self.judge(self.target[:, self.test])
        self.scale = float(np.var(self.reference, axis=1, dtype=np.float64).sum()) * self.held_out + 1e-30

    def output(self, part: slice, weights: Floats, bias: Floats) -> Rows:
        return np.asarray(self.x[:, part] @ weights.astype(np.float32) + bias[:, None].astype(np.float32), np.float32)

    def errors(self, weights: Floats, bias: Floats) -> Floats:
        """Per product, as shares of the variance of all targets."""
        gap = self.reference - self.judge(self.output(self.test, weights, bias))
        return np.asarray(np.square(gap).sum(axis=(1, 2), dtype=np.float64)) / self.scale

    def cross(self, target: Rows) -> tuple[Floats, Floats]:
        """X^T T about the means where a bias takes them, and the mean of T."""
        x = self.x[:, self.train]
        shape = (len(x), target.shape[2])
        mean = target.mean(axis=1, dtype=np.float64) if self.has_bias else np.zeros(shape)
        cross = (x.swapaxes(1, 2) @ target).astype(np.float64) - x.shape[1] * self.mean_x[:, :, None] * mean[:, None, :]
        if not self.has_bias:
            cross -= x.sum(axis=1, dtype=np.float64)[:, :, None] * self.bias[:, None, :]
        return cross, mean

    def solver(self, strength: Floats) -> Callable[[tuple[Floats, Floats]], tuple[Floats, Floats]]:
        """From what `cross` gives to weights and bias, for one strength per product, [g]. Raises LinAlgError."""
        penalty = (strength[:, None] * self.diagonal)[:, :, None]
        system = self.gram.copy()
        places = np.arange(self.gram.shape[1])
        system[:, places, places] += penalty[:, :, 0]
        small = len(system) > 1 and self.gram.shape[1] <= SMALL
        # Transposed, they are factored where they lie.
        factors = [] if small else [cho_factor(part.T, check_finite=False, overwrite_a=True) for part in system]

        def solve(cross: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
            right = cross[0] + penalty * self.weights
            if small:
                found = np.linalg.solve(system, right)
            else:
                pairs = zip(factors, right, strict=True)
                found = np.stack([cho_solve(f, b, overwrite_b=True, check_finite=False) for f, b in pairs])
            return found, cross[1] - (self.mean_x[:, None] @ found)[:, 0] if self.has_bias else self.bias

        return solve


def fit(
    x: Rows,
    target: Rows,
    weights: Floats,
    bias: Floats,
    held_out: int,
    *,
    has_bias: bool,
    clipping: Clipping | None = None,
    threads: int = 1,
) -> Fit:
    """Fit weights [d, n] and bias [n] to rows x [r, d] and target [r, n]; the last `held_out` rows judge.

    Or many products at once, every array with one more axis in front. Never worse than the weights given, on the
    held-out rows: of the candidates (unchanged; bias alone corrected; ridge with each lambda, and behind a clipping
    activation each round of the alternation with the best of them) each product gets its best. Takes up to `threads`
    threads.
    """
    around = clipping or Clipping()
    with limited(threads, x.shape[-1]):
        if x.ndim == 3:
            return _fit(_Problem(x, target, weights, bias, held_out, has_bias, around))
        if around.offset is not None:
            around = Clipping(around.low, around.high, around.offset[None])
        many = _fit(_Problem(x[None], target[None], weights[None], bias[None], held_out, has_bias, around))
        return Fit(many.weights[0], many.bias[0], many.before, many.after)


def _fit(problem: _Problem) -> Fit:
    target, weights, bias = problem.target, problem.weights, problem.bias
    least = before = problem.errors(weights, bias)
    best = (weights.copy(), bias.copy())

    def consider(w: Floats, b: Floats) -> NDArray[np.bool_]:
        nonlocal least
        errors = problem.errors(w, b)
        better = errors < least
        least = np.where(better, errors, least)
        best[0][better], best[1][better] = w[better], b[better]
        return np.asarray(better)

    cross = problem.cross(target[:, problem.train])
    if problem.has_bias:
        consider(weights, cross[1] - (problem.mean_x[:, None] @ weights)[:, 0])
    lambdas = LAMBDAS if problem.gram.shape[1] <= LARGE else LAMBDAS[1:3]
    chosen = np.full(len(weights), lambdas[-1])
    try:
        for strength in lambdas:
            better = consider(*problem.solver(np.full(len(weights), strength))(cross))
            chosen[better] = strength
        around = problem.clipping.rows(problem.train)
        if around.clips:
            again = problem.solver(chosen)
            for _ in range(ROUNDS):
                wanted = around.relaxed(target[:, problem.train], problem.output(problem.train, *best))
                if not consider(*again(problem.cross(wanted))).any():
                    break
    except LinAlgError:
        pass
    return Fit(*best, float(before.sum()), float(least.sum()))
