"""Witnesses: small models, one or more per operator rule, in which a wrong rule shows.

A witness hands out taps: tensors with an axis that channels may lie along. Every tap becomes two models: one where a
layer reads that axis, and one where a sum over it leaves the graph, which notices removed channels that are not zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto
from sketch import Sketch


@dataclass(frozen=True)
class Tap:
    """A tensor [..., width at `axis`, ...] of `rank` axes to look at."""

    tensor: str
    rank: int
    axis: int
    width: int


Witness = Callable[[Sketch], list[Tap]]
WITNESSES: dict[str, tuple[int, Witness]] = {}


def witness(opset: int = 17) -> Callable[[Witness], Witness]:
    """Enter a witness under its name."""

    def enter(function: Witness) -> Witness:
        assert function.__name__ not in WITNESSES
        WITNESSES[function.__name__] = (opset, function)
        return function

    return enter


def everywhere(name: str, make: Callable[[Sketch, str], str], rank: int = 3, opset: int = 17) -> None:
    """A witness for an operator that keeps extents, applied to a tensor whose axes can all be thinned."""

    def function(s: Sketch) -> list[Tap]:
        x, widths = live(s, rank)
        y = make(s, x)
        return [Tap(y, rank, axis, width) for axis, width in enumerate(widths)]

    WITNESSES[name] = (opset, function)


def last(s: Sketch, tensor: str, rank: int, axis: int) -> tuple[str, list[int]]:
    """The tensor with an axis moved to the end, and the order that does so (its own inverse)."""
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    return (tensor if axis == rank - 1 else s.op("Transpose", tensor, perm=order)), order


def live(s: Sketch, rank: int, widths: tuple[int, ...] = (4, 6, 5, 7)) -> tuple[str, tuple[int, ...]]:
    """A tensor every axis of which comes out of a layer, and its extents."""
    x = s.input([3] * rank)
    for axis in range(rank):
        moved, order = last(s, x, rank, axis)
        y = s.linear(moved, 3, widths[axis])
        x = y if axis == rank - 1 else s.op("Transpose", y, perm=order)
    return x, widths[:rank]


def image(s: Sketch, width: int = 6, side: int = 4, batch: int | str = "N") -> str:
    """Channels out of a convolution: [batch, width, side, side]."""
    return s.conv(s.input([batch, 3, side, side]), width, 3, kernel=3)


def rows(s: Sketch, width: int = 6, batch: int | str = "N") -> str:
    """Features out of a product: [batch, 5, width]."""
    return s.linear(s.input([batch, 5, 4]), 4, width)


def models(name: str) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The models of a witness, with names that tell tap and reader."""
    opset, make = WITNESSES[name]
    taps = len(make(Sketch(opset, 1)))
    for number in range(taps):
        for reader in ("layer", "sum"):
            s = Sketch(opset, 1)
            tap = make(s)[number]
            if reader == "layer":
                moved, _ = last(s, tap.tensor, tap.rank, tap.axis)
                s.output(s.linear(moved, tap.width, 3))
            else:
                s.output(s.axes_op("ReduceSum", tap.tensor, [tap.axis], keepdims=0))
            s.drop_unread()
            yield f"{name}/{number}/{reader}", s.model()


# --- convolutions


@witness()
def conv(s: Sketch) -> list[Tap]:
    return [Tap(s.conv(image(s), 5, 6, kernel=3, bias=True), 4, 1, 5)]


@witness()
def conv_on_live_axes(s: Sketch) -> list[Tap]:
    x, _ = live(s, 4)
    biased = s.conv(x, 5, 6, kernel=3, bias=True)
    bare = s.conv(x, 5, 6, kernel=3)
    return [Tap(biased, 4, 0, 4), Tap(biased, 4, 2, 5), Tap(bare, 4, 0, 4), Tap(bare, 4, 3, 7)]


@witness()
def conv_grouped(s: Sketch) -> list[Tap]:
    return [Tap(s.conv(image(s, 8), 12, 2, group=4, bias=True), 4, 1, 12)]


@witness()
def conv_groups_across(s: Sketch) -> list[Tap]:
    """Channels that come as 3 x 4 meet 4 groups of 3."""
    h = s.op("Reshape", s.op("Transpose", live(s, 4, (2, 3, 4, 5))[0], perm=[0, 1, 2, 3]), s.const([2, 12, 5, 1]))
    return [Tap(s.conv(h, 8, 3, group=4), 4, 1, 8)]


@witness()
def conv_depthwise(s: Sketch) -> list[Tap]:
    return [Tap(s.conv(image(s), 6, 1, kernel=3, group=6), 4, 1, 6)]


@witness()
def conv_transpose(s: Sketch) -> list[Tap]:
    y = s.op("ConvTranspose", image(s), s.weight(6, 5, 2, 2), s.weight(5), strides=[2, 2])
    return [Tap(y, 4, 1, 5)]


