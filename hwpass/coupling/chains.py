"""Why two layers are tied, or one is frozen: the shortest chain of equalities, each with its operator."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order

from hwpass.coupling.groups import Coupling
from hwpass.ops.axes import FROZEN, Axis, Ids


@dataclass(frozen=True, eq=False)
class _Ties:
    """The equalities inside one component, as a graph searched from `root`."""

    left: Ids
    right: Ids
    which: Ids  # number of the statement that each equality came with
    before: Ids  # [ids], the next id on the way to the root; negative where there is none

    @classmethod
    def of(cls, coupling: Coupling, root: int) -> _Ties:
        build = coupling.build
        left, right = np.concatenate(build.left), np.concatenate(build.right)
        which = np.repeat(np.arange(len(build.left)), [len(a) for a in build.left])
        # Within the component only: a model has millions of ids, a chain a few.
        inside = coupling.component[left] == coupling.component[root]
        left, right, which = left[inside], right[inside], which[inside]
        graph = csr_array((np.ones(len(left), np.int8), (left, right)), shape=(build.count, build.count))
        _, before = breadth_first_order(graph, root, directed=False, return_predecessors=True)
        return cls(left, right, which, before)

    def statement(self, one: int, other: int) -> int:
        """The first statement that two ids are equal."""
        direct = (self.left == one) & (self.right == other)
        return int(self.which[np.argmax(direct | ((self.left == other) & (self.right == one)))])


#: Many layers are frozen, and all their chains end at the same id: one search serves all of them.
_FROZEN: WeakKeyDictionary[Coupling, _Ties] = WeakKeyDictionary()


def chain(coupling: Coupling, start: int, goal: int = FROZEN) -> list[tuple[str, str]]:
    """The steps (node name, reason) from one id to another; empty when they are not tied."""
    if coupling.component[start] != coupling.component[goal]:
        return []
    ties = _FROZEN.get(coupling) if goal == FROZEN else None
    if ties is None:
        ties = _Ties.of(coupling, goal)
        if goal == FROZEN:
            _FROZEN[coupling] = ties
    build = coupling.build
    steps: list[tuple[str, str]] = []
    at = start
    while at != goal:
        following = int(ties.before[at])
        if following < 0:
            return []
        node, reason = build.origin[ties.statement(at, following)]
        steps.append((build.nodes[node].name if node >= 0 else "the model", reason))
        at = following
    return list(dict.fromkeys(steps))


def reason(coupling: Coupling, axis: Axis) -> str:
    """Why an axis is frozen: the end of a shortest chain of equalities.

    Of several factors the one with the longest: what always stays, such as the gates of a recurrent layer, is at the
    end at once, and explains nothing.
    """
    parts = [part for factor in axis if factor.ids is not None for part in _parts(coupling, factor.ids)]
    chains = [chain(coupling, int(ids[0])) for ids in parts]
    longest = max(chains, key=lambda steps: (len(steps), _names_it(steps)), default=[])
    if longest:
        return longest[-1][1]
    return "its channels belong to no layer that could be thinned"


def _parts(coupling: Coupling, ids: Ids) -> list[Ids]:
    """The factors that indices are products of, those themselves where they are of none."""
    for split in coupling.build.splits:
        if split.parent is ids:
            return [*_parts(coupling, split.outer), *_parts(coupling, split.inner)]
    return [ids]


def _names_it(steps: list[tuple[str, str]]) -> bool:
    """Whether a chain ends at a tensor that a user knows."""
    return bool(steps) and "the model's" in steps[-1][1]


_LAYERS: WeakKeyDictionary[Coupling, list[tuple[str, str]]] = WeakKeyDictionary()


def frozen_layers(coupling: Coupling) -> list[tuple[str, str]]:
    """Layers no output channel of which may go, with the first reason found."""
    if coupling not in _LAYERS:
        _LAYERS[coupling] = _frozen_layers(coupling)
    return _LAYERS[coupling]


def _frozen_layers(coupling: Coupling) -> list[tuple[str, str]]:
    live = np.zeros(int(coupling.component.max()) + 1, bool)
    for group in coupling.groups:
        live[group.components] = True
    found = []
    for node in coupling.nodes:
        if node.frozen:
            found.append((node.name, node.frozen))
        elif node.product is not None:
            axis = coupling.weight_axes(node)[node.product.weight_out]
            if axis and not any(live[coupling.component[f.ids]].any() for f in axis if f.ids is not None):
                found.append((node.name, reason(coupling, axis)))
    return found
