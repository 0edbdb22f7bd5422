"""What ONNX Runtime's optimiser makes of several operators: products with activations, sums with norms."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from hwpass.ops.axes import Axis, Mismatch, axis_size, opaque, with_zero
from hwpass.ops.functions import elementwise, normalization, products, windows
from hwpass.ops.functions.common import Function
from hwpass.ops.rule import Freeze, Node, Product, Relate, Rule, Shrink, Tensor, Traits, register
from hwpass.ops.rules.conv import convolve
from hwpass.ops.rules.elementwise import Unary, broadcast
from hwpass.ops.rules.matmul import gemm, is_zero, multiply
from hwpass.ops.rules.normalization import keep_rms, rms

MICROSOFT = "com.microsoft"


def activated(axes: tuple[Axis, ...], node: Node) -> tuple[Axis, ...]:
    """The axes behind the activation that a node ends with."""
    name = str(node.attr("activation") or "")
    keeps = not name or name in Unary.keeps_zero
    if name == "Clip":
        low, high = (node.attr("activation_params") or [-np.inf, np.inf])[:2]
        keeps = low <= 0 <= high
    return axes if keeps else tuple(with_zero(axis, False) for axis in axes)


@register
class FusedConv(Rule):
    """act(Conv(x, W, b) + z)."""

    ops = ("FusedConv",)
    domain = MICROSOFT
    kind = "conv"
    functions: ClassVar[dict[str, Function]] = {"FusedConv": windows.fused_conv}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        axes = convolve(node, build, node.axes(0), node.axes(1))
        if node.has(3):
            axes = tuple(broadcast(node, build, [0, 3], all, [axes, node.axes(3)]))
        return [Tensor(activated(axes, node), node.tensor(0).dtype)]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        if "group" in node.memo:
            node.gs.attrs["group"] = shrink.size(node.memo["group"])


@register
class NhwcConv(Rule):
    """Conv of images with channels last, in the weight [outputs, window, inputs] as well."""

    ops = ("NhwcConv",)
    domain = MICROSOFT
    kind = "conv"
    functions: ClassVar[dict[str, Function]] = {"NhwcConv": windows.nhwc_conv}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        w = node.axes(1)
        y = convolve(node, build, (x[0], x[-1], *x[1:-1]), (w[0], w[-1], *w[1:-1]))
        if node.product is not None:
            inputs = None if node.product.weight_in is None else len(w) - 1
            node.product = replace(node.product, data_axis=len(x) - 1, weight_in=inputs)
        return [Tensor((y[0], *y[2:], y[1]), node.tensor(0).dtype)]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        if "group" in node.memo:
            node.gs.attrs["group"] = shrink.size(node.memo["group"])


@register
class FusedMatMul(Rule):
    """alpha A B with either side, or its batches, transposed."""

    ops = ("FusedMatMul", "TransposeMatMul")
    domain = MICROSOFT
    kind = "matmul"
    functions: ClassVar[dict[str, Function]] = dict.fromkeys(ops, products.fused_matmul)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        if node.attr("transBatchA", 0) or node.attr("transBatchB", 0):
            raise Freeze("batches are transposed inside the product")
        sides = []
        for position, flag in ((0, "transA"), (1, "transB")):
            axes = node.axes(position)
            sides.append((*axes[:-2], axes[-1], axes[-2]) if node.attr(flag, 0) and len(axes) > 1 else axes)
        axes = multiply(node, build, sides[0], sides[1])
        if node.product is not None:
            node.product = self._stored(node)
        return [Tensor(axes, node.tensor(0).dtype)]

    @staticmethod
    def _stored(node: Node) -> Product:
        """The product's axes as the operands are stored."""
        product = node.product
        assert product is not None
        data, weight = ("transA", "transB") if product.weight == 1 else ("transB", "transA")
        if node.attr(weight, 0):
            product = replace(product, weight_out=1 - product.weight_out, weight_in=product.weight_out)
        rank = len(node.axes(product.data))
        if node.attr(data, 0) and rank > 1:
            product = replace(product, data_axis=rank - 2 if product.data_axis == rank - 1 else rank - 1)
        return product


@register
class FusedGemm(Rule):
    """act(alpha A B + beta C)."""

    ops = ("FusedGemm",)
    domain = MICROSOFT
    kind = "matmul"
    functions: ClassVar[dict[str, Function]] = {"FusedGemm": products.gemm}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        axes = gemm(node, build, node.axes(0), node.axes(1))
        return [Tensor(activated(axes, node), node.tensor(0).dtype)]


@register
class GemmFastGelu(Rule):
    """gelu(X W + b)."""

    ops = ("GemmFastGelu",)
    domain = MICROSOFT
    kind = "matmul"
    functions: ClassVar[dict[str, Function]] = {"GemmFastGelu": products.gemm_fast_gelu}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        axes = multiply(node, build, node.axes(0), node.axes(1))
        if node.has(2):
            axes = tuple(broadcast(node, build, [0, 2], all, [axes, node.axes(2)]))
        return [Tensor(axes, node.tensor(0).dtype)]


@register
class ContribUnary(Unary):
    """Activations that ONNX Runtime has under its own name."""

    keeps_zero = frozenset({"Gelu", "QuickGelu", "ScaledSiLU"})
    ops = ("Gelu", "QuickGelu")
    domain = MICROSOFT


