"""What a file says about itself is still said after a rewrite, and hwpass adds how the model was made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sketch import Sketch

import hwpass
from hwpass.model.model import STAMPS, Model


def annotated() -> onnx.ModelProto:
    s = Sketch()
    h = s.op("Relu", s.conv(s.input(["N", 3, 8, 8]), 32, 3, kernel=3))
    s.output(s.conv(h, 4, 32, kernel=3))
    proto = s.model()
    proto.producer_name, proto.producer_version, proto.domain, proto.model_version = "trainer", "4.2", "org.example", 7
    proto.doc_string, proto.graph.doc_string, proto.graph.name = "of the model", "of the graph", "detector"
    proto.ir_version = 10
    for place in (proto, proto.graph, proto.graph.node[0], proto.graph.input[0], proto.graph.output[0],
                  proto.graph.initializer[0]):  # fmt: skip
        entry = place.metadata_props.add()
        entry.key, entry.value = "from", type(place).__name__
    proto.graph.node[1].doc_string = "of a node"
    proto.graph.input[0].doc_string = "RGB, 0 to 1"
    proto.graph.input[0].type.denotation = "IMAGE"
    proto.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    note = proto.graph.quantization_annotation.add(tensor_name=proto.graph.node[0].output[0])
    entry = note.quant_parameter_tensor_names.add()
    entry.key, entry.value = "SCALE_TENSOR", proto.graph.initializer[0].name
    return proto


def test_what_the_file_says_is_kept_when_it_is_loaded_and_saved(tmp_path: Path) -> None:
    proto = annotated()
    onnx.checker.check_model(proto)
    for model in (Model.load(proto), Model.load(proto).copy()):
        model.save(tmp_path / "out.onnx")
        written = onnx.load(tmp_path / "out.onnx")
        del written.graph.value_info[:]
        names = {t.name: t for t in proto.graph.initializer}
        assert {t.name: t for t in written.graph.initializer} == names
        del written.graph.initializer[:]
        bare = annotated()
        del bare.graph.initializer[:]
        assert written == bare


def test_what_the_file_says_is_kept_by_a_rewrite(tmp_path: Path) -> None:
    proto = annotated()
    result = hwpass.run(proto, "server-cpu", size=0.6, score="l2", align=1)
    result.save(tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version"):
        assert getattr(written, field) == getattr(proto, field)
    assert (written.graph.name, written.graph.doc_string) == ("detector", "of the graph")
    assert ("from", "ModelProto") in {(e.key, e.value) for e in written.metadata_props}
    assert list(written.graph.metadata_props) == list(proto.graph.metadata_props)
    assert list(written.graph.node[0].metadata_props) == list(proto.graph.node[0].metadata_props)
    assert written.graph.node[1].doc_string == "of a node"
    assert written.graph.input[0] == proto.graph.input[0]
    assert written.graph.output[0] == proto.graph.output[0]


def test_a_rewritten_file_has_the_new_shapes_of_inner_tensors(tmp_path: Path) -> None:
    proto = onnx.shape_inference.infer_shapes(annotated())
    result = hwpass.run(proto, "server-cpu", size=0.6, score="l2", align=1)
    result.save(tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    width = next(t.dims[0] for t in written.graph.initializer if list(t.dims[1:]) == [3, 3, 3])
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in written.graph.value_info
    }
    inner = [name for node in written.graph.node[:-1] for name in node.output]
    assert shapes == {name: ["N", width, 8, 8] for name in inner}
    assert width < 32
    onnx.checker.check_model(written, full_check=True)


def test_notes_stay_with_nodes_in_bodies() -> None:
    inner = helper.make_node("Neg", ["x"], ["o"])
    inner.doc_string = "inside"
    other = helper.make_node("Abs", ["x"], ["o"])
    bodies = [
        helper.make_graph([n], "b", [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)])
        for n in (inner, other)
    ]
    nodes = [helper.make_node("If", ["flag"], ["y"], then_branch=bodies[0], else_branch=bodies[1])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy"]
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "g", [ends[0], flag], [ends[1]])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = {
        node.op_type: node.doc_string
        for attribute in Model.load(proto).proto().graph.node[0].attribute
        for node in attribute.g.node
    }
    assert found == {"Neg": "inside", "Abs": ""}


def test_a_stamp_says_how_a_model_was_made(tmp_path: Path) -> None:
    model = Model.load(annotated())
    model.stamp(version="1.2", target="mobile-cpu", budget={"macs": "0.6x", "latency": "12ms"}, plan_sha256=None)
    model.save(tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    assert [(e.key, e.value) for e in written.metadata_props] == [
        ("from", "ModelProto"),
        ("hwpass.budget", '{"latency": "12ms", "macs": "0.6x"}'),
        ("hwpass.target", "mobile-cpu"),
        ("hwpass.version", "1.2"),
    ]
    again = Model.load(tmp_path / "out.onnx")
    again.stamp(target=None, version="1.3")
    assert "hwpass.target" not in again.metadata
    assert again.metadata["hwpass.version"] == "1.3"
    assert again.metadata["from"] == "ModelProto"


def test_a_stamp_has_no_other_facts() -> None:
    model = Model.load(annotated())
    assert STAMPS == ("version", "source_sha256", "target", "budget", "plan_sha256", "verdicts")
    with pytest.raises(TypeError, match="colour is no fact"):
        model.stamp(colour="red")


def test_a_stamp_leaves_the_copy_it_was_made_from() -> None:
    model = Model.load(annotated())
    model.copy().stamp(version="1")
    assert "hwpass.version" not in model.metadata


def test_weights_are_streamed_as_they_are_in_a_proto(tmp_path: Path) -> None:
    model = Model.load(annotated())
    model.save(tmp_path / "out.onnx")
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    for name, tensor in model.constants().items():
        assert np.array_equal(weights[name], tensor.values)
