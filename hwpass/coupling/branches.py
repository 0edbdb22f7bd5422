"""Branches that may go as a whole: groups that can be left without a channel.

Without channels a product's output is its bias, the same for every position. Where that meets the rest of the network
in a sum (a residual branch) or another elementwise operator, the branch, and all that only it reads, is gone. So it is
where what has no channels left is one part of a concatenation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from weakref import WeakKeyDictionary

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.coupling.constant_channels import plain
from hwpass.coupling.groups import Coupling
from hwpass.ops import Node, rule_for, traits_of


@dataclass(frozen=True)
class Branch:
    """What goes with a group: node numbers."""

    gone: frozenset[int]  # nodes that are removed, those whose output nobody reads any more among them
    constant: frozenset[int]  # products whose output becomes their bias: removed too
    folded: frozenset[int]  # nodes that work on constants alone, which every runtime does beforehand
    joins: frozenset[tuple[int, int]]  # node and input where a constant meets live data
    parts: frozenset[tuple[int, int]] = frozenset()  # concatenation and the input that it loses


_FOUND: WeakKeyDictionary[Coupling, list[Branch | None]] = WeakKeyDictionary()


def branches(coupling: Coupling) -> list[Branch | None]:
    """Per group what goes when none of its channels stays; None where that cannot be done."""
    if coupling not in _FOUND:
        _FOUND[coupling] = _branches(coupling)
    return _FOUND[coupling]


def _branches(coupling: Coupling) -> list[Branch | None]:
    walk = _Walk(coupling)
    found: list[Branch | None] = []
    taken: dict[int, int] = {}
    lost: dict[int, set[int]] = {}
    for number in range(len(coupling.groups)):
        branch = walk.branch(number)
        # Two branches into one operator: without both nothing would be left of it.
        if branch is not None and any(taken.get(node, place) != place for node, place in branch.joins):
            branch = None
        if branch is not None and not _one_left(coupling, branch, lost):
            branch = None
        if branch is not None:
            taken.update(branch.joins)
            for node, place in branch.parts:
                lost.setdefault(node, set()).add(place)
        found.append(branch)
    return found


def _one_left(coupling: Coupling, branch: Branch, lost: dict[int, set[int]]) -> bool:
    """Whether every concatenation keeps a part that no branch takes."""
    now = {node: lost.get(node, set()) | {p for n, p in branch.parts if n == node} for node, _ in branch.parts}
    return all(len(places) < len(coupling.nodes[node].inputs) for node, places in now.items())


def merged(found: Sequence[Branch]) -> Branch:
    """What goes when several branches go."""
    gone = frozenset(i for b in found for i in b.gone)
    return Branch(
        gone,
        frozenset(i for b in found for i in b.constant) - gone,
        frozenset(i for b in found for i in b.folded) - gone,
        frozenset(j for b in found for j in b.joins),
        frozenset(p for b in found for p in b.parts),
    )


class _Walk:
    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.nodes = coupling.nodes
        main = {id(n) for n in coupling.build.model.graph.nodes}
        self.main = [id(n.gs) in main for n in self.nodes]
        self.outputs = {t.name for t in coupling.build.model.graph.outputs}
        self.readers: dict[str, list[int]] = {}
        for node in self.nodes:
            for tensor in node.gs.inputs:
                if tensor.name and not isinstance(tensor, gs.Constant):
                    self.readers.setdefault(tensor.name, []).append(node.index)
        self.producer = {t.name: n.index for n in self.nodes for t in n.gs.outputs if t.name}
        self.emptied = self._emptied()

    def _emptied(self) -> list[list[int]]:
        """Per group the nodes with an output that has no entry left without it."""
        owner = np.full(int(self.coupling.component.max()) + 1, -1, np.int64)
        for number, group in enumerate(self.coupling.groups):
            owner[group.components] = number
        cover: dict[int, int] = {}
        found: list[list[int]] = [[] for _ in self.coupling.groups]
        for node in self.nodes:
            groups = set()
            for tensor in node.outputs:
                for factor in (f for axis in tensor.axes or () for f in axis if f.ids is not None):
                    if id(factor.ids) not in cover:
                        owners = np.unique(owner[self.coupling.component[factor.ids]])
                        cover[id(factor.ids)] = int(owners[0]) if len(owners) == 1 else -1
                    groups.add(cover[id(factor.ids)])
            for number in groups - {-1}:
                found[number].append(node.index)
        return found

    def branch(self, number: int) -> Branch | None:
        empty = set(self.emptied[number])
        if any(len(self.nodes[i].gs.outputs) > 1 for i in empty):
            return None  # the other outputs may live
        constants: set[int] = set()
        folded: set[int] = set()
        joins: set[tuple[int, int]] = set()
        parts: set[tuple[int, int]] = set()
        names = {t.name for i in empty for t in self.nodes[i].gs.outputs}
        fixed: set[str] = set()
        queue = sorted({r for name in names for r in self.readers.get(name, ())} - empty)
        seen: set[int] = set()
        while queue:
            index = heappop(queue)
            if index in seen:
                continue
            seen.add(index)
            node = self.nodes[index]
            kind = self._kind(node, names, fixed)
            if kind == "join":
                joins |= {(index, p) for p, t in enumerate(node.gs.inputs) if t.name in fixed}
                continue
            if kind == "part":
                parts |= {(index, p) for p, t in enumerate(node.gs.inputs) if t.name in names}
                continue
            if kind == "" or any(t.name in self.outputs for t in node.gs.outputs):
                return None
            (constants if kind == "bias" else folded).add(index)
            for tensor in node.gs.outputs:
                fixed.add(tensor.name)
                for reader in self.readers.get(tensor.name, ()):
                    heappush(queue, reader)
        if not (joins or parts) or any(t.name in self.outputs for i in empty for t in self.nodes[i].gs.outputs):
            return None
        if not all(self.main[i] for i in (*empty, *constants, *folded)):
            return None
        gone = frozenset(self._dead(empty, constants))
        return Branch(gone, frozenset(constants), frozenset(folded), frozenset(joins), frozenset(parts))

    def _kind(self, node: Node, empty: set[str], fixed: set[str]) -> str:
        """What a reader of emptied or constant tensors becomes: its bias, folded, a join, a concatenation of fewer
        parts; or "", what cannot be."""
        data = [t for t in node.gs.inputs if t.name and not isinstance(t, gs.Constant)]
        if any(t.name in empty for t in data):
            if traits_of(node.gs).drops_parts and len(data) == len(node.gs.inputs) and not node.frozen:
                return "part" if any(t.name not in empty for t in data) else ""
            return "bias" if _is_plain_product(node) and len(data) == 1 else ""
        if all(t.name in fixed for t in data):
            folds = rule_for(node.gs).folds(node) or (_is_plain_product(node) and _is_pointwise(node))
            return "fold" if folds else ""
        if not traits_of(node.gs).elementwise or not node.outputs or node.outputs[0].axes is None:
            return ""
        # What is live must have the whole shape: the constant has none to give.
        shape = [_size(axis) for axis in node.outputs[0].axes]
        live = [t for t, g in zip(node.inputs, node.gs.inputs, strict=True) if g in data and g.name not in fixed]
        full = [t for t in live if t is not None and t.axes is not None and [_size(a) for a in t.axes] == shape]
        return "join" if full else ""

    def _dead(self, empty: set[int], constants: set[int]) -> set[int]:
        """The emptied nodes and all whose outputs only they, or the products without input, read."""
        gone = set(empty)
        stack = [t.name for i in (*empty, *constants) for t in self.nodes[i].gs.inputs]
        while stack:
            index = self.producer.get(stack.pop())
            if index is None or index in gone or not self.main[index]:
                continue
            node = self.nodes[index]
            names = [t.name for t in node.gs.outputs]
            if any(n in self.outputs for n in names):
                continue
            if all(r in gone or r in constants for n in names for r in self.readers.get(n, ())):
                gone.add(index)
                stack += [t.name for t in node.gs.inputs]
        return gone


def _size(axis: Sequence[object]) -> int:
    return int(np.prod([f.size for f in axis]))  # type: ignore[attr-defined]


def _is_plain_product(node: Node) -> bool:
    """Whether the output without input channels is the bias."""
    product, form = node.product, traits_of(node.gs).form
    if product is None or node.frozen or product.data != 0 or product.weight != 1:
        return False
    if form is None or form.kind not in ("matrix", "conv") or not plain(node.gs):
        return False
    operands = [t for t in node.gs.inputs[1:] if t.name]
    if not all(isinstance(t, gs.Constant) for t in operands):
        return False
    width = operands[0].shape[product.weight_out]
    return len(operands) == 1 or int(np.prod(operands[1].shape)) == width


def _is_pointwise(node: Node) -> bool:
    """Whether a product sees one position at a time, so that it takes a constant for all of them to another."""
    weight, form = node.gs.inputs[1], traits_of(node.gs).form
    pads = node.attr("pads") or [0]
    assert form is not None
    if form.kind == "conv":  # with a window of one position, "SAME" pads nothing
        return all(s == 1 for s in weight.shape[2:]) and not any(pads)
    return not form.bias and len(weight.shape) == 2
