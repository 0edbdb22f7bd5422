"""Loss curves: what removing n channels costs after the best linear compensation, and in which order they go.

The optimal brain surgeon (Hassibi and Stork 1993) on channels instead of weights. With C the covariance of a
consumer's input and M the Gram matrix of its weights, removing the set S and refitting the others leaves the error
trace(M_SS (P_SS)^-1), P the inverse of C before the removal. Channels go a step at a time, each time those that cost
least, and P and M are updated as if the weights were refitted. Taps of a window are taken to see the same covariance.

The loss of a consumer is -log of the share of its output's variance that is left, times the sensitivity of the model's
outputs to it: the relative error while that is small, and more where most of an output is lost, which errors that later
layers add do not forgive. Losses of several consumers add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri

from hwpass.cost_models.work import Floats
from hwpass.coupling.groups import Coupling
from hwpass.planning.consumers import Consumer
from hwpass.planning.pairs import Pair
from hwpass.spans import span

#: Ridge on covariances, relative to the mean variance: directions that data never showed are not free.
RIDGE = 1e-3

#: Steps per group at most: each is a rank-s update of matrices of the group's width.
STEPS = 64

#: Least share of an output's variance that counts as left: a layer may lose its input.
LEFT = 0.02

#: Indices of a view from which on half as many steps, in single precision, must do.
LARGE = 512


@dataclass(eq=False)
class _View:
    """One consumer seen from one group: precision and weights' Gram of the group's indices, given all others."""

    precision: Floats  # [i, i]
    gram: Floats  # [i, i]
    units: NDArray[np.int64]  # unit of each index, [i]
    energy: float  # variance of the output
    sensitivity: float
    spent: float = 0.0  # of the variance

    def loss(self) -> float:
        """What removals so far cost."""
        return -self.sensitivity * float(np.log(max(1.0 - self.spent, LEFT)))

    def costs(self, left: NDArray[np.bool_]) -> Floats:
        """What each unit would cost by itself now."""
        cost = np.zeros(len(left))
        counts = np.bincount(self.units, minlength=len(left))
        if counts.max() == 1:
            diagonal = np.diag(self.precision)
            alive = left[self.units]
            # Rounding can leave next to nothing of a precision.
            floor = max(float(diagonal.max()) * 1e-12, 1e-30)
            cost[self.units[alive]] = np.diag(self.gram)[alive] / np.maximum(diagonal[alive], floor)
            return cost * (self.sensitivity / self.energy)
        for unit in np.flatnonzero(left & (counts > 0)).tolist():
            index = np.flatnonzero(self.units == unit)
            block = np.ix_(index, index)
            cost[unit] = float(np.trace(np.linalg.solve(self.precision[block], self.gram[block])))
        return cost * (self.sensitivity / self.energy)

    def remove(self, chosen: NDArray[np.int64]) -> None:
        """Remove units and refit the others."""
        gone = np.flatnonzero(np.isin(self.units, chosen))
        if not len(gone):
            return
        rest = np.flatnonzero(~np.isin(self.units, chosen))
        inner = self.precision[np.ix_(gone, gone)]
        conditional = np.linalg.inv(inner)
        gram = self.gram[np.ix_(gone, gone)]
        self.spent += max(float(np.einsum("ij,ji->", gram, conditional)), 0.0) / self.energy
        cross = self.precision[np.ix_(gone, rest)]
        # x_gone is best predicted by -inner^-1 cross x_rest: the rest's weights take that over.
        share = -conditional @ cross
        mixed = self.gram[np.ix_(rest, gone)] @ share
        self.gram = self.gram[np.ix_(rest, rest)] + mixed + mixed.T + share.T @ gram @ share
        self.precision = self.precision[np.ix_(rest, rest)] - cross.T @ conditional @ cross
        self.units = self.units[rest]


@dataclass(eq=False)
class _PairView:
    """A product of two activations seen from one group: nothing makes up for what it lacks."""

    pair: Pair
    inside: NDArray[np.intp]  # indices of the pair that the group has
    units: NDArray[np.int64]  # and the unit of each
    gone: NDArray[np.bool_]  # [i]

    def _lack(self, indices: NDArray[np.intp], others: NDArray[np.intp]) -> Floats:
        found: Floats = self.pair.errors[np.ix_(self.inside[indices], self.inside[others])].sum(axis=1)
        return found

    def loss(self) -> float:
        """What removals so far cost."""
        gone = np.flatnonzero(self.gone)
        spent = max(float(self._lack(gone, gone).sum()), 0.0) / self.pair.energy
        return -self.pair.sensitivity * float(np.log(max(1.0 - spent, LEFT)))

    def costs(self, left: NDArray[np.bool_]) -> Floats:
        """What each unit would cost by itself now."""
        every = np.arange(len(self.units))
        own = self.pair.errors[self.inside, self.inside] + 2 * self._lack(every, np.flatnonzero(self.gone))
        cost = np.zeros(len(left))
        np.add.at(cost, self.units, np.where(left[self.units], own, 0.0))
        return cost * (self.pair.sensitivity / self.pair.energy)

    def remove(self, chosen: NDArray[np.int64]) -> None:
        """Leave units out."""
        self.gone |= np.isin(self.units, chosen)


@span("loss curves")
def curves_and_order(
    coupling: Coupling,
    readers: Sequence[Consumer | Pair],
    fallback: Sequence[Floats],
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[list[Floats], list[Floats]]:
    """Per group the loss curve [width + 1] and an importance [width] that is the order of removal.

    `fallback` gives the importance where no consumer was measured: then the curve charges each channel its share of
    the importance, as if it were one consumer's whole input.
    """
    place = {int(c): (g, u) for g, group in enumerate(coupling.groups) for u, c in enumerate(group.components)}
    theirs = [_Reading(reader, place) for reader in readers]
    curves, orders = [], []
    for number, group in enumerate(coupling.groups):
        progress(f"loss curve {number + 1} of {len(coupling.groups)}")
        # Made for one group at a time: together they are as large as all statistics.
        views = [reading.view(number) for reading in theirs if number in reading.groups]
        if views:
            curve, order = _eliminate(views, group.width)
        else:
            share = np.sort(fallback[number]) + 1e-12
            left = 1 - np.concatenate([[0.0], np.cumsum(share)]) / share.sum()
            curve, order = 1.0 / np.maximum(left, 1e-3) - 1.0, np.argsort(np.argsort(fallback[number], kind="stable"))
        curves.append(curve)
        orders.append(np.asarray(order, np.float64))
    return curves, orders


class _Reading:
    """A consumer, seen from one of its groups after the other, in rising order."""

    def __init__(self, reader: Consumer | Pair, place: dict[int, tuple[int, int]]) -> None:
        found = [place.get(int(c), (-1, -1)) for c in reader.components]
        self.reader = reader
        self.owner = np.asarray([g for g, _ in found])
        self.unit = np.asarray([u for _, u in found])
        self.groups = np.unique(self.owner[self.owner >= 0]).tolist()
        self.precision: Floats | None = None

    def view(self, number: int) -> _View | _PairView:
        """The view from a group; after the last of them the matrices are forgotten, the consumer's own too."""
        reader = self.reader
        if isinstance(reader, Pair):
            inside = np.flatnonzero(self.owner == number)
            return _PairView(reader, inside, self.unit[inside], np.zeros(len(inside), bool))
        precision = self.precision
        if precision is None:
            covariance = reader.covariance.astype(np.float64)
            reader.covariance = np.zeros((0, 0))
            covariance[np.diag_indices(len(covariance))] += RIDGE * np.trace(covariance) / len(self.owner)
            precision = self.precision = _inverse(covariance)
        if number == self.groups[-1]:
            self.precision = None
        inside = np.flatnonzero(self.owner == number)
        # Downdates of large matrices are bound by memory, and single precision is enough for them.
        kind = np.float32 if len(inside) > LARGE else np.float64
        if len(inside) < len(self.owner):
            precision = precision[np.ix_(inside, inside)]
        kept: Floats = precision.astype(kind)
        del precision  # a large matrix less while the next one is made
        gram = reader.gram()
        if len(inside) < len(self.owner):
            gram = gram[np.ix_(inside, inside)]
        return _View(kept, gram.astype(kind), self.unit[inside], reader.energy, reader.sensitivity)


