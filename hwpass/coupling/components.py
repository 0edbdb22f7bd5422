"""Connected components of equalities between indices."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hwpass.ops.axes import FROZEN, Ids


def solve(count: int, left: list[Ids], right: list[Ids]) -> Ids:
    """Connected components of equalities between ids; that of FROZEN is number 0."""
    if not left:
        return np.arange(count, dtype=np.int64)
    rows, columns = np.concatenate(left), np.concatenate(right)
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    labels = labels.astype(np.int64)
    first = labels[FROZEN]
    if first != 0:
        zero = labels == 0
        labels[labels == first] = 0
        labels[zero] = first
    return np.asarray(labels)
