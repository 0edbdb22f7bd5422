"""Operators that hand their input on, as it is or in another type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.ops.axes import with_zero
from hwpass.ops.functions import elementwise
from hwpass.ops.functions.common import Function
from hwpass.ops.planar import Planar, entrywise
from hwpass.ops.rule import Array, Freeze, Node, Relate, Rule, Tensor, Traits, register
from hwpass.ops.rules.elementwise import ENTRYWISE


@register
class Cast(Rule):
    """Changes the element type; the channels stay."""

    ops = ("Cast", "CastLike")
    kind = "elementwise"
    each: ClassVar[dict[str, Traits]] = {
        "Cast": Traits(sign="same", keeps_solid=True, hands_on=True, carries=(0,)),
    }
    functions: ClassVar[dict[str, Function]] = dict.fromkeys(ops, elementwise.cast)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        from onnx import helper

        target = node.attr("to")
        if target is None:
            dtype = node.tensor(1).dtype
        else:
            dtype = target if isinstance(target, np.dtype) else np.dtype(helper.tensor_dtype_to_np_dtype(int(target)))
        return [Tensor(node.axes(0), dtype)]

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        from onnx import helper

        target = node.attr("to")
        if inputs[0] is None or target is None:
            return None
        dtype = np.dtype(target) if not isinstance(target, int) else np.dtype(helper.tensor_dtype_to_np_dtype(target))
        return inputs[0].astype(dtype)

    def planar(self, node: gs.Node, ranks: Sequence[int | None]) -> Planar | None:
        return entrywise(node, ranks)


@register
class Through(Rule):
    """Operators that hand their input on."""

    ops = ("Identity", "Dropout")
    kind = "free"
    traits = replace(ENTRYWISE, sign="same", moves=True, linear=(0,), carries=(0,))
    each: ClassVar[dict[str, Traits]] = {
        "Identity": replace(traits, keeps_solid=True),
        "Dropout": replace(traits, foldable=False),
    }
    functions: ClassVar[dict[str, Function]] = {"Identity": elementwise.identity, "Dropout": elementwise.dropout}
    fixed = (1,)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.tensor(0)
        if node.op == "Dropout" and self._trains(node):
            raise Freeze("random numbers are drawn for the whole tensor")
        # The mask shrinks with its tensor, and is true where a removed channel would be.
        mask = Tensor(tuple(with_zero(axis, False) for axis in node.axes(0)), np.dtype(bool))
        return [Tensor(x.axes, x.dtype), mask][: len(node.gs.outputs)]

    def folds(self, node: Node) -> bool:
        return node.op == "Identity"

    def linear_in(self, node: Node) -> tuple[int, ...]:
        return () if len(node.inputs) > 2 else super().linear_in(node)  # Dropout that may be in training mode

    @staticmethod
    def _trains(node: Node) -> bool:
        if not node.has(2):
            return False
        mode, ratio = node.value(2), node.value(1) if node.has(1) else np.asarray(0.5)
        return (mode is None or bool(np.any(mode))) and (ratio is None or bool(np.any(ratio)))

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        return inputs[0]
