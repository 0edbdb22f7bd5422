"""Models in and out: every source, what is normalised on the way in, and files that are whole or not there."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from oracle import feeds_of, run
from sketch import Sketch

import hwpass
import hwpass.model.model as ir
from hwpass.errors import InputError
from hwpass.files.whole_files import write_text
from hwpass.model.model import Model

FIXTURES = Path(__file__).parents[2] / "fixtures"


def small() -> onnx.ModelProto:
    s = Sketch()
    s.output(s.op("Relu", s.linear(s.input(["N", 4]), 4, 6)))
    return s.model()


def test_every_source_gives_the_same_model(tmp_path: Path) -> None:
    proto = small()
    data = proto.SerializeToString(deterministic=True)
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    found = [Model.load(s) for s in (path, str(path), data, io.BytesIO(data), proto)]
    assert len({m.sha256 for m in found}) == 1
    assert len({m.proto().SerializeToString(deterministic=True) for m in found}) == 1
    assert found[0].path == str(path)
    assert found[0].opset == 17


def test_loading_leaves_the_given_proto() -> None:
    proto = small()
    before = proto.SerializeToString(deterministic=True)
    model = Model.load(proto)
    model.nodes[0].inputs[1].values = np.zeros((4, 6), np.float32)
    assert proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "the file is empty"), (b"hello, this is text", "not an ONNX model"), (b"\x08\x08", "no graph with nodes")],
)
def test_what_is_not_a_model(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    for source in (data, path, io.BytesIO(data)):
        with pytest.raises(InputError, match=message) as caught:
            Model.load(source)
        assert "\n" not in str(caught.value)


def test_a_file_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(small().SerializeToString()[:-40])
    with pytest.raises(InputError, match="not an ONNX model"):
        Model.load(path)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Model.load(tmp_path / "missing.onnx")
    with pytest.raises(InputError, match="is a folder"):
        Model.load(tmp_path)


def test_without_an_operator_set() -> None:
    proto = small()
    del proto.opset_import[:]
    with pytest.raises(InputError, match="opset_import"):
        Model.load(proto)


def external(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(small(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data_is_mapped(tmp_path: Path) -> None:
    model = Model.load(external(tmp_path))
    wanted = numpy_helper.to_array(small().graph.initializer[0])
    values = model.nodes[0].inputs[1].values
    assert np.array_equal(values, wanted)
    assert isinstance(values, np.memmap)


def test_external_data_that_is_missing_or_short(tmp_path: Path) -> None:
    path = external(tmp_path)
    data = path.read_bytes()
    with pytest.raises(InputError, match=r"weights\.bin is missing"):
        Model.load(data)
    (tmp_path / "weights.bin").write_bytes(b"1234")
    with pytest.raises(InputError, match="too short"):
        Model.load(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InputError, match=r"weights\.bin is missing"):
        Model.load(path)


def test_local_functions_are_inlined() -> None:
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Twice", ["a"], ["c"], body, opsets[:1])
    entry = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Twice", ["x"], ["y"], domain="own")], "g", entry[:1], entry[1:])
    proto = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)
    model = Model.load(proto)
    assert [n.op for n in model.nodes] == ["Relu", "Neg"]
    feeds = feeds_of(proto, 0)
    assert np.array_equal(run(model.proto(), feeds)[0][0], run(proto, feeds)[0][0])


@pytest.mark.parametrize(
    ("attribute", "wanted"),
    [
        ({"value": numpy_helper.from_array(np.ones((2, 2), np.float32))}, np.ones((2, 2), np.float32)),
        ({"value_float": 2.5}, np.asarray(2.5, np.float32)),
        ({"value_floats": [1.0, 2.0]}, np.asarray([1, 2], np.float32)),
    ],
)
def test_constant_nodes_become_constants(attribute: dict[str, Any], wanted: np.ndarray) -> None:
    s = Sketch()
    s.output(s.op("Add", s.input(["N", 2]), s.op("Constant", **attribute)))
    model = Model.load(s.model())
    assert [n.op for n in model.nodes] == ["Add"]
    value = model.nodes[0].inputs[1].values
    assert value.dtype == wanted.dtype
    assert np.array_equal(value, wanted)


def test_a_constant_that_is_an_output_goes_through_an_identity() -> None:
    s = Sketch()
    s.output(s.op("Relu", s.input(["N", 2])), s.op("Constant", value_floats=[1.0, 2.0]))
    model = Model.load(s.model())
    assert sorted(n.op for n in model.nodes) == ["Identity", "Relu"]
    assert run(model.proto(), feeds_of(s.model(), 0))[0][1].tolist() == [1.0, 2.0]


def three_in_a_row() -> onnx.GraphProto:
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Relu", [a], [b], name=b) for a, b in ("xa", "ab", "bc")]
    return helper.make_graph(nodes, "row", [value("x", TensorProto.FLOAT, [2])], [value("c", TensorProto.FLOAT, [2])])


def standard(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("order", [["c", "b", "a"], ["b", "c", "a"], ["a", "b", "c"]])
def test_nodes_are_put_in_an_order_to_run(order: list[str]) -> None:
    """Half-precision converters append the casts they add."""
    graph = three_in_a_row()
    graph.node.sort(key=lambda node: order.index(node.name))
    assert [node.name for node in Model.load(standard(graph)).nodes] == ["a", "b", "c"]


def test_a_transformer_in_half_precision() -> None:
    """ONNX Runtime's converter appends the casts it adds; some of them come before everything else."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(onnx.load(FIXTURES / "vit.onnx"), keep_io_types=True)
    result = hwpass.run(half, "server-cpu", macs=0.7, score="l2")
    assert result.report.ratio.macs is not None
    assert result.report.ratio.macs <= 0.7
    assert result.report.verdicts.exactness is not None
    assert result.report.verdicts.exactness.passed


