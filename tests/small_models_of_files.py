"""Small models written in the many ways that ONNX allows, and of what a writer may get wrong."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from planted import Subject
from sketch import Sketch
from small_models import SUBJECTS, body, image, out, rows, subject


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
