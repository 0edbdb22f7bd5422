"""Operators that pick, join or repeat indices along an axis: ids are picked, joined or repeated with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.ops.axes import Axis, Ids, axis_size, opaque, with_zero
from hwpass.ops.functions import indexing, layout
from hwpass.ops.functions.common import Function
from hwpass.ops.planar import Planar
from hwpass.ops.rule import (
    Array,
    Freeze,
    Node,
    Relate,
    Rule,
    Shrink,
    Tensor,
    Traits,
    WrongExtents,
    register,
)
from hwpass.ops.rules.layout import MOVES

#: Where a backward slice ends that goes through the first index; also as an int32.
BEFORE_FIRST = -(2**31) + 1


def picked(build: Relate, axis: Axis, indices: Ids) -> Axis:
    """The axis of the given indices of `axis`."""
    found = build.flat(axis)
    if found is None:
        return opaque(len(indices))
    ids, zero = found
    return build.factor(ids[indices], zero)


def positions(kept: np.ndarray, indices: Ids) -> Ids:
    """Where the surviving ones of `indices` stand once the dropped positions are gone."""
    place = np.cumsum(kept) - 1
    return np.asarray(place[indices[kept[indices]]], dtype=np.int64)


@register
class Slice(Rule):
    """Keeps a range of indices of some axes."""

    ops = ("Slice",)
    kind = "movement"
    parameters = (1, 2, 3, 4)
    traits = replace(MOVES, extents=(1, 2))
    functions: ClassVar[dict[str, Function]] = {"Slice": layout.slices}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = list(node.axes(0))
        try:
            ranges = self._ranges(node, len(x))
        except Freeze:
            places = node.integers(3, "axes")
            if places is None:
                raise
            # Which indices stay depends on the data: their number is unknown.
            for place in places:
                build.freeze([x[place % len(x)]], "sliced by computed bounds")
                x[place % len(x)] = opaque(build.unknown_size())
            return [Tensor(tuple(x), node.tensor(0).dtype)]
        cut: dict[int, Ids] = {}
        for place, window in ranges.items():
            indices = np.arange(axis_size(x[place]))[window]
            if len(indices) == axis_size(x[place]) and (len(indices) == 0 or indices[0] == 0):
                continue
            cut[place] = indices
        for place, indices in cut.items():
            if len(cut) > 1 and len(indices) > 1 and abs(indices[1] - indices[0]) > 1:
                # What is left may be uneven, which takes a Gather in place of the Slice: of one axis only.
                build.freeze([x[place]], "sliced by steps together with another axis")
            x[place] = picked(build, x[place], indices)
        node.memo["cut"] = cut
        return [Tensor(tuple(x), node.tensor(0).dtype)]

    @staticmethod
    def _ranges(node: Node, rank: int) -> dict[int, slice]:
        starts, ends = node.integers(1, "starts"), node.integers(2, "ends")
        assert starts is not None
        assert ends is not None
        places = node.integers(3, "axes") or list(range(len(starts)))
        steps = node.integers(4, "steps") or [1] * len(starts)
        ranges = {}
        for start, end, place, step in zip(starts, ends, places, steps, strict=True):
            # Going backwards, an end before the first index means "through the first".
            low = None if step < 0 and end < -(2**31) + 1 else end
            ranges[place % rank] = slice(start, low, step)
        return ranges

    def shrink(self, node: Node, shrink: Shrink) -> None:
        cut = {place: i for place, i in node.memo.get("cut", {}).items() if shrink.touched(node.axes(0)[place])}
        if not cut:
            self._hold(node, shrink)
            return
        old = self._ranges(node, len(node.axes(0)))
        places = list(old)
        bounds = []
        for place in places:
            window = old[place]
            step = window.step
            start, end = window.start, BEFORE_FIRST if window.stop is None else window.stop
            if place in cut:
                new = positions(shrink.kept(node.axes(0)[place]), cut[place])
                steps = np.diff(new)
                if len(new) == 0 or (len(steps) and np.any(steps != steps[0])):
                    self._gather(node, shrink, cut)
                    return
                step = int(steps[0]) if len(steps) else 1
                start = int(new[0])
                end = int(new[-1]) + (1 if step > 0 else -1)
                end = BEFORE_FIRST if end < 0 else end
            bounds.append((start, end, step))
        starts, ends, steps_ = (list(t) for t in zip(*bounds, strict=True))
        if "starts" in node.gs.attrs:
            node.gs.attrs["starts"], node.gs.attrs["ends"] = starts, ends
            return
        shrink.set_operand(node, 1, starts)
        shrink.set_operand(node, 2, ends)
        if node.has(4):
            shrink.set_operand(node, 4, steps_)

    @staticmethod
    def _hold(node: Node, shrink: Shrink) -> None:
        """Bounds read from another tensor that shrinks stay what they were, or end with the axis."""
        if "cut" not in node.memo or all(node.tensor(p).constant for p in (1, 2) if node.has(p)):
            return
        x, starts, ends = node.axes(0), node.integers(1), node.integers(2)
        assert starts is not None
        assert ends is not None
        places = [p % len(x) for p in node.integers(3) or range(len(starts))]
        if not node.tensor(1).constant:
            shrink.set_operand(node, 1, starts)
        if not node.tensor(2).constant:
            whole = [shrink.touched(x[p]) and end >= axis_size(x[p]) for p, end in zip(places, ends, strict=True)]
            shrink.set_operand(
                node, 2, [shrink.size(x[p]) if w else e for p, e, w in zip(places, ends, whole, strict=True)]
            )

    @staticmethod
    def _gather(node: Node, shrink: Shrink, cut: dict[int, Ids]) -> None:
        """What stays is no longer evenly spaced: pick it by index, which takes a single axis."""
        if len(node.memo["cut"]) > 1:
            raise Freeze("an uneven slice of two axes")
        ((place, indices),) = cut.items()
        shrink.replace(node, "Gather", {"axis": place}, positions(shrink.kept(node.axes(0)[place]), indices))

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        if inputs[0] is None or any(v is None for v in inputs[1:]):
            return None
        try:
            ranges = self._ranges(node, inputs[0].ndim)
        except Freeze:
            return None
        return np.asarray(inputs[0][tuple(ranges.get(i, slice(None)) for i in range(inputs[0].ndim))])


@register
class Gather(Rule):
    """Picks indices along one axis. Constant indices pick ids; computed ones freeze the axis they look into."""

    ops = ("Gather",)
    kind = "movement"
    traits = replace(MOVES, keeps_solid=False, indices=((1, 0, "axis", 0),))
    functions: ClassVar[dict[str, Function]] = {"Gather": indexing.gather}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x, index = node.axes(0), node.tensor(1)
        place = int(node.attr("axis", 0)) % len(x)
        live = any(f.ids is not None for f in x[place])
        if index.data is None or not live:
            build.freeze([x[place]], "rows are looked up by computed indices")
            # A removed entry of the twin's table of indices is 0, and picks the first row: not zero.
            middle = tuple(with_zero(axis, False) for axis in node.axes(1))
        else:
            indices = np.asarray(index.data, np.int64).reshape(-1)
            indices = np.where(indices < 0, indices + axis_size(x[place]), indices)
            if ((indices < 0) | (indices >= axis_size(x[place]))).any():
                raise WrongExtents("indices lie beyond the rows")  # of positions, at a length that was guessed
            if index.data.ndim == 1 and len(indices) > 1:
                middle = (picked(build, x[place], indices),)
                node.memo["indices"] = indices
            else:
                found = build.flat(x[place])
                assert found is not None
                build.freeze_ids(found[0][indices], "single indices are picked")
                node.memo["indices"] = indices
                middle = tuple(opaque(s) for s in index.data.shape)
        return [Tensor((*x[:place], *middle, *x[place + 1 :]), node.tensor(0).dtype)]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        if "indices" not in node.memo:
            return
        axis = node.axes(0)[int(node.attr("axis", 0)) % len(node.axes(0))]
        if shrink.touched(axis):
            new = positions(shrink.kept(axis), node.memo["indices"])
            index = node.value(1)
            assert index is not None
            shrink.set_constant(node, 1, new.reshape(index.shape if index.ndim != 1 else (-1,)).astype(index.dtype))

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        if inputs[0] is None or inputs[1] is None:
            return None
        return np.asarray(np.take(inputs[0], inputs[1].astype(np.int64), axis=int(node.attr("axis", 0))))


@register
class Pad(Rule):
    """Adds indices at the ends of axes: new channels of the padding value."""

    ops = ("Pad",)
    kind = "movement"
    parameters = (1, 3)
    traits = Traits(hands_on=True, extents=(1,), carries=(0,))
    functions: ClassVar[dict[str, Function]] = {"Pad": layout.pad}
    fixed = (2,)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        pads = node.integers(1, "pads")
        assert pads is not None
        places = node.integers(3) or list(range(len(x)))
        node.memo["padded"] = padded = {}
        axes = list(x)
        constant = node.attr("mode", "constant") == "constant"
        value = node.value(2) if node.has(2) else np.asarray(node.attr("value", 0.0))
        zero = value is not None and not np.any(value)
        for i, given in enumerate(places):
            place, before, after = given % len(x), pads[i], pads[i + len(places)]
            if not before and not after:
                continue
            size = axis_size(x[place])
            found = build.flat(x[place])
            if found is None:
                axes[place] = opaque(size + before + after)
                continue
            if not constant or before < 0 or after < 0:
                build.freeze([x[place]], f"padded by {node.attr('mode', 'constant')} values")
                axes[place] = opaque(size + before + after)
                continue
            ends = [build.fresh(n, zero).ids if n else np.zeros(0, np.int64) for n in (before, after)]
            axes[place] = build.factor(np.concatenate([ends[0], found[0], ends[1]]), found[1] and zero)
            padded[place] = (axes[place], before, after)
        if constant and not zero and any(pads):
            # The new positions are not zero in any channel.
            axes = [with_zero(axis, False) for axis in axes]
        return [Tensor(tuple(axes), node.tensor(0).dtype)]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        pads, places = node.integers(1, "pads"), node.integers(3) or list(range(len(node.axes(0))))
        assert pads is not None
        for place, (axis, before, after) in node.memo["padded"].items():
            kept = shrink.kept(axis)
            i = [p % len(node.axes(0)) for p in places].index(place)
            pads[i] = int(kept[:before].sum())
            pads[i + len(places)] = int(kept[len(kept) - after :].sum())
        if node.memo["padded"]:
            if "pads" in node.gs.attrs:
                node.gs.attrs["pads"] = pads
            else:
                shrink.set_operand(node, 1, pads)

    def planar(self, node: gs.Node, ranks: Sequence[int | None]) -> Planar | None:
        given = node.inputs[1] if len(node.inputs) > 1 else None
        axes = len(node.inputs) > 3 and bool(node.inputs[3].name)
        if axes or (given is not None and not isinstance(given, gs.Constant)):
            return None
        pads = [int(pad) for pad in (given.values.reshape(-1) if given is not None else node.attrs.get("pads", []))]
        if len(pads) != 6:
            return None
        now = [*pads[:2], 0, pads[2], *pads[3:5], 0, pads[5]]
        return Planar({"pads": now}) if given is None else Planar(constants={1: np.asarray(now, np.int64)})


@register
class Tile(Rule):
    """Repeats an axis: a new outer factor times the old ones."""

    ops = ("Tile",)
    kind = "movement"
    parameters = (1,)
    traits = Traits(sign="same", hands_on=True, linear=(0,), extents=(1,), carries=(0,))
    functions: ClassVar[dict[str, Function]] = {"Tile": layout.tile}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        repeats = node.integers(1)
        assert repeats is not None
        if node.has(2):  # operator set 1: how often, and along which axis
            raise Freeze("one axis is repeated by its number")
        axes = tuple((*opaque(r), *axis) for r, axis in zip(repeats, node.axes(0), strict=True))
        return [Tensor(axes, node.tensor(0).dtype)]

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        if inputs[0] is None or inputs[1] is None or len(inputs) > 2:
            return None
        if inputs[0].size * prod(map(int, inputs[1].reshape(-1))) > 4096:
            return None
        return np.tile(inputs[0], inputs[1])
