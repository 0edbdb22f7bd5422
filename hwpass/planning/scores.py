"""How much each channel matters: one non-negative number per channel of every group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwpass.cost_models.work import Floats
from hwpass.coupling.groups import Coupling
from hwpass.coupling.redundant_channels import unread
from hwpass.data.taps import Outer
from hwpass.errors import UsageError, in_words, option
from hwpass.figures import shown
from hwpass.ops import Node
from hwpass.ops.axes import Axis

Importance = list[Floats]  # per group, [width]

#: Mean squares of activations by tensor name, per index of the channel axis: what the activation score needs.
Statistics = Mapping[str, Floats]


class _Totals:
    """Adds up, per component, shares of each layer's total, so that layers of any scale count alike."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        count = int(coupling.component.max()) + 1
        self.sum = np.zeros(count)
        self.seen = np.zeros(count)

    def add(self, axis: Axis, values: Floats) -> None:
        """Enter one value per index of an axis."""
        where = self.coupling.components_of(axis)
        own = np.bincount(where, weights=values, minlength=len(self.sum))
        present = np.bincount(where, minlength=len(self.sum)) > 0
        mean = own[present].mean()
        self.sum[present] += own[present] / mean if mean > 0 else 0.0
        self.seen[present] += 1

    def result(self) -> Importance:
        """The mean over layers, per group."""
        mean = self.sum / np.maximum(self.seen, 1)
        return [mean[group.components] for group in self.coupling.groups]


def energy(weight: NDArray[Any], out_axis: int, in_axis: int | None, power: int) -> tuple[Floats, Floats | None]:
    """Sums of |w|^power per output and per input index of a weight."""
    magnitude = np.square(weight, dtype=np.float32) if power == 2 else np.abs(weight).astype(np.float32, copy=False)
    others = tuple(a for a in range(weight.ndim) if a not in (out_axis, in_axis))
    table = magnitude.sum(axis=others, dtype=np.float32) if others else magnitude
    if in_axis is None:
        return table.astype(np.float64), None
    first = 1 if in_axis > out_axis else 0
    return table.sum(axis=first, dtype=np.float64), table.sum(axis=1 - first, dtype=np.float64)


def _norms(coupling: Coupling, power: int) -> Importance:
    totals = _Totals(coupling)
    for node in coupling.nodes:
        product = node.product
        weight = None if product is None else _weight(node)
        if product is None or weight is None:
            continue
        axes = coupling.weight_axes(node)
        out, into = energy(weight, product.weight_out, product.weight_in, power)
        totals.add(axes[product.weight_out], out)
        if into is not None and product.weight_in is not None:
            totals.add(axes[product.weight_in], into)
    return totals.result()


def _weight(node: Node) -> NDArray[Any] | None:
    """The weight as the product sees it, behind casts and the like; None where it cannot be told."""
    assert node.product is not None
    value = node.value(node.product.weight)
    return value if value is None or value.dtype.kind in "iuf" else value.astype(np.float32)


def _batch_norm(coupling: Coupling) -> Importance:
    """|scale| of the batch norms that a channel passes (Liu et al. 2017); l2 where there is none."""
    totals = _Totals(coupling)
    for node in coupling.nodes:
        for position in node.scale[:1]:
            value = node.value(position)
            if value is not None:
                totals.add(node.axes(position)[0], np.square(value.astype(np.float64)))
    fallback = _norms(coupling, 2)
    own = totals.result()
    return [a if totals.seen[g.components].all() else b
            for a, b, g in zip(own, fallback, coupling.groups, strict=True)]  # fmt: skip


def _activation(coupling: Coupling, statistics: Statistics) -> Importance:
    """E[x^2] of a consumer's input times its weights' squared norm (Wanda, Sun et al. 2023), over all consumers."""
    totals, outer = _Totals(coupling), Outer(coupling.build.model)
    for node in coupling.nodes:
        product = node.product
        if product is None or not outer.holds(node.gs.inputs[product.data]):
            continue
        squares = statistics.get(node.gs.inputs[product.data].name)
        axis = node.axes(product.data)[product.data_axis]
        weight = _weight(node)
        if squares is None:
            continue
        into = None if weight is None else energy(weight, product.weight_out, product.weight_in, 2)[1]
        if into is None:
            # A depthwise weight belongs to its channel alone; of others nothing is known.
            totals.add(axis, squares)
        elif len(into) == len(squares):
            totals.add(axis, squares * into)
        else:
            totals.add(axis, squares)
    fallback = _norms(coupling, 2)
    own = totals.result()
    return [a if totals.seen[g.components].all() else b
            for a, b, g in zip(own, fallback, coupling.groups, strict=True)]  # fmt: skip


def tapped(coupling: Coupling) -> dict[str, int]:
    """The activations that the activation score looks at, with their channel axis: those of the main graph."""
    found: dict[str, int] = {}
    outer = Outer(coupling.build.model)
    for node in coupling.nodes:
        product = node.product
        if product is None or node.tensor(product.data).constant:
            continue
        if outer.holds(node.gs.inputs[product.data]):
            found[node.gs.inputs[product.data].name] = product.data_axis
    return found


_WEIGHT_SCORES: dict[str, Callable[[Coupling], Importance]] = {
    "l1": lambda c: _norms(c, 1),
    "l2": lambda c: _norms(c, 2),
    "bn": _batch_norm,
}
NAMES = (*_WEIGHT_SCORES, "activation", "random")


def importance(coupling: Coupling, score: str, statistics: Statistics | None = None, seed: int = 0) -> Importance:
    """One importance per channel of every group, on a common scale of mean about one.

    A channel that nobody reads has none. `activation` needs `statistics`; `random` is uniform in [0, 1). Raises
    UsageError for an unknown score.
    """
    found = _importance(coupling, score, statistics, seed)
    idle = unread(coupling)
    return [np.where(idle[group.components], 0.0, own) for group, own in zip(coupling.groups, found, strict=True)]


def _importance(coupling: Coupling, score: str, statistics: Statistics | None, seed: int) -> Importance:
    if score in _WEIGHT_SCORES:
        return _WEIGHT_SCORES[score](coupling)
    if score == "random":
        rng = np.random.default_rng(seed)
        return [rng.random(group.width) for group in coupling.groups]
    if score == "activation":
        if statistics is None:
            raise without_data(score)
        return _activation(coupling, statistics)
    raise UsageError(f"{option('score', shown(score))}: unknown; choose one of {', '.join(NAMES)}")


def without_data(score: str) -> UsageError:
    """What a score that looks at activations says where there are no inputs."""
    with_data = in_words("--calib FILE.npz or a folder", "calib")
    return UsageError(f"{option('score', score)} looks at activations: give inputs with {with_data}")


def loss_curves(coupling: Coupling, scores: Importance) -> list[Floats]:
    """What removing the n least important channels of a group costs, n = 0 .. width: [width + 1] per group.

    A consumer that loses a share r of its input's importance sees a noise-to-signal ratio of r / (1 - r); noises of
    different layers add, so the loss of a group is that ratio times the number of consumers' inputs that it makes up.
    It grows without bound towards an empty layer, which is what keeps layers from collapsing.
    """
    curves = []
    for score, weight in zip(scores, consumers(coupling), strict=True):
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
