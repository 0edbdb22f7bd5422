"""What scores by weights add up: one figure per channel over all layers that make or read it, each layer alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwpass.cost_models.work import Floats
from hwpass.coupling.groups import Coupling
from hwpass.ops import Node
from hwpass.ops.axes import Axis


class Totals:
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

    def result(self) -> list[Floats]:
        """The mean over layers, per group, [width]."""
        mean = self.sum / np.maximum(self.seen, 1)
        return [mean[group.components] for group in self.coupling.groups]

    def or_norms(self) -> list[Floats]:
        """The same; for a group of which something was not seen, the squared norms of its weights."""
        seen = [self.seen[group.components].all() for group in self.coupling.groups]
        fallback = norms(self.coupling, 2)
        return [a if all_seen else b for all_seen, a, b in zip(seen, self.result(), fallback, strict=True)]


def energy(weight: NDArray[Any], out_axis: int, in_axis: int | None, power: int) -> tuple[Floats, Floats | None]:
    """Sums of |w|^power per output and per input index of a weight."""
    magnitude = np.square(weight, dtype=np.float32) if power == 2 else np.abs(weight).astype(np.float32, copy=False)
    others = tuple(a for a in range(weight.ndim) if a not in (out_axis, in_axis))
    table = magnitude.sum(axis=others, dtype=np.float32) if others else magnitude
    if in_axis is None:
        return table.astype(np.float64), None
    first = 1 if in_axis > out_axis else 0
    return table.sum(axis=first, dtype=np.float64), table.sum(axis=1 - first, dtype=np.float64)


def norms(coupling: Coupling, power: int) -> list[Floats]:
    """Sums of |w|^power over the weights that make a channel and those that read it, per group, [width]."""
    totals = Totals(coupling)
    for node in coupling.nodes:
        product = node.product
        weight = None if product is None else weight_of(node)
        if product is None or weight is None:
            continue
        axes = coupling.weight_axes(node)
        out, into = energy(weight, product.weight_out, product.weight_in, power)
        totals.add(axes[product.weight_out], out)
        if into is not None and product.weight_in is not None:
            totals.add(axes[product.weight_in], into)
    return totals.result()


def weight_of(node: Node) -> NDArray[Any] | None:
    """The weight as the product sees it, behind casts and the like; None where it cannot be told."""
    assert node.product is not None
    value = node.value(node.product.weight)
    return value if value is None or value.dtype.kind in "iuf" else value.astype(np.float32)
