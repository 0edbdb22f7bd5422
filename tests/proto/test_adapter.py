"""What is relied on of graphsurgeon, NumPy and protobuf beyond what they document."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from hwpass.proto import adapter


def imported() -> gs.Graph:
    weight = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, s]) for n, s in (("x", 2), ("y", 3)))
    graph = helper.make_graph([node], "g", [x], [y], [weight])
    return gs.import_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


def test_a_constant_is_lazy_until_its_values_are_asked_for() -> None:
    constant = imported().nodes[0].inputs[1]
    proto = adapter.lazy_proto(adapter.held(constant))
    assert proto is not None
    assert (proto.name, list(proto.dims)) == ("w", [2, 3])
    assert isinstance(constant.values, np.ndarray)
    assert adapter.held(constant) is constant.values
    assert adapter.lazy_proto(adapter.held(constant)) is None


def test_a_memory_map_is_held_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    mapped = np.load(tmp_path / "w.npy", mmap_mode="r")
    constant = imported().nodes[0].inputs[1]
    adapter.hold(constant, mapped)
    assert constant.values is mapped
    assert adapter.mapped_file(constant.values) == tmp_path / "w.npy"
    adapter.release(constant.values)
    assert constant.values[1, 2] == 5
    plain = np.ones(3)
    assert adapter.mapped_file(plain) is None
    adapter.release(plain)


def test_copies_of_a_graph_share_arrays() -> None:
    graph = imported()
    again = graph.copy()
    one, other = graph.nodes[0].inputs[1], again.nodes[0].inputs[1]
    assert adapter.identity(one) == adapter.identity(other) is not None
    assert adapter.identity(graph.nodes[0].inputs[0]) is None


def test_nodes_constants_and_types_are_written_as_onnx_writes_them() -> None:
    graph = imported()
    node = adapter.node_proto(graph.nodes[0])
    assert (node.op_type, list(node.input), list(node.output), node.name) == ("MatMul", ["x", "w"], ["y"], "product")
    constant = adapter.constant_proto(graph.nodes[0].inputs[1])
    np.testing.assert_array_equal(numpy_helper.to_array(constant), np.arange(6).reshape(2, 3))
    assert adapter.element_type(np.dtype(np.int64)) == TensorProto.INT64


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31 - 1, 2**32, 2**62])
def test_a_number_reads_back_as_protobuf_reads_it(number: int) -> None:
    # Field 5 of a model is its version, a varint.
    assert ModelProto.FromString(b"\x28" + adapter.varint(number)).model_version == number
    assert onnx.ModelProto(model_version=number).SerializeToString() == b"\x28" + adapter.varint(number)
