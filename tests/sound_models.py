"""Small sound models of several kinds, for tests to damage."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper
from sketch import Sketch


def _residual() -> ModelProto:
    s = Sketch()
    x = s.input(["N", 3, 8, 8])
    h = s.op("Relu", s.conv(x, 8, 3, kernel=3))
    h = s.op("Add", h, s.conv(s.op("Relu", s.conv(h, 8, 8, kernel=3)), 8, 8, kernel=3))
    pooled = s.op("Flatten", s.op("GlobalAveragePool", h))
    s.output(s.linear(pooled, 8, 5))
    return s.model()


def _attention() -> ModelProto:
    s = Sketch()
    x = s.input(["N", 6, 16])
    q, k, v = (s.op("MatMul", x, s.weight(16, 16)) for _ in range(3))
    split = [s.op("Reshape", t, s.const([0, 0, 4, 4])) for t in (q, k, v)]
    q, k, v = (s.op("Transpose", t, perm=[0, 2, 1, 3]) for t in split)
    scores = s.op("Softmax", s.op("MatMul", q, s.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    mixed = s.op("Transpose", s.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    s.output(s.op("MatMul", s.op("Reshape", mixed, s.const([0, 0, 16])), s.weight(16, 4)))
    return s.model()


def _branches() -> ModelProto:
    """An If whose branches hold weights of the same names, and constants in every form."""
    rng = np.random.default_rng(3)

    def tensor(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    def branch(name: str) -> GraphProto:
        nodes = [
            helper.make_node("Conv", ["r", "w"], ["h"], name=f"conv_{name}"),
            helper.make_node("Constant", [], ["k"], value_float=0.5),
            helper.make_node("Mul", ["h", "k"], [f"o_{name}"]),
        ]
        entry = helper.make_tensor_value_info(f"o_{name}", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [entry], [tensor("w", 4, 8, 1, 1)])

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], name="first", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["flag"]),
        helper.make_node("If", ["flag"], ["y"], name="choice", then_branch=branch("yes"), else_branch=branch("no")),
    ]
    zero = numpy_helper.from_array(np.array(0, np.float32), "zero")
    graph = helper.make_graph(
        nodes, "branches", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 6, 6])], [tensor("w1", 8, 3, 3, 3), zero],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _recurrent() -> ModelProto:
    s = Sketch()
    x = s.input([5, "N", 6])
    hidden = s.op("LSTM", x, s.weight(1, 32, 6), s.weight(1, 32, 8), hidden_size=8)
    s.output(s.op("MatMul", s.op("Squeeze", hidden, s.const([1])), s.weight(8, 3)))
    return s.model()


SOUND = (_residual, _attention, _branches, _recurrent)
