"""What is left of fused kernels when whole branches go, and which kernels a plan therefore has.

Where a branch ends in a sum, a runtime computes the sum in the kernel of the branch's last product. Without the branch
that product is gone and the sum stays: a constant is added to what comes in from elsewhere. So beside each such kernel
stands what it comes down to, and of the two a plan has one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwpass.cost.fusion import Kernel, fuse, fused
from hwpass.cost_models.target import Int8
from hwpass.cost_models.work import Floats
from hwpass.coupling.branches import branches
from hwpass.coupling.groups import Coupling
from hwpass.ops import Node


class Remainders:
    """The kernels of a coupled model, what they come down to without branches, and which of them run."""

    def __init__(self, coupling: Coupling, fusion: Sequence[Sequence[str]], int8: Int8 | None = None) -> None:
        outputs = [t.name for t in coupling.build.model.graph.outputs]
        without = [None if b is None else b.gone | b.constant | b.folded for b in branches(coupling)]
        self.kernels: list[Kernel] = []
        whole, partly = [], []
        for kernel in fused(coupling, fusion, int8):
            losses = [_left(kernel, gone) for gone in without]
            whole.append([left == [] for left in losses])
            partly.append([bool(left) for left in losses])
            for group, left in enumerate(losses):
                if left:
                    self.kernels += [Kernel(k.nodes, without=group) for k in fuse(left, outputs, fusion)]
            self.kernels.append(kernel)
        own = np.cumsum([kernel.without < 0 for kernel in self.kernels]) - 1
        # What stands before a kernel of the model came from it.
        first = np.asarray([k.without < 0 for k in self.kernels])
        self._of = np.where(first, own, own + 1)  # [K]
        self._without = np.asarray([kernel.without for kernel in self.kernels], np.int64)
        shape = (len(whole), len(coupling.groups))
        self._whole = np.asarray(whole, bool).reshape(shape).T.astype(np.float64)  # [G, kernels of the model]
        self._partly = np.asarray(partly, bool).reshape(shape).T.astype(np.float64)
        lost = np.zeros((len(coupling.groups), len(coupling.nodes)))
        for group, branch in enumerate(branches(coupling)):
            lost[group, sorted(() if branch is None else branch.gone | branch.constant)] = 1
        self._lost = lost  # [G, nodes]
        # Constants take the place of products without input: their biases, or zeros.
        self._alone = [[] if b is None else [coupling.nodes[i] for i in sorted(b.constant)] for b in branches(coupling)]

    def runs(self, widths: Floats) -> NDArray[np.bool_] | None:
        """Which kernels plans of widths [P, G] have, [P, K]; None for all where no branch can go."""
        if not self._whole.any() and not self._partly.any():
            return None
        empty = widths == 0
        if not empty.any():
            return np.repeat((self._without < 0)[None, :], len(widths), axis=0)
        gone, parts = empty @ self._whole > 0, empty @ self._partly
        left = (self._without < 0) | empty[:, np.maximum(self._without, 0)]
        # Two branches that end in one kernel: what both leave is taken for the kernel itself.
        changed = (parts == 1)[:, self._of] == (self._without >= 0)
        return np.asarray(left & changed & ~gone[:, self._of])

    def there(self, widths: Floats) -> NDArray[np.bool_] | None:
        """Which nodes plans of widths [P, G] leave in the model, [P, nodes]; None for all where no branch can go."""
        return np.asarray((widths == 0) @ self._lost == 0) if self._lost.any() else None

    def stored(self, widths: Floats) -> Floats:
        """Bytes of the constants that stand for branches, [P]."""
        constants = np.zeros(len(widths))
        for group, nodes in enumerate(self._alone):
            for node in nodes:
                constants += (widths[:, group] == 0) * _width_bytes(node)
        return constants


def _left(kernel: Kernel, gone: frozenset[int] | None) -> list[Node] | None:
    """The nodes that stay of a kernel; None where all do."""
    if gone is None or not any(node.index in gone for node in kernel.nodes):
        return None
    return [node for node in kernel.nodes if node.index not in gone]


def _width_bytes(node: Node) -> float:
    weight = node.gs.inputs[1]
    assert node.product is not None
    return float(weight.shape[node.product.weight_out] * np.dtype(weight.dtype).itemsize)
