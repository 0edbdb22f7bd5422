"""Which tensors are certainly not zero where a removed channel leaves entries behind in the dense twin.

A factor's flag `zero` says that such entries are zero; without it they may be anything, zero too. What divides by them
or takes their logarithm has to know that they are not. Everything here is a sufficient condition, in one forward walk:
each rule tells it of its outputs (`Rule.sign`).
"""

from __future__ import annotations

from hwpass.ops.axes import Axis
from hwpass.ops.node import Node, Sign, Tensor
from hwpass.ops.traits import Traits


def can_tell(node: Node) -> bool:
    """Whether anything can be said of a node's outputs: integers round to zero."""
    kind = node.outputs[0].dtype if node.outputs else None
    first = next((t for t in node.inputs if t is not None), None)
    return first is not None and first.axes is not None and kind is not None and kind.kind == "f"


def by_traits(node: Node, traits: Traits) -> Sign:
    """What is known of the sign of a node's outputs from those of its operands, by its traits alone."""
    known = signs(node) if traits.sign == "all" else signs(node)[:1]
    nonnegative, positive = traits.sign in ("nonnegative", "positive"), traits.sign == "positive"
    if traits.sign in ("same", "all"):
        nonnegative = all(s.nonnegative for s in known)
        positive = nonnegative and all(s.positive for s in known)
    return Sign(nonnegative, positive, positive or (traits.keeps_solid and known[0].solid))


def signs(node: Node) -> list[Sign]:
    """The signs of a node's operands."""
    return [sign_of(tensor) for tensor in node.inputs if tensor is not None]


def sign_of(tensor: Tensor) -> Sign:
    """Constants of several entries lose some, which are zeros in the twin: only single numbers count."""
    if not tensor.constant:
        return tensor.sign
    if tensor.data is None or tensor.data.size != 1 or tensor.data.dtype.kind not in "fiu":
        return Sign()
    value = float(tensor.data.reshape(-1)[0])
    return Sign(value >= 0, value > 0, value > 0)


def shifted(node: Node) -> bool:
    """Whether a sum is of zeros and a positive number, so that the number is left."""
    data = [tensor for tensor in node.inputs if tensor is not None]
    if len(data) != 2:
        return False
    return any(sign_of(one).positive and one.constant and _zeros(other) for one, other in (data, data[::-1]))


def alive(axis: Axis) -> bool:
    """Whether an axis has channels."""
    return any(f.ids is not None for f in axis)


def _zeros(tensor: Tensor) -> bool:
    return tensor.axes is not None and all(f.zero for axis in tensor.axes for f in axis if f.ids is not None)
