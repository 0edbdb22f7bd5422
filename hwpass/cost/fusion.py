"""Which nodes a runtime runs as one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from hwpass.coupling.groups import Coupling
from hwpass.ops import Node, traits_of
from hwpass.ops.rule import Extent


@dataclass(eq=False)
class Kernel:
    """Nodes that a runtime runs as one; `nodes[0]` gives the kernel its kind."""

    nodes: list[Node]
    recurrent: bool = False  # the step by step part of its only node; bytes are counted with the other part
    without: int = -1  # what another kernel comes down to without channels of this group; -1: a kernel as given

    @property
    def extent(self) -> Extent | None:
        """The GEMM view of its work."""
        return self.nodes[0].recurrence if self.recurrent else self.nodes[0].extent

    @property
    def name(self) -> str:
        """The name of its first node."""
        return self.nodes[0].name

    @property
    def kind(self) -> str:
        """The kind of its first node; shape arithmetic costs nothing worth modelling."""
        first = self.nodes[0]
        if self.recurrent:
            return "recurrent"
        shapes_only = all(t.data is not None for node in self.nodes for t in node.outputs[:1])
        return "free" if shapes_only else first.kind

    @property
    def ops(self) -> str:
        """Its operators, joined by a plus."""
        return "+".join(node.op for node in self.nodes)


def matches(node: Node, item: str) -> bool:
    """Whether a node is what a chain's item names: its operator, or a class word."""
    return node.op == item or item in traits_of(node.gs).words()


def fuse(nodes: Sequence[Node], outputs: Sequence[str], fusion: Sequence[Sequence[str]]) -> list[Kernel]:
    """Group nodes into kernels by the longest matching prefix of a chain, in schedule order.

    A node joins the kernel of the node before it when it is the only consumer of its output.
    """
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for tensor in node.gs.inputs:
            if not isinstance(tensor, gs.Constant) and tensor.name:
                readers.setdefault(tensor.name, []).append(node)
    taken: set[int] = set()
    kernels: list[tuple[int, Kernel]] = []
    kept = set(outputs)
    for node in nodes:
        if node.index in taken:
            continue
        best = [node]
        for chain in fusion:
            if not matches(node, chain[0]):
                continue
            run = [node]
            for item in chain[1:]:
                name = run[-1].gs.outputs[0].name
                after = readers.get(name, [])
                if len(after) != 1 or name in kept or after[0].index in taken or not matches(after[0], item):
                    break
                run.append(after[0])
            best = run if len(run) > len(best) else best
        taken.update(n.index for n in best)
        kernels.append((best[-1].index, Kernel(best)))
        if node.recurrence is not None:
            kernels.append((best[-1].index, Kernel([node], recurrent=True)))
    return [kernel for _, kernel in sorted(kernels, key=lambda pair: pair[0])]


def fused(coupling: Coupling, fusion: Sequence[Sequence[str]]) -> list[Kernel]:
    """The kernels of a coupled model as it is."""
    outputs = [t.name for t in coupling.build.model.graph.outputs]
    return fuse([n for n in coupling.nodes if not constant_only(n)], outputs, fusion)


def constant_only(node: Node) -> bool:
    """Whether a node works on constants alone, which every runtime does beforehand."""
    return all(t is None or t.constant for t in node.inputs) and bool(node.inputs)