@register
class BiasedActivation(Rule):
    """act(x + b), b along the last axis: zero where both are. BiasAdd adds a second tensor and has no activation."""

    ops = ("BiasGelu", "FastGelu", "BiasAdd", "BiasDropout")
    domain = MICROSOFT
    kind = "elementwise"
    functions: ClassVar[dict[str, Function]] = {
        "BiasGelu": elementwise.bias_gelu,
        "FastGelu": elementwise.bias_gelu,
        "BiasAdd": elementwise.bias_add,
    }

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        if node.op == "BiasDropout":
            raise Freeze("random numbers are drawn for the whole tensor")
        positions = [p for p in range(len(node.inputs)) if node.has(p)]
        return [Tensor(tuple(broadcast(node, build, positions, all)), node.tensor(0).dtype)]


@register
class SwiGLU(Rule):
    """swish(a) b: zero where either is."""

    ops = ("SwiGLU",)
    kind = "elementwise"
    functions: ClassVar[dict[str, Function]] = {"SwiGLU": elementwise.swiglu}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        if not node.has(1):
            raise Freeze("gate and value are packed in one axis")
        return [Tensor(tuple(broadcast(node, build, [0, 1], any)), node.tensor(0).dtype)]


@register
class SkipLayerNormalization(Rule):
    """A sum and its normalisation; the sum is the fourth output. LayerNorm freezes the last axis, RMS does not."""

    ops = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
    domain = MICROSOFT
    kind = "normalization"
    functions: ClassVar[dict[str, Function]] = dict.fromkeys(ops, normalization.skip_norm)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        simplified = node.op == "SkipSimplifiedLayerNormalization"
        bias = 3 if simplified else 4
        summed = broadcast(node, build, [p for p in (0, 1, bias) if node.has(p)], all)
        if simplified:
            rms(node, build, tuple(summed), len(summed) - 1, 2)
        else:
            parameters = [axis for p in (2, 3) if node.has(p) for axis in node.axes(p)]
            build.freeze([summed[-1], *parameters], f"{node.op} mixes all of its channels")
        dtype = node.tensor(0).dtype
        rows = tuple(with_zero(axis, False) for axis in summed[:-1])
        statistics = Tensor((*rows, ()), np.dtype(np.float32))
        total = Tensor(tuple(summed), dtype)
        return [Tensor((*rows, summed[-1]), dtype), statistics, statistics, total][: len(node.gs.outputs)]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        if "normed" in node.memo:
            keep_rms(node, shrink)


@register
class EmbedLayerNormalization(Rule):
    """Sums of rows of tables, normalised: the width of the tables stays."""

    ops = ("EmbedLayerNormalization",)
    domain = MICROSOFT
    kind = "normalization"
    traits = Traits(indices=((0, 2, "", 0), (1, 4, "", 0), (8, 3, "", 0)), masks=(7,))
    functions: ClassVar[dict[str, Function]] = {"EmbedLayerNormalization": normalization.embed_norm}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        ids, width = node.axes(0), axis_size(node.axes(2)[1])
        for position in range(len(node.inputs)):
            if node.has(position):
                build.freeze(node.axes(position), f"{node.op} mixes all of its channels")
        dtype = node.tensor(2).dtype
        y = Tensor((*ids, opaque(width)), dtype)
        mask = Tensor(ids[:1], np.dtype(np.int32))
        return [y, mask, y][: len(node.gs.outputs)]


@register
class ContribGroupNorm(Rule):
    """Group normalisation with channels last: whole groups may go. SkipGroupNorm sums first, and hands out the sum."""

    ops = ("GroupNorm", "SkipGroupNorm")
    domain = MICROSOFT
    kind = "normalization"
    functions: ClassVar[dict[str, Function]] = dict.fromkeys(ops, normalization.contrib_group_norm)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        place = len(x) - 1 if node.attr("channels_last", 1) else 1
        groups = int(node.attr("groups"))
        build.freeze([axis for i, axis in enumerate(x) if i not in (0, place)], "normalised together")
        try:
            group, inner = build.regroup(x[place], [groups, axis_size(x[place]) // groups])
        except Mismatch:
            raise Freeze("the groups cut across those of the input") from None
        build.freeze([inner], "normalised together with its group")
        channels = (*group, *inner)
        zero = all(is_zero(node.axes(p)[0]) for p in (1, 2))
        for position in (1, 2):
            build.unify(channels, node.axes(position)[0], "scale and bias")
        for position in (3, 4):
            if node.has(position):
                own = node.axes(position)
                build.freeze(own[:-1], "samples and positions")
                build.unify(channels, own[-1 if len(own) == 1 else place if len(own) == len(x) else -1], "the sum")
        node.memo["group"] = group
        # SiLU keeps zero at zero.
        axes = tuple(
            with_zero(channels, zero) if i == place else with_zero(axis, False) if i == 0 else axis
            for i, axis in enumerate(x)
        )
        total = tuple(with_zero(axis, False) for axis in axes)
        dtype = node.tensor(0).dtype
        return [Tensor(axes, dtype), Tensor(total, dtype)][: len(node.gs.outputs)]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        node.gs.attrs["groups"] = shrink.size(node.memo["group"])
