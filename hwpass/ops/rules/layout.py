"""Operators that only regroup or move axes: the factors stay what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.ops import constants
from hwpass.ops.axes import Axis, Mismatch, axis_size, opaque
from hwpass.ops.functions import layout as functions
from hwpass.ops.functions.common import Function
from hwpass.ops.planar import POSITIONS, Planar, moved
from hwpass.ops.rule import (
    Array,
    Freeze,
    Known,
    Node,
    Relate,
    Rule,
    Shrink,
    Sign,
    Tensor,
    Traits,
    WrongExtents,
    register,
)
from hwpass.ops.signs import alive

#: Of what only moves the numbers of its first input about.
MOVES = Traits(sign="same", keeps_solid=True, hands_on=True, moves=True, linear=(0,), carries=(0,))


def regrouped(node: Node, build: Relate, shape: list[int]) -> Tensor:
    """The input's factors cut into axes of `shape`; frozen where the boundaries do not fit."""
    x = node.tensor(0)
    if int(np.prod(x.shape, dtype=np.int64)) != int(np.prod(shape, dtype=np.int64)):
        raise WrongExtents(f"{list(x.shape)} cannot be seen as {shape}")
    if 0 in shape:
        return Tensor(tuple(opaque(s) for s in shape), x.dtype)
    try:
        axes = build.regroup([f for axis in node.axes(0) for f in axis], shape)
    except Mismatch:
        build.freeze(node.axes(0), f"{node.op} cuts across channels")
        axes = [opaque(s) for s in shape]
    return Tensor(tuple(axes), x.dtype)


class Regroups(Rule):
    """The numbers stay in their order, or their axes do: a constant channel is found where its axis went."""

    traits = MOVES

    def constants(self, node: Node, given: Mapping[int, Known]) -> Known | None:
        return constants.regrouped(node, given.get(0))


@register
class Reshape(Regroups):
    """Any regrouping of an ordered product of factors; the target is rewritten, constant or computed."""

    ops = ("Reshape",)
    kind = "free"
    parameters = (1,)
    traits = replace(MOVES, extents=(1,))
    functions: ClassVar[dict[str, Function]] = {"Reshape": functions.reshape}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.tensor(0)
        target = node.integers(1, "shape")
        assert target is not None
        allow_zero = bool(node.attr("allowzero", 0))
        shape = [x.shape[i] if v == 0 and not allow_zero else v for i, v in enumerate(target)]
        if -1 in shape:
            known = int(np.prod([v for v in shape if v != -1], dtype=np.int64))
            total = int(np.prod(x.shape, dtype=np.int64))
            shape[shape.index(-1)] = total // known if known else 0
        result = regrouped(node, build, shape)
        node.memo["result"] = result
        return [result]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        result = node.memo["result"]
        # A computed target may follow another tensor that shrinks, when this one does not.
        touched = any(shrink.touched(axis) for axis in (*result.axes, *node.axes(0)))
        if touched or not node.tensor(1).constant:
            shrink.set_operand(node, 1, shrink.shape(result))

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        if inputs[0] is None or len(inputs) < 2 or inputs[1] is None:
            return None
        target = [inputs[0].shape[i] if v == 0 else int(v) for i, v in enumerate(inputs[1])]
        return inputs[0].reshape(target)

    def planar(self, node: gs.Node, ranks: Sequence[int | None]) -> Planar | None:
        target = node.inputs[1] if len(node.inputs) > 1 else None
        shape = list(target.values) if isinstance(target, gs.Constant) else list(node.attrs.get("shape", []))
        # A zero copies the extent at its own place, which is the row's at the third.
        copied = [] if node.attrs.get("allowzero", 0) else shape[POSITIONS:]
        return Planar(follows=False) if shape and 0 not in copied else None


@register
class Flatten(Regroups):
    """Reshape to two axes."""

    ops = ("Flatten",)
    kind = "free"
    functions: ClassVar[dict[str, Function]] = {"Flatten": functions.flatten}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        shape = node.tensor(0).shape
        axis = int(node.attr("axis", 1))
        axis += len(shape) if axis < 0 else 0
        return [regrouped(node, build, [int(np.prod(part, dtype=np.int64)) for part in (shape[:axis], shape[axis:])])]

    def planar(self, node: gs.Node, ranks: Sequence[int | None]) -> Planar | None:
        axis = int(node.attrs.get("axis", 1))
        return Planar({"axis": moved(axis) if axis < 3 else 4}, follows=False)


