"""Changes of constants, gathered use by use and made together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.groups import Walked
from hwpass.ops import Node
from hwpass.ops.rule import Array


class ConstantEdits:
    """New values of constants of a model that was walked over, by the node and the input that read them."""

    def __init__(self, coupling: Walked) -> None:
        self.coupling = coupling
        self.values: dict[tuple[int, int], Array] = {}
        self._index = {id(node.gs): node.index for node in coupling.nodes}

    def value(self, node: Node | gs.Node, position: int) -> Array:
        """The value in the making: at first a copy of what stands there."""
        index = self.index_of(node)
        if (index, position) not in self.values:
            self.values[index, position] = self.coupling.nodes[index].gs.inputs[position].values.copy()
        return self.values[index, position]

    def add(self, node: Node | gs.Node, position: int, shift: NDArray[np.float64]) -> None:
        """Add to a bias [n], or set an input where there is none yet."""
        index, inputs = self.index_of(node), self.coupling.nodes[self.index_of(node)].gs.inputs
        if position < len(inputs) and inputs[position].name:
            bias = self.value(node, position)
        else:
            bias = self.values.setdefault((index, position), np.zeros(len(shift), inputs[1].values.dtype))
        bias += shift.reshape(bias.shape).astype(bias.dtype)

    def transform(
        self, node: Node, position: int, axis: int, blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float64]]]
    ) -> None:
        """Multiply entries along an axis by matrices: for indices [d] and M [d, d], x[indices] -> M x[indices]."""
        value = self.value(node, position)
        moved = np.moveaxis(value, axis, 0)
        for indices, matrix in blocks:
            moved[indices] = np.tensordot(matrix, moved[indices].astype(np.float64), 1).astype(value.dtype)

    def apply(self) -> bool:
        """Give the nodes their new constants; whether any differs from what was there."""
        made = self._made()
        for node, position, constant in made:
            if position < len(node.inputs):
                node.inputs[position] = constant
            else:
                node.inputs.append(constant)
        return bool(made)

    def index_of(self, node: Node | gs.Node) -> int:
        """Where a node stands in the coupling."""
        return node.index if isinstance(node, Node) else self._index[id(node)]

    def _made(self) -> list[tuple[gs.Node, int, gs.Constant]]:
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
