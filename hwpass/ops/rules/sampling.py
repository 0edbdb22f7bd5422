"""Operators that pick, order or write positions by index: channels beside those positions pass through."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.ops.axes import axis_size, opaque, with_zero
from hwpass.ops.functions import elementwise, indexing, layout, normalization, resize, windows
from hwpass.ops.functions.common import Function
from hwpass.ops.rule import Freeze, Node, Relate, Rule, Shrink, Tensor, Traits, register
from hwpass.ops.rules.conv import convolve
from hwpass.ops.rules.elementwise import broadcast
from hwpass.ops.rules.matmul import is_zero
from hwpass.ops.traits import Pick, Shape


@register
class GridSample(Rule):
    """Resamples images [N, C, image] at a grid of coordinates: each channel by itself."""

    ops = ("GridSample",)
    kind = "movement"
    traits = Traits(heavy=True)
    functions: ClassVar[dict[str, Function]] = {"GridSample": resize.grid_sample}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x, grid = node.axes(0), node.axes(1)
        build.freeze([x[0], *x[2:], *grid], "coordinates of a grid")
        return [Tensor((x[0], x[1], *grid[1:-1]), node.tensor(0).dtype)]


@register
class RoiAlign(Rule):
    """Averages an image over regions: one image of each channel for every region."""

    ops = ("RoiAlign",)
    kind = "pool"
    traits = Traits(heavy=True)
    functions: ClassVar[dict[str, Function]] = {"RoiAlign": resize.roi_align}
    fixed = (1,)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        build.freeze([x[0], *x[2:], *node.axes(1), *node.axes(2)], "regions pick positions of the image")
        rows, columns = (opaque(int(node.attr(name, 1))) for name in ("output_height", "output_width"))
        # An average of zeros is zero.
        return [Tensor((node.axes(1)[0], x[1], rows, columns), node.tensor(0).dtype)]


@register
class DeformConv(Rule):
    """A convolution whose window is displaced; displacements belong to positions and groups of channels."""

    ops = ("DeformConv",)
    kind = "conv"
    traits = Traits(heavy=True)
    functions: ClassVar[dict[str, Function]] = {"DeformConv": windows.deform_conv}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        for position in (2, 4):
            if node.has(position):
                build.freeze(node.axes(position), "displacements of the window")
        if int(node.attr("offset_group", 1)) > 1:
            build.freeze([node.axes(0)[1]], "channels share displacements in groups")
        axes = convolve(node, build, node.axes(0), node.axes(1), (0, 1, 3))
        return [Tensor(axes, node.tensor(0).dtype)]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        if "group" in node.memo:
            node.gs.attrs["group"] = shrink.size(node.memo["group"])


@register
class TopK(Rule):
    """The largest along one axis, which stays; the others are apart from each other."""

    ops = ("TopK",)
    kind = "reduce"
    parameters = (1,)
    traits = Traits(heavy=True, extents=(1,))
    functions: ClassVar[dict[str, Function]] = {"TopK": indexing.top_k}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        place = int(node.attr("axis", -1)) % len(x)
        build.freeze([x[place]], "TopK orders this axis")
        count = node.value(1) if node.has(1) else node.attr("k")
        kept = opaque(build.unknown_size() if count is None else int(np.reshape(count, -1)[0]))
        values = tuple(kept if i == place else axis for i, axis in enumerate(x))
        where = tuple(with_zero(axis, False) for axis in values)
        return [Tensor(values, node.tensor(0).dtype), Tensor(where, np.dtype(np.int64))][: len(node.gs.outputs)]


@register
class Trilu(Rule):
    """Keeps a triangle of matrices, whose rows and columns stay."""

    ops = ("Trilu",)
    kind = "movement"
    functions: ClassVar[dict[str, Function]] = {"Trilu": layout.trilu}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        build.freeze(x[-2:], "rows and columns of a triangle")
        return [Tensor(x, node.tensor(0).dtype)]


@register
class ContribTrilu(Trilu):
    """ONNX Runtime's Trilu, older than the standard one."""

    domain = "com.microsoft"


@register
class ReverseSequence(Rule):
    """Turns the start of each sample around: samples and steps stay."""

    ops = ("ReverseSequence",)
    kind = "movement"
    traits = Traits(lengths=(1,))
    functions: ClassVar[dict[str, Function]] = {"ReverseSequence": indexing.reverse_sequence}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        build.freeze([*x[:2], *node.axes(1)], "samples and steps")
        return [Tensor(x, node.tensor(0).dtype)]


@register
class CumProd(Rule):
    """Products of everything before along one axis, which stays."""

    ops = ("CumProd",)
    kind = "softmax"
    parameters = (1,)
    functions: ClassVar[dict[str, Function]] = {"CumProd": normalization.cumulated}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x, axis = node.axes(0), node.integers(1)
        if axis is None:
            raise Freeze("the axis is computed from the data")
        build.freeze([x[axis[0] % len(x)]], "CumProd mixes along this axis")
        # With `exclusive` the first product is one.
        keeps = not node.attr("exclusive", 0)
        return [Tensor(tuple(with_zero(a, keeps and is_zero(a)) for a in x), node.tensor(0).dtype)]