@witness()
def conv_transpose_on_live_axes(s: Sketch) -> list[Tap]:
    x, _ = live(s, 4)
    biased = s.op("ConvTranspose", x, s.weight(6, 5, 2, 2), s.weight(5), strides=[2, 2])
    bare = s.op("ConvTranspose", x, s.weight(6, 5, 1, 1))
    return [Tap(biased, 4, 0, 4), Tap(bare, 4, 0, 4), Tap(bare, 4, 2, 5), Tap(bare, 4, 3, 7)]


@witness()
def conv_transpose_grouped(s: Sketch) -> list[Tap]:
    y = s.op("ConvTranspose", image(s, 8), s.weight(8, 3, 1, 1), s.weight(12), group=4)
    return [Tap(y, 4, 1, 12)]


# --- products


@witness()
def matmul(s: Sketch) -> list[Tap]:
    x, _ = live(s, 3)
    right, left = s.linear(x, 5, 6), s.op("MatMul", s.weight(3, 6), x)
    return [Tap(right, 3, 0, 4), Tap(right, 3, 1, 6), Tap(right, 3, 2, 6), Tap(left, 3, 0, 4), Tap(left, 3, 1, 3),
            Tap(left, 3, 2, 5)]  # fmt: skip


@witness()
def matmul_of_activations(s: Sketch) -> list[Tap]:
    x, y = rows(s), rows(s)
    return [Tap(s.op("MatMul", x, s.op("Transpose", y, perm=[0, 2, 1])), 3, 2, 5)]


@witness()
def matmul_not_zero(s: Sketch) -> list[Tap]:
    x, y = s.op("Sigmoid", rows(s)), s.op("Sigmoid", rows(s))
    return [Tap(s.op("MatMul", x, s.op("Transpose", y, perm=[0, 2, 1])), 3, 2, 5)]


@witness()
def matmul_keeps_what_is_not_zero(s: Sketch) -> list[Tap]:
    x = s.op("Sigmoid", live(s, 3)[0])
    return [Tap(s.linear(x, 5, 3), 3, 1, 6), Tap(s.op("MatMul", s.weight(3, 6), x), 3, 2, 5)]


@witness()
def matmul_of_stacks(s: Sketch) -> list[Tap]:
    x, _ = live(s, 3)
    y = s.op("MatMul", x, s.weight(4, 5, 6))
    sigmoid = s.op("MatMul", s.op("Sigmoid", x), s.op("Sigmoid", s.op("Transpose", live(s, 3)[0], perm=[0, 2, 1])))
    return [Tap(y, 3, 0, 4), Tap(y, 3, 1, 6), Tap(y, 3, 2, 6), Tap(sigmoid, 3, 0, 4), Tap(sigmoid, 3, 1, 6)]


@witness()
def matmul_scalar_and_vector(s: Sketch) -> list[Tap]:
    x = s.linear(s.input(["N", 4]), 4, 6)
    y = s.op("MatMul", x, s.weight(6, fan=6))
    return [Tap(s.op("Mul", x, s.axes_op("Unsqueeze", y, [1])), 2, 1, 6)]


@witness()
def gemm(s: Sketch) -> list[Tap]:
    x = s.linear(s.input(["N", 4]), 4, 6)
    y = s.op("Gemm", x, s.weight(6, 5), s.weight(5, fan=4))
    z = s.op("Gemm", x, s.weight(5, 6), s.weight(1, 5, fan=4), transB=1)
    scalar = s.op("Gemm", x, s.weight(6, 5), s.const([0.3]))
    return [Tap(y, 2, 1, 5), Tap(z, 2, 1, 5), Tap(scalar, 2, 1, 5)]


@witness()
def gemm_on_live_rows(s: Sketch) -> list[Tap]:
    x, _ = live(s, 2)
    bare = s.op("Gemm", x, s.weight(6, 5))
    shifted = s.op("Gemm", x, s.weight(6, 5), s.weight(5, fan=4))
    full = s.op("Gemm", x, s.weight(6, 5), s.weight(4, 5, fan=4))
    turned = s.op("Gemm", x, s.weight(4, 5), transA=1)
    return [Tap(bare, 2, 0, 4), Tap(shifted, 2, 0, 4), Tap(full, 2, 0, 4), Tap(full, 2, 1, 5), Tap(turned, 2, 0, 6),
            Tap(turned, 2, 1, 5)]  # fmt: skip


@witness()
def gemm_not_zero(s: Sketch) -> list[Tap]:
    x, y = s.op("Sigmoid", live(s, 2)[0]), s.op("Sigmoid", live(s, 2)[0])
    return [Tap(s.op("Gemm", x, y, transB=1), 2, 1, 4)]