def test_a_body_runs_behind_what_it_captures() -> None:
    body = helper.make_graph(
        [helper.make_node("Neg", ["b"], ["n"], name="n")],
        "body", [], [helper.make_tensor_value_info("n", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    graph = three_in_a_row()
    graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    graph.node.insert(0, helper.make_node("If", ["flag"], ["d"], name="d", then_branch=body, else_branch=body))
    graph.output.append(helper.make_tensor_value_info("d", TensorProto.FLOAT, [2]))
    names = [node.name for node in Model.load(standard(graph)).nodes]
    assert names.index("b") < names.index("d")


def test_nodes_in_a_circle() -> None:
    graph = three_in_a_row()
    graph.node[0].input[0] = "c"
    with pytest.raises(InputError, match="read each other's outputs"):
        Model.load(standard(graph))


def test_what_the_proto_carries_besides() -> None:
    proto = small()
    proto.domain, proto.model_version, proto.doc_string = "org.example", 7, "about"
    for key in ("b", "a"):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, key * 2
    out = Model.load(proto).proto()
    assert (out.domain, out.model_version, out.doc_string) == ("org.example", 7, "about")
    assert [(e.key, e.value) for e in out.metadata_props] == [("a", "aa"), ("b", "bb")]


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_the_same_model_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.onnx" for i in range(2)]
    for path in paths:
        Model.load(FIXTURES / f"{name}.onnx").save(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    again = tmp_path / "again.onnx"
    Model.load(paths[0]).save(again)
    assert again.read_bytes() == paths[0].read_bytes()


def test_counts_by_hand() -> None:
    """A 4 x 6 weight and a shape of two int64: 24 parameters, 24 * 4 + 2 * 8 bytes."""
    s = Sketch()
    s.output(s.op("Reshape", s.linear(s.input(["N", 4]), 4, 6), s.const([-1, 6])))
    model = Model.load(s.model())
    assert model.parameter_count() == 24
    assert model.size_bytes() == 24 * 4 + 2 * 8


def test_a_copy_may_be_edited() -> None:
    model = Model.load(small())
    other = model.copy()
    other.nodes[1].op = "Neg"
    other.metadata["a"] = "b"
    other.nodes[0].inputs[1].values = np.zeros((4, 6), np.float32)
    assert model.nodes[1].op == "Relu"
    assert model.metadata == {}
    assert model.nodes[0].inputs[1].values.any()


def disk_full(*args: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def half_written(proto: object, constants: object, stream: BinaryIO) -> None:
    stream.write(b"half")
    disk_full()


@pytest.mark.parametrize("where", ["write", "replace"])
def test_a_failed_write_leaves_nothing(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the new file nor a draft; a file that was there stays as it was."""
    target = tmp_path / "out.onnx"
    model = Model.load(small())
    for before in (None, b"old"):
        if before is not None:
            target.write_bytes(before)
        with monkeypatch.context() as patched:
            if where == "write":
                patched.setattr(ir, "write_single", half_written)
            else:
                patched.setattr(os, "replace", disk_full)
            with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
                model.save(target)
        assert (target.read_bytes() if target.exists() else None) == before
        assert [p.name for p in tmp_path.iterdir()] == ([] if before is None else ["out.onnx"])


def test_large_models_save_their_weights_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s = Sketch()
    s.output(s.linear(s.input(["N", 40]), 40, 30))
    monkeypatch.setattr(ir, "PROTO_LIMIT", 1000)
    target = tmp_path / "big.onnx"
    Model.load(s.model()).save(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data"]
    assert target.stat().st_size < 1000
    onnx.checker.check_model(str(target), full_check=True)
    assert np.array_equal(Model.load(target).nodes[0].inputs[1].values, Model.load(s.model()).nodes[0].inputs[1].values)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    model = Model.load(small())
    with pytest.raises(InputError, match="does not exist"):
        model.save(tmp_path / "missing" / "m.onnx")
    with pytest.raises(InputError, match="is a folder"):
        model.save(tmp_path)


def test_text_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "r.json"
    write_text(target, "one\n")
    assert target.read_text(encoding="utf-8") == "one\n"
    monkeypatch.setattr(os, "replace", disk_full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        write_text(target, "two\n")
    assert target.read_text(encoding="utf-8") == "one\n"


def test_recorded_shapes_of_inner_tensors_are_forgotten() -> None:
    proto = onnx.shape_inference.infer_shapes(small())
    assert len(proto.graph.value_info) > 0
    model = Model.load(proto)
    inner, output = model.nodes[0].outputs[0], model.nodes[-1].outputs[0]
    assert inner.shape == ["N", 6]
    model.invalidate_shapes()
    assert inner.shape is None
    assert list(output.shape) == ["N", 6]
    assert list(model.graph.inputs[0].shape) == ["N", 4]


def test_outputs_keep_the_shape_that_they_are_declared_with() -> None:
    """Some quantisers list an output among the inner tensors as well, without its shape."""
    proto = small()
    (output,) = proto.graph.output
    output.type.tensor_type.shape.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 6]).tensor_type.shape)
    entry = proto.graph.value_info.add(name=output.name)
    entry.type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.checker.check_model(proto)
    written = Model.load(proto).proto()
    onnx.checker.check_model(written, full_check=True)
    assert written.graph.output[0] == output
