"""Small models that faults are tried on: every kind of weight, and something to lose for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
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


# --- passes


@subject()
def folded(s: Sketch) -> None:
    """Weights that are computed from constants, two of one shape."""
    v, w = (s.op("Gemm", s.weight(6, 6), s.weight(6, 6), alpha=0.5, transB=1) for _ in range(2))
    x = s.op("Relu", s.op("MatMul", s.op("Relu", rows(s)), v))
    out(s, s.op("Relu", s.op("MatMul", x, w)), 6, 3)


#: Folding that leaves all but the least to hwpass's own: what ONNX Runtime computes is not ours to get wrong.
LIMITED = (
    "fold{limit=16},fuse-bn,rotate-streams,fold-redundant,prune-channels{channels=0.6x,score=l2,align=1},lower-norms,"
    "verify"
)


@subject(pipeline=LIMITED)
def foldable(s: Sketch) -> None:
    """Constants computed from constants, views of weights, an Identity, an If that is decided, and one weight stored twice."""
    x = s.op("Identity", s.linear(s.input(["N", 4]), 4, 40))
    w = s.rng.standard_normal((40, 40)) / 6
    x = s.op("Tanh", s.op("MatMul", x, s.op("Transpose", s.const(w.T), perm=[1, 0])))
    x = s.op("Tanh", s.op("MatMul", x, s.op("Reshape", s.const(w), s.const([40, 40]))))
    x = s.op("Add", x, s.op("Mul", s.weight(40, fan=4), s.const(2.0)))
    bodies = {name: body(s, op, x, 40) for name, op in (("then_branch", "Relu"), ("else_branch", "Neg"))}
    out(s, s.op("If", s.const(True), **bodies), 40, 2)


def body(s: Sketch, op: str, x: str, width: int) -> onnx.GraphProto:
    """A branch of an If that applies an operator to a tensor from outside."""
    name = s.name(op)
    node = helper.make_node(op, [x], [name], name=name)
    result = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])
    return helper.make_graph([node], f"{name}_body", [], [result])


@subject(pipeline=LIMITED)
def standardised(s: Sketch) -> None:
    """A weight that a batch norm in training mode standardises."""
    w, one = s.weight(1, 6, 27), s.const(np.ones(6, np.float32))
    scaled = s.ops("BatchNormalization", w, one, s.weight(6, fan=4), s.const(np.zeros(6)), one, count=3,
                   training_mode=1, epsilon=1e-2)[0]  # fmt: skip
    x = s.op("Conv", s.input(["N", 3, 4, 4]), s.op("Reshape", scaled, s.const([6, 3, 3, 3])), pads=[1] * 4)
    out(s, s.op("Relu", x), 6)


@subject()
def fused(s: Sketch) -> None:
    """Batch norms behind Conv, ConvTranspose and Gemm."""

    def norm(x: str) -> str:
        parameters = [s.weight(6, fan=1), s.weight(6, fan=1), s.weight(6, fan=1), s.positive(6)]
        return s.op("Relu", s.op("BatchNormalization", x, *parameters, epsilon=0.05))

    x = norm(image(s))
    x = norm(s.op("ConvTranspose", x, s.weight(6, 6, 2, 2), strides=[2, 2]))
    x = s.op("Flatten", s.op("GlobalAveragePool", x))
    out(s, norm(s.op("Gemm", x, s.weight(6, 6), s.weight(6, fan=4), transB=1)), 6, 2)


@subject()
def read_twice(s: Sketch) -> None:
    """A convolution that its norm and another layer read."""
    x = image(s)
    out(s, s.op("Relu", s.op("Add", s.batch_norm(x, 6), x)), 6)


@subject()
def nearly_equal(s: Sketch) -> None:
    """Two weights that differ in the middle alone."""
    w = s.rng.standard_normal((40, 40)) / 6
    v = w.copy()
    v[18:22] *= -1
    x = s.op("Tanh", s.linear(s.input(["N", 4]), 4, 40))
    out(s, s.op("Tanh", s.op("MatMul", s.op("Tanh", s.op("MatMul", x, s.const(w))), s.const(v))), 40, 2)


@subject()
def identity(s: Sketch) -> None:
    """An Identity in one operand of a difference."""
    x, y = rows(s), rows(s)
    out(s, s.op("Sub", s.op("Identity", s.op("Relu", x)), y), 6, 3)


@subject()
def extents(s: Sketch) -> None:
    """Extents that a Shape with a start and an end hands out."""
    x = rows(s)
    s.inputs[0].type.tensor_type.shape.dim[0].dim_value = 2
    size = s.op("Cast", s.op("ReduceProd", s.op("Shape", s.inputs[0].name, start=0, end=2)), to=TensorProto.FLOAT)
    out(s, s.op("Relu", s.op("Mul", x, size)), 6, 3)


@subject(channels=0.8)
def alike(s: Sketch) -> None:
    """Channels of nearly equal weights, and of equal weights with different biases."""
    w, b = 0.3 * s.rng.standard_normal((8, 3, 1, 1)), s.rng.standard_normal(8)
    w[5] = w[4]
    x = s.op("Relu", s.op("Conv", s.input(["N", 3, 4, 4]), s.const(w), s.const(b)))
    out(s, s.op("Relu", s.conv(x, 6, 8, bias=True)), 6)


@subject(channels=0.8)
def padded_constant(s: Sketch) -> None:
    """A constant channel that meets zeros beside the image."""
    w, b = s.rng.standard_normal((8, 3, 1, 1)), s.rng.standard_normal(8)
    w[1], b[1] = 0, 2.5
    x = s.op("Relu", s.op("Conv", s.input(["N", 3, 4, 4]), s.const(w), s.const(b)))
    out(s, s.op("Relu", s.conv(x, 6, 8, kernel=3, bias=True)), 6)


@subject(channels=0.8)
def redundant(s: Sketch) -> None:
    """Dead, constant and duplicate channels."""
    w, b = s.rng.standard_normal((8, 3, 1, 1)), s.rng.standard_normal(8)
    w[1], b[1] = 0, 0.7
    w[2], b[2] = 0, 1.3
    w[5], b[5] = w[4], b[4]
    x = s.op("Relu", s.op("Conv", s.input(["N", 3, 4, 4]), s.const(w), s.const(b)))
    v = s.rng.standard_normal((6, 8, 1, 1))
    v[:, 7] = 0
    x = s.op("Relu", s.op("Conv", x, s.const(v), s.weight(6, fan=4)))
    out(s, x, 6)


def _transformer(s: Sketch, width: int = 8, last: bool = True) -> str:
    x = s.op("Add", s.linear(s.input(["N", 5, 4]), 4, width), s.weight(width, fan=4))
    for _ in range(2):
        y = s.op("LayerNormalization", x, s.positive(width), s.weight(width, fan=4), epsilon=0.05)
        y = s.op("Relu", s.op("Add", s.linear(y, width, 6), s.weight(6, fan=4)))
        x = s.op("Add", x, s.op("Add", s.linear(y, 6, width), s.weight(width, fan=4)))
    return s.op("LayerNormalization", x, s.positive(width), s.weight(width, fan=4), epsilon=0.05) if last else x


@subject()
def transformer(s: Sketch) -> None:
    """A stream that layer normalisations alone read, with a bias, and a reader without one."""
    out(s, _transformer(s), 8, 3)


@subject(opset=23)
def transformer_23(s: Sketch) -> None:
    """The same where the operator set has an RMS normalisation."""
    out(s, _transformer(s), 8, 3)


@subject(keep=["MatMul_matmul3"])
def centred(s: Sketch) -> None:
    """A stream that is centred and neither turned nor thinned: behind its last norm is more than a product."""
    out(s, s.op("Tanh", _transformer(s)), 8, 3)


@subject()
def composed(s: Sketch) -> None:
    """A layer normalisation of many operators, and a scale of what is written."""
    x = s.op("Mul", s.linear(s.input(["N", 5, 4]), 4, 8), s.positive(8))
    x = s.op("Add", x, s.linear(s.op("Relu", s.linear(s.inputs[0].name, 4, 6)), 6, 8))
    mean = s.axes_op("ReduceMean", x, [-1], since=18)
    centre = s.op("Sub", x, mean)
    variance = s.axes_op("ReduceMean", s.op("Pow", centre, s.const(2.0)), [-1], since=18)
    y = s.op("Div", centre, s.op("Sqrt", s.op("Add", variance, s.const(0.05))))
    y = s.op("Add", s.op("Mul", y, s.positive(8)), s.weight(8, fan=4))
    out(s, y, 8, 3)


def _refit(name: str, *shape: int) -> None:
    """The subject with data to refit it on."""
    data = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    known = SUBJECTS[name]
    SUBJECTS[f"refit_{name}"] = Subject(known.make, {**known.options, "compensate": "auto", "calib": {"x1": data}})


_refit("conv", 64, 3, 5, 5)
_refit("gemm", 256, 4)
_refit("wide", 256, 24)
_refit("lstm", 4, 2, 3)
_refit("transformer", 64, 5, 4)
_refit("centred", 64, 5, 4)


# --- files


def _functions() -> onnx.ModelProto:
    """A local function with an attribute."""
    s = Sketch(17, 3)
    x = s.linear(s.input(["N", 4]), 4, 6)
    y = s.name("f")
    s.nodes.append(helper.make_node("Bent", [x], [y], domain="local", name="bent", alpha=0.6))
    out(s, y, 6, 2)
    model = s.model()
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    function = helper.make_function("local", "Bent", ["a"], ["b"], [leaky], [helper.make_opsetid("", 17)])
    function.attribute.append("alpha")
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


def _constants() -> onnx.ModelProto:
    """Constant nodes in all of their forms, nodes out of order, and a body that reads from outside."""
    s = Sketch(17, 3)
    x = s.linear(s.input(["N", 4]), 4, 6)
    scale = s.op("Constant", value_float=1.7)
    shift = s.op("Constant", value_floats=[0.5, -1.0, 2.0, 0.3, 0.1, -0.4])
    shape = s.op("Constant", value_ints=[-1, 6])
    axis = s.op("Constant", value_int=1)
    weight = s.op("Constant", value=numpy_helper.from_array(s.rng.standard_normal((6, 6)).astype(np.float32)))
    x = s.op("Add", s.op("Mul", s.op("MatMul", s.op("Reshape", x, shape), weight), scale), shift)
    x = s.op("Concat", x, s.op("CumSum", s.input(["N", 2]), axis), axis=1)
    s.output(s.linear(x, 8, 3))
    model = s.model()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _sparse() -> onnx.ModelProto:
    """A weight that is stored sparse."""
    s = Sketch(17, 3)
    x = s.op("Relu", s.linear(s.input(["N", 4]), 4, 6))
    w = s.name("w")
    out(s, s.op("Relu", s.op("MatMul", x, w)), 6, 2)
    model = s.model()
    where = np.arange(0, 36, 2, dtype=np.int64)
    values = numpy_helper.from_array(s.rng.standard_normal(len(where)).astype(np.float32), w)
    indices = numpy_helper.from_array(np.stack([where // 6, where % 6], axis=1), f"{w}_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [6, 6]))
    return model


def _defaults() -> onnx.ModelProto:
    """A function whose attributes have default values, one of which the caller replaces."""
    s = Sketch(17, 3)
    x = s.linear(s.input(["N", 4]), 4, 6)
    y, z = s.name("f"), s.name("f")
    s.nodes.append(helper.make_node("Bent", [x], [y], domain="local", name="bent"))
    s.nodes.append(helper.make_node("Bent", [x], [z], domain="local", name="bent_too", alpha=0.1))
    out(s, s.op("Sub", y, z), 6, 2)
    model = s.model()
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    function = helper.make_function("local", "Bent", ["a"], ["b"], [leaky], [helper.make_opsetid("", 17)])
    function.attribute_proto.append(helper.make_attribute("alpha", 0.6))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


SUBJECTS["functions"] = Subject(_functions)
SUBJECTS["sparse"] = Subject(_sparse)
SUBJECTS["defaults"] = Subject(_defaults)
SUBJECTS["constants"] = Subject(_constants)


@subject()
def late(s: Sketch) -> None:
    """Nodes that come behind an If whose bodies read what they make."""
    x = s.linear(s.input([2, 4]), 4, 6)
    flag = s.op("Cast", s.op("ReduceMax", x, keepdims=0), to=TensorProto.BOOL)
    y = s.op("Relu", s.linear(x, 6, 5))
    bodies = {name: body(s, op, y, 5) for name, op in (("then_branch", "Relu"), ("else_branch", "Neg"))}
    s.op("If", flag, **bodies)
    s.nodes.insert(0, s.nodes.pop())
    out(s, s.op("Relu", s.linear(s.nodes[0].output[0], 5, 8)), 8, 2)


@subject()
def decided_apart(s: Sketch) -> None:
    """An If whose bodies have a weight each, of one name."""
    x = s.op("Relu", s.linear(s.input([1, 4]), 4, 6))
    s.inputs.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, [1]))
    made = []
    for op in ("Sigmoid", "Tanh"):
        graph = body(s, op, x, 6)
        graph.initializer.append(numpy_helper.from_array(s.rng.standard_normal((6, 5)).astype(np.float32), "w"))
        graph.node.append(helper.make_node("MatMul", [graph.output[0].name, "w"], [f"{op}_y"], name=f"{op}_product"))
        graph.output[0].CopyFrom(helper.make_tensor_value_info(f"{op}_y", TensorProto.FLOAT, [1, 5]))
        made.append(graph)
    y = s.op("If", "flag", then_branch=made[0], else_branch=made[1])
    out(s, s.op("Relu", s.linear(y, 5, 8)), 8, 2)


@subject()
def unpadded(s: Sketch) -> None:
    """Windows whose padding does not change what the output is like."""
    x = s.op("Relu", image(s, 6, 6))
    x = s.op("AveragePool", s.conv(x, 6, 6, kernel=3), kernel_shape=[3, 3], pads=[1] * 4)
    out(s, s.op("GlobalAveragePool", x), 6)


@subject()
def softmax_13(s: Sketch) -> None:
    """What older operator sets take for another thing."""
    out(s, s.op("Softmax", s.op("Transpose", rows(s), perm=[0, 2, 1]), axis=1), 5, 3)
    out(s, s.op("Relu", s.linear(s.inputs[0].name, 4, 6)), 6, 3)


@subject(opset=18)
def averaged_18(s: Sketch) -> None:
    """A mean whose axes are an input."""
    x = s.op("Relu", image(s))
    out(s, s.axes_op("ReduceMean", x, [2, 3], since=18), 6)


@subject()
def oblong(s: Sketch) -> None:
    """A large weight that is not square."""
    out(s, s.op("Relu", s.linear(s.input(["N", 40]), 40, 20)), 20, 2)


@subject(opset=21)
def nibbles(s: Sketch) -> None:
    """Weights of four bits, packed two to a byte."""
    import ml_dtypes

    w = s.name("w")
    values = s.rng.integers(-8, 8, (6, 8)).astype(ml_dtypes.int4)
    s.initialisers.append(numpy_helper.from_array(values, w))
    x = s.op("MatMul", s.op("Relu", rows(s)), s.op("DequantizeLinear", w, s.const(0.2)))
    out(s, s.op("Relu", x), 8, 3)