@witness()
def einsum(s: Sketch) -> list[Tap]:
    x, _ = live(s, 3)
    y = s.op("Einsum", x, s.weight(8, 5), equation="abc,oc->abo")
    # One operand's removed terms are not zero, and then both operands'.
    pair = s.op("Einsum", s.op("Sigmoid", x), s.op("Sigmoid", live(s, 3)[0]), equation="abc,abd->acd")
    implicit = s.op("Einsum", live(s, 2)[0], s.weight(6, 7), equation="ab,bc")
    return [Tap(y, 3, 0, 4), Tap(y, 3, 1, 6), Tap(y, 3, 2, 8), Tap(pair, 3, 0, 4), Tap(pair, 3, 1, 5),
            Tap(pair, 3, 2, 5), Tap(implicit, 2, 1, 7)]  # fmt: skip


@witness()
def einsum_ellipsis(s: Sketch) -> list[Tap]:
    return [Tap(s.op("Einsum", rows(s), s.weight(6, 5), equation="...c,cd->...d"), 3, 2, 5)]


@witness()
def einsum_diagonal(s: Sketch) -> list[Tap]:
    return [Tap(s.op("Einsum", live(s, 3, (4, 5, 5))[0], equation="abb->ab"), 2, 1, 5)]


def _recurrent(name: str, op: str, gates: int, biases: int, full: bool, peephole: bool = False) -> None:
    def function(s: Sketch) -> list[Tap]:
        x, ways = s.linear(s.input([4, 2, 3]), 3, 5), 2 if full else 1
        operands = [x, s.weight(ways, gates * 6, 5, fan=5), s.weight(ways, gates * 6, 6, fan=6)]
        if full:
            state = s.op("Reshape", s.linear(s.input([2 * ways, 3]), 3, 6), s.const([ways, 2, 6]))
            cell = s.op("Sigmoid", s.op("Reshape", s.linear(s.input([2 * ways, 3]), 3, 6), s.const([ways, 2, 6])))
            operands += [s.weight(ways, biases * 6, fan=4), "", state]
            operands += [cell] if op == "LSTM" else []
            operands += [s.weight(ways, 18, fan=4)] if peephole else []
        extra = {"direction": "bidirectional"} if full else {}
        y, _ = s.ops(op, *operands, count=2, hidden_size=6, **extra)
        return [Tap(y, 4, 3, 6)]

    WITNESSES[name] = (17, function)


_recurrent("lstm", "LSTM", 4, 8, full=False)
_recurrent("lstm_full", "LSTM", 4, 8, full=True)
_recurrent("lstm_peephole", "LSTM", 4, 8, full=True, peephole=True)
_recurrent("gru", "GRU", 3, 6, full=False)
_recurrent("gru_full", "GRU", 3, 6, full=True)
_recurrent("rnn", "RNN", 1, 2, full=True)


@witness()
def rnn_unusual(s: Sketch) -> list[Tap]:
    x = s.linear(s.input([4, 2, 3]), 3, 5)
    y = s.ops("RNN", x, s.weight(1, 6, 5), s.weight(1, 6, 6), count=1, hidden_size=6, activations=["Sigmoid"])[0]
    return [Tap(y, 4, 3, 6)]


@witness()
def recurrent_on_live_axes(s: Sketch) -> list[Tap]:
    x, _ = live(s, 3, (4, 3, 5))
    y = s.ops("GRU", x, s.weight(1, 18, 5, fan=5), s.weight(1, 18, 6, fan=6), s.weight(1, 36, fan=4), count=1,
              hidden_size=6)[0]  # fmt: skip
    return [Tap(y, 4, 0, 4), Tap(y, 4, 2, 3), Tap(y, 4, 3, 6)]


@witness()
def recurrent_states_on_live_axes(s: Sketch) -> list[Tap]:
    x, taps = s.input([4, 3, 5]), []
    for bias in ([s.weight(2, 36, fan=4)], [""]):
        state = s.op("Sigmoid", live(s, 3, (2, 3, 6))[0])
        weights = [s.weight(2, 18, 5, fan=5), s.weight(2, 18, 6, fan=6)]
        y, last_ = s.ops("GRU", x, *weights, *bias, "", state, count=2, hidden_size=6, direction="bidirectional")
        taps += [Tap(y, 4, 3, 6), Tap(y, 4, 2, 3), Tap(y, 4, 1, 2), Tap(last_, 3, 2, 6)]
    return taps


@witness()
def recurrent_last_state(s: Sketch) -> list[Tap]:
    x = s.linear(s.input([4, 2, 3]), 3, 5)
    _, last_, cell = s.ops("LSTM", x, s.weight(1, 24, 5, fan=5), s.weight(1, 24, 6, fan=6), count=3, hidden_size=6)
    return [Tap(last_, 3, 2, 6), Tap(cell, 3, 2, 6)]


