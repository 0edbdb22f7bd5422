"""Products of two activations that sum over prunable channels: queries and keys of attention.

No weight is there to be refitted for what goes: without the channels S the product of x [m, k] and y [k, n] lacks
sum over i in S of x_i y_i. Its mean square is the sum over i and j in S of E[x_i x_j] E[y_i y_j], taken in each head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwpass.cost_models.work import Floats
from hwpass.coupling.groups import Coupling
from hwpass.data.taps import Outer
from hwpass.ops import Node, traits_of
from hwpass.ops.axes import Axis
from hwpass.ops.rules.matmul import labels_of

#: Steps from a product to the softmax that its result goes through.
NEAR = 8


@dataclass(eq=False)
class Pair:
    """A product of two activations that reads channels."""

    node: Node
    components: NDArray[np.int64]  # of the axis that is summed over, [c]
    errors: Floats  # mean squares of what the product lacks: the sum over S x S without the channels S, [c, c]
    energy: float  # mean square of the product, over heads
    heads: int
    sensitivity: float = 1.0  # relative change of the model's outputs for a relative change of this output

    @property
    def entry(self) -> float:
        """Mean square of one entry of the output."""
        return self.energy / self.heads

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type of its numbers."""
        return np.dtype(self.node.tensor(0).dtype or np.float32)


class Split(NamedTuple):
    """How an operand is seen as rows of heads: which parts of its axes are heads, and where the channels are."""

    axes: tuple[tuple[int, bool], ...]  # per axis: how many heads, and whether the rest of it comes before them
    channels: int

    @property
    def heads(self) -> int:
        """How many heads there are."""
        return prod(count for count, _ in self.axes)

    def table(self, value: NDArray[np.generic]) -> tuple[NDArray[np.generic], int]:
        """A view [.., heads, channels], and how many of its axes number the rows."""
        shape: list[int] = []
        heads: list[int] = []
        rest: list[int] = []
        channels = 0
        for place, ((count, before), size) in enumerate(zip(self.axes, value.shape, strict=True)):
            if place == self.channels:
                channels = len(shape)
                shape.append(size)
                continue
            parts = [(rest, size // count), (heads, count)]
            for where, extent in parts if before else reversed(parts):
                where.append(len(shape))
                shape.append(extent)
        return value.reshape(shape).transpose(*rest, *heads, channels), len(rest)

    def of(self, rows: NDArray[np.generic]) -> NDArray[np.generic]:
        """All of them."""
        return rows


class Operands(NamedTuple):
    """A product of two activations that may be looked at: the names of both, and how they are seen."""

    node: Node
    components: NDArray[np.int64]
    names: tuple[str, str]
    splits: tuple[Split, Split]


def operands(coupling: Coupling, live: NDArray[np.bool_]) -> list[Operands]:
    """The products of the main graph that sum over live components, and whose operands both can be handed out."""
    outer = Outer(coupling.build.model)
    found = []
    for node in coupling.nodes:
        if node.op not in ("MatMul", "Einsum") or node.frozen or len(node.gs.inputs) != 2:
            continue
        tensors = [node.inputs[position] for position in (0, 1)]
        if any(t is None or t.constant or t.axes is None or t.rank < 2 for t in tensors):
            continue
        if not all(outer.holds(t) for t in node.gs.inputs):
            continue
        left, right, target = labels_of(node)
        summed = [c for c in left if c in right and c not in target]
        if len(summed) != 1:
            continue
        components = coupling.components_of(node.axes(0)[left.index(summed[0])])
        if live[components].any():
            both = [c for c in left if c in right and c in target]
            splits = [_split(node.axes(p), own, summed[0], both) for p, own in enumerate((left, right))]
            if both == [c for c in right if c in both] and splits[0].heads == splits[1].heads:
                one, other = node.gs.inputs
                found.append(Operands(node, components, (one.name, other.name), (splits[0], splits[1])))
    return found


def _split(axes: tuple[Axis, ...], labels: list[str], summed: str, both: list[str]) -> Split:
    """Heads are what has indices in the axes that both operands have."""
    parts = []
    for axis, label in zip(axes, labels, strict=True):
        ids = [factor.ids is not None for factor in axis]
        one_block = label in both and sum(a != b for a, b in pairwise(ids)) <= 1
        count = prod(f.size for f in axis if f.ids is not None) if one_block else 1
        parts.append((count, not (ids and ids[0] and not all(ids))))
    return Split(tuple(parts), labels.index(summed))


def pair(found: Operands, moments: Mapping[object, tuple[Floats, Floats]]) -> Pair | None:
    """The pair of a product, from covariance and mean of the rows of its operands; None without them."""
    both = [moments.get(key) for key in zip(found.names, found.splits, strict=True)]
    if both[0] is None or both[1] is None:
        return None
    width, heads = len(found.components), found.splits[0].heads
    errors = np.zeros((width, width))
    centred = _normalised(found.node)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        product = np.ones((width, width))
        for (covariance, mean), about in zip((both[0], both[1]), (False, centred), strict=True):
            product *= covariance[part, part] + (0.0 if about else np.outer(mean[part], mean[part]))
        errors += product
    energy = float(errors.sum())
    return Pair(found.node, found.components, errors, energy, heads) if energy > 0 else None


def _normalised(node: Node) -> bool:
    """Whether a softmax over its last axis follows: what is added to a whole row makes no difference then."""
    rank = node.outputs[0].rank
    tensor = node.gs.outputs[0]
    for _ in range(NEAR):
        if len(tensor.outputs) != 1:
            return False
        reader = tensor.outputs[0]
        if reader.op == "Softmax":
            return int(reader.attrs.get("axis", -1)) in (-1, rank - 1)
        if not (traits_of(reader).elementwise or traits_of(reader).moves):
            return False
        tensor = reader.outputs[0]
    return False
