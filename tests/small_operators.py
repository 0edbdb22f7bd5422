"""Small models of the operators that rules describe, one or more for each module of `hwpass.ops`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from onnx import TensorProto, helper
from sketch import Sketch
from small_models import body, image, out, rows, subject


def branches(s: Sketch, x: str, widths: list[int], rank: int = 4) -> list[str]:
    """Layers side by side that read one tensor."""
    return [s.conv(x, w, 6) if rank == 4 else s.linear(x, 6, w) for w in widths]


# --- layout


@subject()
def reshaped(s: Sketch) -> None:
    """Channels in heads: cut apart, moved, joined again; the target is constant, and once it is computed."""
    x = s.op("Relu", s.linear(s.input(["N", "T", 4]), 4, 12))
    x = s.op("Transpose", s.op("Reshape", x, s.const([0, 0, 4, 3])), perm=[0, 2, 3, 1])
    x = s.op("Reshape", s.op("Transpose", x, perm=[0, 3, 1, 2]), s.const([0, -1, 12]))
    y = s.op("Relu", s.linear(x, 12, 8))
    first, second = (s.op("Slice", s.op("Shape", y), s.const([i]), s.const([i + 1])) for i in range(2))
    flat = s.op("Reshape", y, s.op("Concat", first, s.op("Mul", second, s.const([8])), axis=0))
    # Two extents in another order: which of them -1 would be cannot be said.
    y = s.op("Reshape", flat, s.op("Concat", second, first, s.const([8]), axis=0))
    out(s, y, 8, 3)


@subject()
def heads(s: Sketch) -> None:
    """Attention of four heads of four, written out."""
    x = rows(s, 6)
    q, k, v = (s.op("Reshape", s.linear(x, 6, 16), s.const([0, 5, 4, 4])) for _ in range(3))
    q, k, v = (s.op("Transpose", t, perm=p) for t, p in ((q, [0, 2, 1, 3]), (k, [0, 2, 3, 1]), (v, [0, 2, 1, 3])))
    y = s.op("MatMul", s.op("Softmax", s.op("MatMul", q, k), axis=-1), v)
    out(s, s.op("Reshape", s.op("Transpose", y, perm=[0, 2, 1, 3]), s.const([0, 0, 16])), 16, 3)


@subject()
def flattened(s: Sketch) -> None:
    """Channels times positions in one axis, which a layer reads, and tensors with axes of one."""
    x = s.op("Flatten", s.op("Relu", image(s, 6, 2)))
    x = s.axes_op("Unsqueeze", s.op("Relu", s.linear(x, 24, 6)), [2])
    x = s.op("Expand", x, s.const([1, 6, 5]))
    x = s.op("Transpose", x, perm=[0, 2, 1])
    out(s, x, 6, 3)


@subject()
def shuffled(s: Sketch) -> None:
    """Pixels out of channels and back."""
    x = s.op("DepthToSpace", s.op("Relu", image(s, 16)), blocksize=2)
    x = s.op("SpaceToDepth", s.op("Relu", s.conv(x, 5, 4)), blocksize=2)
    out(s, s.op("DepthToSpace", s.conv(x, 12, 20), blocksize=2, mode="CRD"), 3)


@subject()
def shuffled_two(s: Sketch) -> None:
    """Pixels out of so few channels that positions in a block would rather go."""
    x = s.op("Relu", s.op("DepthToSpace", image(s, 8, 2), blocksize=2))
    out(s, s.op("Relu", s.linear(s.op("Flatten", x), 32, 6)), 6, 2)


@subject()
def turned(s: Sketch) -> None:
    """Axes of one extent, two of them channels, that change their places in a circle."""
    x = s.op("Transpose", s.linear(s.input([6, 3, 4]), 4, 6), perm=[0, 2, 1])
    x = s.op("Relu", s.op("Transpose", s.linear(x, 3, 6), perm=[2, 1, 0]))
    x = s.op("Relu", s.linear(s.op("Transpose", x, perm=[1, 2, 0]), 6, 5))
    out(s, s.op("Transpose", x, perm=[2, 1, 0]), 6, 3)


# --- selection


@subject()
def joined(s: Sketch) -> None:
    """Concat of layers of different widths, Split of what comes, and the halves changed over."""
    a, b = branches(s, s.op("Relu", image(s)), [4, 6])
    x = s.op("Relu", s.op("Concat", a, b, axis=1))
    one, two = s.ops("Split", x, s.const([3, 7]), count=2, axis=1)
    out(s, s.op("Concat", s.op("Tanh", two), one, axis=1), 10)


@subject()
def sliced(s: Sketch) -> None:
    """Slices with and without steps, backwards too, and channels gathered by index."""
    x = s.op("Relu", image(s, 10))
    a = s.op("Slice", x, s.const([2]), s.const([9]), s.const([1]))
    b = s.op("Slice", x, s.const([-1]), s.const([-(2**31)]), s.const([1]), s.const([-1]))
    c = s.op("Gather", x, s.const([7, 1, 2, 9, 4]), axis=1)
    d = s.op("Slice", x, s.const([0]), s.const([10]), s.const([1]), s.const([3]))
    out(s, s.op("Concat", a, b, c, d, axis=1), 26)


@subject(keep=["Conv_conv6"])
def opened(s: Sketch) -> None:
    """A Split into equal parts that do not stay equal."""
    a, b = branches(s, image(s), [4, 8])
    one, two = s.ops("Split", s.op("Concat", a, b, axis=1), count=2, axis=1)
    out(s, s.op("Concat", s.op("Tanh", two), one, axis=1), 12)


@subject()
def tiled(s: Sketch) -> None:
    """Channels repeated and joined with others."""
    a, b = branches(s, image(s), [4, 8])
    out(s, s.op("Concat", s.op("Tile", a, s.const([1, 2, 1, 1])), b, axis=1), 16)


@subject()
def padded(s: Sketch) -> None:
    """New channels beside those of a layer, and a Tile of channels."""
    x = s.op("Pad", s.op("Relu", image(s)), s.const([0, 2, 0, 0, 0, 1, 0, 0]))
    x = s.op("Tile", s.conv(x, 5, 9), s.const([1, 2, 1, 1]))
    x = s.op("Resize", x, "", "", s.const([1, 10, 8, 8]), mode="nearest")
    s.inputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    out(s, x, 10)


# --- elementwise, matmul, normalisation, reductions


@subject()
def pointwise(s: Sketch) -> None:
    """Functions that keep zero and that do not, in front of sums over channels."""
    x = rows(s)
    for op in ("Sigmoid", "Relu"):
        y = s.op("Identity", s.op("Cast", s.op(op, x), to=TensorProto.FLOAT))
        y = s.axes_op("ReduceSum", y, [2])
        s.outputs.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * 3))
        x = s.linear(x, 6, 6)
    y = s.op("Max", s.op("Clip", x, s.const(0.2), s.const(3.0)), x)
    y = s.op("Add", s.axes_op("ReduceSum", y, [2]), s.axes_op("ReduceSum", s.op("Exp", s.linear(x, 6, 6)), [2]))
    s.outputs.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * 3))


@subject()
def divided(s: Sketch) -> None:
    """Divisors: constants of channels, and activations that are never zero."""
    x = rows(s)
    y = s.op("Where", s.op("Greater", x, s.const(0.0)), x, s.weight(6))
    y = s.op("Div", y, s.op("Add", s.op("Exp", s.linear(x, 6, 6)), s.const(0.5)))
    x = s.op("Relu", s.linear(s.op("Div", y, s.positive(6)), 6, 5))
    out(s, x, 5, 3)
    out(s, s.op("Log", s.op("Abs", s.op("Add", s.linear(x, 5, 7), s.weight(7, fan=4)))), 7, 3)


@subject()
def averaged(s: Sketch) -> None:
    """Means over channels and over positions, and extrema."""
    x = s.op("Relu", image(s))
    mean = s.axes_op("ReduceMean", x, [1], since=18)
    most = s.axes_op("ReduceMax", s.op("Neg", s.op("Abs", s.conv(x, 8, 6))), [1], since=18)
    s.outputs.append(helper.make_tensor_value_info(s.op("Add", mean, most), TensorProto.FLOAT, [None] * 4))
    y = s.op("AveragePool", s.conv(x, 5, 6), kernel_shape=[2, 2])
    out(s, s.op("Mul", y, s.op("Sigmoid", s.op("GlobalAveragePool", y))), 5)


@subject(opset=21)
def normalised(s: Sketch) -> None:
    x = s.op("InstanceNormalization", image(s, 12), s.weight(12, fan=1), s.weight(12, fan=1))
    x = s.conv(s.op("Relu", x), 12, 12)
    x = s.op("GroupNormalization", x, s.weight(12, fan=1), s.weight(12, fan=1), num_groups=4)
    x = s.conv(s.op("Relu", x), 8, 12)
    out(s, s.op("Softmax", s.op("LRN", x, size=3, alpha=0.5), axis=1), 8)
    out(s, s.op("Relu", s.conv(s.op("LRN", s.conv(x, 6, 8), size=3, alpha=0.5), 5, 6)), 5)


@subject(opset=23)
def rms(s: Sketch) -> None:
    x = s.op("RMSNormalization", rows(s, 8), s.positive(8), epsilon=0.3)
    out(s, s.op("Relu", s.linear(x, 8, 6)), 6, 3)


@subject()
def square_bias(s: Sketch) -> None:
    """As many samples as channels."""
    out(s, s.op("Relu", s.op("Add", s.linear(s.input([6, 4]), 4, 6), s.weight(6))), 6, 2)


@subject()
def clipped(s: Sketch) -> None:
    """A sum over channels that are at least a half."""
    x = s.linear(s.op("Relu", rows(s)), 6, 5)
    y = s.axes_op("ReduceSum", s.op("Clip", x, s.const(0.5), s.const(3.0)), [2])
    s.outputs.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * 3))


@subject()
def summed(s: Sketch) -> None:
    """A sum over channels of two tensors one of which is never zero."""
    x = s.op("Relu", rows(s))
    y = s.op("Add", s.linear(x, 6, 5), s.op("Sigmoid", s.linear(x, 6, 5)))
    s.outputs.append(helper.make_tensor_value_info(s.axes_op("ReduceSum", y, [2]), TensorProto.FLOAT, [None] * 3))


@subject()
def contracted_apart(s: Sketch) -> None:
    """A product of activations that are never zero."""
    x = s.op("Relu", rows(s))
    y, z = (s.op("Sigmoid", s.linear(x, 6, 7)) for _ in range(2))
    y = s.op("MatMul", y, s.op("Transpose", z, perm=[0, 2, 1]))
    s.outputs.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * 3))


@subject()
def gemm_square(s: Sketch) -> None:
    """Square weights that are transposed where they are read."""
    x = s.op("Gemm", s.input(["N", 4]), s.weight(6, 4), s.weight(6, fan=4), transB=1)
    out(s, s.op("Relu", s.op("Gemm", s.op("Relu", x), s.weight(6, 6), s.weight(6, fan=4), transB=1)), 6, 2)


@subject()
def grouped_square(s: Sketch) -> None:
    """As many groups as channels in each."""
    out(s, s.op("Relu", s.conv(s.op("Relu", image(s, 16)), 16, 4, group=4, bias=True)), 16)


@subject()
def deconv_square(s: Sketch) -> None:
    """A transposed convolution of as many outputs as inputs."""
    x = s.op("ConvTranspose", s.op("Relu", image(s)), s.weight(6, 6, 2, 2), strides=[2, 2])
    out(s, s.op("Relu", x), 6)


@subject()
def plain_norm(s: Sketch) -> None:
    """A layer normalisation of what an activation hands it."""
    x = s.op("LayerNormalization", s.op("Relu", rows(s)), s.positive(6), s.weight(6, fan=4))
    out(s, s.op("Relu", s.linear(x, 6, 5)), 5, 3)


@subject()
def maxima(s: Sketch) -> None:
    """Where the maxima are."""
    y, where = s.ops("MaxPool", s.conv(s.op("Relu", image(s)), 5, 6), count=2, kernel_shape=[2, 2], strides=[2, 2])
    out(s, y, 5)
    s.output(where, dtype=TensorProto.INT64)


@subject()
def silent(s: Sketch) -> None:
    """An output that hardly varies: the tensors in front of it show what it does not."""
    y = s.linear(s.op("Relu", rows(s)), 6, 3)
    s.output(s.op("Add", s.op("Mul", y, s.const(1e-5)), s.const(5.0)))


# --- control, frozen, sampling


@subject()
def decided(s: Sketch) -> None:
    """An If whose bodies read channels, weights that both bodies read, and a Loop with a layer in its body."""
    x = s.op("Relu", s.linear(s.input([1, 4]), 4, 6))
    w, b = s.weight(6, 40), s.weight(40, fan=4)
    s.inputs.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, [1]))
    made = []
    for op in ("Sigmoid", "Tanh"):
        graph = body(s, op, x, 6)
        graph.node.append(helper.make_node("MatMul", [graph.output[0].name, w], [f"{op}_h"], name=f"{op}_product"))
        graph.node.append(helper.make_node("Add", [f"{op}_h", b], [f"{op}_y"], name=f"{op}_bias"))
        graph.output[0].CopyFrom(helper.make_tensor_value_info(f"{op}_y", TensorProto.FLOAT, [1, 40]))
        made.append(graph)
    y = s.op("If", "flag", then_branch=made[0], else_branch=made[1])
    v = s.op("Relu", s.linear(y, 40, 5))
    nodes = [
        helper.make_node("MatMul", ["state", "step"], ["h"], name="inside"),
        helper.make_node("Add", ["h", v], ["h2"]),
        helper.make_node("Tanh", ["h2"], ["next"]),
        helper.make_node("Identity", ["more"], ["again"]),
    ]
    entries = [("i", TensorProto.INT64, []), ("more", TensorProto.BOOL, []), ("state", TensorProto.FLOAT, [1, 5])]
    results = [("again", TensorProto.BOOL, []), ("next", TensorProto.FLOAT, [1, 5])]
    inputs, outputs = ([helper.make_tensor_value_info(*e) for e in part] for part in (entries, results))
    loop = helper.make_graph(nodes, "loop", inputs, outputs)
    s.initialisers.append(_named("step", s.rng.standard_normal((5, 5)).astype(np.float32)))
    z = s.op("Loop", s.const(3), s.const(True), s.linear(y, 40, 5), body=loop)
    out(s, s.op("Relu", s.linear(z, 5, 8)), 8, 2)


def _named(name: str, value: ArrayLike) -> TensorProto:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(value), name)


@subject()
def picked_one_by_one(s: Sketch) -> None:
    """Operators that mix what they read: entries gathered one by one, and a determinant."""
    x = s.linear(s.input([2, 5, 4]), 4, 6)
    which = s.const(s.rng.integers(0, 6, (2, 5, 6)), np.int64)
    y = s.op("GatherElements", x, which, axis=2)
    out(s, s.op("Relu", s.linear(y, 6, 8)), 8, 3)


@subject()
def determined(s: Sketch) -> None:
    """The determinant of a matrix of channels."""
    x = s.op("Relu", s.linear(s.input(["N", 6, 4]), 4, 5))
    y = s.op("Reshape", s.op("Det", s.linear(x, 5, 6)), s.const([-1, 1]))
    s.outputs.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * 2))


@subject()
def sequenced(s: Sketch) -> None:
    """The second of two tensors of a sequence."""
    w = s.rng.standard_normal((4, 6)) * np.arange(1, 7)
    x = s.op("MatMul", s.input(["N", 4]), s.const(w))
    y = s.op("Relu", s.linear(s.inputs[0].name, 4, 6))
    z = s.op("SequenceAt", s.op("SequenceConstruct", x, y), s.const(1))
    out(s, s.op("Relu", s.linear(z, 6, 8)), 8, 2)
    out(s, s.op("Relu", s.linear(s.inputs[0].name, 4, 5)), 5, 2)


@subject()
def sampled(s: Sketch) -> None:
    """Channels beside positions that a grid and a TopK pick."""
    x = s.op("Relu", image(s))
    grid = s.input(["N", 3, 3, 2], name="grid")
    x = s.op("GridSample", x, s.op("Tanh", grid))
    y, _ = s.ops("TopK", s.op("Relu", s.conv(x, 8, 6)), s.const([2]), count=2, axis=2)
    z, _ = s.ops("TopK", s.conv(x, 5, 6), s.const([3]), count=2, axis=1)
    out(s, s.op("Concat", y, s.op("Slice", z, s.const([0]), s.const([2]), s.const([2])), axis=1), 11)


@subject()
def scattered(s: Sketch) -> None:
    """Slices that are looked up and written at indices."""
    x = s.linear(s.input([5, 4]), 4, 6)
    where = s.const([[3], [0]], np.int64)
    x = s.op("ScatterND", x, where, s.linear(s.input([2, 4]), 4, 6))
    x = s.op("GatherND", s.op("Relu", x), s.const([[1], [3], [4]], np.int64))
    out(s, s.op("Trilu", s.op("Relu", s.linear(x, 6, 5)), upper=1), 5, 2)


@subject()
def looked_into(s: Sketch) -> None:
    """Rows of channels that indices look into."""
    x = s.op("Transpose", s.op("Relu", s.linear(s.input([5, 4]), 4, 6)), perm=[1, 0])
    x = s.op("GatherND", x, s.const([[1], [3], [4], [5]], np.int64))
    out(s, s.op("Relu", s.linear(x, 5, 7)), 7, 2)


@subject(opset=22)
def deformed(s: Sketch) -> None:
    x = s.op("Relu", image(s, 8))
    shift = s.op("Tanh", s.conv(x, 8, 8))
    x = s.op("DeformConv", x, s.weight(8, 2, 2, 2), shift, s.weight(8, fan=4), group=4, kernel_shape=[2, 2],
             pads=[0, 1, 1, 0])  # fmt: skip
    out(s, x, 8)
