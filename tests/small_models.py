"""Small models that faults are tried on: every kind of weight, and something to lose for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from planted import Subject
from sketch import Sketch

MICROSOFT = "com.microsoft"
SUBJECTS: dict[str, Subject] = {}

Make = Callable[[Sketch], None]


def subject(opset: int = 17, emptied: tuple[str, ...] = (), **options: Any) -> Callable[[Make], Make]:
    """Enter a model, drawn in a sketch, under the name of its function."""

    def enter(function: Make) -> Make:
        def make() -> onnx.ModelProto:
            s = Sketch(opset, 3)
            function(s)
            return finished(s)

        assert function.__name__ not in SUBJECTS
        SUBJECTS[function.__name__] = Subject(make, options, emptied=emptied)
        return function

    return enter


def finished(s: Sketch) -> onnx.ModelProto:
    """The model of a sketch; with ONNX Runtime's own operators where it uses one."""
    foreign = any(node.domain == MICROSOFT for node in s.nodes)
    if foreign:
        # The checker cannot infer their shapes: outputs say their ranks by themselves.
        graph = helper.make_graph(s.nodes, "sketch", s.inputs, s.outputs, s.initialisers)
        opsets = [helper.make_opsetid("", s.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return s.model()


def image(s: Sketch, width: int = 6, side: int = 4) -> str:
    """Channels out of a convolution: [N, width, side, side]."""
    return s.conv(s.input(["N", 3, side, side]), width, 3, kernel=3, bias=True)


def rows(s: Sketch, width: int = 6) -> str:
    """Features out of a product: [N, 5, width]."""
    return s.op("Add", s.linear(s.input(["N", 5, 4]), 4, width), s.weight(width, fan=4))


def out(s: Sketch, x: str, width: int, rank: int = 4) -> None:
    """A layer that reads the channels, and the output."""
    y = s.conv(x, 3, width) if rank == 4 else s.linear(x, width, 3)
    s.outputs.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * rank))


def body(s: Sketch, op: str, x: str, width: int) -> onnx.GraphProto:
    """A branch of an If that applies an operator to a tensor from outside."""
    name = s.name(op)
    node = helper.make_node(op, [x], [name], name=name)
    result = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])
    return helper.make_graph([node], f"{name}_body", [], [result])


# --- weights


@subject()
def conv(s: Sketch) -> None:
    """Two convolutions of six channels one after the other, and a reader."""
    x = s.op("Relu", image(s, 6, 5))
    x = s.op("Relu", s.conv(x, 6, 6, kernel=3, bias=True))
    out(s, x, 6)


@subject()
def wide(s: Sketch) -> None:
    """Weights of more than 1024 bytes each, which are written apart, two of one shape."""
    x = s.op("Relu", s.linear(s.input(["N", 24]), 24, 32))
    x = s.op("Relu", s.op("Gemm", x, s.weight(32, 32), s.weight(32, fan=4), transB=1))
    x = s.op("Relu", s.op("Gemm", x, s.weight(32, 32), s.weight(32, fan=4), transB=1))
    out(s, x, 32, 2)


SUBJECTS["apart"] = Subject(SUBJECTS["wide"].make, external=True)


@subject()
def grouped(s: Sketch) -> None:
    x = s.op("Relu", image(s, 8))
    x = s.op("Relu", s.conv(x, 8, 2, kernel=3, bias=True, group=4))
    out(s, s.op("Relu", s.conv(x, 8, 1, kernel=3, bias=True, group=8)), 8)


@subject()
def deconv(s: Sketch) -> None:
    x = s.op("ConvTranspose", image(s), s.weight(6, 5, 2, 2), s.weight(5, fan=4), strides=[2, 2])
    x = s.conv(s.op("Relu", x), 8, 5)
    out(s, s.op("ConvTranspose", x, s.weight(8, 3, 2, 2), s.weight(12, fan=4), group=4), 12)


@subject()
def gemm(s: Sketch) -> None:
    x = s.op("Gemm", s.input(["N", 4]), s.weight(6, 4), s.weight(6, fan=4), transB=1)
    x = s.op("Gemm", s.op("Relu", x), s.weight(6, 5), s.weight(1, 5, fan=4), alpha=0.5, beta=2.0)
    out(s, s.op("Add", s.linear(s.op("Tanh", x), 5, 7), s.weight(7, fan=4)), 7, 2)


@subject()
def einsum(s: Sketch) -> None:
    x = s.op("Einsum", rows(s), s.weight(7, 6), equation="abc,dc->abd")
    out(s, s.op("Relu", x), 7, 3)


