"""Convolutions: input channels are contracted with the weight's, output channels are the weight's."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import ClassVar

import onnx_graphsurgeon as gs

from hwpass.ops.axes import Axis, Factor, Mismatch, axis_size, with_zero
from hwpass.ops.functions import windows
from hwpass.ops.functions.common import Function
from hwpass.ops.planar import Planar, windowed
from hwpass.ops.rule import Extent, Form, Freeze, Node, Product, Relate, Rule, Shrink, Tensor, Traits, register
from hwpass.ops.rules.matmul import contract, is_zero
from hwpass.ops.rules.window import extents


def _divided(build: Relate, axis: Axis, groups: int) -> tuple[Axis, Axis]:
    """An axis of groups * width channels as its two parts."""
    try:
        outer, inner = build.regroup(axis, [groups, axis_size(axis) // groups])
    except Mismatch:
        build.freeze([axis], "the groups of the convolution cut across those of its input")
        return (Factor(groups),), (Factor(axis_size(axis) // groups),) if axis_size(axis) > groups else ()
    return outer, inner


def convolve(
    node: Node,
    build: Relate,
    x: tuple[Axis, ...],
    w: tuple[Axis, ...],
    positions: tuple[int, int, int] = (0, 1, 2),
) -> tuple[Axis, ...]:
    """Couple a convolution of any flavour: x [N, G * I, image], w [G * O, I, window]; positions of x, w and bias.

    Sets the extent, the product and `memo["group"]`, and returns the axes [N, G * O, image] of the result.
    """
    data, weight, bias = positions
    if len(x) < 3 or len(w) != len(x):
        raise Freeze("the ranks of input and weight differ")
    groups = int(node.attr("group", 1))
    spatial = extents(node, x[2:], [axis_size(axis) for axis in w[2:]])
    build.freeze(w[2:], "positions of the window")
    build.freeze(x[2:], "positions of the image")
    group, inner_in = _divided(build, x[1], groups) if groups > 1 else ((), x[1])
    contract(build, inner_in, w[1], "input channels are contracted with the weight's")
    # A removed output is zero where its weights are.
    zero = is_zero(w[0])
    if groups > 1:
        group_out, inner_out = _divided(build, w[0], groups)
        group, _ = build.unify(group, group_out, "groups of the convolution")
        channels = with_zero((*group, *inner_out), zero)
        node.memo["group"] = group
    else:
        inner_out = channels = w[0]
    if node.has(bias):
        zero = zero and is_zero(node.axes(bias)[0])
        channels, _ = build.unify(channels, node.axes(bias)[0], "one bias per output channel")
        channels = with_zero(channels, zero)
    window = prod(axis_size(axis) for axis in w[2:])
    per_group = axis_size(w[1])
    node.kind = "conv" if groups == 1 else "depthwise" if per_group == 1 else "grouped"
    node.extent = Extent(
        groups=group,
        m=tuple(f for axis in (x[0], *spatial) for f in axis),
        n=inner_out if groups > 1 else channels,
        k=inner_in,
        taps=window,
        stride=prod(node.attr("strides") or [1]),
    )
    if node.tensor(weight).constant:
        node.product = Product(data, 1, weight, 0, 1 if per_group > 1 else None, bias if node.has(bias) else None)
    # A sample of zeros becomes the bias.
    batch = with_zero(x[0], False) if node.has(bias) else x[0]
    return (batch, channels, *spatial)


@register
class Conv(Rule):
    """y[n, o, .] = sum over i and window of W[o, i, .] x[n, i, .], any rank, grouped and depthwise.

    With G groups the channel axes are products: x is (G, I), W's first axis is (G, O), y is (G, O).
    """

    ops = ("Conv",)
    traits = Traits(form=Form("conv"), heavy=True)
    functions: ClassVar[dict[str, Function]] = {"Conv": windows.conv}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        return [Tensor(convolve(node, build, node.axes(0), node.axes(1)), node.tensor(0).dtype)]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        if "group" in node.memo:
            node.gs.attrs["group"] = shrink.size(node.memo["group"])

    def planar(self, node: gs.Node, ranks: Sequence[int | None]) -> Planar | None:
        weight = node.inputs[1]
        if not isinstance(weight, gs.Constant) or weight.values.ndim != 3:
            return None
        return Planar(windowed(node), {1: weight.values[:, :, None, :]})


@register
class ConvTranspose(Rule):
    """The transposed convolution: W is [I, O / G, window], with the input's channels first."""

    ops = ("ConvTranspose",)
    traits = Traits(form=Form("transposed"), heavy=True)
    functions: ClassVar[dict[str, Function]] = {"ConvTranspose": windows.conv_transpose}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x, w = node.axes(0), node.axes(1)
        groups = int(node.attr("group", 1))
        build.freeze(w[2:], "positions of the window")
        build.freeze(x[2:], "positions of the image")
        zero = is_zero(w[1])
        if groups > 1:
            group, inner_in = _divided(build, x[1], groups)
            group_w, inner_w = _divided(build, w[0], groups)
            zero = zero and is_zero(w[0])
            group, _ = build.unify(group, group_w, "groups of the convolution")
            contract(build, inner_in, inner_w, "input channels are contracted with the weight's")
            channels = with_zero((*group, *w[1]), zero)
            node.memo["group"] = group
        else:
            group, inner_in = (), x[1]
            contract(build, x[1], w[0], "input channels are contracted with the weight's")
            channels = w[1]
        if node.has(2):
            zero = zero and is_zero(node.axes(2)[0])
            channels, _ = build.unify(channels, node.axes(2)[0], "one bias per output channel")
            channels = with_zero(channels, zero)
        spatial = build.inferred(node)[0].axes
        if spatial is None:
            raise Freeze("the extent of the output is unknown")
        node.kind = "conv_transpose"
        node.extent = Extent(
            groups=group,
            # Every input position meets every tap once: the image side of the work is the input's.
            m=tuple(f for axis in (x[0], *x[2:]) for f in axis),
            n=w[1] if groups > 1 else channels,
            k=inner_in,
            taps=prod(axis_size(axis) for axis in w[2:]),
            stride=prod(node.attr("strides") or [1]),
        )
        # With groups the weight has the group in its input axis alone: neither side is one channel axis.
        if node.tensor(1).constant:
            node.product = Product(0, 1, 1, 1, 0 if groups == 1 else None, 2 if node.has(2) else None)
        batch = with_zero(x[0], False) if node.has(2) else x[0]
        return [Tensor((batch, channels, *spatial[2:]), node.tensor(0).dtype)]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        if "group" in node.memo:
            node.gs.attrs["group"] = shrink.size(node.memo["group"])
