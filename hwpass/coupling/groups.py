"""Channels as connected components: which indices of which tensors go together, and which may not go at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwpass.coupling.factors import decide
from hwpass.coupling.walk import Builder, analyse
from hwpass.figures import brief, counted
from hwpass.model.model import Model
from hwpass.ops import Node
from hwpass.ops.axes import Axis, Ids
from hwpass.proto.gc_pause import collection_paused
from hwpass.spans import span

__all__ = ["Builder", "Coupling", "Group", "Walked", "couple", "grouped", "principal", "solved", "walk"]


@dataclass(frozen=True, eq=False)
class Group:
    """Channels with the same footprint: the unit whose width a plan decides.

    `components` [width] are ordered as the channels stand in the first layer that makes them.
    """

    name: str
    components: Ids
    layers: tuple[str, ...]  # names of the nodes whose weights the channels are in

    def __repr__(self) -> str:
        return brief(self, self.name, counted(self.width, "channel"), counted(len(self.layers), "layer"))

    @property
    def width(self) -> int:
        """How many channels the group has."""
        return len(self.components)


@dataclass(eq=False)
class Walked:
    """The relations of a model as its rules state them: every node with its tensors, their shapes and known values."""

    build: Builder

    @property
    def nodes(self) -> list[Node]:
        """The analysed nodes in graph order."""
        return self.build.nodes


@dataclass(eq=False)
class Coupling(Walked):
    """The solved relations of a model."""

    component: Ids  # [ids] -> component; component 0 is frozen
    groups: list[Group] = field(default_factory=list)

    def __repr__(self) -> str:
        width = sum(group.width for group in self.groups)
        sizes = (counted(len(self.groups), "group"), counted(width, "channel"), counted(len(self.nodes), "node"))
        return brief(self, self.build.model.path, *sizes)

    def weight_axes(self, node: Node) -> tuple[Axis, ...]:
        """The axes of the weight of a node with a product."""
        assert node.product is not None
        return node.axes(node.product.weight)

    def components_of(self, axis: Axis) -> Ids:
        """The component of every index of an axis, [size]; an opaque factor is frozen."""
        found: Ids = np.zeros(1, np.int64)
        for factor in axis:
            ids = np.zeros(factor.size, np.int64) if factor.ids is None else self.component[factor.ids]
            # The live factor decides; the others are frozen, so the larger component is the live one's.
            found = np.maximum(found[:, None], ids[None, :]).reshape(-1)
        return found

    def kept(self, keep: NDArray[np.bool_], axis: Axis) -> NDArray[np.bool_]:
        """Which indices of an axis survive when component c survives iff keep[c]."""
        mask = np.ones(1, bool)
        for factor in axis:
            own = np.ones(factor.size, bool) if factor.ids is None else keep[self.component[factor.ids]]
            mask = (mask[:, None] & own[None, :]).reshape(-1)
        return mask


def couple(model: Model, dims: Mapping[str, int] | None = None) -> Coupling:
    """Solve the channel relations of a model.

    `dims` gives extents of dynamic dimensions to analyse at; the relations do not depend on them.
    """
    return solved(walk(model, dims))


@span("shapes")
def walk(model: Model, dims: Mapping[str, int] | None = None) -> Walked:
    """State the relations of a model, without solving them."""
    with collection_paused():
        return Walked(analyse(model, dims))


@span("coupling")
def solved(walked: Walked) -> Coupling:
    """Solve stated relations, once: what was decided is entered into them."""
    with collection_paused():
        build = walked.build
        return grouped(build, decide(build, principal(build)))


def grouped(build: Builder, component: Ids) -> Coupling:
    """The channels of relations that are solved, in groups."""
    coupling = Coupling(build, component)
    coupling.groups = _groups(coupling)
    return coupling


def principal(build: Builder) -> Ids:
    """The ids of dimensions that stand by their size: they are worth more thinning than heads."""
    found = [np.zeros(0, np.int64)]
    for name, place in build.model.principal.items():
        axes = build.tensors[name].axes if name in build.tensors else None
        found += [f.ids for f in axes[place] if f.ids is not None] if axes is not None and place < len(axes) else []
    return np.concatenate(found)


def _groups(coupling: Coupling) -> list[Group]:
    build, component = coupling.build, coupling.component
    count = int(component.max()) + 1
    # A channel is worth a decision when some layer's weight has it.
    weighted = np.zeros(count, bool)
    owners: dict[int, list[int]] = {}
    for node in coupling.nodes:
        if node.product is None:
            continue
        for axis in coupling.weight_axes(node):
            for factor in axis:
                if factor.ids is not None:
                    own = np.unique(component[factor.ids])
                    weighted[own] = True
                    owners.setdefault(node.index, []).extend(own[own != 0].tolist())
    weighted[0] = False
    footprint = _footprints(build.arrays, component, count)
    order = _first_seen(coupling, count)
    chosen = np.flatnonzero(weighted)
    chosen = chosen[np.argsort(order[chosen], kind="stable")]
    classes: dict[int, list[int]] = {}
    for c in chosen.tolist():
        classes.setdefault(int(footprint[c]), []).append(c)
    place = {c: number for number, members in enumerate(classes.values()) for c in members}
    layers: list[list[str]] = [[] for _ in classes]
    for index, members in owners.items():
        for number in sorted({place[c] for c in members if c in place}):
            layers[number].append(coupling.nodes[index].name)
    groups, names = [], set()
    for number, members in enumerate(classes.values()):
        base = layers[number][0]
        name, suffix = base, 1
        while name in names:
            suffix += 1
            name = f"{base}#{suffix}"
        names.add(name)
        groups.append(Group(name, np.asarray(members, np.int64), tuple(dict.fromkeys(layers[number]))))
    return groups


def _footprints(arrays: list[Ids], component: Ids, count: int) -> NDArray[np.uint64]:
    """A hash of how often each component occurs in each id array: equal for channels of one group."""
    rng = np.random.default_rng(0)
    marks = rng.integers(1, 2**63, len(arrays), dtype=np.uint64)
    lengths = [len(a) for a in arrays]
    where = component[np.concatenate(arrays)] if arrays else np.zeros(0, np.int64)
    total = np.zeros(count, np.uint64)
    np.add.at(total, where, np.repeat(marks, lengths))
    return total


def _first_seen(coupling: Coupling, count: int) -> Ids:
    """The order in which components appear along output axes of weights, then anywhere."""
    order = np.full(count, np.iinfo(np.int64).max)
    position = 0
    for side in ("weight_out", "weight_in"):
        for node in coupling.nodes:
            if node.product is None:
                continue
            place = getattr(node.product, side)
            if place is None:
                continue
            axis = coupling.weight_axes(node)[place]
            for factor in axis:
                if factor.ids is None:
                    continue
                found = coupling.component[factor.ids]
                new = order[found] == np.iinfo(np.int64).max
                # Reversed, so that of a component seen twice in one axis the first position counts.
                places = position + np.arange(len(found))
                order[found[new][::-1]] = places[new][::-1]
                position += len(found)
    return order