def _inverse(matrix: Floats) -> Floats:
    """Of a symmetric matrix, which is overwritten: the large ones are the most memory that curves take."""
    diagonal = matrix.diagonal().copy()
    # Transposed, it is worked on where it lies.
    found, failed = dpotrf(matrix.T, lower=True, clean=False, overwrite_a=True)
    if not failed:
        found, failed = dpotri(found, lower=True, overwrite_c=True)
    rows = range(1, len(found))
    if failed:  # rounding made it indefinite: the other triangle is as it was
        for row in rows:
            found[row, :row] = found[:row, row]
        np.fill_diagonal(found, diagonal)
        return np.linalg.inv(found)
    for row in rows:
        found[:row, row] = found[row, :row]
    return np.asarray(found)


def _eliminate(views: Sequence[_View | _PairView], width: int) -> tuple[Floats, NDArray[np.int64]]:
    """Remove units step by step; the curve between steps is interpolated."""
    large = max(len(view.units) for view in views) > LARGE
    step = max(1, width // (STEPS // 2 if large else STEPS))
    left = np.ones(width, bool)
    order = np.zeros(width, np.int64)
    curve = np.zeros(width + 1)
    removed, total = 0, 0.0
    while removed < width:
        cost = np.zeros(width)
        for view in views:
            cost += view.costs(left)
        cost[~left] = np.inf
        chosen = np.argsort(cost, kind="stable")[: min(step, width - removed)]
        for view in views:
            view.remove(chosen)
        before, total = total, sum(view.loss() for view in views)
        for number, unit in enumerate(chosen.tolist(), 1):
            order[unit] = removed + number
            curve[removed + number] = before + (total - before) * number / len(chosen)
        left[chosen] = False
        removed += len(chosen)
    return np.maximum.accumulate(curve), order
