"""Which nodes a runtime runs as one kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from hwpass.cost_models.target import Int8
from hwpass.coupling.groups import Coupling
from hwpass.ops import Node, traits_of
from hwpass.ops.rule import Extent
from hwpass.ops.rules.normalization import LOWERED, MEANLESS, RMS_NORM_SINCE

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"

#: Activations that a QuantizeLinear behind them replaces.
CUTTING = frozenset({"Relu", "Clip"})


@dataclass(eq=False)
class Kernel:
    """Nodes that a runtime runs as one; `nodes[0]` gives the kernel its kind."""

    nodes: list[Node]
    recurrent: bool = False  # the step by step part of its only node; bytes are counted with the other part
    piece: str = ""  # the operator of one step of its first node, where that is spelled out in a file
    feeding: tuple[Node, ...] = ()  # DequantizeLinear nodes in front of it, which a product on integers has no need of
    integer: bool = False  # whether it computes on integers of 8 bits
    without: int = -1  # what another kernel comes down to without channels of this group; -1: a kernel as given

    @property
    def partial(self) -> bool:
        """Whether another kernel reads and writes the tensors of its nodes."""
        return self.recurrent or self.piece not in ("", LOWERED[-1])

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
        if self.piece:
            return "elementwise"
        shapes_only = all(t.data is not None for node in self.nodes for t in node.outputs[:1])
        return "free" if shapes_only else first.kind

    @property
    def ops(self) -> str:
        """Its operators, joined by a plus; those that only say that it computes on integers are none."""
        if self.piece:
            return self.piece
        return "+".join(node.op for node in self.nodes if not self.integer or node.op != QUANTISE)


def matches(node: Node, item: str) -> bool:
    """Whether a node is what a chain's item names: its operator, or a class word."""
    return node.op == item or item in traits_of(node.gs).words()


def fuse(
    nodes: Sequence[Node],
    outputs: Sequence[str],
    fusion: Sequence[Sequence[str]],
    int8: Int8 | None = None,
    opset: int = RMS_NORM_SINCE,
) -> list[Kernel]:
    """Group nodes into kernels by the longest matching prefix of a chain, in schedule order.

    A node joins the kernel of the node before it when it is the only consumer of its output. `int8` says which
    operators have kernels on integers: QuantizeLinear and DequantizeLinear around these cost nothing. A norm without a
    mean is several kernels where the model's operator set will spell it out and the runtime does not fuse that.
    """  # fmt: skip
    spelled_out = opset < RMS_NORM_SINCE and list(LOWERED) not in [list(chain) for chain in fusion]
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for tensor in node.gs.inputs:
            if not isinstance(tensor, gs.Constant) and tensor.name:
                readers.setdefault(tensor.name, []).append(node)
    kept = set(outputs)
    integers = {} if int8 is None else _on_integers(nodes, readers, kept, int8)
    taken = {kernel.nodes[i].index for kernel in integers.values() for i in range(1, len(kernel.nodes))}
    taken |= _unneeded(nodes, readers, kept, integers)
    kernels: list[tuple[int, Kernel]] = []
    for node in nodes:
        if node.index in taken:
            continue
        if node.index in integers:
            kernels.append((integers[node.index].nodes[-1].index, integers[node.index]))
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
        steps = LOWERED if node.op == MEANLESS and spelled_out else ("",)
        kernels += [(best[-1].index, Kernel(best, piece=step)) for step in steps]
        if node.recurrence is not None:
            kernels.append((best[-1].index, Kernel([node], recurrent=True)))
    return [kernel for _, kernel in sorted(kernels, key=lambda pair: pair[0])]


def _on_integers(
    nodes: Sequence[Node], readers: Mapping[str, list[Node]], kept: set[str], int8: Int8
) -> dict[int, Kernel]:
    """Kernels on integers by the index of their first node: operators that read through DequantizeLinear alone, and
    whose output is quantised (a matrix product may give floating-point numbers)."""
    made = {node.gs.outputs[0].name: node for node in nodes if node.op == DEQUANTISE}
    stored = {t.name for node in nodes for t in node.gs.inputs if isinstance(t, gs.Constant)}
    found: dict[int, Kernel] = {}
    for node in nodes:
        product = node.op in int8.products
        if not product and node.op not in int8.others and node.op not in int8.moving:
            continue
        places = range(len(node.gs.inputs)) if node.op in int8.others else range(2 if product else 1)
        given = [node.gs.inputs[p] for p in places if p < len(node.gs.inputs) and node.gs.inputs[p].name]
        feeding = [made[t.name] for t in given if t.name in made]
        weights = [t for t in given if t.name not in made and t.inputs and t.inputs[0].op == DEQUANTISE]
        if not feeding or len(feeding) + len(weights) < len(given) or any(t.name in stored for t in given):
            continue
        chain = [node]
        while len(after := readers.get(chain[-1].gs.outputs[0].name, [])) == 1 and (
            chain[-1].gs.outputs[0].name not in kept
        ):
            if after[0].op == QUANTISE or (after[0].op in CUTTING and len(chain) == 1):
                chain.append(after[0])
            if chain[-1] is not after[0] or after[0].op == QUANTISE:
                break
        quantised = chain[-1].op == QUANTISE
        if quantised or (product and node.op != "Conv"):
            whole = chain if quantised else [node]
            found[node.index] = Kernel(whole, feeding=tuple(feeding), integer=True)
    return found


def _unneeded(
    nodes: Sequence[Node], readers: Mapping[str, list[Node]], kept: set[str], integers: Mapping[int, Kernel]
) -> set[int]:
    """DequantizeLinear nodes that only kernels on integers read."""
    found = set()
    for node in nodes:
        name = node.gs.outputs[0].name if node.gs.outputs else ""
        after = readers.get(name, [])
        served = [r.index in integers and any(node is f for f in integers[r.index].feeding) for r in after]
        if node.op == DEQUANTISE and name not in kept and served and all(served):
            found.add(node.index)
    return found


def fused(coupling: Coupling, fusion: Sequence[Sequence[str]], int8: Int8 | None = None) -> list[Kernel]:
    """The kernels of a coupled model as it is."""
    outputs = [t.name for t in coupling.build.model.graph.outputs]
    model = coupling.build.model
    return fuse([n for n in coupling.nodes if not constant_only(n)], outputs, fusion, int8, model.opset)


def constant_only(node: Node) -> bool:
    """Whether a node works on constants alone, which every runtime does beforehand."""
    return all(t is None or t.constant for t in node.inputs) and bool(node.inputs)
