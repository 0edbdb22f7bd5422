"""The attention operators of ONNX Runtime: heads beside their width in one axis, several biases in one vector."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from hwpass.ops.axes import Axis, axis_size, opaque, with_zero
from hwpass.ops.functions import attention as functions
from hwpass.ops.functions.common import Function
from hwpass.ops.rule import Extent, Freeze, Node, Product, Relate, Rule, Shrink, Tensor, Traits, register
from hwpass.ops.rules.attention import RotaryEmbedding, attend, cached, heads, keep_scale, masked, shared_heads
from hwpass.ops.rules.matmul import contract, is_zero
from hwpass.ops.rules.selection import picked

MICROSOFT = "com.microsoft"


def cut(build: Relate, axis: Axis, sizes: list[int]) -> list[Axis]:
    """Consecutive parts of an axis."""
    ends = np.cumsum(sizes)
    return [picked(build, axis, np.arange(end - size, end)) for end, size in zip(ends, sizes, strict=True)]


def grown(axis: Axis, past: Axis) -> Axis:
    """Positions after those of a cache."""
    return opaque(axis_size(axis) + axis_size(past))


@register
class ContribAttention(Rule):
    """Attention with its own projection: [Q | K | V] = x W + b, heads x width in each; whole heads may go."""

    ops = ("Attention",)
    domain = MICROSOFT
    kind = "matmul"
    traits = Traits(heavy=True, masks=(3,))
    functions: ClassVar[dict[str, Function]] = {"Attention": functions.contrib_attention}
    fixed = (3,)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x, w = node.axes(0), node.axes(1)
        if len(w) != 2 or node.attr("do_rotary", 0):
            raise Freeze("a weight in several parts, or rotated heads")
        build.freeze(x[:2], "samples and positions")
        contract(build, x[2], w[0], "input channels are contracted with the weight's")
        given = [int(v) for v in node.attr("qkv_hidden_sizes") or [axis_size(w[1]) // 3] * 3]
        count = int(node.attr("num_heads"))
        zero = is_zero(w[1])
        parts = [heads(build, part, count) for part in cut(build, w[1], given)]
        if node.has(2):
            zero = zero and is_zero(node.axes(2)[0])
            build.unify(w[1], node.axes(2)[0], "one bias per output channel")
        build.freeze([inner for _, inner in parts], "the width of the heads of a fused attention")
        outer = parts[0][0]
        for other, _ in parts[1:]:
            build.unify(outer, other, "heads of queries, keys and values")
        if node.has(3):
            build.freeze(node.axes(3), "samples and positions")
        length = x[1]
        if node.has(4):
            past = node.axes(4)
            build.freeze([past[0], past[1], past[3], past[4]], "the cache")
            build.unify(outer, past[2], "heads of the cache")
            length = grown(x[1], past[3])
        if node.has(5):
            masked(build, node.axes(5), outer)
        node.memo.update(heads=outer, sizes=given)
        node.extent = Extent(m=(*x[0], *x[1]), n=w[1], k=x[2])
        if node.tensor(1).constant:
            node.product = Product(0, 2, 1, 1, 0, 2 if node.has(2) else None)
        result = (*with_zero(outer, zero), *opaque(given[2] // count))
        outputs = [Tensor((x[0], x[1], result), node.tensor(0).dtype)]
        if len(node.gs.outputs) > 1:
            width = opaque(given[0] // count)
            axes = (opaque(2), x[0], with_zero(outer, False), length, width)
            outputs.append(Tensor(axes, node.tensor(0).dtype))
        return outputs

    def shrink(self, node: Node, shrink: Shrink) -> None:
        before, now = int(node.attr("num_heads")), shrink.size(node.memo["heads"])
        node.gs.attrs["num_heads"] = now
        if node.attr("qkv_hidden_sizes"):
            node.gs.attrs["qkv_hidden_sizes"] = [size // before * now for size in node.memo["sizes"]]


@register
class MultiHeadAttention(Rule):
    """Attention over projected queries, keys and values [samples, positions, heads * width], their biases joined."""

    ops = ("MultiHeadAttention",)
    domain = MICROSOFT
    kind = "matmul"
    traits = Traits(masks=(4,))
    functions: ClassVar[dict[str, Function]] = {"MultiHeadAttention": functions.multi_head}
    fixed = (4,)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        if not (node.has(1) and node.has(2)) or len(node.axes(0)) != 3:
            raise Freeze("queries, keys and values are packed")
        count = int(node.attr("num_heads"))
        split = [self._split(node, build, position, count) for position in range(3)]
        (batch, length, *q), (batch_k, length_k, *k), (batch_v, length_v, *v) = split
        build.freeze([length, length_k, length_v], "positions of queries and keys")
        build.freeze([batch, batch_k, batch_v], "samples")
        if node.has(3):
            sizes = [axis_size(part[0]) * axis_size(part[1]) for part in (q, k, v)]
            for part, bias in zip((q, k, v), cut(build, node.axes(3)[0], sizes), strict=True):
                shift = heads(build, bias, count)
                for place in range(2):
                    zero = is_zero(part[place]) and is_zero(shift[place])
                    if part[place]:
                        part[place], _ = build.unify(part[place], shift[place], "one bias per channel")
                    part[place] = with_zero(part[place], zero)
        past = node.axes(6)[2] if node.has(6) else ()
        for position, parts in ((6, k), (7, v)):
            if node.has(position):
                parts[:] = cached(build, node.axes(position), parts[0], parts[1], True)
        result, width = attend(node, build, (q[0], q[1]), (k[0], k[1]), (v[0], v[1]))
        if node.has(4):
            build.freeze(node.axes(4), "samples and positions")
        if node.has(5):
            masked(build, node.axes(5), node.memo["q_heads"])
        for position in (8, 9):
            if node.has(position):
                build.freeze(node.axes(position), "the cache")
        node.extent = Extent(groups=(*batch, *node.memo["q_heads"]), m=length, n=(*k[1], *width), k=length_k)
        dtype = node.tensor(0).dtype
        total = grown(length_k, past) if node.has(6) else length_k
        outputs = [Tensor((batch, length, (*result, *width)), dtype)]
        outputs += [Tensor((batch, parts[0], total, parts[1]), dtype) for parts in (k, v)]
        outputs.append(Tensor((batch, with_zero(node.memo["q_heads"], False), length, total), dtype))
        return outputs[: len(node.gs.outputs)]

    @staticmethod
    def _split(node: Node, build: Relate, position: int, count: int) -> tuple[Axis, Axis, Axis, Axis]:
        axes = node.axes(position)
        if len(axes) == 4:
            return axes[0], axes[2], axes[1], axes[3]
        if len(axes) != 3:
            raise Freeze("queries, keys and values are packed")
        return axes[0], axes[1], *heads(build, axes[2], count)

    def shrink(self, node: Node, shrink: Shrink) -> None:
        node.gs.attrs["num_heads"] = shrink.size(node.memo["kv_heads"])
        keep_scale(node, shrink, node.memo["width"])


@register
class GroupQueryAttention(Rule):
    """Attention in which several heads of queries share one of keys and values; the width of the heads stays."""

    ops = ("GroupQueryAttention",)
    domain = MICROSOFT
    kind = "matmul"
    functions: ClassVar[dict[str, Function]] = {"GroupQueryAttention": functions.group_query}
    fixed = (7, 8)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        if not (node.has(1) and node.has(2)):
            raise Freeze("queries, keys and values are packed")
        q, k, v = (node.axes(position) for position in range(3))
        build.freeze([*q[:2], *k[:2], *v[:2]], "samples and positions")
        q_heads, q_width = heads(build, q[2], int(node.attr("num_heads")))
        k_heads, k_width = heads(build, k[2], int(node.attr("kv_num_heads")))
        v_heads, v_width = heads(build, v[2], int(node.attr("kv_num_heads")))
        build.freeze([q_width, k_width, v_width], "the width of the heads of a fused attention")
        shared, repeats = shared_heads(build, q_heads, k_heads)
        build.unify(k_heads, v_heads, "heads of keys and values")
        caches = []
        for position, own in ((3, k_heads), (4, v_heads)):
            if node.has(position):
                past = node.axes(position)
                build.freeze([past[0], past[2], past[3]], "the cache")
                build.unify(own, past[1], "heads of the cache")
                total = grown(k[1], past[2])
            else:
                total = k[1]
            caches.append(
                Tensor((q[0], with_zero(own, False), total, opaque(axis_size(k_width))), node.tensor(0).dtype)
            )
        for position in (5, 6, 7, 8, 9):
            if node.has(position):
                build.freeze(node.axes(position), "positions")
        if node.has(10):
            masked(build, node.axes(10), (*shared, *repeats))
        if node.has(11):
            build.unify((*shared, *repeats), node.axes(11)[0], "one sink per head")
        node.memo.update(q_heads=(*shared, *repeats), kv_heads=k_heads)
        node.extent = Extent(groups=(*q[0], *shared, *repeats), m=q[1], n=(*k_width, *v_width), k=k[1])
        result = (*with_zero(shared, is_zero(v_heads)), *with_zero(repeats, False), *v_width)
        return [Tensor((q[0], q[1], result), node.tensor(0).dtype), *caches][: len(node.gs.outputs)]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        node.gs.attrs["num_heads"] = shrink.size(node.memo["q_heads"])
        node.gs.attrs["kv_num_heads"] = shrink.size(node.memo["kv_heads"])


@register
class ContribRotaryEmbedding(RotaryEmbedding):
    """The same with the positions before the tables; the number of heads may follow from the tables."""

    domain = MICROSOFT
    traits = Traits(indices=((1, 2, "", 0),))
    functions: ClassVar[dict[str, Function]] = {"RotaryEmbedding": functions.contrib_rotary}
    fixed = (2, 3)

    def _heads(self, node: Node, channels: int) -> int:
        given = int(node.attr("num_heads", 0))
        if given:
            return given
        if node.attr("rotary_embedding_dim", 0):
            raise Freeze("the number of heads is not given")
        return channels // (2 * axis_size(node.axes(2)[-1]))
