"""What a pass that changes weights says of them, so that others can hold it to that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwpass.figures import brief, counted

#: A constant by the first output of the node that reads it, and its place among the node's inputs.
Place = tuple[str, int]


@dataclass(frozen=True, eq=False)
class MaskedWeight:
    """Which entries of a weight are zero from here on, and under which pattern (as `prune-weights` takes it)."""

    place: Place
    shape: tuple[int, ...]
    packed: NDArray[np.uint8]
    pattern: str

    @classmethod
    def of(cls, place: Place, kept: NDArray[np.bool_], pattern: str) -> MaskedWeight:
        """`kept` has the weight's own shape."""
        return cls(place, kept.shape, np.packbits(kept), pattern)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which entries may differ from zero, in the weight's shape."""
        size = int(np.prod(self.shape, dtype=np.int64))
        return np.unpackbits(self.packed, count=size).astype(bool).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Masks:
    """The graph is as it was; these weights have zeros; constants at `refitted` places have other values, a bias among
    them may be new; all others are the same numbers."""

    weights: tuple[MaskedWeight, ...]
    refitted: frozenset[Place] = frozenset()

    def __repr__(self) -> str:
        return brief(self, counted(len(self.weights), "masked weight"), f"{len(self.refitted)} refitted")

    @cached_property
    def by_place(self) -> dict[Place, MaskedWeight]:
        """The masked weights by their places."""
        return {weight.place: weight for weight in self.weights}


@dataclass(frozen=True, eq=False)
class FactoredLayer:
    """A product that two products stand for: the names of what they make, and the weight that they come to."""

    first: str
    output: str  # of the second product, and of the one before
    product: NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Factors:
    """The graph is as it was but for these layers; constants at `refitted` places have other values, the biases of
    second factors among them; all others are the same numbers."""

    layers: tuple[FactoredLayer, ...]
    refitted: frozenset[Place] = frozenset()

    def __repr__(self) -> str:
        return brief(self, counted(len(self.layers), "factored layer"), f"{len(self.refitted)} refitted")


Declared = Masks | Factors
