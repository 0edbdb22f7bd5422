"""Weights of a few bits, packed in blocks that share a scale."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np

from hwpass.ops.axes import Axis, Mismatch, axis_size, with_zero
from hwpass.ops.functions import products
from hwpass.ops.functions.common import Function
from hwpass.ops.rule import Array, Derived, Extent, Node, Product, Relate, Rule, Shrink, Tensor, register
from hwpass.ops.rules.matmul import is_zero
from hwpass.ops.rules.quantized import not_zero


def unpacked(packed: Array, bits: int, scales: Array) -> Array:
    """The weights [N, blocks, block] up to their zero points, which are taken as the middle of the range."""
    if bits == 4:
        packed = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1)
    numbers = packed.astype(np.float32) - (8.0 if bits == 4 else 128.0)
    return np.asarray(numbers * scales.reshape(*packed.shape[:2], 1).astype(np.float32))


@register
class MatMulNBits(Rule):
    """y = x W with W [N, K / block, block] in a few bits: rows of W may go, and whole blocks of one scale.

    The scale of a removed row or block is zero in the twin, and so are the weights that it scales.
    """

    ops = ("MatMulNBits",)
    domain = "com.microsoft"
    kind = "matmul"
    functions: ClassVar[dict[str, Function]] = {"MatMulNBits": products.matmul_nbits}
    fixed = (2, 3)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        a, b = node.axes(0), node.axes(1)
        bits, block = int(node.attr("bits", 4)), int(node.attr("block_size"))
        build.freeze(b[2:], "positions inside a block of one scale")
        inner, blocks = self._blocks(node, build, a[-1], b[1], block)
        self._per_block(node, build, 2, b, b[1], "one scale per block")
        if not all(is_zero(axis) for axis in node.axes(2)):
            build.freeze([a[-1], *b[:2]], "scales are computed, and a removed one would not be zero")
        if node.has(3):
            whole = axis_size(node.axes(3)[-1]) == axis_size(blocks)
            if not whole:
                build.freeze([blocks], "zero points of several blocks share a byte")
            self._per_block(node, build, 3, b, b[1] if whole else None, "one zero point per block")
        if node.has(4):
            build.freeze([a[-1], b[1]], "columns of the weight are reordered in groups")
        rows, zero = b[0], True
        if node.has(5):
            zero = is_zero(node.axes(5)[0])
            rows, _ = build.unify(rows, node.axes(5)[0], "one bias per output channel")
        rows = with_zero(rows, zero)
        node.memo["axes"] = (a[-1], rows)
        node.extent = Extent(m=tuple(f for axis in a[:-1] for f in axis), n=rows, k=inner)
        packed, scales = node.value(1), node.value(2)
        if packed is not None and scales is not None and bits in (4, 8):
            node.inputs[1] = Derived(b, node.tensor(1).dtype, partial(unpacked, packed, bits, scales))
            node.product = Product(0, len(a) - 1, 1, 0, None, 5 if node.has(5) else None)
        batch = not_zero(a[:-1]) if node.has(5) else a[:-1]
        return [Tensor((*batch, rows), node.tensor(0).dtype)]

    @staticmethod
    def _blocks(node: Node, build: Relate, k: Axis, blocks: Axis, block: int) -> tuple[Axis, Axis]:
        """Tie the blocks of the input to those of the weight."""
        size = axis_size(k)
        try:
            if size % block:
                raise Mismatch
            outer, inner = build.regroup(k, [size // block, block])
        except Mismatch:
            build.freeze([k, blocks], "blocks of one scale cut across channels")
            return k, blocks
        build.freeze([inner], "positions inside a block of one scale")
        build.unify(outer, blocks, "one scale per block")
        return (*outer, *inner), blocks

    @staticmethod
    def _per_block(
        node: Node, build: Relate, position: int, b: tuple[Axis, ...], blocks: Axis | None, reason: str
    ) -> None:
        """Tie parameters [N, blocks] (flattened, in older models) to the weight; without `blocks`, by rows alone."""
        own = node.axes(position)
        if len(own) == 1:
            rows = axis_size(b[0])
            outer, inner = build.regroup(own[0], [rows, axis_size(own[0]) // rows])
            # One axis holds both: its rows may go, its blocks stay.
            build.freeze([inner, b[1]], "scales of all rows and blocks lie along one axis")
        else:
            outer, inner = own[0], own[1]
            if blocks is not None:
                build.unify(blocks, inner, reason)
            else:
                build.freeze([inner], reason)
        build.unify(b[0], outer, reason)

    def shrink(self, node: Node, shrink: Shrink) -> None:
        k, n = node.memo["axes"]
        node.gs.attrs["K"], node.gs.attrs["N"] = shrink.size(k), shrink.size(n)
