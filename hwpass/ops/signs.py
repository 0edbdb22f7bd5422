"""Which tensors are certainly not zero where a removed channel leaves entries behind in the dense twin.

A factor's flag `zero` says that such entries are zero; without it they may be anything, zero too. What divides by them
or takes their logarithm has to know that they are not. Everything here is a sufficient condition, in one forward walk.
"""

from __future__ import annotations

import numpy as np

from hwpass.ops.axes import Axis
from hwpass.ops.rule import Node, Sign, Tensor

_POSITIVE = frozenset("Exp Sigmoid Softplus Cosh".split())
_NONNEGATIVE = frozenset("Abs Relu Sqrt ReduceL1 ReduceL2 ReduceSumSquare".split())
_SAME = frozenset(
    "Identity Cast Dropout Reshape Flatten Transpose Squeeze Unsqueeze Expand Tile Slice Split Gather Concat ReduceMax"
    " ReduceMin ReduceSum ReduceMean Max Min Add Sum Mul Div".split()
)
_MOVES = frozenset("Identity Cast Reshape Flatten Transpose Squeeze Unsqueeze Expand Slice Split Sqrt Abs".split())
_SELECTS = frozenset("Concat Max Min Add Sum Mul Div".split())  # every operand is data


def signed(node: Node) -> Sign:
    """What is known of the sign of a node's outputs, from those of its operands."""
    data = [t for p, t in enumerate(node.inputs) if t is not None and (p == 0 or node.op in _SELECTS)]
    kind = node.outputs[0].dtype if node.outputs else None
    if not data or data[0].axes is None or kind is None or kind.kind != "f":
        return Sign()  # integers round to zero
    known = [_of(t) for t in data]
    positive = node.op in _POSITIVE
    nonnegative = node.op in _NONNEGATIVE or (node.op == "Mul" and data[0] is data[-1]) or _even_power(node)
    if node.op in _SAME:
        nonnegative = nonnegative or all(s.nonnegative for s in known)
        positive = nonnegative and all(s.positive for s in known)
    if node.op in ("Add", "Sum", "Max"):
        positive = nonnegative and any(s.positive for s in known)
    if node.op == "Sqrt":
        positive = known[0].positive
    if node.op == "Clip":
        low = node.value(1) if node.has(1) else node.attr("min")
        nonnegative = low is not None and float(np.reshape(low, -1)[0]) >= 0
        positive = low is not None and float(np.reshape(low, -1)[0]) > 0
    solid = positive or (node.op in _MOVES and known[0].solid) or _copied(node) or _shifted(node, data)
    return Sign(nonnegative or positive, positive, solid)


def _of(tensor: Tensor) -> Sign:
    """Constants of several entries lose some, which are zeros in the twin: only single numbers count."""
    if not tensor.constant:
        return tensor.sign
    if tensor.data is None or tensor.data.size != 1 or tensor.data.dtype.kind not in "fiu":
        return Sign()
    value = float(tensor.data.reshape(-1)[0])
    return Sign(value >= 0, value > 0, value > 0)


def _even_power(node: Node) -> bool:
    exponent = node.value(1) if node.op == "Pow" else None
    return exponent is not None and exponent.size == 1 and float(exponent.reshape(-1)[0]) % 2 == 0


def _copied(node: Node) -> bool:
    """Expanded from a tensor without channels: what would go is a copy of what stays."""
    return node.op == "Expand" and not node.tensor(0).constant and not any(map(_alive, node.axes(0)))


def _shifted(node: Node, data: list[Tensor]) -> bool:
    """Zeros and a positive number: the number."""
    if node.op != "Add" or len(data) != 2:
        return False
    return any(_of(one).positive and one.constant and _zeros(other) for one, other in (data, data[::-1]))


def _zeros(tensor: Tensor) -> bool:
    return tensor.axes is not None and all(f.zero for axis in tensor.axes for f in axis if f.ids is not None)


def _alive(axis: Axis) -> bool:
    return any(f.ids is not None for f in axis)
