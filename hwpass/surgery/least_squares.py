"""Least squares for the weights of one product: rows of its input, rows of the wanted output, and the best new weights.

The solution is ridge regression towards the weights there are: minimise |T - X W - b|^2 + lambda |D (W - W0)|^2 with
D^2 the diagonal of X^T X, so that lambda has no unit. Lambda is chosen, and the whole step accepted, by the error on
rows that were held out.

Where the output goes through a clipping activation, what it clips does not count: a target below the lower bound is met
by anything below it. The fit then alternates between the least demanding target and the weights (as Zhang, Zou, He and
Sun 2015 did for low-rank layers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from hwpass.data.row_table import RowTable, side_by_side
from hwpass.runtime.blas_threads import limited
from hwpass.spans import span

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]

LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

#: Of systems larger than this the middle lambdas are tried alone: each costs a factorisation.
LARGE = 1500

#: Systems up to this size are solved many at a time.
SMALL = 64

#: Rows or columns of a matrix that are worked on at once.
PORTION = 256

#: Rounds of the alternation behind a clipping activation; it ends before where a round gains less than such a share.
ROUNDS = 4
GAIN = 0.01

#: Errors below this share of the variance are rounding: nothing was lost before the layer, and nothing is to be fitted.
NOTHING = 1e-10

#: Bytes of rows of several products that are laid out product by product once, and not each time they are looked at.
LAID_OUT = 24 << 20


@dataclass(frozen=True)
class Clipping:
    """What follows the output: clip(y + offset, low, high); the offset, one for each y, is the rest of a stream."""

    low: float = -np.inf
    high: float = np.inf

    def __call__(self, total: Rows) -> Rows:
        """What comes out of the activation, of y + offset."""
        return np.clip(total, self.low, self.high)

    def relaxed(self, target: Rows, found: Rows, offset: Rows | None = None) -> Rows:
        """The target nearest to what was found among those that the activation cannot tell from the target."""
        wanted, given = (target, found) if offset is None else (target + offset, found + offset)
        total = wanted
        if np.isfinite(self.low):
            total = np.where(wanted <= self.low, np.minimum(given, self.low), total)
        if np.isfinite(self.high):
            total = np.where(wanted >= self.high, np.maximum(given, self.high), total)
        return np.asarray(total if offset is None else total - offset, np.float32)

    @property
    def clips(self) -> bool:
        """Whether there is anything to clip."""
        return bool(np.isfinite(self.low) or np.isfinite(self.high))


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


@dataclass
class Problem:
    """One or more products side by side: x [r, g, d], target and offset [r, g, n], weights [g, d, n], bias [g, n].

    The rows are looked at in portions. The largest thing here is the matrix of all systems, [g, d, d]: X^T X stands in
    its upper triangles, and what a solver makes of it in the lower ones.
    """

    x: RowTable
    target: RowTable
    offset: RowTable | None
    weights: Rows
    bias: Floats
    held_out: int
    has_bias: bool
    clipping: Clipping
    mean_x: Floats = field(init=False)  # [g, d]
    matrix: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.rows = len(self.x) - self.held_out
        self._laid_out = self._by_product()
        groups, inputs, outputs = self.weights.shape
        self.matrix = np.zeros((groups, inputs, inputs))
        self.mean_x = np.zeros((groups, inputs))
        total = np.zeros((groups, inputs))
        for (x,) in self._side_by_side(0, self.rows, self.x):
            total += x.sum(axis=1, dtype=np.float64)
            for start in range(0, inputs, PORTION):
                part = slice(start, start + PORTION)
                self.matrix[:, part, start:] += x[:, :, part].swapaxes(1, 2) @ x[:, :, start:]
        self.sum_x = total
        if self.has_bias:
            self.mean_x = total / max(self.rows, 1)
            for start in range(0, inputs, PORTION):  # about the means
                part = slice(start, start + PORTION)
                means = self.mean_x[:, part, None] * self.mean_x[:, None, start:]
                self.matrix[:, part, start:] -= self.rows * means
        diagonal = np.diagonal(self.matrix, axis1=1, axis2=2).copy()
        self.power = diagonal
        self.diagonal = np.maximum(diagonal, diagonal.max(axis=1, keepdims=True) * 1e-9 + 1e-30)
        self.scale = self._variance(outputs) * self.held_out + 1e-30

    def errors(self, weights: Rows, bias: Floats) -> Floats:
        """Per product, as shares of the variance of all targets, on the rows that were held out."""
        found = np.zeros(len(weights))
        for x, target, offset in self._side_by_side(self.rows, len(self.x), self.x, self.target, self.offset):
            gap = self._seen(target, offset)
            gap -= self._seen(_outputs(x, weights, bias), offset)
            found += np.square(gap).sum(axis=(1, 2), dtype=np.float64)
        return found / self.scale

    def cross(self, best: tuple[Rows, Floats] | None = None) -> tuple[Floats, Floats]:
        """X^T T about the means where a bias takes them, and the mean of T.

        With the best weights and bias so far, T are the least demanding targets around what these give.
        """
        groups, inputs, outputs = self.weights.shape
        cross = np.zeros((groups, inputs, outputs))
        mean = np.zeros((groups, outputs))
        for x, target, offset in self._side_by_side(0, self.rows, self.x, self.target, self.offset):
            wanted = target if best is None else self.clipping.relaxed(target, _outputs(x, *best), offset)
            cross += x.swapaxes(1, 2) @ wanted
            mean += wanted.sum(axis=1, dtype=np.float64)
        if not self.has_bias:
            cross -= self.sum_x[:, :, None] * self.bias[:, None, :]
            return cross, np.zeros_like(mean)
        mean /= max(self.rows, 1)
        for start in range(0, inputs, PORTION):
            part = slice(start, start + PORTION)
            cross[:, part] -= self.rows * self.mean_x[:, part, None] * mean[:, None, :]
        return cross, mean

    def solver(self, strength: Floats) -> Callable[[tuple[Floats, Floats]], tuple[Rows, Floats]]:
        """From what `cross` gives to weights and bias, for one strength per product, [g]. Raises LinAlgError.

        Of large systems a solver serves until the next one is made.
        """
        penalty = strength[:, None] * self.diagonal
        inputs = self.matrix.shape[1]
        small = len(self.matrix) > 1 and inputs <= SMALL
        if small:
            upper = np.triu(self.matrix, 1)
            system = upper + upper.swapaxes(1, 2)
            places = np.arange(inputs)
            system[:, places, places] = self.power + penalty
        else:
            for matrix, power, more in zip(self.matrix, self.power, penalty, strict=True):
                _mirror(matrix, power + more)
            # Transposed, they are factored where they lie; the other triangle is left alone.
            factors = [cho_factor(m.T, check_finite=False, overwrite_a=self.large) for m in self.matrix]

        def solve(cross: tuple[Floats, Floats]) -> tuple[Rows, Floats]:
            found = np.empty(self.weights.shape, np.float32)
            shift = np.zeros_like(self.bias)
            for start in range(0, self.weights.shape[2], PORTION):
                part = slice(start, start + PORTION)
                right = cross[0][:, :, part] + penalty[:, :, None] * self.weights[:, :, part]
                if small:
                    solved = np.linalg.solve(system, right)
                else:
                    pairs = zip(factors, right, strict=True)
                    solved = np.stack([cho_solve(f, b, overwrite_b=True, check_finite=False) for f, b in pairs])
                shift[:, part] = (self.mean_x[:, None] @ solved)[:, 0]
                found[:, :, part] = solved
            return found, cross[1] - shift if self.has_bias else self.bias

        return solve

    @property
    def large(self) -> bool:
        """Whether a second matrix of a system's size takes too much."""
        return int(self.matrix.shape[1]) > LARGE

    def _seen(self, y: Rows, offset: Rows | None) -> Rows:
        """What comes out of the activation, an array of its own."""
        return self.clipping(y if offset is None else y + offset)

    def _variance(self, outputs: int) -> float:
        """The variance of what is seen of the targets, all outputs together, on the rows that were held out."""
        total, first = 0.0, np.zeros((len(self.weights), outputs))
        for repeat in range(2):
            for target, offset in self._side_by_side(self.rows, len(self.x), self.target, self.offset):
                seen = self._seen(target, offset).astype(np.float64)
                if not repeat:
                    first += seen.sum(axis=1) / self.held_out
                else:
                    total += float(np.square(seen - first[:, None]).sum()) / self.held_out
        return total

    def _by_product(self) -> dict[int, Rows]:
        """All rows of each table, [g, r, ..], where there are several products and the rows are not too many."""
        tables = [t for t in (self.x, self.target, self.offset) if t is not None]
        size = sum(4 * len(t) * int(np.prod(t.row, dtype=np.int64)) for t in tables)
        if len(self.weights) == 1 or size > LAID_OUT:
            return {}
        return {id(table): _by_group(table[:]) for table in tables}

    def _side_by_side(self, start: int, stop: int, *tables: RowTable | None) -> Iterator[list[Any]]:
        """Rows of several tables, [g, r, ..], a portion at a time."""
        if self._laid_out:
            yield [None if table is None else self._laid_out[id(table)][:, start:stop] for table in tables]
            return
        for found in side_by_side(start, stop, *tables):
            yield [None if rows is None else _by_group(rows) for rows in found]


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
        found = _fit(
            Problem(
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


def _fit(problem: Problem) -> Fit:
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
    cross = problem.cross()
    if problem.has_bias:
        consider(weights, cross[1] - (problem.mean_x[:, None] @ weights)[:, 0])
    try:
        chosen, solver = _strengths(problem, lambda solve: consider(*solve(cross)))
        if problem.clipping.clips:
            again = problem.solver(chosen) if solver is None else solver
            for _ in range(ROUNDS):
                last = least.sum()
                if not consider(*again(problem.cross(best))).any() or least.sum() > (1 - GAIN) * last:
                    break
    except LinAlgError:
        pass
    return Fit(*best, float(before.sum()), float(least.sum()))


Solve = Callable[[tuple[Floats, Floats]], tuple[Rows, Floats]]


def _strengths(problem: Problem, better: Callable[[Solve], NDArray[np.bool_]]) -> tuple[Floats, Solve | None]:
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


def _outputs(x: Rows, weights: Rows, bias: Floats) -> Rows:
    found = x @ weights
    found += bias[:, None].astype(np.float32)
    return found


def _by_group(rows: Rows) -> Rows:
    """Rows of one product side by side, [g, r, ..]: matrix products over strided ones are several times slower."""
    return rows[None] if rows.ndim == 2 else np.asarray(rows.swapaxes(0, 1), order="C")


def _mirror(matrix: Floats, diagonal: Floats) -> None:
    """Write what stands above the diagonal below it too, and the diagonal, in place."""
    size = len(matrix)
    for start in range(0, size, PORTION):
        part = slice(start, min(start + PORTION, size))
        matrix[part.stop :, part] = matrix[part, part.stop :].T
        upper = np.triu(matrix[part, part], 1)
        matrix[part, part] = upper + upper.T
    places = np.arange(size)
    matrix[places, places] = diagonal
