"""Channels that carry nothing of their own: what they contribute moves elsewhere, and nobody reads them any more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwpass.context import Context
from hwpass.coupling.groups import couple
from hwpass.coupling.redundant_channels import Reader, Redundancy, bias_place, redundancy
from hwpass.manager import Pass, PassResult, register
from hwpass.model.model import Model
from hwpass.ops.rule import Array
from hwpass.proto.streaming import release_pages
from hwpass.surgery.constant_edits import ConstantEdits


@register
@dataclass(frozen=True)
class FoldRedundant(Pass):
    """y = W x + b -> y = W' x + b', where W' is zero for the channels of x that carry nothing of their own.

    That is: channels with negligible weights already; constant ones, which b' takes over; duplicates, whose weights are
    added to those of the channel that they equal. Nothing else changes, and no width: a layer of 59 channels may be
    slower than one of 64. What nobody reads costs prune-channels nothing and goes first, as far as the target's
    alignment makes it worth while. Does not fire on a constant that meets zero padding, or a reader that is not a Conv,
    a Gemm or a MatMul with a bias; on channels that a softmax, a normalisation or a product of activations mixes; on
    quantised weights; on frozen channels.
    """

    name = "fold-redundant"
    preparation = True

    def run(self, model: Model, context: Context) -> PassResult:
        coupling = couple(model)
        edits = ConstantEdits(coupling)
        _redirect_all(edits, redundancy(coupling))
        modified = edits.apply()
        release_pages(model.constants().values())
        return PassResult(model, modified)


def _redirect_all(edits: ConstantEdits, found: Redundancy) -> None:
    """Have nobody read the channels that carry nothing of their own."""
    if not len(found.free):
        return
    free = np.zeros(int(edits.coupling.component.max()) + 1, bool)
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
