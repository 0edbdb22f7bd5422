"""Loss curves from importance alone: what removing channels costs where nothing was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwpass.cost_models.work import Floats
from hwpass.coupling.groups import Coupling


def loss_curves(coupling: Coupling, importance: Sequence[Floats]) -> list[Floats]:
    """What removing the n least important channels of a group costs, n = 0 .. width: [width + 1] per group.

    A consumer that loses a share r of its input's importance sees a noise-to-signal ratio of r / (1 - r); noises of
    different layers add, so the loss of a group is that ratio times the number of consumers' inputs that it makes up.
    It grows without bound towards an empty layer, which is what keeps layers from collapsing.
    """
    curves = []
    for score, weight in zip(importance, consumers(coupling), strict=True):
        ordered = np.sort(np.maximum(score, 0)) + 1e-9
        left = 1.0 - np.concatenate([[0.0], np.cumsum(ordered)]) / ordered.sum()
        # A score of nearly nothing is no licence to empty a layer: half the loss counts channels alike, but for those
        # of none at all.
        counted = np.concatenate([[0], np.cumsum(np.sort(score) > 0)])
        uniform = 1.0 - counted / max(counted[-1], 1)
        share = np.maximum(0.5 * left + 0.5 * uniform, 1e-6)
        curves.append(weight * (1.0 / share - 1.0))
    return curves


def consumers(coupling: Coupling) -> Floats:
    """Per group, how many layers it feeds, each counted by the group's share of its input; at least 1/4."""
    count = int(coupling.component.max()) + 1
    owner = np.full(count, -1, np.int64)
    for number, group in enumerate(coupling.groups):
        owner[group.components] = number
    total = np.zeros(len(coupling.groups))
    for node in coupling.nodes:
        if node.product is None or node.tensor(node.product.data).constant:
            continue
        found = owner[coupling.components_of(node.axes(node.product.data)[node.product.data_axis])]
        own = np.bincount(found[found >= 0], minlength=len(total))
        total += own / max(len(found), 1)
    return np.maximum(total, 0.25)
