"""Half precision, operator by operator: what would overflow in 16 bits, or lose what matters, stays in 32.

A converter that narrows everything ruins networks whose values or constants do not fit. Here the values of every tensor
are seen on data first. Inputs and outputs of the model stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from hwpass.formats.placement import types_of
from hwpass.formats.ranges import Seen
from hwpass.globs import matches
from hwpass.model.model import Model, bodies
from hwpass.model.node_order import put_in_order, reads

#: The largest number of 16 bits, the smallest that keeps all its digits, and the largest of consecutive integers.
LARGEST, SMALLEST, INTEGERS = 65504.0, 2.0**-14, 2048.0

#: How many times larger than what was seen values may become.
MARGIN = 4.0

#: Operators with a 16-bit form, and which of their inputs are of that type (None: all that are floating-point).
OPERATORS: Mapping[str, tuple[int, ...] | None] = dict.fromkeys(
    (
        "Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "Sub", "Mul", "Div", "Relu", "LeakyRelu", "PRelu", "Clip",
        "Sigmoid", "Tanh", "Gelu", "Erf", "HardSwish", "HardSigmoid", "Elu", "Softplus", "Concat", "Reshape",
        "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Expand", "Tile", "Pad", "MaxPool",
        "AveragePool", "GlobalAveragePool", "Where", "Identity", "DepthToSpace", "SpaceToDepth", "Max", "Min", "Neg",
        "Abs", "Softmax",
    )
)  # fmt: skip
OPERATORS = {**OPERATORS, "Resize": (0,)}

#: Sums of many terms: runtimes may take them in 16 bits.
SUMS = frozenset({"ReduceSum", "ReduceMean", "ReduceL2", "ReduceSumSquare", "LayerNormalization", "RMSNormalization",
                  "InstanceNormalization", "GroupNormalization", "BatchNormalization", "CumSum"})  # fmt: skip

#: Operators that hold weights: those that a choice by what is lost is about.
LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


@dataclass
class Halves:
    """Nodes in 16 bits by the name of their first output, and why others are not, by the same."""

    nodes: dict[str, gs.Node] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def places(node: gs.Node, types: Mapping[str, int]) -> list[int]:
    """The inputs of a node that are of its floating-point type."""
    allowed = OPERATORS.get(node.op)
    found = []
    for place, tensor in enumerate(node.inputs):
        wide = tensor.dtype == np.float32 if isinstance(tensor, gs.Constant) else types.get(tensor.name) == 1
        if wide and (allowed is None or place in allowed):
            found.append(place)
    return found


def halves(model: Model, seen: Mapping[str, Seen], keep: Sequence[str] = (), left: Iterable[str] = ()) -> Halves:
    """Which nodes of the main graph can be in 16 bits. `left` names some that stay, by their first output."""
    types, stay, found = types_of(model), set(left), Halves()
    for node in model.graph.nodes:
        if not node.outputs or not places(node, types):
            continue
        name = node.outputs[0].name
        reason = _refused(node, seen, types)
        if name in stay:
            reason = "16 bits lose too much there"
        if any(matches(glob, node.name) for glob in keep):
            reason = "it is kept"
        if reason is None:
            found.nodes[name] = node
        else:
            found.reasons[name] = reason
    return found


def _refused(node: gs.Node, seen: Mapping[str, Seen], types: Mapping[str, int]) -> str | None:
    """Why a node stays in 32 bits; None where it does not."""
    if node.op in SUMS:
        return "it sums many terms"
    if node.op not in OPERATORS or node.domain or bodies(node):
        return "no 16-bit form of it is known"
    if any(types.get(t.name) != TensorProto.FLOAT for t in node.outputs if t.name):
        return "what it makes is not float32"
    for place in places(node, types):
        tensor = node.inputs[place]
        if isinstance(tensor, gs.Constant) and (reason := _constant(node, tensor.values)) is not None:
            return reason
    for tensor in (*(node.inputs[place] for place in places(node, types)), *node.outputs):
        if isinstance(tensor, gs.Constant) or not tensor.name:
            continue
        if tensor.name not in seen:
            return "its values could not be seen"
        largest = max(abs(seen[tensor.name].low), abs(seen[tensor.name].high))
        if largest * MARGIN > LARGEST:
            return f"values of {largest:.3g} were seen, too near to the largest of 16 bits"
    return None


def _constant(node: gs.Node, values: np.ndarray) -> str | None:
    """Why a constant does not fit; infinity does."""
    magnitudes = np.abs(values[np.isfinite(values)])
    largest = float(magnitudes.max(initial=0.0))
    if largest > LARGEST:
        return f"its constant of {largest:.3g} is too large"
    # A weight is one of many; a number that stands alone, such as an epsilon, is what it is for.
    if magnitudes.size == 1 and 0 < largest < SMALLEST:
        return f"its constant of {largest:.3g} is too small"
    whole = (
        node.op in ("Add", "Sub", "Mul", "Div") and largest > INTEGERS and (magnitudes == np.round(magnitudes)).all()
    )
    return "its constants are integers that 16 bits do not tell apart" if whole else None


def in_half(model: Model, nodes: Iterable[str]) -> Model:
    """A copy with some nodes, named by their first outputs, in 16 bits, and casts around them."""
    types = types_of(model)
    result = model.copy()
    graph = result.graph
    wanted = {n.outputs[0].name for n in graph.nodes if n.outputs} & set(nodes)
    chosen = [n for n in graph.nodes if n.outputs and n.outputs[0].name in wanted]
    narrow: dict[int, gs.Variable] = {}
    constants: dict[int, gs.Constant] = {}
    casts: list[gs.Node] = []
    made = {id(t) for node in chosen for t in node.outputs if t.name}
    for node in chosen:
        for place in places(node, types):
            tensor = node.inputs[place]
            if isinstance(tensor, gs.Constant):
                if id(tensor) not in constants:
                    values = tensor.values.astype(np.float16)
                    constants[id(tensor)] = gs.Constant(f"{tensor.name}_half", values)
                node.inputs[place] = constants[id(tensor)]
                continue
            if id(tensor) not in narrow:
                narrow[id(tensor)] = gs.Variable(f"{tensor.name}_half", np.float16)
                if id(tensor) not in made:
                    casts.append(_cast(tensor, narrow[id(tensor)], TensorProto.FLOAT16))
            node.inputs[place] = narrow[id(tensor)]
    captured = {name for node in graph.nodes if bodies(node) for name in reads(node)}
    outputs = {id(t) for t in graph.outputs}
    for node in chosen:
        for place, tensor in enumerate(node.outputs):
            if not tensor.name:
                continue
            half = narrow.get(id(tensor)) or gs.Variable(f"{tensor.name}_half", np.float16)
            node.outputs[place] = half
            if tensor.outputs or id(tensor) in outputs or tensor.name in captured:
                casts.append(_cast(half, tensor, TensorProto.FLOAT))
    graph.nodes.extend(casts)
    put_in_order(graph)
    graph.cleanup(remove_unused_node_outputs=False)
    result.invalidate_shapes()
    return result


def _cast(source: gs.Tensor, result: gs.Tensor, kind: int) -> gs.Node:
    return gs.Node("Cast", f"{result.name}_cast", {"to": int(kind)}, [source], [result])
