"""Axes as ordered products of factors, and the relations between the indices of those factors.

A channel is an integer id; an equality between two axes is a pair of id arrays. Nothing here knows an operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

#: The id that everything untouchable is equal to.
FROZEN = 0

#: Stand-ins for sizes that only the data decides; primes, so that they stay recognisable in products.
UNKNOWN_SIZES = (101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167, 173, 179, 181, 191, 193, 197)


#: Indices of an axis that may be pruned: an id for each is held.
LARGEST_AXIS = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """One factor of an axis. `ids` is None where no index may ever go (a batch, a sequence, an image side).

    `zero` says that the tensor is zero wherever a removed index of this factor would be in the dense twin, so
    that a sum over the factor does not notice the removal. `origin` says whose extent a factor without ids is, where
    that is a tensor that a user knows.
    """

    size: int
    ids: Ids | None = None
    zero: bool = False
    origin: str = ""


Axis = tuple[Factor, ...]


def axis_size(axis: Axis) -> int:
    """The extent of an axis: the product of its factors; an axis of size one has no factors."""
    return prod(factor.size for factor in axis)


def opaque(size: int, origin: str = "") -> Axis:
    """An axis whose indices are never pruned."""
    return () if size == 1 else (Factor(size, origin=origin),)


def with_zero(axis: Axis, zero: bool) -> Axis:
    """The same axis, with the flag `zero` on its factors."""
    return tuple(f if f.zero == zero or f.ids is None else replace(f, zero=zero) for f in axis)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """`parent` [a * b] is the product of `outer` [a] and `inner` [b]: index (i, j) lives when i and j both live."""

    parent: Ids
    outer: Ids
    inner: Ids
    node: int


class Mismatch(Exception):
    """Two axes have no common refinement (6 x 4 against 8 x 3)."""


class Relations:
    """Collects the ids of a model, their equalities with their origins, and the products they form."""

    def __init__(self) -> None:
        self.count = 1
        self.arrays: list[Ids] = []
        self.left: list[Ids] = []
        self.right: list[Ids] = []
        self.origin: list[tuple[int, str]] = []  # node and reason of each equality, aligned with left and right
        self.splits: list[Split] = []
        self.node = -1
        self._children: dict[tuple[int, int], tuple[Ids, Ids]] = {}
        self._unknown = 0

    def fresh(self, size: int, zero: bool = False) -> Factor:
        """A factor of new ids; one of more indices than any layer has channels gets none, and is never pruned."""
        if size > LARGEST_AXIS:
            return Factor(size)
        ids = np.arange(self.count, self.count + size, dtype=np.int64)
        self.count += size
        self.arrays.append(ids)
        return Factor(size, ids, zero)

    def factor(self, ids: Ids, zero: bool) -> Axis:
        """An axis of the given ids."""
        if len(ids) == 1:
            # An axis of one index can neither be thinned nor told from a broadcast one.
            self._relate(ids, np.zeros(1, np.int64), "a single index is kept")
            return ()
        self.arrays.append(ids)
        return (Factor(len(ids), ids, zero),)

    def unknown_size(self) -> int:
        """A stand-in for a size that depends on the data."""
        self._unknown += 1
        return UNKNOWN_SIZES[(self._unknown - 1) % len(UNKNOWN_SIZES)]

    def freeze(self, axes: Iterable[Axis], reason: str) -> None:
        """Forbid removal along `axes`, and say why."""
        for axis in axes:
            for factor in axis:
                if factor.ids is not None:
                    self._relate(factor.ids, np.zeros(len(factor.ids), np.int64), reason)

    def freeze_ids(self, ids: Ids, reason: str) -> None:
        """Forbid removal of single indices."""
        self._relate(ids, np.zeros(len(ids), np.int64), reason)

    def _relate(self, left: Ids, right: Ids, reason: str) -> None:
        self.left.append(left)
        self.right.append(right)
        self.origin.append((self.node, reason))

    def equate(self, one: Factor, other: Factor, reason: str) -> None:
        """State that index i of one factor goes when index i of the other goes."""
        if one.ids is other.ids:
            return
        if one.ids is None:
            self.freeze([(other,)], f"{reason}, one of which is {one.origin or 'no channel axis'}")
        elif other.ids is None:
            self.freeze([(one,)], f"{reason}, one of which is {other.origin or 'no channel axis'}")
        else:
            self._relate(one.ids, other.ids, reason)

    def divide(self, factor: Factor, outer: int) -> tuple[Factor, Factor]:
        """See a factor as the product outer x rest."""
        inner = factor.size // outer
        if factor.ids is None:
            return Factor(outer, origin=factor.origin), Factor(inner, origin=factor.origin)
        key = (id(factor.ids), outer)
        if key not in self._children:
            high, low = self.fresh(outer), self.fresh(inner)
            assert high.ids is not None
            assert low.ids is not None
            self._children[key] = (high.ids, low.ids)
            self.splits.append(Split(factor.ids, high.ids, low.ids, self.node))
        a, b = self._children[key]
        return Factor(outer, a, factor.zero), Factor(inner, b, factor.zero)

    def regroup(self, factors: Sequence[Factor], sizes: Sequence[int]) -> list[Axis]:
        """Cut an ordered product of factors into axes of the given sizes (the theory of Reshape).

        Raises Mismatch when the boundaries have no common refinement.
        """
        pending = [f for f in reversed(factors) if f.size != 1]
        axes: list[Axis] = []
        for size in sizes:
            rest, axis = size, []
            while rest > 1:
                if not pending:
                    raise Mismatch
                factor = pending.pop()
                common = gcd(rest, factor.size)
                if common == 1:
                    raise Mismatch
                if common < factor.size:
                    factor, remainder = self.divide(factor, common)
                    pending.append(remainder)
                axis.append(factor)
                rest //= common
            axes.append(tuple(axis))
        if pending:
            raise Mismatch
        return axes

    def unify(self, one: Axis, other: Axis, reason: str) -> tuple[Axis, Axis]:
        """Make two axes of the same size equal, and return both on their common refinement."""
        if len(one) == 1 and len(other) == 1 and one[0].size == other[0].size:
            self.equate(one[0], other[0], reason)
            return one, other
        try:
            left, right = self._refine(one, other)
        except Mismatch:
            self.freeze([one, other], f"{reason}: the two sides group their indices differently")
            return one, other
        for a, b in zip(left, right, strict=True):
            self.equate(a, b, reason)
        return left, right

    def _refine(self, one: Axis, other: Axis) -> tuple[Axis, Axis]:
        left, right = list(reversed(one)), list(reversed(other))
        done: list[tuple[Factor, Factor]] = []
        while left and right:
            a, b = left.pop(), right.pop()
            common = gcd(a.size, b.size)
            if common == 1 and (a.size != 1 or b.size != 1):
                raise Mismatch
            if common < a.size:
                a, rest = self.divide(a, common)
                left.append(rest)
            if common < b.size:
                b, rest = self.divide(b, common)
                right.append(rest)
            done.append((a, b))
        if left or right:
            raise Mismatch
        return tuple(a for a, _ in done), tuple(b for _, b in done)

    def flat(self, axis: Axis) -> tuple[Ids, bool] | None:
        """One id per index of the whole axis, and its `zero` flag; None when the axis is opaque throughout."""
        live = [position for position, factor in enumerate(axis) if factor.ids is not None]
        if not live:
            return None
        if len(axis) == 1:
            assert axis[0].ids is not None
            return axis[0].ids, axis[0].zero
        first = axis[live[0]]
        if len(live) == 1:
            assert first.ids is not None
            before = prod(f.size for f in axis[: live[0]])
            after = prod(f.size for f in axis[live[0] + 1 :])
            return np.tile(np.repeat(first.ids, after), before), first.zero
        # Several live factors: a new product whose parts are theirs.
        whole = self.fresh(axis_size(axis), all(f.zero for f in axis if f.ids is not None))
        self.unify((whole,), axis, "regrouped")
        assert whole.ids is not None
        return whole.ids, whole.zero
