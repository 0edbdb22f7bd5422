"""Channels that carry nothing of their own: what they contribute moves elsewhere, and nobody reads them any more."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.coupling import Coupling, couple
from hwpass.ir import Model
from hwpass.manager import Context, Pass, PassResult, register
from hwpass.ops.base import Array
from hwpass.redundancy import Reader, Redundancy, bias_place, redundancy
from hwpass.streaming import release_pages


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

    def run(self, model: Model, context: Context) -> PassResult:
        coupling = couple(model)
        edits = _Edits(coupling, redundancy(coupling)).made()
        for node, position, constant in edits:
            if position < len(node.inputs):
                node.inputs[position] = constant
            else:
                node.inputs.append(constant)
        release_pages(model)
        return PassResult(model, bool(edits))


class _Edits:
    """New values of constants, by the node and the input that read them."""

    def __init__(self, coupling: Coupling, found: Redundancy) -> None:
        self.coupling = coupling
        self.values: dict[tuple[int, int], Array] = {}
        self.index = {id(node.gs): node.index for node in coupling.nodes}
        if not len(found.free):
            return
        free = np.zeros(int(coupling.component.max()) + 1, bool)
        free[found.free] = True
        for reader in found.readers:
            if free[reader.components].any():
                self._redirect(found, reader, free[reader.components])

    def _value(self, index: int, position: int) -> Array:
        """The value in the making: a copy of what stands there."""
        if (index, position) not in self.values:
            self.values[index, position] = self.coupling.nodes[index].gs.inputs[position].values.copy()
        return self.values[index, position]

    def _redirect(self, found: Redundancy, reader: Reader, free: Array) -> None:
        """Let a product read constants from its bias, duplicates from the channel that they equal; `free` is [in]."""
        node, weight, components = reader.node, reader.weight, reader.components
        product = node.product
        assert product is not None
        assert weight.into is not None
        values = np.moveaxis(self._value(node.index, product.weight), weight.into, 0)
        for duplicate in np.intersect1d(components, list(found.merged)).tolist():
            values[components == found.merged[duplicate]] += values[components == duplicate]
        values[free] = 0
        known = found.known.get(id(node.tensor(product.data)))
        place = bias_place(reader)
        if known is None or place is None or known.place != product.data_axis:
            return
        taken = known.mask & np.isin(components, found.constant)
        shift = weight.sums()[:, taken] @ known.values[taken]
        if not np.any(shift):
            return
        holder, position = place
        index = self.index[id(holder)]
        if position < len(holder.inputs) and holder.inputs[position].name:
            bias = self._value(index, position)
        else:
            bias = self.values.setdefault((index, position), np.zeros(len(shift), weight.values.dtype))
        bias += shift.reshape(bias.shape).astype(bias.dtype)

    def made(self) -> list[tuple[gs.Node, int, gs.Constant]]:
        """The constants that change, each with its place; uses that still agree share one."""
        changed: list[tuple[gs.Node, int, gs.Constant]] = []
        uses = Counter(t.name for node in self.coupling.nodes for t in node.gs.inputs if isinstance(t, gs.Constant))
        taken = {t.name for node in self.coupling.nodes for t in (*node.gs.inputs, *node.gs.outputs)}
        shared: dict[tuple[str, bytes], gs.Constant] = {}
        for (index, position), value in self.values.items():
            node = self.coupling.nodes[index].gs
            before = node.inputs[position] if position < len(node.inputs) and node.inputs[position].name else None
            if before is not None and np.array_equal(before.values, value):
                continue
            base = f"{node.outputs[0].name}_bias" if before is None else before.name
            key = (base, hashlib.blake2b(value.tobytes()).digest())
            if key not in shared:
                name, number = base, 0
                while name in taken and uses[name] != 1:
                    number += 1
                    name = f"{base}_{number}"
                taken.add(name)
                shared[key] = gs.Constant(name, value)
            changed.append((node, position, shared[key]))
        return changed
