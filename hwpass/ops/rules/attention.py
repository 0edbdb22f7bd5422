"""Attention as one operator: whole heads may go, and positions inside a head that queries and keys share."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from hwpass.ops.axes import Axis, Mismatch, axis_size, with_zero
from hwpass.ops.functions import attention as functions
from hwpass.ops.functions.common import Function
from hwpass.ops.rule import Extent, Freeze, Node, Relate, Rule, Shrink, Tensor, Traits, register
from hwpass.ops.rules.matmul import contract, is_zero


def heads(build: Relate, axis: Axis, count: int) -> tuple[Axis, Axis]:
    """An axis of heads * width as its two factors."""
    if count < 1 or axis_size(axis) % count:
        raise Freeze("the number of heads does not divide the channels")
    try:
        outer, inner = build.regroup(axis, [count, axis_size(axis) // count])
    except Mismatch:
        raise Freeze("heads cut across channels") from None
    return outer, inner


def shared_heads(build: Relate, queries: Axis, keys: Axis) -> tuple[Axis, Axis]:
    """Heads of queries as (heads of keys) x (queries for each), which is what may go: both factors."""
    outer, repeats = heads(build, queries, axis_size(keys))
    if outer and keys:
        outer, _ = build.unify(outer, keys, "heads of queries and keys")
    return outer, repeats


def attend(
    node: Node, build: Relate, q: tuple[Axis, Axis], k: tuple[Axis, Axis], v: tuple[Axis, Axis]
) -> tuple[Axis, Axis]:
    """Relate heads and widths (the two axes of each operand); returns those of the result.

    softmax(q k^T) v: the width of q and k is contracted, that of v goes on. A removed head's result is zero where
    its values are; one of several queries of a head still gets values.
    """
    shared, repeats = shared_heads(build, q[0], k[0])
    if shared and v[0]:
        build.unify(shared, v[0], "heads of keys and values")
    contract(build, q[1], k[1], "queries meet keys")
    result = (*with_zero(shared, is_zero(v[0])), *with_zero(repeats, False))
    node.memo.update(q_heads=(*shared, *repeats), kv_heads=k[0], width=k[1])
    node.kind = "matmul"
    return result, v[1]


def masked(build: Relate, mask: tuple[Axis, ...], q_heads: Axis) -> None:
    """Relate a mask or bias [.., heads or 1, queries, keys] of up to four axes to the heads."""
    build.freeze(mask[-2:], "positions of queries and keys")
    build.freeze(mask[:-3], "samples")
    if len(mask) > 2 and mask[-3]:
        build.unify(q_heads, mask[-3], "one mask per head")


def keep_scale(node: Node, shrink: Shrink, width: Axis) -> None:
    """Queries go on being scaled by the root of the width they had."""
    if shrink.touched(width) and not node.attr("scale"):
        node.gs.attrs["scale"] = float(1.0 / np.sqrt(axis_size(width)))


def cached(build: Relate, past: tuple[Axis, ...], kv_heads: Axis, width: Axis, zero: bool) -> tuple[Axis, Axis]:
    """Relate a cache [samples, heads, positions, width] to the keys or values that are added to it."""
    build.freeze([past[0], past[2]], "samples and positions of the cache")
    zero_heads, zero_width = is_zero(kv_heads) and is_zero(past[1]), is_zero(width) and is_zero(past[3])
    if past[1] and kv_heads:
        kv_heads, _ = build.unify(kv_heads, past[1], "heads of the cache")
    if past[3] and width:
        width, _ = build.unify(width, past[3], "width of the cached heads")
    return with_zero(kv_heads, zero and zero_heads), with_zero(width, zero and zero_width)


@register
class Attention(Rule):
    """softmax(Q K^T) V with the heads in an axis of their own, or beside their width in the last; caches joined."""

    ops = ("Attention",)
    kind = "matmul"
    traits = Traits(heavy=True, masks=(3,))
    functions: ClassVar[dict[str, Function]] = {"Attention": functions.attention}
    fixed = (3, 6)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        (batch, length, *q), (batch_k, length_k, *k), (batch_v, length_v, *v) = (
            self._split(node, build, position) for position in range(3)
        )
        build.freeze([length, length_k, length_v], "positions of queries and keys")
        build.freeze([batch, batch_k, batch_v], "samples")
        for position, parts in ((4, k), (5, v)):
            if node.has(position):
                parts[:] = cached(build, node.axes(position), parts[0], parts[1], True)
        result, width = attend(node, build, (q[0], q[1]), (k[0], k[1]), (v[0], v[1]))
        q_heads = node.memo["q_heads"]
        if node.has(3):
            masked(build, node.axes(3), q_heads)
        if node.has(6):
            build.freeze(node.axes(6), "samples")
        total = build.inferred(node)
        dtype = node.tensor(0).dtype
        flat = len(node.axes(0)) == 3
        y = (batch, length, (*result, *width)) if flat else (batch, result, length, width)
        node.extent = Extent(groups=(*batch, *q_heads), m=length, n=(*k[1], *width), k=length_k)
        outputs = [Tensor(y, dtype)]
        for place, parts in ((1, k), (2, v)):
            if place < len(node.gs.outputs):
                known = total[place].axes
                outputs.append(Tensor((batch, parts[0], known[2] if known else length_k, parts[1]), dtype))
        if len(node.gs.outputs) > 3:
            known = total[3].axes
            keys = known[3] if known else length_k
            outputs.append(Tensor((batch, with_zero(q_heads, False), length, keys), dtype))
        return outputs

    @staticmethod
    def _split(node: Node, build: Relate, position: int) -> tuple[Axis, Axis, Axis, Axis]:
        """Samples, positions, heads and width of queries, keys or values."""
        axes = node.axes(position)
        if len(axes) == 4:
            return axes[0], axes[2], axes[1], axes[3]
        outer, inner = heads(build, axes[2], int(node.attr("q_num_heads" if position == 0 else "kv_num_heads", 0)))
        return axes[0], axes[1], outer, inner

    def shrink(self, node: Node, shrink: Shrink) -> None:
        if len(node.axes(0)) == 3:
            node.gs.attrs["q_num_heads"] = shrink.size(node.memo["q_heads"])
            node.gs.attrs["kv_num_heads"] = shrink.size(node.memo["kv_heads"])
        keep_scale(node, shrink, node.memo["width"])


@register
class RotaryEmbedding(Rule):
    """Rotates pairs of positions inside every head: heads may go, their width stays."""

    ops = ("RotaryEmbedding",)
    kind = "elementwise"
    traits = Traits(indices=((3, 1, "", 0),))
    tables = (1, 2, 3)  # the inputs besides the data
    functions: ClassVar[dict[str, Function]] = {"RotaryEmbedding": functions.rotary}
    fixed = (1, 2)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        for position in self.tables:
            if node.has(position):
                build.freeze(node.axes(position), "angles of the rotation")
        build.freeze(x[:1], "samples")
        axes: tuple[Axis, ...]
        if len(x) == 4:
            build.freeze([x[2], x[3]], "rotated together inside a head")
            axes = x
        else:
            outer, inner = heads(build, x[2], self._heads(node, axis_size(x[2])))
            build.freeze([x[1], inner], "rotated together inside a head")
            node.memo["heads"] = outer
            axes = (x[0], x[1], (*outer, *inner))
        return [Tensor(axes, node.tensor(0).dtype)]

    def _heads(self, node: Node, channels: int) -> int:
        return int(node.attr("num_heads", 0))

    def shrink(self, node: Node, shrink: Shrink) -> None:
        if "heads" in node.memo and node.attr("num_heads", 0):
            node.gs.attrs["num_heads"] = shrink.size(node.memo["heads"])
