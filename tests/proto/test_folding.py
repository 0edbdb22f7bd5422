"""Folding knows how much a node would give before it computes it, and never computes what takes long."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from oracle import feeds_of, run
from sketch import Sketch

from hwpass.context import Context
from hwpass.errors import InputError
from hwpass.manager import PassManager
from hwpass.model.model import Model

HUGE = 1 << 30


def constant_of_shape(s: Sketch) -> str:
    return s.op("ConstantOfShape", s.const([HUGE]))


def expand(s: Sketch) -> str:
    return s.op("Expand", s.const([1.0]), s.const([HUGE]))


def tile_in_a_chain(s: Sketch) -> str:
    value = s.const(np.ones(2))
    for _ in range(29):
        value = s.op("Tile", value, s.const([2]))
    return value


def a_size_that_is_computed(s: Sketch) -> str:
    size = s.op("Mul", s.const([1 << 15]), s.const([1 << 15]))
    return s.op("ConstantOfShape", s.op("Reshape", size, s.const([-1])))


def counting(s: Sketch) -> str:
    return s.op("Cast", s.op("Range", s.const(0), s.const(HUGE), s.const(1)), to=TensorProto.FLOAT)


def resize(s: Sketch) -> str:
    scales = s.const([1.0, 1.0, 8192.0, 8192.0])
    return s.op("Resize", s.const(np.ones((1, 1, 4, 4))), "", scales)


def one_hot(s: Sketch) -> str:
    return s.op("OneHot", s.const([1, 2]), s.const(HUGE), s.const([0.0, 1.0]))


def padded(s: Sketch) -> str:
    return s.op("Pad", s.const([1.0]), s.const([0, HUGE]))


def broadcast(s: Sketch) -> str:
    return s.op("Mul", s.const(np.ones((30000, 1))), s.const(np.ones((1, 30000))))


LARGE = [constant_of_shape, expand, tile_in_a_chain, a_size_that_is_computed, counting, resize, one_hot, padded,
         broadcast]  # fmt: skip


@pytest.mark.parametrize("make", LARGE)
def test_a_large_constant_is_never_made(make: Callable[[Sketch], str]) -> None:
    s = Sketch()
    s.output(s.op("Add", s.input(["N", 2]), s.op("ReduceMean", make(s), keepdims=0)))
    start = time.perf_counter()
    folded = PassManager.parse("fold").run(Model.load(s.model()), Context())
    assert time.perf_counter() - start < 20
    assert folded.size_bytes() < 4 << 20


def looping(trips: int) -> onnx.ModelProto:
    s = Sketch()
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Mul", ["state", "half"], ["next"]), helper.make_node("Identity", ["go"], ["on"])]
    half = onnx.numpy_helper.from_array(np.array(0.5, np.float32), "half")
    body = helper.make_graph(
        nodes, "body", [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []),
                        value("state", TensorProto.FLOAT, [])],
        [value("on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, [])], [half],
    )  # fmt: skip
    s.output(s.op("Add", s.input(["N", 2]), s.op("Loop", s.const(trips), "", s.const(1.0), body=body)))
    return s.model()


def test_a_loop_of_constants_is_never_run() -> None:
    start = time.perf_counter()
    folded = PassManager.parse("fold").run(Model.load(looping(1 << 40)), Context())
    assert time.perf_counter() - start < 20
    assert "Loop" in [node.op for node in folded.nodes]


def test_sizes_that_only_the_data_tells_are_folded_round_by_round() -> None:
    """NonZero of ones is how an exporter counts: 0, 1, 2, ..."""
    s = Sketch()
    ones = s.op("Add", s.op("ConstantOfShape", s.const([6])), s.const([1.0]))
    count = s.op("Squeeze", s.op("Transpose", s.op("NonZero", ones)), s.const([1]))
    s.output(s.op("Add", s.input(["N", 6]), s.op("Cast", count, to=TensorProto.FLOAT)))
    folded = PassManager.parse("fold").run(Model.load(s.model()), Context())
    assert [node.op for node in folded.nodes] == ["Add"]
    assert folded.nodes[0].inputs[1].values.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_large_weight_is_computed_in_place_of_what_it_is_made_of() -> None:
    """A normalised weight of 2 MiB, over the limit of 1 MiB, replaces the one it comes from."""
    s = Sketch()
    raw = s.weight(512, 1024)
    norm = s.op("Sqrt", s.op("ReduceSum", s.op("Mul", raw, raw), s.const([0]), keepdims=1))
    s.output(s.op("MatMul", s.input(["N", 512]), s.op("Div", raw, norm)))
    model = Model.load(s.model())
    size = model.size_bytes()
    folded = PassManager.parse("fold").run(model, Context())
    assert folded.size_bytes() <= size
    feeds = feeds_of(s.model(), 0)
    for one, other in zip(run(s.model(), feeds), run(folded.proto(), feeds), strict=True):
        assert np.allclose(one[0], other[0], atol=1e-4)


def test_a_large_weight_that_is_read_elsewhere_is_not_copied() -> None:
    s = Sketch()
    table = s.weight(1024, 512)
    x = s.op("Gather", table, s.input(["N"], dtype=TensorProto.INT64))
    s.output(s.op("MatMul", x, s.op("Transpose", table, perm=[1, 0])))
    model = Model.load(s.model())
    folded = PassManager.parse("fold").run(model, Context())
    assert folded.size_bytes() == model.size_bytes()


def test_integers_stay_integers_through_a_cast() -> None:
    """Half of 5 in floating point is 2.5; in integers the half would be 0."""
    s = Sketch()
    x = s.input([5, 2])
    size = s.op("Cast", s.op("Shape", x), to=TensorProto.FLOAT)
    halves = s.op("Cast", s.op("Mul", size, s.const([0.5, 1.0])), to=TensorProto.INT64)
    s.output(s.op("Slice", x, s.const([0, 0]), halves))
    folded = PassManager.parse("fold").run(Model.load(s.model()), Context())
    feeds = feeds_of(s.model(), 0)
    assert run(folded.proto(), feeds)[0][0].shape == run(s.model(), feeds)[0][0].shape == (2, 2)


def long_chain(count: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Neg" if n % 2 else "Relu", [f"t{n}"], [f"t{n + 1}"]) for n in range(count)]
    ends = [helper.make_tensor_value_info(f"t{n}", TensorProto.FLOAT, ["N", 4]) for n in (0, count)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def constant_chain(count: int) -> onnx.ModelProto:
    proto = long_chain(count)
    proto.graph.node.append(helper.make_node("Add", ["x", f"t{count}"], ["y"]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 4), np.float32), "t0"))
    proto.graph.input[0].name, proto.graph.output[0].name = "x", "y"
    return proto


def many_outputs(count: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", ["x"], [f"y{n}"]) for n in range(count)]
    names = ["x", *(node.output[0] for node in nodes)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in names]
    graph = helper.make_graph(nodes, "many", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def backwards(count: int) -> onnx.ModelProto:
    proto = long_chain(count)
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(proto.graph.node)]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


@pytest.mark.parametrize("make", [long_chain, constant_chain, many_outputs, backwards])
def test_time_grows_with_the_number_of_nodes_and_no_faster(make: Callable[[int], onnx.ModelProto]) -> None:
    """Four times the nodes take at most ten times the time; quadratic would be sixteen."""
    seconds = []
    for count in (1500, 1500, 6000):
        proto = make(count)
        start = time.process_time()
        model = PassManager.parse("fold").run(Model.load(proto), Context())
        model.copy().proto()
        seconds.append(time.process_time() - start)
    assert seconds[2] < 10 * min(seconds[:2]) + 0.5


def test_bodies_that_lie_too_deep_are_refused_in_one_line() -> None:
    proto = long_chain(1)
    graph = proto.graph
    for _ in range(1000):
        node = graph.node.add(op_type="If", input=["flag"], output=["o"])
        attribute = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
        graph = attribute.g
        graph.output.add(name="o")
    with pytest.raises(InputError) as caught:
        Model.load(proto)
    assert "\n" not in str(caught.value)