@register
class Transpose(Regroups):
    """Permutes axes."""

    ops = ("Transpose",)
    kind = "movement"
    functions: ClassVar[dict[str, Function]] = {"Transpose": functions.transpose}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        order = node.attr("perm") or list(reversed(range(len(x))))
        source = node.tensor(0)
        # A weight stored the other way round is still a weight.
        data = np.transpose(source.data, order) if source.constant and source.data is not None else None
        return [Tensor(tuple(x[i] for i in order), source.dtype, data, source.constant)]

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        return None if inputs[0] is None else np.transpose(inputs[0], node.attr("perm"))


@register
class Squeeze(Regroups):
    """Drops axes of size one."""

    ops = ("Squeeze",)
    kind = "free"
    parameters = (1,)
    functions: ClassVar[dict[str, Function]] = {"Squeeze": functions.squeeze}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        given = node.integers(1, "axes")
        dropped = {a % len(x) for a in given} if given is not None else {i for i, a in enumerate(x) if not a}
        if any(x[i] for i in dropped):
            raise WrongExtents("squeezes an axis of more than one index")
        return [Tensor(tuple(a for i, a in enumerate(x) if i not in dropped), node.tensor(0).dtype)]

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        if inputs[0] is None or (len(inputs) > 1 and inputs[1] is None):
            return None
        axes = node.attr("axes") or (inputs[1] if len(inputs) > 1 else None)
        return np.squeeze(inputs[0], None if axes is None else tuple(int(a) for a in np.atleast_1d(axes)))


@register
class Unsqueeze(Regroups):
    """Adds axes of size one."""

    ops = ("Unsqueeze",)
    kind = "free"
    parameters = (1,)
    functions: ClassVar[dict[str, Function]] = {"Unsqueeze": functions.unsqueeze}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = list(node.axes(0))
        given = node.integers(1, "axes")
        assert given is not None
        rank = len(x) + len(given)
        for place in sorted(a % rank for a in given):
            x.insert(place, ())
        return [Tensor(tuple(x), node.tensor(0).dtype)]

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        axes = node.attr("axes") if node.attr("axes") is not None else inputs[1] if len(inputs) > 1 else None
        if inputs[0] is None or axes is None:
            return None
        rank = inputs[0].ndim + len(np.atleast_1d(axes))
        return np.expand_dims(inputs[0], tuple(sorted(int(a) % rank for a in np.atleast_1d(axes))))


@register
class Expand(Rule):
    """Broadcasts to a shape: repeated indices are new ones, as long as nothing else ties them."""

    ops = ("Expand",)
    kind = "movement"
    parameters = (1,)
    traits = replace(MOVES, extents=(1,))
    functions: ClassVar[dict[str, Function]] = {"Expand": functions.expand}

    def sign(self, node: Node) -> Sign:
        known = super().sign(node)
        # Expanded from a tensor without channels: what would go is a copy of what stays.
        copied = not node.tensor(0).constant and not any(map(alive, node.axes(0)))
        return replace(known, solid=True) if copied else known

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = list(node.axes(0))
        target = node.integers(1)
        assert target is not None
        rank = max(len(x), len(target))
        x = [()] * (rank - len(x)) + x
        shape = [1] * (rank - len(target)) + target
        axes: list[Axis] = []
        for axis, size in zip(x, shape, strict=True):
            if not axis and size != 1:
                axis = (build.fresh(size),) if size else opaque(0)
            elif axis and size not in (1, axis_size(axis)):
                raise WrongExtents("the shape does not broadcast")
            axes.append(axis)
        result = Tensor(tuple(axes), node.tensor(0).dtype)
        node.memo["result"] = result
        return [result]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        result = node.memo["result"]
        if any(shrink.touched(axis) for axis in result.axes) or not node.tensor(1).constant:
            old = node.integers(1)
            assert old is not None
            wide = shrink.shape(result)[len(result.axes) - len(old) :]
            shrink.set_operand(node, 1, [v if v == 1 else n for v, n in zip(old, wide, strict=True)])

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        if inputs[0] is None or inputs[1] is None:
            return None
        shape = np.broadcast_shapes(inputs[0].shape, tuple(int(v) for v in inputs[1]))
        return np.broadcast_to(inputs[0], shape) if np.prod(shape, dtype=np.int64) <= 4096 else None


