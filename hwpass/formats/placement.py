"""Which operators run on integers, and which activations are handed on in 8 bits.

A product (a convolution, a matrix product) takes its activations and weights as integers. What follows it stays in
integers as long as the runtime has kernels for it and everything it reads is there already; what only moves elements
keeps the parameters of its input. A residual stream of floating-point numbers therefore stays one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from hwpass.cost_models.target import Int8
from hwpass.coupling.groups import walk
from hwpass.globs import matches
from hwpass.model.model import Model, bodies
from hwpass.proto import adapter

#: Activations that a QuantizeLinear behind them replaces: what they cut off lies outside its range.
CUTTING = frozenset({"Relu", "Clip"})

#: Weights of so few elements are not worth their scales.
FEWEST_ELEMENTS = 256


@dataclass
class Placement:
    """Nodes that run on integers by the name of their first output, and where activations are quantised.

    `tensors` maps each activation that is quantised to the one whose parameters it takes (itself for most). `reasons`
    says why products stay in floating point, by their first output.
    """

    nodes: dict[str, gs.Node] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)  # of them, those that a node on integers makes: all readers take them
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def leaders(self) -> list[str]:
        """The activations whose ranges are wanted."""
        return sorted(set(self.tensors.values()))


def weights_of(node: gs.Node) -> list[int]:
    """The positions of a product's constant float32 operands; a bias is none of them."""
    places = range(min(2, len(node.inputs)))
    return [p for p in places if isinstance(node.inputs[p], gs.Constant) and node.inputs[p].dtype == np.float32]


def products(model: Model, names: Iterable[str]) -> list[gs.Node]:
    """The products of the main graph, in order."""
    wanted = set(names)
    return [node for node in model.graph.nodes if node.op in wanted and not node.domain]


def place(
    model: Model, rules: Int8, keep: tuple[str, ...] = (), floating: Mapping[str, str] | None = None
) -> Placement:
    """Where integers are used in a model. `keep` names layers that stay in floating point (globs of node names),
    `floating` others by their first output, with the reason."""
    return _Placer(model, rules, keep, floating or {}).place()