@register
class BitShift(Rule):
    """x shifted by y bits: zero stays zero."""

    ops = ("BitShift",)
    kind = "elementwise"
    functions: ClassVar[dict[str, Function]] = {"BitShift": elementwise.bit_shift}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        return [Tensor(tuple(broadcast(node, build, [0, 1], lambda z: z[0])), node.tensor(0).dtype)]


@register
class OneHot(Rule):
    """A new axis that is `on` at the index: no channel of anything."""

    ops = ("OneHot",)
    kind = "movement"
    parameters = (1, 2)
    functions: ClassVar[dict[str, Function]] = {"OneHot": indexing.one_hot}
    fixed = (2,)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        indices, depth = node.axes(0), node.value(1)
        size = build.unknown_size() if depth is None else int(np.reshape(depth, -1)[0])
        place = int(node.attr("axis", -1)) % (len(indices) + 1)
        # The index of a removed entry is 0 in the twin, and switches something on.
        axes = [with_zero(axis, False) for axis in indices]
        axes.insert(place, opaque(size))
        return [Tensor(tuple(axes), node.tensor(2).dtype)]

    def picks(self, node: gs.Node, shape: Callable[[int], Shape | None]) -> list[Pick]:
        if len(node.inputs) < 2 or not isinstance(node.inputs[1], gs.Constant):
            return []
        return [(0, (int(node.inputs[1].values.reshape(-1)[0]),), itemgetter(0))]


def rows_of_slices(node: gs.Node, shape: Callable[[int], Shape | None]) -> Pick:
    """Input 1, whose rows hold an index for each of several axes of input 0: the shortest of these bounds them all."""
    last, skip = shape(1), int(node.attrs.get("batch_dims", 0))
    depth = last[-1] if last else 1
    return 1, shape(0), lambda extents: min(extents[skip : skip + depth])


@register
class GatherND(Rule):
    """Looks up slices by rows of indices: the axes behind those that are looked into pass through."""

    ops = ("GatherND",)
    kind = "movement"
    traits = Traits(carries=(0,))
    functions: ClassVar[dict[str, Function]] = {"GatherND": indexing.gather_nd}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x, indices = node.axes(0), node.axes(1)
        depth = int(node.attr("batch_dims", 0)) + axis_size(indices[-1])
        build.freeze([*x[:depth], *indices], "looked up by computed indices")
        result = tuple(with_zero(axis, False) for axis in indices[:-1])
        return [Tensor((*result, *x[depth:]), node.tensor(0).dtype)]

    def picks(self, node: gs.Node, shape: Callable[[int], Shape | None]) -> list[Pick]:
        return [rows_of_slices(node, shape)]


@register
class ScatterND(Rule):
    """Writes slices at rows of indices: the axes behind those that are written into are the same in both."""

    ops = ("ScatterND",)
    kind = "movement"
    functions: ClassVar[dict[str, Function]] = {"ScatterND": indexing.scatter_nd}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x, indices, updates = node.axes(0), node.axes(1), node.axes(2)
        depth, count = axis_size(indices[-1]), len(indices) - 1
        build.freeze([*x[:depth], *indices, *updates[:count]], "written at computed indices")
        if str(node.attr("reduction", "none")) not in ("none", "add"):
            build.freeze([*x[depth:], *updates[count:]], "combined with what was there")
        axes = list(x[:depth])
        for own, new in zip(x[depth:], updates[count:], strict=True):
            joined, _ = build.unify(own, new, "ScatterND writes its updates")
            axes.append(with_zero(joined, is_zero(own) and is_zero(new)))
        return [Tensor(tuple(axes), node.tensor(0).dtype)]

    def picks(self, node: gs.Node, shape: Callable[[int], Shape | None]) -> list[Pick]:
        return [rows_of_slices(node, shape)]


@register
class TensorScatter(Rule):
    """Writes new positions into a cache along one axis; the others are the same in both."""

    ops = ("TensorScatter",)
    kind = "movement"
    functions: ClassVar[dict[str, Function]] = {"TensorScatter": indexing.tensor_scatter}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x, update = node.axes(0), node.axes(1)
        place = int(node.attr("axis", -2)) % len(x)
        build.freeze([x[0], update[0], x[place], update[place]], "positions of the cache")
        if node.has(2):
            build.freeze(node.axes(2), "positions of the cache")
        axes = []
        for i, (own, new) in enumerate(zip(x, update, strict=True)):
            if i == place or not own or not new:
                axes.append(own)
                continue
            joined, _ = build.unify(own, new, "TensorScatter writes its update")
            axes.append(with_zero(joined, is_zero(own) and is_zero(new)))
        return [Tensor(tuple(axes), node.tensor(0).dtype)]
