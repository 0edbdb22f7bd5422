"""Which weights of one product to keep, and what they become: least squares under a pattern of zeros.

Minimise |T - X W - b|^2 over the weights W that have the pattern. The choice of the zeros and the values of the rest
are found together by the alternating direction method of multipliers: a ridge solution, its projection onto the
pattern, and a price on their difference that rises; then the remaining weights are solved for by conjugate gradients
(X. Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models", NeurIPS
2024). Inputs are scaled to equal power beforehand, so that what is small in a projection is small in the output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from hwpass.data.row_table import RowTable
from hwpass.runtime.blas_threads import limited
from hwpass.surgery.fit_rows import Clipping, Floats, Rows
from hwpass.surgery.least_squares import GAIN, ROUNDS, Fit
from hwpass.surgery.ridge import ManyRows, Wanted
from hwpass.surgery.sparsity_patterns import Mask, Pattern

#: Ridge of the problem that chooses the zeros, and those that the values of the rest are tried with.
CHOICE = 1e-2
LAMBDAS = (1e-4, 1e-2, 1e-1)

#: The price of a difference from the pattern at first, over the power of an input; its growth by how many of the kept
#: weights changed since the last look, and how many rounds there are between looks (all of them ALPS's own).
PRICE = 0.1
GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
LOOK = 3

#: Rounds at most and at least, and multiply-accumulates that they may take together. Where fewer than the most are left
#: the price rises evenly, by `SPAN` in all.
ROUNDS_OF_CHOICE, CHOICE_WORK, SPAN = (12, 120), 2e10, 1500.0

#: Systems of more inputs are factored for each price in single precision; eigenvectors would take too long.
LARGE = 1200

#: Inputs of less power than such a share of that of their means, or of the largest's, do not vary as far as single
#: precision tells.
QUIET = 1e-5

#: Steps of conjugate gradients at most and at least, multiply-accumulates that one solution may take, and the share of
#: the first residual that ends them.
STEPS, STEPS_WORK, ENOUGH = (8, 40), 5e9, 1e-4


@dataclass(frozen=True)
class Wish:
    """What is asked of a product: how many blocks are kept under a pattern, by which choice, and whether the remaining
    weights are fitted. `taps` are the positions of its window: inputs stand tap by tap in the rows."""

    pattern: Pattern
    kept: int
    taps: int
    by_magnitude: bool = False
    refit: bool = True


@dataclass(frozen=True)
class SparseFit(Fit):
    """A fit whose weights are zero outside `mask` [groups, inputs, taps, outputs]; `before` is the error of the weights
    that magnitude alone would keep, unchanged."""

    mask: Mask | None = None

    @property
    def taken(self) -> bool:
        """The zeros were asked for, whatever they cost."""
        return True


def by_magnitude(weights: NDArray[np.floating[Any]], wish: Wish) -> Mask:
    """The mask that keeps the largest weights, of [groups, inputs x taps, outputs]."""
    return wish.pattern.mask(np.square(_by_tap(weights, wish.taps).astype(np.float64)), wish.kept)


def sparse_fit(
    wish: Wish,
    x: RowTable,
    target: RowTable,
    weights: NDArray[np.floating[Any]],
    bias: Floats,
    held_out: int,
    *,
    has_bias: bool,
    clipping: Clipping | None = None,
    offset: RowTable | None = None,
    threads: int = 1,
) -> SparseFit:
    """Weights [d, n] or [g, d, n] with zeros, and a bias, for rows as `least_squares.fit` takes them."""
    start = np.asarray(weights, np.float32)
    single = start.ndim == 2
    # Where a system is but rounding, its solution may overflow: then it is no better, and not taken.
    with limited(threads, start.shape[-2]), np.errstate(over="ignore", invalid="ignore"):
        problem = ManyRows(
            x, target, offset, start[None] if single else start, bias[None] if single else bias, held_out,
            has_bias, clipping or Clipping(),
        )  # fmt: skip
        found = _Search(problem, wish).run()
    if single:
        return SparseFit(found.weights[0], found.bias[0], found.before, found.after, found.mask)
    return found


def _by_tap(weights: NDArray[Any], taps: int) -> NDArray[Any]:
    groups, depth, outputs = weights.shape
    return weights.reshape(groups, depth // taps, taps, outputs)


def _factored(gram: NDArray[Any], c: float) -> Any:
    """The factor of gram + c, with as much more as rounding asks for where inputs hardly vary about their means."""
    for more in (0.0, 1e-2, 1e-1, 1.0):
        try:
            step = np.eye(len(gram), dtype=gram.dtype) * gram.dtype.type(c + more)
            return cho_factor(gram + step, check_finite=False, overwrite_a=True)
        except LinAlgError:
            continue
    return cho_factor(gram * 0 + np.eye(len(gram), dtype=gram.dtype), check_finite=False)


class _Search:
    """The problem in coordinates in which each input has the power one."""

    def __init__(self, problem: ManyRows, wish: Wish) -> None:
        self.problem, self.wish = problem, wish
        self.scale = np.sqrt(problem.diagonal)[:, :, None]
        self.given = problem.weights * self.scale
        upper = np.triu(problem.matrix, 1)
        gram = upper + upper.swapaxes(1, 2)
        places = np.arange(gram.shape[1])
        gram[:, places, places] = problem.power
        gram /= self.scale * self.scale.swapaxes(1, 2)
        # Of inputs that hardly vary nothing is known but rounding: their weights stay what they are, or go.
        mean = problem.sum_x / max(problem.rows, 1)
        floor = QUIET * np.maximum(problem.rows * np.square(mean), problem.power.max(axis=1, keepdims=True))
        self.quiet = (problem.power <= floor)[:, :, None]
        gram[np.broadcast_to(self.quiet | self.quiet.swapaxes(1, 2), gram.shape)] = 0
        self.large = gram.shape[1] > LARGE
        each = float(gram.size) * problem.weights.shape[2]  # multiply-accumulates of gram x weights
        self.rounds = int(np.clip(CHOICE_WORK / (2 * each), *ROUNDS_OF_CHOICE))
        self.steps = int(np.clip(STEPS_WORK / each, *STEPS))
        self.gram = gram.astype(np.float32) if self.large else gram

    def run(self) -> SparseFit:
        """The best of the masks, and of the fits on it, on the rows that were held out."""
        problem, wish = self.problem, self.wish
        plain = by_magnitude(problem.weights, wish).reshape(problem.weights.shape)
        before = float(problem.errors(np.where(plain, problem.weights, 0).astype(np.float32), problem.bias).sum())
        cross = problem.targets() if wish.refit or not wish.by_magnitude else None
        masks = [plain]
        if cross is not None and not wish.by_magnitude:
            # The largest weights by the power of their inputs are the better choice now and then, where few are kept.
            masks = [self.choose(cross[0])] + ([] if self.large else [self._projected(self.given) != 0])
        tried = [self._fitted(mask, cross if wish.refit else None) for mask in masks]
        best = min(range(len(masks)), key=lambda number: tried[number][2])
        shape = _by_tap(problem.weights, wish.taps).shape
        weights, bias, after = tried[best]
        return SparseFit(weights, bias, before, after, np.asarray(masks[best]).reshape(shape))

    def _fitted(self, mask: Mask, cross: Wanted | None) -> tuple[Rows, Floats, float]:
        """The best weights and bias on a mask, and their error; the given ones without `cross`."""
        problem = self.problem
        weights = np.where(mask, problem.weights, 0).astype(np.float32)
        best, least = (weights, problem.bias), problem.errors(weights, problem.bias)
        if cross is None:
            return *best, float(least.sum())

        def consider(w: Rows, b: Floats) -> NDArray[np.bool_]:
            nonlocal best, least
            errors = problem.errors(w, b)
            better = errors < least
            least = np.where(better, errors, least)
            best = (np.where(better[:, None, None], w, best[0]), np.where(better[:, None], b, best[1]))
            return np.asarray(better)

        consider(weights, self._bias(weights, cross[1]))
        chosen = LAMBDAS[0]
        for strength in LAMBDAS if self.steps == STEPS[1] else LAMBDAS[1:2]:
            if consider(*self.solve(cross, mask, strength, best[0])).any():
                chosen = strength
        for _ in range(ROUNDS if problem.clipping.clips else 0):
            last = least.sum()
            consider(*self.solve(problem.targets(best), mask, chosen, best[0]))
            if least.sum() > (1 - GAIN) * last:
                break
        return *best, float(least.sum())

    def _bias(self, weights: Rows, mean: Floats) -> Floats:
        """The bias that the means ask for."""
        problem = self.problem
        if not problem.has_bias:
            return problem.bias
        return np.asarray(mean - (problem.mean_x[:, None] @ weights.astype(np.float64))[:, 0])

    def choose(self, cross: Floats) -> Mask:
        """Which weights are kept, [g, d, n]."""
        ridge = CHOICE
        right = self._right(cross, ridge)
        price = PRICE
        solve = self._solver()
        free = solve(right, ridge)
        dual = np.zeros_like(free)
        held = self._projected(free)
        looked, since = held != 0, 0
        for _ in range(self.rounds):
            weights = solve(right + price * held - dual, ridge + price)
            held = self._projected(weights + dual / price)
            dual += price * (weights - held)
            since += 1
            if since < LOOK:
                continue
            now = held != 0
            changed = float((now != looked).sum()) / max(int(now.sum()), 1)
            if not changed:
                break
            growth = next((g for share, g in GROWTH if changed >= share), GROWTH[-1][1])
            price *= growth if self.rounds == ROUNDS_OF_CHOICE[1] else SPAN ** (LOOK / self.rounds)
            looked, since = now, 0
        return np.asarray(self._mask(np.square(held)), bool).reshape(held.shape)

    def _right(self, cross: Floats, strength: float) -> Floats:
        """The right side of the ridge system in these coordinates."""
        return np.asarray(np.where(self.quiet, 0, cross / self.scale) + strength * self.given)

    def _mask(self, scores: NDArray[Any]) -> Mask:
        return self.wish.pattern.mask(_by_tap(scores, self.wish.taps), self.wish.kept)

    def _projected(self, weights: NDArray[Any]) -> NDArray[Any]:
        mask = self._mask(np.square(weights)).reshape(weights.shape)
        return np.where(mask, weights, 0)

    def _solver(self) -> Callable[[NDArray[Any], float], NDArray[Any]]:
        """(gram + c)^-1 right for any c: by eigenvectors, or for large systems by a factorisation for each c."""
        if not self.large:
            values, vectors = np.linalg.eigh(self.gram)
            turned = np.ascontiguousarray(vectors.swapaxes(1, 2))
            return lambda right, c: vectors @ ((turned @ right) / (np.maximum(values, 0) + c)[:, :, None])
        made: dict[float, list[Any]] = {}

        def solve(right: NDArray[Any], c: float) -> NDArray[Any]:
            if c not in made:
                made.clear()
                made[c] = [_factored(g, c) for g in self.gram]
            pairs = zip(made[c], right.astype(np.float32), strict=True)
            return np.stack([cho_solve(f, r, check_finite=False) for f, r in pairs])

        return solve

    def solve(self, cross: Wanted, mask: Mask, strength: float, start: Rows) -> tuple[Rows, Floats]:
        """The remaining weights by conjugate gradients, each output for itself, and the bias."""
        right = np.where(mask, self._right(cross[0], strength), 0).astype(self.gram.dtype)
        found: NDArray[Any] = np.where(mask, start * self.scale, 0).astype(self.gram.dtype)

        def times(weights: NDArray[Any]) -> NDArray[Any]:
            return np.where(mask, self.gram @ weights + strength * weights, 0)

        rest = right - times(found)
        way = rest.copy()
        power = np.square(rest).sum(axis=1, keepdims=True)
        enough = ENOUGH**2 * np.square(right).sum(axis=1, keepdims=True) + 1e-30
        for _ in range(self.steps):
            if (power <= enough).all():
                break
            bent = times(way)
            # Rounding may leave a direction without curvature: nothing is to be had along it.
            curvature = (way * bent).sum(axis=1, keepdims=True)
            step = np.where(curvature > 1e-30, power / np.maximum(curvature, 1e-30), 0)
            found += step * way
            rest -= step * bent
            now = np.square(rest).sum(axis=1, keepdims=True)
            way = rest + now / np.maximum(power, 1e-30) * way
            power = now
        weights = np.where(mask, found / self.scale, 0).astype(np.float32)
        return weights, self._bias(weights, cross[1])