@subject()
def contracted(s: Sketch) -> None:
    """Products of activations: channels that vanish where two tensors meet, one of which is not zero."""
    x = rows(s)
    y = s.op("MatMul", s.op("Relu", x), s.op("Transpose", s.op("Relu", s.linear(x, 6, 6)), perm=[0, 2, 1]))
    z = s.op("Einsum", s.op("Sigmoid", s.linear(x, 6, 6)), s.op("Sigmoid", s.linear(x, 6, 6)), equation="abc,adc->abd")
    s.outputs.append(helper.make_tensor_value_info(s.op("Add", y, z), TensorProto.FLOAT, [None] * 3))


@subject()
def lstm(s: Sketch) -> None:
    x = s.linear(s.input([4, 2, 3]), 3, 5)
    y = s.ops("LSTM", x, s.weight(1, 24, 5, fan=5), s.weight(1, 24, 6, fan=6), s.weight(1, 48, fan=4), count=1,
              hidden_size=6)[0]  # fmt: skip
    out(s, s.axes_op("Squeeze", y, [1]), 6, 3)


@subject()
def gru(s: Sketch) -> None:
    x = s.linear(s.input([4, 2, 3]), 3, 5)
    y = s.ops("GRU", x, s.weight(2, 18, 5, fan=5), s.weight(2, 18, 6, fan=6), s.weight(2, 36, fan=4), count=1,
              hidden_size=6, direction="bidirectional")[0]  # fmt: skip
    y = s.op("Reshape", s.op("Transpose", y, perm=[0, 2, 1, 3]), s.const([0, 0, 12]))
    out(s, y, 12, 3)


@subject()
def stateful(s: Sketch) -> None:
    """An LSTM whose state a layer makes."""
    x = s.linear(s.input([4, 2, 3]), 3, 5)
    state = [s.op("Reshape", s.linear(s.input([2, 3]), 3, 6), s.const([1, 2, 6])) for _ in range(2)]
    y = s.ops("LSTM", x, s.weight(1, 24, 5, fan=5), s.weight(1, 24, 6, fan=6), "", "", *state, count=1,
              hidden_size=6)[0]  # fmt: skip
    out(s, s.axes_op("Squeeze", y, [1]), 6, 3)


@subject()
def embedding(s: Sketch) -> None:
    ids = s.input(["N", 5], dtype=TensorProto.INT64)
    x = s.op("Add", s.op("Gather", s.weight(9, 6, fan=2), ids), s.weight(5, 6, fan=2))
    out(s, s.op("Relu", s.linear(x, 6, 8)), 8, 3)


@subject()
def affine(s: Sketch) -> None:
    """A batch norm that nothing precedes which could take it up, slopes, scales and divisors of channels."""
    x = image(s)
    x = s.op("Add", s.op("Relu", x), s.conv(x, 6, 6))
    x = s.op("PRelu", s.batch_norm(x, 6), s.weight(6, 1, 1))
    x = s.op("Div", s.op("Mul", x, s.positive(1, 6, 1, 1)), s.positive(6, 1, 1))
    out(s, x, 6)


@subject()
def half(s: Sketch) -> None:
    """Weights of 16 bits."""
    x = s.op("Cast", s.input(["N", 4]), to=TensorProto.FLOAT16)
    x = s.op("MatMul", x, s.const(s.rng.standard_normal((4, 6)), np.float16))
    x = s.op("Relu", s.op("Add", x, s.const(s.rng.standard_normal(6), np.float16)))
    x = s.op("MatMul", x, s.const(s.rng.standard_normal((6, 3)), np.float16))
    s.output(s.op("Cast", x, to=TensorProto.FLOAT))


@subject()
def tied(s: Sketch) -> None:
    """One large weight used twice."""
    x = s.linear(s.input(["N", 4]), 4, 32)
    w = s.weight(32, 32)
    x = s.op("Tanh", s.op("MatMul", s.op("Tanh", s.op("MatMul", x, w)), w))
    out(s, x, 32, 2)


@subject()
def lent(s: Sketch) -> None:
    """One small weight and one bias, used by layers whose channels are apart."""
    x, w, b = s.input(["N", 6]), s.weight(6, 6), s.weight(6, fan=4)
    y = s.op("Relu", s.op("Gemm", s.op("Relu", s.op("Gemm", x, w, b)), w, b))
    out(s, y, 6, 2)


@subject(emptied=("Conv_conv7",))
def branch(s: Sketch) -> None:
    """A residual branch that goes whole, and what is left of it meets an activation."""
    x = image(s)
    y = s.conv(s.op("Relu", s.conv(x, 8, 6, kernel=3, bias=True)), 6, 8, bias=True)
    out(s, s.op("Relu", s.op("Add", x, s.op("Tanh", y))), 6)
