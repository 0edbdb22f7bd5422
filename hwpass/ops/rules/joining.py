"""Operators that join tensors along an axis, or cut one into parts: ids are joined or cut with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.ops.axes import FROZEN, Axis, axis_size, opaque
from hwpass.ops.functions import layout
from hwpass.ops.functions.common import Function
from hwpass.ops.planar import Planar, moved
from hwpass.ops.rule import Array, Freeze, Known, Node, Relate, Rule, Shrink, Tensor, Traits, register
from hwpass.ops.rules.layout import MOVES
from hwpass.ops.rules.selection import picked


@register
class Concat(Rule):
    """Joins along one axis: the ids of the parts one after the other."""

    ops = ("Concat",)
    kind = "movement"
    traits = Traits(sign="all", hands_on=True, drops_parts=True, linear=None, carries=None)
    functions: ClassVar[dict[str, Function]] = {"Concat": layout.concat}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        parts = [node.axes(p) for p in range(len(node.inputs))]
        if len({len(part) for part in parts}) > 1:
            raise Freeze("the ranks of its parts cannot be seen")
        place = int(node.attr("axis", 1)) % len(parts[0])
        return [Tensor(self.joined(build, parts, place), node.tensor(0).dtype)]

    def constants(self, node: Node, given: Mapping[int, Known]) -> Known | None:
        axis = int(node.attr("axis")) % node.outputs[0].rank
        masks, values = [], []
        for position in range(len(node.inputs)):
            known, size = given.get(position), node.tensor(position).shape[axis]
            if known is not None and known.place != axis:
                return None
            masks.append(np.zeros(size, bool) if known is None else known.mask)
            values.append(np.zeros(size) if known is None else known.values)
        return Known(axis, np.concatenate(masks), np.concatenate(values))

    @classmethod
    def joined(cls, build: Relate, parts: list[tuple[Axis, ...]], place: int) -> tuple[Axis, ...]:
        """The axes of tensors joined along axis `place`."""
        axes: list[Axis] = []
        for i in range(len(parts[0])):
            if i == place:
                axes.append(cls._joined(build, [part[i] for part in parts]))
                continue
            joined = parts[0][i]
            for part in parts[1:]:
                zero = all(f.zero for f in (*joined, *part[i]) if f.ids is not None)
                joined, _ = build.unify(joined, part[i], "Concat aligns its parts")
                joined = tuple(f if f.ids is None else type(f)(f.size, f.ids, zero) for f in joined)
            axes.append(joined)
        return tuple(axes)

    @staticmethod
    def _joined(build: Relate, parts: list[Axis]) -> Axis:
        found = [build.flat(part) for part in parts]
        if all(f is None for f in found):
            return opaque(sum(axis_size(part) for part in parts))
        ids = [
            np.full(axis_size(p), FROZEN, np.int64) if f is None else f[0] for p, f in zip(parts, found, strict=True)
        ]
        return build.factor(np.concatenate(ids), all(f[1] for f in found if f is not None))

    def planar(self, node: gs.Node, ranks: Sequence[int | None]) -> Planar | None:
        constants = {}
        for position, (tensor, rank) in enumerate(zip(node.inputs, ranks, strict=True)):
            if isinstance(tensor, gs.Constant):
                constants[position] = np.expand_dims(tensor.values, 2)
            elif rank != 3:
                return None
        return Planar({"axis": moved(int(node.attrs.get("axis", 1)))}, constants)

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        if any(v is None for v in inputs):
            return None
        return np.concatenate([v for v in inputs if v is not None], axis=int(node.attr("axis", 1)))


@register
class Split(Rule):
    """Cuts an axis into consecutive parts of given, or equal, sizes."""

    ops = ("Split",)
    kind = "movement"
    parameters = (1,)
    traits = replace(MOVES, extents=(1,))
    functions: ClassVar[dict[str, Function]] = {"Split": layout.split}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        place = int(node.attr("axis", 0)) % len(x)
        total, count = axis_size(x[place]), len(node.gs.outputs)
        sizes = node.integers(1, "split")
        if sizes is None:
            each = -(-total // count)
            sizes = [min(each, total - each * i) for i in range(count)]
        node.memo["parts"] = parts = []
        start = 0
        for size in sizes:
            parts.append(picked(build, x[place], np.arange(start, start + size)))
            start += size
        return [Tensor((*x[:place], part, *x[place + 1 :]), node.tensor(0).dtype) for part in parts]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        place = int(node.attr("axis", 0)) % len(node.axes(0))
        if not shrink.touched(node.axes(0)[place]):
            return
        sizes = [shrink.size(part) for part in node.memo["parts"]]
        if "split" in node.gs.attrs:
            node.gs.attrs["split"] = sizes
        elif node.has(1):
            shrink.set_operand(node, 1, sizes)
        elif len(set(sizes)) > 1:
            if node.gs.attrs.pop("num_outputs", None) is None and shrink.opset < 13:
                node.gs.attrs["split"] = sizes
            else:
                shrink.add_operand(node, 1, sizes)

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        return None

    def planar(self, node: gs.Node, ranks: Sequence[int | None]) -> Planar | None:
        return Planar({"axis": moved(int(node.attrs.get("axis", 0)))})
