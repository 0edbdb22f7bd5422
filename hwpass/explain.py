"""Why two layers are tied, or one is frozen: the shortest chain of equalities, each with its operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order

from hwpass.axes import FROZEN

if TYPE_CHECKING:
    from hwpass.coupling import Coupling


def chain(coupling: Coupling, start: int, goal: int = FROZEN) -> list[tuple[str, str]]:
    """The steps (node name, reason) from one id to another; empty when they are not tied."""
    build = coupling.build
    if coupling.component[start] != coupling.component[goal]:
        return []
    left, right = np.concatenate(build.left), np.concatenate(build.right)
    lengths = [len(a) for a in build.left]
    which = np.repeat(np.arange(len(lengths)), lengths)
    # Within the component only: a model has millions of ids, a chain a few.
    inside = coupling.component[left] == coupling.component[start]
    left, right, which = left[inside], right[inside], which[inside]
    graph = csr_array((np.ones(len(left), np.int8), (left, right)), shape=(build.count, build.count))
    _, before = breadth_first_order(graph, start, directed=False, return_predecessors=True)
    order = {(int(a), int(b)): int(w) for a, b, w in zip(left[::-1], right[::-1], which[::-1], strict=True)}
    steps: list[tuple[str, str]] = []
    at = goal
    while at != start:
        previous = int(before[at])
        if previous < 0:
            return []
        number = order.get((previous, at), order.get((at, previous), 0))
        node, reason = build.origin[number]
        steps.append((build.nodes[node].name if node >= 0 else "the model", reason))
        at = previous
    return list(dict.fromkeys(reversed(steps)))