class _Placer:
    def __init__(self, model: Model, rules: Int8, keep: tuple[str, ...], floating: Mapping[str, str]) -> None:
        self.graph = model.graph
        self.rules, self.keep, self.floating = rules, keep, floating
        self.types = types_of(model)
        self.outputs = {t.name for t in model.graph.outputs}
        self.readers: dict[str, list[gs.Node]] = {}
        self.inner: set[str] = set()  # what bodies read
        for node in model.graph.nodes:
            for tensor in node.inputs:
                self.readers.setdefault(tensor.name, []).append(node)
            for body in bodies(node):
                self.inner |= {t.name for inner in body.nodes for t in inner.inputs}
        self.found = Placement()

    def place(self) -> Placement:
        for node in self.graph.nodes:
            if node.domain or not node.outputs:
                continue
            if node.op in self.rules.products:
                reason = self._refused(node)
                if reason is not None:
                    self.found.reasons[node.outputs[0].name] = reason
                else:
                    self._product(node)
            elif any(matches(glob, node.name) for glob in self.keep) or node.outputs[0].name in self.floating:
                continue
            elif node.op in self.rules.moving:
                self._moving(node)
            elif node.op in self.rules.others:
                self._other(node)
        return self.found

    def _refused(self, node: gs.Node) -> str | None:
        """Why a product stays in floating point; None where it does not."""
        name = node.outputs[0].name
        if any(matches(glob, node.name) for glob in self.keep):
            return "it is kept"
        if name in self.floating:
            return self.floating[name]
        if self.types.get(name) != TensorProto.FLOAT:
            return "its numbers are not float32"
        if not all(self._operand(tensor) for tensor in node.inputs[:2]):
            return "an operand is neither a float32 activation nor a float32 constant"
        constants = weights_of(node)
        if node.op == "Conv" and (constants != [1] or not _constant_bias(node)):
            return "its weights are not constant"
        if node.op == "Gemm":
            plain = float(node.attrs.get("alpha", 1.0)) == float(node.attrs.get("beta", 1.0)) == 1.0
            if constants != [1] or not plain or node.attrs.get("transA", 0) or not _constant_bias(node):
                return "it is scaled or transposed, or its weights are not constant"
        if constants and node.inputs[constants[0]].values.size < FEWEST_ELEMENTS:
            return f"it has fewer than {FEWEST_ELEMENTS} weights"
        if len(constants) == 2:
            return "both operands are constant"
        return None

    def _operand(self, tensor: gs.Tensor) -> bool:
        if isinstance(tensor, gs.Constant):
            return bool(tensor.dtype == np.float32) and tensor.values.ndim >= 2
        return self.types.get(tensor.name) == TensorProto.FLOAT

    def _product(self, node: gs.Node) -> None:
        for tensor in node.inputs[:2]:
            if not isinstance(tensor, gs.Constant):
                self.found.tensors.setdefault(tensor.name, tensor.name)
        self.found.nodes[node.outputs[0].name] = node
        if node.op == "Conv":
            self._hand_on(node)

    def _hand_on(self, node: gs.Node) -> None:
        """What a node on integers makes is handed on in 8 bits, behind an activation that cuts where there is one."""
        tensor = node.outputs[0]
        after = self.readers.get(tensor.name, [])
        alone = len(after) == 1 and tensor.name not in self.outputs and tensor.name not in self.inner
        if alone and after[0].op in CUTTING and not after[0].domain and _cuts(after[0]):
            tensor = after[0].outputs[0]
        self.found.tensors.setdefault(tensor.name, tensor.name)
        self.found.made.add(tensor.name)

    def _moving(self, node: gs.Node) -> None:
        source, result = node.inputs[0], node.outputs[0]
        ready = source.name in self.found.made and len(node.outputs) == 1
        if ready and self.types.get(result.name) == TensorProto.FLOAT:
            self.found.nodes[result.name] = node
            self.found.tensors[result.name] = self.found.tensors[source.name]
            self.found.made.add(result.name)

    def _other(self, node: gs.Node) -> None:
        operands = [t for t in node.inputs if t.name and not isinstance(t, gs.Constant)]
        constants = [t for t in node.inputs if isinstance(t, gs.Constant) and t.dtype == np.float32]
        if operands and not constants and all(t.name in self.found.made for t in operands):
            self.found.nodes[node.outputs[0].name] = node
            self._hand_on(node)


def types_of(model: Model) -> Mapping[str, int]:
    """The element types of the tensors of the main graph, by name, also behind operators that ONNX does not know."""
    found = walk(model).build.tensors
    return {name: adapter.element_type(t.dtype) for name, t in found.items() if t.dtype is not None}


def _constant_bias(node: gs.Node) -> bool:
    """Whether a bias is absent, or a constant with one entry for each channel."""
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return True
    bias, weight = node.inputs[2], node.inputs[1]
    if not isinstance(bias, gs.Constant) or not isinstance(weight, gs.Constant) or bias.dtype != np.float32:
        return False
    return bool(bias.values.ndim == 1 and bias.values.size == weight.values.shape[channel_axis(node, 1)])


def _cuts(node: gs.Node) -> bool:
    """Whether an activation cuts at constants."""
    return all(isinstance(t, gs.Constant) or t.is_empty() for t in node.inputs[1:])


def channel_axis(node: gs.Node, position: int) -> int:
    """The axis of a weight that counts output channels: scales are per index of it."""
    rank = int(node.inputs[position].values.ndim)
    if node.op == "Conv":
        return 0
    if node.op == "Gemm":
        return 0 if node.attrs.get("transB", 0) else 1
    return rank - 1 if position == 1 else rank - 2
