"""Least squares for the weights of one product: rows of its input, rows of the wanted output, and the best new weights.

The solution is ridge regression towards the weights there are: minimise |T - X W - b|^2 + lambda |D (W - W0)|^2 with
D^2 the diagonal of X^T X, so that lambda has no unit. Lambda is chosen, and the whole step accepted, by the error on
rows that were held out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

Rows = NDArray[np.float32]

LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

#: Of systems larger than this the middle lambdas are tried alone: each costs a factorisation.
LARGE = 1500


@dataclass(frozen=True)
class Fit:
    """New weights [d, n] and bias [n]; errors are held-out squared errors over the target's variance."""

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    before: float
    after: float


def fit(
    x: Rows, target: Rows, weights: NDArray[np.float64], bias: NDArray[np.float64], held_out: int, *, has_bias: bool
) -> Fit:
    """Fit weights [d, n] and bias [n] to rows x [r, d] and target [r, n]; the last `held_out` rows judge.

    Never worse than the weights given, on the held-out rows: of the candidates (unchanged; bias alone corrected; ridge
    with each lambda) the best is returned.
    """
    train = slice(0, len(x) - held_out)
    test = slice(len(x) - held_out, len(x))
    scale = float(np.var(target[test], axis=0, dtype=np.float64).sum()) * held_out + 1e-30

    def error(w: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        gap = target[test] - x[test] @ w.astype(np.float32) - b.astype(np.float32)
        return float(np.einsum("ij,ij->", gap, gap, dtype=np.float64)) / scale

    before = error(weights, bias)
    best = (before, weights, bias)
    mean_x = x[train].mean(axis=0, dtype=np.float64) if has_bias else np.zeros(x.shape[1])
    mean_t = target[train].mean(axis=0, dtype=np.float64) if has_bias else np.zeros(target.shape[1])
    if has_bias:
        shifted = mean_t - mean_x @ weights
        candidate = error(weights, shifted)
        if candidate < best[0]:
            best = (candidate, weights, shifted)
    rows = len(x) - held_out
    gram = x[train].T @ x[train]
    gram = gram.astype(np.float64) - rows * np.outer(mean_x, mean_x)
    cross = (x[train].T @ target[train]).astype(np.float64) - rows * np.outer(mean_x, mean_t)
    if not has_bias:
        cross -= (x[train].sum(axis=0, dtype=np.float64))[:, None] * bias[None, :]
    diagonal = np.diag(gram).copy()
    diagonal = np.maximum(diagonal, diagonal.max() * 1e-9 + 1e-30)
    for strength in LAMBDAS if len(gram) <= LARGE else LAMBDAS[1:3]:
        try:
            factor = cho_factor(gram + np.diag(strength * diagonal), check_finite=False, overwrite_a=True)
        except LinAlgError:
            continue
        found = cho_solve(factor, cross + strength * diagonal[:, None] * weights, check_finite=False)
        shift = mean_t - mean_x @ found if has_bias else bias
        candidate = error(found, shift)
        if candidate < best[0]:
            best = (candidate, found, shift)
    return Fit(best[1], best[2], before, best[0])
