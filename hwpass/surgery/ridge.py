"""Ridge regression towards the weights there are: minimise |T - X W - b|^2 + lambda |D (W - W0)|^2.

D^2 is the diagonal of X^T X about the means, so that lambda has no unit. Two ways lead to the same solution, by what
there is less of: `ManyRows` solves the normal equations, one system of all inputs; `FewRows` their dual, one system of
all rows (Saunders, Gammerman and Vovk, "Ridge Regression Learning Algorithm in Dual Variables", 1998).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from hwpass.surgery.fit_rows import FitRows, Floats, Rows

#: Of systems larger than this the middle lambdas are tried alone: each costs a factorisation.
LARGE = 1500

#: Systems up to this size are solved many at a time.
SMALL = 64

#: Rows or columns of a matrix that are worked on at once.
PORTION = 256


class Wanted(NamedTuple):
    """What a system is to give: X^T T about the means where a bias takes them [g, d, n], or of few rows T itself less
    what the given weights give [g, r, n]; and the mean of T [g, n]."""

    right: Floats
    mean: Floats


class Solve(Protocol):
    """From what is wanted to weights and bias."""

    def __call__(self, wanted: Wanted, /) -> tuple[Rows, Floats]:
        """The solution for the strength that this was made for."""


class ManyRows(FitRows):
    """The normal equations.

    The largest thing here is the matrix of all systems, [g, d, d]: X^T X stands in its upper triangles, and what a
    solver makes of it in the lower ones.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        groups, inputs, _ = self.weights.shape
        self.matrix = np.zeros((groups, inputs, inputs))
        self.mean_x = np.zeros((groups, inputs))
        total = np.zeros((groups, inputs))
        for x in self.fitted():
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
        self.power = np.diagonal(self.matrix, axis1=1, axis2=2).copy()
        self.diagonal = _floored(self.power)

    @property
    def large(self) -> bool:
        """Whether a second matrix of a system's size takes too much."""
        return int(self.matrix.shape[1]) > LARGE

    def targets(self, best: tuple[Rows, Floats] | None = None) -> Wanted:
        """What the weights are to give; with the best so far, the least demanding of it around what these give."""
        groups, inputs, outputs = self.weights.shape
        cross = np.zeros((groups, inputs, outputs))
        mean = np.zeros((groups, outputs))
        for x, wanted in self.wanted(best):
            cross += x.swapaxes(1, 2) @ wanted
            mean += wanted.sum(axis=1, dtype=np.float64)
        if not self.has_bias:
            cross -= self.sum_x[:, :, None] * self.bias[:, None, :]
            return Wanted(cross, np.zeros_like(mean))
        mean /= max(self.rows, 1)
        for start in range(0, inputs, PORTION):
            part = slice(start, start + PORTION)
            cross[:, part] -= self.rows * self.mean_x[:, part, None] * mean[:, None, :]
        return Wanted(cross, mean)

    def solver(self, strength: Floats) -> Solve:
        """For one strength per product, [g]. Raises LinAlgError.

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

        def solve(wanted: Wanted, /) -> tuple[Rows, Floats]:
            found = np.empty(self.weights.shape, np.float32)
            shift = np.zeros_like(self.bias)
            for start in range(0, self.weights.shape[2], PORTION):
                part = slice(start, start + PORTION)
                right = wanted.right[:, :, part] + penalty[:, :, None] * self.weights[:, :, part]
                if small:
                    solved = np.linalg.solve(system, right)
                else:
                    pairs = zip(factors, right, strict=True)
                    solved = np.stack([cho_solve(f, b, overwrite_b=True, check_finite=False) for f, b in pairs])
                shift[:, part] = (self.mean_x[:, None] @ solved)[:, 0]
                found[:, :, part] = solved
            return found, wanted.mean - shift if self.has_bias else self.bias

        return solve


class FewRows(FitRows):
    """The dual: weights move along rows alone, W = W0 + D^-2 X^T A with (X D^-2 X^T + lambda) A = T - X W0.

    The largest thing here are the rows, X D^-1 [g, r, d] about the means where a bias takes them: there is no matrix
    of all inputs.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rows_x = np.concatenate(list(self.fitted()), axis=1)
        self.mean_x = np.zeros(self.weights.shape[:2])
        if self.has_bias:
            self.mean_x = self.rows_x.mean(axis=1, dtype=np.float64)
            self.rows_x = self.rows_x - self.mean_x[:, None].astype(np.float32)
        power = np.einsum("grd,grd->gd", self.rows_x, self.rows_x, dtype=np.float64)
        self.deviation = np.sqrt(_floored(power)).astype(np.float32)
        self.rows_x /= self.deviation[:, None]
        inputs = self.rows_x.shape[2]
        self.kernel = np.zeros((len(self.rows_x), self.rows, self.rows))
        for start in range(0, inputs, 4 * PORTION):
            part = self.rows_x[:, :, start : start + 4 * PORTION]
            self.kernel += part @ part.swapaxes(1, 2)

    @property
    def large(self) -> bool:
        """Whether a factorisation takes long."""
        return self.rows > LARGE

    def targets(self, best: tuple[Rows, Floats] | None = None) -> Wanted:
        """What the given weights lack; with the best so far, of the least demanding targets around what these give."""
        wanted = np.concatenate([rows for _, rows in self.wanted(best)], axis=1).astype(np.float64)
        mean = wanted.mean(axis=1) if self.has_bias else np.zeros_like(self.bias)
        wanted -= (mean if self.has_bias else self.bias)[:, None]
        wanted -= self.rows_x @ (self.weights * self.deviation[:, :, None])
        return Wanted(wanted, mean)

    def solver(self, strength: Floats) -> Solve:
        """For one strength per product, [g]. Raises LinAlgError."""
        places = np.arange(self.rows)
        factors = []
        for kernel, more in zip(self.kernel, strength, strict=True):
            system = kernel.copy()
            system[places, places] += more
            factors.append(cho_factor(system.T, check_finite=False, overwrite_a=True))

        def solve(wanted: Wanted, /) -> tuple[Rows, Floats]:
            pairs = zip(factors, wanted.right, strict=True)
            dual = np.stack([cho_solve(f, right, check_finite=False) for f, right in pairs]).astype(np.float32)
            found = self.weights + self.rows_x.swapaxes(1, 2) @ dual / self.deviation[:, :, None]
            shift = (self.mean_x[:, None] @ found)[:, 0]
            return found, wanted.mean - shift if self.has_bias else self.bias

        return solve


System = ManyRows | FewRows


def system_for(rows: int, inputs: int) -> Callable[..., System]:
    """The way that is shorter for so many rows to be fitted on, and so many inputs."""
    return FewRows if inputs > SMALL and 0 < rows < inputs else ManyRows


def _floored(power: Floats) -> Floats:
    """The power of inputs, and a little where there is none."""
    return np.asarray(np.maximum(power, power.max(axis=1, keepdims=True) * 1e-9 + 1e-30))


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