# --- normalisations and reductions

everywhere("batch_norm", lambda s, x: s.batch_norm(x, 6), 4)
everywhere(
    "batch_norm_without_epsilon",
    lambda s, x: s.op("BatchNormalization", x, s.weight(6), s.weight(6), s.weight(6), s.positive(6), epsilon=0.0),
)
everywhere("instance_norm", lambda s, x: s.op("InstanceNormalization", x, s.weight(6), s.weight(6)), 4)
everywhere("group_norm", lambda s, x: s.op("GroupNormalization", x, s.weight(6), s.weight(6), num_groups=3), 4, 21)
everywhere("group_norm_18", lambda s, x: s.op("GroupNormalization", x, s.weight(3), s.weight(3), num_groups=3), 4, 18)
everywhere("layer_norm", lambda s, x: s.op("LayerNormalization", x, s.weight(5), s.weight(5), axis=-1))
everywhere("layer_norm_of_two", lambda s, x: s.op("LayerNormalization", x, s.weight(6, 5), axis=1))
everywhere("softmax", lambda s, x: s.op("Softmax", x, axis=1))
everywhere("softmax_last", lambda s, x: s.op("Softmax", x, axis=-1))
everywhere("softmax_11", lambda s, x: s.op("Softmax", x, axis=1), opset=11)
everywhere("lrn", lambda s, x: s.op("LRN", x, size=3, alpha=0.5), 4)
everywhere("cumsum", lambda s, x: s.op("CumSum", x, s.const(1)))
everywhere("mean_variance", lambda s, x: s.op("MeanVarianceNormalization", x), 4)
everywhere("lp_norm", lambda s, x: s.op("LpNormalization", x, axis=1))


@witness(21)
def group_norm_of_two(s: Sketch) -> list[Tap]:
    """With two wide groups it would be the inside of a group that is thinned, if that were allowed."""
    y = s.op("GroupNormalization", image(s, 12), s.weight(12), s.weight(12), num_groups=2)
    return [Tap(y, 4, 1, 12)]


@witness(21)
def group_norm_across(s: Sketch) -> list[Tap]:
    """Channels that come as 3 x 4 meet 4 groups."""
    h = s.op("Reshape", live(s, 4, (2, 3, 4, 5))[0], s.const([2, 12, 5, 1]))
    return [Tap(s.op("GroupNormalization", h, s.weight(12), s.weight(12), num_groups=4), 4, 1, 12)]


def _reduce(name: str, op: str, keep: int) -> None:
    def function(s: Sketch) -> list[Tap]:
        x, widths = live(s, 3)
        y = s.axes_op(op, x, [1], since=13 if op == "ReduceSum" else 18, keepdims=keep)
        left = [(0, widths[0]), (2, widths[2])]
        return [Tap(y, 2 + keep, axis if keep or axis == 0 else axis - 1, width) for axis, width in left]

    WITNESSES[name] = (17, function)


_reduce("reduce_mean", "ReduceMean", 1)
_reduce("reduce_sum", "ReduceSum", 1)
_reduce("reduce_max", "ReduceMax", 0)
_reduce("reduce_log_sum_exp", "ReduceLogSumExp", 0)


_reduce("reduce_log_sum_exp_keeping", "ReduceLogSumExp", 1)


@witness()
def arg_max(s: Sketch) -> list[Tap]:
    y = s.op("Cast", s.op("ArgMax", live(s, 3)[0], axis=1, keepdims=0), to=1)
    return [Tap(y, 2, 0, 4), Tap(y, 2, 1, 5)]


@witness()
def pool(s: Sketch) -> list[Tap]:
    x, _ = live(s, 4, (4, 6, 4, 4))
    small = s.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    whole = s.op("GlobalMaxPool", x)
    return [Tap(small, 4, 0, 4), Tap(small, 4, 1, 6), Tap(small, 4, 2, 4), Tap(whole, 4, 0, 4), Tap(whole, 4, 1, 6)]


@witness()
def pool_with_indices(s: Sketch) -> list[Tap]:
    y, where = s.ops("MaxPool", image(s), count=2, kernel_shape=[2, 2], strides=[2, 2])
    return [Tap(y, 4, 1, 6), Tap(s.op("Cast", where, to=TensorProto.FLOAT), 4, 1, 6)]


def every_model() -> Iterator[tuple[str, onnx.ModelProto]]:
    """All models of all witnesses."""
    import witnesses_computed  # noqa: F401  enters more
    import witnesses_movement  # noqa: F401  and more

    for name in WITNESSES:
        yield from models(name)


def constant(value: float) -> onnx.TensorProto:
    """A one-element tensor for an attribute."""
    return onnx.numpy_helper.from_array(np.asarray([value], np.float32))
