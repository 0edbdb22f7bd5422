"""Readers of channels that carry nothing of their own, turned to what else says the same."""

from __future__ import annotations

import numpy as np

from hwpass.coupling.groups import Coupling
from hwpass.coupling.redundant_channels import Reader, Redundancy, bias_place, redundancy
from hwpass.ops.rule import Array
from hwpass.surgery.constant_edits import ConstantEdits


def redirect(coupling: Coupling) -> bool:
    """Have nobody read such channels of a model that was coupled; whether anything changed."""
    edits = ConstantEdits(coupling)
    _redirect_all(edits, redundancy(coupling))
    return edits.apply()


def redirected(coupling: Coupling, found: Redundancy) -> list[tuple[int, int]]:
    """Have nobody read the channels that were found; the nodes and inputs whose constants were asked for."""
    edits = ConstantEdits(coupling)
    _redirect_all(edits, found)
    edits.apply()
    return list(edits.values)


def _redirect_all(edits: ConstantEdits, found: Redundancy) -> None:
    """Have nobody read the channels that carry nothing of their own."""
    if not len(found.free):
        return
    free = np.zeros(int(found.coupling.component.max()) + 1, bool)
    free[found.free] = True
    for reader in found.readers:
        if free[reader.components].any():
            _redirect(edits, found, reader, free[reader.components])


def _redirect(edits: ConstantEdits, found: Redundancy, reader: Reader, free: Array) -> None:
    """Let a product read constants from its bias, duplicates from the channel that they equal; `free` is [in]."""
    node, weight, components = reader.node, reader.weight, reader.components
    product = node.product
    assert product is not None
    assert weight.into is not None
    values = np.moveaxis(edits.value(node, product.weight), weight.into, 0)
    for duplicate in np.intersect1d(components, list(found.merged)).tolist():
        values[components == found.merged[duplicate]] += values[components == duplicate]
    values[free] = 0
    known = found.known.get(id(node.tensor(product.data)))
    place = bias_place(reader)
    if known is None or place is None or known.place != product.data_axis:
        return
    taken = known.mask & np.isin(components, found.constant)
    shift = weight.sums()[:, taken] @ known.values[taken]
    if np.any(shift):
        edits.add(*place, shift)
