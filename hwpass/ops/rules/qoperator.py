"""Operators on integers: each is its real counterpart between a dequantisation and a quantisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from hwpass.ops.axes import Axis, with_zero
from hwpass.ops.functions import quantized as functions
from hwpass.ops.functions.common import Function
from hwpass.ops.rule import Freeze, Node, Relate, Rule, Shrink, Tensor, Traits, register
from hwpass.ops.rules.conv import convolve
from hwpass.ops.rules.elementwise import broadcast
from hwpass.ops.rules.joining import Concat
from hwpass.ops.rules.matmul import gemm, is_zero, multiply
from hwpass.ops.rules.quantized import dequantised, not_zero, parameters, quantised, real_axes
from hwpass.ops.rules.recurrent import Recurrent
from hwpass.ops.rules.window import extents

INT32, FLOAT32 = np.dtype(np.int32), np.dtype(np.float32)


def operand(node: Node, build: Relate, position: int, scale: int | None, point: int, axis: int) -> tuple[Axis, ...]:
    """The real axes of a quantised operand, tied to its parameters; a constant one is known by its numbers."""
    rank = len(node.axes(position))
    axis %= max(rank, 1)
    axes = real_axes(node, build, position, point, axis)
    axes = parameters(node, build, axes, -1 if scale is None else scale, point, axis)
    if scale is not None:
        dequantised(node, position, scale, point, axis)
    return axes


def channels_first(axes: tuple[Axis, ...], node: Node) -> tuple[Axis, ...]:
    """[N, image, C] as [N, C, image] where the node keeps its channels last."""
    return (axes[0], axes[-1], *axes[1:-1]) if node.attr("channels_last", 0) else axes


def as_stored(axes: tuple[Axis, ...], node: Node) -> tuple[Axis, ...]:
    """[N, C, image] as the node keeps it."""
    return (axes[0], *axes[2:], axes[1]) if node.attr("channels_last", 0) else axes


class _Grouped(Rule):
    """Convolutions write the number of groups that stay."""

    def shrink(self, node: Node, shrink: Shrink) -> None:
        if "group" in node.memo:
            node.gs.attrs["group"] = shrink.size(node.memo["group"])


@register
class QLinearConv(_Grouped):
    """Conv of integers: removed weights are their zero point, and add nothing; the bias is int32."""

    ops = ("QLinearConv",)
    kind = "conv"
    traits = Traits(heavy=True)
    functions: ClassVar[dict[str, Function]] = {"QLinearConv": functions.qlinear_conv}
    fixed = (1, 4, 6)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = channels_first(real_axes(node, build, 0, 2), node)
        w = operand(node, build, 3, 4, 5, 0)
        axes = convolve(node, build, x, w, (0, 3, 8))
        return [quantised(as_stored(axes, node), node, 7, node.tensor(7).dtype if node.has(7) else None)]


@register
class ContribQLinearConv(QLinearConv):
    """QLinearConv with channels last where it says so."""

    domain = "com.microsoft"


@register
class ConvInteger(_Grouped):
    """Conv of integers into int32: sum of (x - x's zero point) (w - w's zero point)."""

    ops = ("ConvInteger",)
    kind = "conv"
    traits = Traits(heavy=True)
    functions: ClassVar[dict[str, Function]] = {"ConvInteger": functions.conv_integer}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = real_axes(node, build, 0, 2)
        w = operand(node, build, 1, None, 3, 0)
        return [Tensor(convolve(node, build, x, w, (0, 1, -1)), INT32)]


@register
class QLinearMatMul(Rule):
    """MatMul of integers; scales per tensor, per row of the left or per column of the right operand."""

    ops = ("QLinearMatMul",)
    kind = "matmul"
    traits = Traits(heavy=True)
    functions: ClassVar[dict[str, Function]] = {"QLinearMatMul": functions.qlinear_matmul}
    fixed = (1, 4, 6)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        a = operand(node, build, 0, 1, 2, -2)
        b = operand(node, build, 3, 4, 5, -1)
        axes = multiply(node, build, a, b, (0, 3))
        return [quantised(axes, node, 7, node.tensor(7).dtype)]


@register
class MatMulInteger(Rule):
    """MatMul of integers into int32: sum of (a - a's zero point) (b - b's zero point)."""

    ops = ("MatMulInteger",)
    kind = "matmul"
    traits = Traits(heavy=True)
    functions: ClassVar[dict[str, Function]] = {"MatMulInteger": functions.matmul_integer}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        a = operand(node, build, 0, None, 2, -2)
        b = operand(node, build, 1, None, 3, -1)
        return [Tensor(multiply(node, build, a, b), INT32)]


@register
class QGemm(Rule):
    """Gemm of integers with an int32 bias; real-valued where no scale of the output is given."""

    ops = ("QGemm",)
    domain = "com.microsoft"
    kind = "matmul"
    functions: ClassVar[dict[str, Function]] = {"QGemm": functions.qgemm}
    fixed = (1, 4, 7)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        a = real_axes(node, build, 0, 2)
        columns = 0 if node.attr("transB", 0) else 1
        b = operand(node, build, 3, 4, 5, columns)
        axes = gemm(node, build, a, b, (0, 3, 6))
        if not node.has(7):
            return [Tensor(axes, FLOAT32)]
        return [quantised(axes, node, 8, node.tensor(8).dtype if node.has(8) else np.dtype(np.uint8))]


class _ToFloat(Rule):
    """What both products of integers into floats share: a bias along the columns."""

    def biased(self, node: Node, build: Relate, axes: tuple[Axis, ...], bias: int) -> Tensor:
        """The result with its bias, of type float32."""
        if not node.has(bias):
            return Tensor(axes, FLOAT32)
        columns, shift = axes[-1], node.axes(bias)[-1]
        zero = is_zero(columns) and is_zero(shift)
        columns, _ = build.unify(columns, shift, "one bias per output channel")
        return Tensor((*not_zero(axes[:-1]), with_zero(columns, zero)), FLOAT32)


@register
class MatMulIntegerToFloat(_ToFloat):
    """MatMul of integers, scaled into floats, plus a bias."""

    ops = ("MatMulIntegerToFloat",)
    domain = "com.microsoft"
    kind = "matmul"
    functions: ClassVar[dict[str, Function]] = {"MatMulIntegerToFloat": functions.matmul_to_float}
    fixed = (2, 3)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        a = operand(node, build, 0, 2, 4, -2)
        b = operand(node, build, 1, 3, 5, -1)
        return [self.biased(node, build, multiply(node, build, a, b), 6)]


@register
class DynamicQuantizeMatMul(_ToFloat):
    """MatMul of floats, quantised on the way by their range, with an integer weight, plus a bias."""

    ops = ("DynamicQuantizeMatMul",)
    domain = "com.microsoft"
    kind = "matmul"
    functions: ClassVar[dict[str, Function]] = {"DynamicQuantizeMatMul": functions.dynamic_matmul}
    fixed = (2,)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        a = node.axes(0)
        build.freeze([axis for axis in a if not is_zero(axis)], "the range of the tensor sees every channel")
        b = operand(node, build, 1, 2, 3, -1)
        return [self.biased(node, build, multiply(node, build, a, b), 4)]


@register
class DynamicQuantizeLSTM(Recurrent):
    """LSTM of floats, quantised on the way by their range, with integer W and R whose units are their last axis."""

    ops = ("DynamicQuantizeLSTM",)
    domain = "com.microsoft"
    traits = Traits()  # its weights are integers, and stand the other way round
    gates: ClassVar[dict[str, int]] = {"DynamicQuantizeLSTM": Recurrent.gates["LSTM"]}
    biases: ClassVar[dict[str, int]] = {"DynamicQuantizeLSTM": Recurrent.biases["LSTM"]}
    usual: ClassVar[dict[str, tuple[set[str], ...]]] = {"DynamicQuantizeLSTM": Recurrent.usual["LSTM"]}
    places: ClassVar[tuple[int, int]] = (2, 1)
    functions: ClassVar[dict[str, Function]] = {}
    fixed = (8, 10)

    def weights(self, node: Node, build: Relate) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
        if any(len(node.axes(scale)) != 1 for scale in (8, 10)):
            raise Freeze("scales of single gates of a quantised recurrence")
        build.freeze([axis for axis in node.axes(0) if not is_zero(axis)], "the range of the tensor sees every channel")
        w, r = operand(node, build, 1, 8, 9, 0), operand(node, build, 2, 10, 11, 0)
        return (w[0], w[2], w[1]), (r[0], r[2], r[1])


@register
class QLinearBinary(Rule):
    """Sum or product of two quantised tensors with broadcasting."""

    ops = ("QLinearAdd", "QLinearMul")
    domain = "com.microsoft"
    kind = "elementwise"
    zero: ClassVar[dict[str, Callable[[list[bool]], bool]]] = {"QLinearAdd": all, "QLinearMul": any}
    functions: ClassVar[dict[str, Function]] = dict.fromkeys(ops, functions.binary)
    fixed = (1, 4, 6)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        operands = [real_axes(node, build, 0, 2), real_axes(node, build, 3, 5)]
        axes = broadcast(node, build, [0, 3], self.zero[node.op], operands)
        return [quantised(tuple(axes), node, 7, node.tensor(0).dtype)]


@register
class QLinearWhere(Rule):
    """Chooses between two quantised tensors."""

    ops = ("QLinearWhere",)
    domain = "com.microsoft"
    kind = "elementwise"
    functions: ClassVar[dict[str, Function]] = {"QLinearWhere": functions.where}
    fixed = (2, 5, 7)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        operands = [node.axes(0), real_axes(node, build, 1, 3), real_axes(node, build, 4, 6)]
        axes = broadcast(node, build, [0, 1, 4], lambda z: z[1] and z[2], operands)
        return [quantised(tuple(axes), node, 8, node.tensor(1).dtype)]


@register
class QLinearUnary(Rule):
    """An activation of a quantised tensor."""

    ops = ("QLinearLeakyRelu", "QLinearSigmoid")
    domain = "com.microsoft"
    kind = "elementwise"
    functions: ClassVar[dict[str, Function]] = {
        "QLinearLeakyRelu": functions.leaky_relu,
        "QLinearSigmoid": functions.sigmoid,
    }
    fixed = (1, 3)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        axes = real_axes(node, build, 0, 2)
        keeps = node.op == "QLinearLeakyRelu"
        return [quantised(axes if keeps else not_zero(axes), node, 4, node.tensor(0).dtype)]


@register
class QLinearMixing(Rule):
    """Softmax and mean of quantised tensors: the axes they run over stay."""

    ops = ("QLinearSoftmax", "QLinearReduceMean")
    domain = "com.microsoft"
    kind = "softmax"
    functions: ClassVar[dict[str, Function]] = {
        "QLinearSoftmax": functions.softmax,
        "QLinearReduceMean": functions.reduce_mean,
    }
    fixed = (1, 3)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        axes = real_axes(node, build, 0, 2)
        rank = len(axes)
        if node.op == "QLinearSoftmax":
            start = int(node.attr("axis", -1)) % rank
            # Before opset 13 everything from the axis on was one vector.
            mixed = list(range(start, rank)) if int(node.attr("opset", 13)) < 13 else [start]
        else:
            node.kind = "reduce"
            mixed = [int(a) % rank for a in node.attr("axes") or range(rank)]
        build.freeze([axes[place] for place in mixed], f"{node.op} mixes along this axis")
        if node.op == "QLinearSoftmax":
            axes = not_zero(axes)
        elif node.attr("keepdims", 1):
            axes = tuple(() if place in mixed else axis for place, axis in enumerate(axes))
        else:
            axes = tuple(axis for place, axis in enumerate(axes) if place not in mixed)
        return [quantised(axes, node, 4, node.tensor(0).dtype)]


@register
class QLinearPool(Rule):
    """Averages over the image of a quantised tensor, channels first or last."""

    ops = ("QLinearAveragePool", "QLinearGlobalAveragePool")
    domain = "com.microsoft"
    kind = "pool"
    functions: ClassVar[dict[str, Function]] = dict.fromkeys(ops, functions.pool)
    fixed = (1, 3)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = channels_first(real_axes(node, build, 0, 2), node)
        build.freeze(x[2:], "positions of the image")
        image = tuple(() for _ in x[2:]) if "Global" in node.op else extents(node, x[2:], node.attr("kernel_shape"))
        axes = (x[0], x[1], *image)
        return [quantised(as_stored(axes, node), node, 4, node.tensor(0).dtype)]


@register
class QLinearConcat(Rule):
    """Joins quantised tensors along one axis; inputs are the result's scale and zero point, then triples."""

    ops = ("QLinearConcat",)
    domain = "com.microsoft"
    kind = "movement"
    functions: ClassVar[dict[str, Function]] = {"QLinearConcat": functions.concat}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        parts = [real_axes(node, build, p, p + 2) for p in range(2, len(node.inputs), 3)]
        axes = Concat.joined(build, parts, int(node.attr("axis", 1)) % len(parts[0]))
        return [quantised(axes, node, 1, node.tensor(1).dtype)]