@register
class PixelShuffle(Rule):
    """DepthToSpace and SpaceToDepth: channels are a product of width and block positions; the latter stay."""

    ops = ("DepthToSpace", "SpaceToDepth")
    kind = "movement"
    traits = Traits(hands_on=True, carries=(0,))
    functions: ClassVar[dict[str, Function]] = {
        "DepthToSpace": functions.depth_to_space,
        "SpaceToDepth": functions.space_to_depth,
    }

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        batch, channels, height, width = node.axes(0)
        block = int(node.attr("blocksize"))
        try:
            if node.op == "DepthToSpace":
                rest = axis_size(channels) // block**2
                if node.attr("mode", "DCR") == "DCR":
                    rows, columns, depth = build.regroup(channels, [block, block, rest])
                else:
                    depth, rows, columns = build.regroup(channels, [rest, block, block])
                build.freeze([rows, columns], "positions inside a pixel block")
                axes = (batch, depth, (*height, *rows), (*width, *columns))
            else:
                high, rows = build.regroup(height, [axis_size(height) // block, block])
                wide, columns = build.regroup(width, [axis_size(width) // block, block])
                build.freeze([high, rows, wide, columns], "positions of the image")
                if str(node.attr("mode", "DCR")) == "CRD":
                    axes = (batch, (*channels, *rows, *columns), high, wide)
                else:
                    axes = (batch, (*rows, *columns, *channels), high, wide)
        except Mismatch:
            raise Freeze("the block cuts across channels") from None
        return [Tensor(axes, node.tensor(0).dtype)]


@register
class Shape(Rule):
    """Reads extents: the value follows the pruned tensor by itself."""

    ops = ("Shape", "Size")
    kind = "free"
    traits = Traits(hands_on=True, blind=True)
    functions: ClassVar[dict[str, Function]] = dict.fromkeys(ops, functions.shape)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        shape = node.tensor(0).shape
        data = self.value(node, [None], [shape])
        assert data is not None
        return [Tensor((opaque(data.size),) if data.ndim else (), np.dtype(np.int64))]

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        if node.op == "Size":
            return np.asarray(np.prod(shapes[0], dtype=np.int64))
        return np.asarray(shapes[0][node.attr("start", 0) : node.attr("end")], dtype=np.int64)


@register
class ConstantOfShape(Rule):
    """A tensor of one value: its indices are new ones."""

    ops = ("ConstantOfShape",)
    kind = "movement"
    parameters = (0,)
    traits = Traits(extents=(0,))
    functions: ClassVar[dict[str, Function]] = {"ConstantOfShape": functions.constant_of_shape}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        shape = node.integers(0)
        assert shape is not None
        fill = self._fill(node)
        axes = tuple((build.fresh(s, zero=not fill.any()),) if s > 1 else opaque(s) for s in shape)
        result = Tensor(axes, fill.dtype)
        node.memo["result"] = result
        return [result]

    @staticmethod
    def _fill(node: Node) -> Array:
        value = node.attr("value")
        return np.zeros(1, np.float32) if value is None else np.asarray(value.values)

    def shrink(self, node: Node, shrink: Shrink) -> None:
        result = node.memo["result"]
        if any(shrink.touched(axis) for axis in result.axes) or not node.tensor(0).constant:
            shrink.set_operand(node, 0, shrink.shape(result))

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        if inputs[0] is None or prod(map(int, inputs[0].reshape(-1))) > 4096:
            return None
        return np.full(tuple(int(v) for v in inputs[0]), self._fill(node).reshape(-1)[0])


@register
class Range(Rule):
    """An arithmetic sequence: positions, never channels."""

    ops = ("Range",)
    kind = "movement"
    traits = Traits(extents=(0, 1, 2))
    functions: ClassVar[dict[str, Function]] = {"Range": functions.arange}
    fixed = (0, 1, 2)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        start, limit, delta = (node.value(p) for p in range(3))
        if start is None or limit is None or delta is None:
            return [Tensor((opaque(build.unknown_size()),), node.tensor(0).dtype)]
        return [Tensor((opaque(max(0, int(np.ceil((limit - start) / delta)))),), node.tensor(0).dtype)]

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        if any(v is None for v in inputs):
            return None
        start, limit, delta = (v.item() for v in inputs)  # type: ignore[union-attr]
        if not abs(limit - start) <= 4096 * abs(delta):
            return None
        sequence = np.arange(start, limit, delta, dtype=inputs[0].dtype)  # type: ignore[union-attr]
        return sequence if sequence.size <= 4096 else None
