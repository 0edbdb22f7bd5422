"""A network as small as one that can be pruned."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def network(width: int = 24) -> onnx.ModelProto:
    """Two products with a Relu between them: `width` channels that can go."""
    rng = np.random.default_rng(3)
    weights = {"a": rng.normal(size=(8, width)), "b": rng.normal(size=(width, 4))}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "b"], ["y"], "second"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", size]) for n, size in (("x", 8), ("y", 4)))
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
