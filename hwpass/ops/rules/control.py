"""Control flow and containers: what crosses a body's boundary keeps its width; inside, rules apply as anywhere."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from hwpass.ops.axes import opaque
from hwpass.ops.functions import sequences
from hwpass.ops.functions.common import Function
from hwpass.ops.rule import Freeze, Node, Relate, Rule, Tensor, Traits, register


@register
class If(Rule):
    """Either body's outputs: frozen inside, and of the extents on which the bodies agree."""

    ops = ("If",)
    kind = "free"

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        condition = node.value(0)
        if condition is not None:
            # Decided by extents alone: at these, the other branch may not even make sense.
            taken = node.bodies[1 if bool(np.reshape(condition, -1)[0]) else 0]
            return [Tensor(t.axes and tuple(opaque(s) for s in t.shape), t.dtype, t.data) for t in taken]
        return [self._merged(pair, build) for pair in zip(*node.bodies, strict=True)]

    @staticmethod
    def _merged(pair: tuple[Tensor, ...], build: Relate) -> Tensor:
        one, other = pair[0], pair[-1]
        if one.axes is None or other.axes is None or one.rank != other.rank:
            return Tensor(None, one.dtype)
        sizes = [a if a == b else build.unknown_size() for a, b in zip(one.shape, other.shape, strict=True)]
        return Tensor(tuple(opaque(s) for s in sizes), one.dtype)


@register
class Boundary(Rule):
    """Loops and containers: the state and the elements keep their width."""

    ops = (
        "Loop",
        "Scan",
        "SequenceMap",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SplitToSequence",
        "ConcatFromSequence",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
    )

    each: ClassVar[dict[str, Traits]] = {"Loop": Traits(extents=(0,))}
    functions: ClassVar[dict[str, Function]] = sequences.SEQUENCES

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        raise Freeze(f"what passes through {node.op} keeps its width")
