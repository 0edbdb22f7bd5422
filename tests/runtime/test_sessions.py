"""Sessions, inputs and the sizes of dynamic axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto as T
from onnx import helper

import hwpass
from hwpass.coupling.groups import couple
from hwpass.errors import InputError
from hwpass.runtime import sessions
from hwpass.runtime.dimensions import dimension_values, typical_dimensions
from hwpass.runtime.inputs import input_specs, make_inputs
from hwpass.runtime.sessions import StoredModel, one_line, open_session, run_session

Shape = Sequence[int | str | None]


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, Shape]],
    outputs: Sequence[str],
    weights: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, T.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def conv(shape: Shape = ("batch", 3, 8, 8), channels: int = 4) -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((channels, int(shape[1] or 3), 3, 3)).astype(np.float32)
    return build([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": (T.FLOAT, shape)}, ["y"], {"w": weight})


def relu(shape: Shape, name: str = "x", kind: int = T.FLOAT) -> onnx.ModelProto:
    return build([helper.make_node("Relu", [name], ["y"])], {name: (kind, shape)}, ["y"])


def two(left: Shape, right: Shape) -> onnx.ModelProto:
    node = helper.make_node("Add", ["a", "b"], ["y"])
    return build([node], {"a": (T.FLOAT, left), "b": (T.FLOAT, right)}, ["y"])


# --- sessions


def test_every_way_to_open_gives_the_same_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = conv(channels=64)
    feed = make_inputs(input_specs(model), {"batch": 2})
    onnx.save(model, tmp_path / "m.onnx")
    expected = run_session(open_session(model), feed)["y"]
    assert expected.shape == (2, 64, 6, 6)
    for other in (model.SerializeToString(), tmp_path / "m.onnx"):
        np.testing.assert_array_equal(run_session(open_session(other), feed)["y"], expected)
    monkeypatch.setattr(sessions, "IN_MEMORY_BYTES", 0)
    np.testing.assert_array_equal(run_session(open_session(model), feed)["y"], expected)
    plain = run_session(open_session(model, level="none"), feed)["y"]
    np.testing.assert_allclose(plain, expected, rtol=1e-4, atol=1e-5)


def test_a_lean_session_lays_no_weights_out_again(tmp_path: Path) -> None:
    """A second layout of the weights of convolutions would be written with the graph that a session makes."""
    model = conv(("batch", 16, 8, 8), 64)
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, sessions._LEVELS["lean"])
    options.optimized_model_filepath = str(tmp_path / "made.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert [tensor.name for tensor in onnx.load(tmp_path / "made.onnx").graph.initializer] == ["w"]


def test_stored_model_keeps_the_weights_out_of_the_graph_and_the_model_untouched() -> None:
    model = conv(channels=64)
    big = onnx.numpy_helper.from_array(np.ones((1, 64, 6, 6, 1), np.float32).reshape(1, 64, 6, 6))
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=big))
    model.graph.node.append(helper.make_node("Add", ["y", "c"], ["z"]))
    before = model.SerializeToString()
    with StoredModel(model) as stored:
        folder = stored.path.parent
        assert stored.path.stat().st_size < 2000 < (folder / "model.weights").stat().st_size
        session = stored.open_session(outputs=["z", "y"])
        values = run_session(session, make_inputs(input_specs(model), {"batch": 1}))
        np.testing.assert_allclose(values["z"], values["y"] + 1, rtol=1e-6)
    assert not folder.exists()
    assert model.SerializeToString() == before


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device; make room or set TMPDIR"):
        StoredModel(conv())


def test_unloadable_models_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_session(tmp_path / "none.onnx")
    with pytest.raises(InputError, match=r"ONNX Runtime cannot load it: .*parsing failed") as caught:
        open_session(b"not a model")
    assert "\n" not in str(caught.value)
    broken = build([helper.make_node("NoSuchOperator", ["x"], ["y"])], {"x": (T.FLOAT, [1])}, ["y"])
    with pytest.raises(InputError, match="NoSuchOperator"):
        open_session(broken)


def test_a_failing_run_is_one_line() -> None:
    session = open_session(conv())
    with pytest.raises(InputError, match=r"the model does not run: .*Got: 5") as caught:
        run_session(session, {"x": np.zeros((1, 5, 8, 8), np.float32)})
    assert "\n" not in str(caught.value)


def test_weights_left_in_another_file_are_refused() -> None:
    model = conv()
    model.graph.initializer[0].data_location = T.EXTERNAL
    with pytest.raises(InputError, match="'w' are in another file"):
        open_session(model)


def test_bfloat16_inputs_and_outputs() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=T.FLOAT),
        helper.make_node("Relu", ["f"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=T.BFLOAT16),
    ]
    model = build(nodes, {"x": (T.BFLOAT16, ["n", 3])}, ["y"])
    model.graph.output[0].type.tensor_type.elem_type = T.BFLOAT16
    feed = make_inputs(input_specs(model), {"n": 2})
    assert feed["x"].dtype == ml_dtypes.bfloat16
    result = run_session(open_session(model), feed)["y"]
    assert result.dtype == ml_dtypes.bfloat16
    expected = np.maximum(feed["x"].astype(np.float32), 0)
    np.testing.assert_array_equal(result.astype(np.float32), expected)


def test_one_line_drops_codes_paths_and_stacks() -> None:
    text = "[ONNXRuntimeError] : 1 : FAIL : Load model from /models/a.onnx failed:bad\nthing\nStacktrace:\n#1 x"
    assert one_line(text) == "bad thing"
    assert len(one_line("x" * 1000)) == 300


# --- inputs


def test_specs_leave_initialisers_out_and_name_dynamic_axes() -> None:
    model = conv((None, 3, "h", -1))
    model.graph.input.append(helper.make_tensor_value_info("w", T.FLOAT, [4, 3, 3, 3]))
    (spec,) = input_specs(model)
    assert (spec.name, spec.dtype, spec.shape) == ("x", np.dtype(np.float32), ("x.0", 3, "h", "x.3"))
    with pytest.raises(InputError, match="'h' has no size"):
        make_inputs([spec], {"x.0": 1})


def test_a_question_mark_names_no_axis() -> None:
    (spec,) = input_specs(relu(("?", 3, "?", "width")))
    assert spec.shape == ("x.0", 3, "x.2", "width")
    coupling = couple(hwpass.load(relu(("?", 3, "?", "width"))), {"x.0": 1, "x.2": 4, "width": 6})
    assert coupling.build.dims == {"x.0": 1, "x.2": 4, "width": 6}


def test_inputs_that_cannot_be_fed_are_refused() -> None:
    model = relu([1])
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(InputError, match="'x' has no rank"):
        input_specs(model)
    model.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", T.FLOAT, [1]))
    with pytest.raises(InputError, match="'x' is not a tensor"):
        input_specs(model)


def test_random_inputs_follow_type_and_name() -> None:
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in ("ids", "attention_mask")]
    inputs: dict[str, tuple[int, Shape]] = {
        "ids": (T.INT64, ["n", 50]),
        "attention_mask": (T.INT64, ["n", 50]),
        "image": (T.UINT8, [1, 32, 32, 3]),
        "half": (T.FLOAT16, [100]),
        "flag": (T.BOOL, [100]),
        "text": (T.STRING, [2]),
        "lengths": (T.INT64, ["n"]),
    }
    feed = make_inputs(input_specs(build(nodes, inputs, [])), {"n": 3}, seed=1)
    assert feed["ids"].min() >= 0
    assert feed["ids"].max() < 16
    assert (feed["attention_mask"] == 1).all()
    assert feed["image"].max() > 200
    assert feed["half"].dtype == np.float16
    assert 0 < feed["flag"].mean() < 1
    assert feed["text"].tolist() == ["text", "text"]
    assert feed["lengths"].tolist() == [1, 1, 1]
    again = make_inputs(input_specs(build(nodes, inputs, [])), {"n": 3}, seed=1)
    assert all((feed[name] == again[name]).all() for name in feed)


# --- dimensions


def test_static_models_have_one_empty_assignment() -> None:
    assert dimension_values(conv((1, 3, 8, 8))) == [{}]


def test_batch_sequence_and_image_axes_get_three_sizes() -> None:
    assert dimension_values(conv()) == [{"batch": 1}, {"batch": 2}, {"batch": 3}]
    found = dimension_values(conv(("n", 3, "height", "width")))
    assert found[0] == {"n": 1, "height": 64, "width": 96}
    assert [dims["n"] for dims in found] == [1, 2, 3]
    assert all(dims["height"] != dims["width"] for dims in found)
    assert [dims["seq"] for dims in dimension_values(relu(["batch", "seq", 5]))] == [4, 7, 12]


def test_sizes_that_the_model_refuses_are_not_used() -> None:
    # two unnamed batch axes that must agree: distinct sizes fail, equal ones run
    found = dimension_values(two([None, 5], [None, 5]))
    assert found[1] == {"a.0": 2, "b.0": 2}
    # a reshape to 256 columns needs 16 x 16 or more, in whole multiples
    shape = np.array([-1, 4096], np.int64)
    model = build(
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        {"x": (T.FLOAT, [1, 1, "h", 32])},
        ["y"],
        {"s": shape},
    )
    assert [dims["h"] for dims in dimension_values(model)] == [128]
    assert typical_dimensions(conv(("n", 3, "h", "w"))) == {"n": 1, "h": 224, "w": 224}


def test_a_lone_letter_names_a_batch_only_before_other_axes() -> None:
    # [batch_size, N] are N audio samples each, fewer than a window of 400 of which do not run
    window = np.ones([2, 1, 400], np.float32)
    nodes = [helper.make_node("Unsqueeze", ["x", "one"], ["h"]), helper.make_node("Conv", ["h", "w"], ["y"])]
    weights = {"w": window, "one": np.array([1])}
    model = build(nodes, {"x": (T.FLOAT, ["batch_size", "N"])}, ["y"], weights)
    assert typical_dimensions(model) == {"batch_size": 1, "N": 512}
    assert typical_dimensions(relu(["T", "N", 5])) == {"T": 1, "N": 1}


def test_sums_of_axes_follow_their_parts() -> None:
    model = two(["batch", "past"], ["batch", "past"])
    mask = helper.make_tensor_value_info("mask", T.INT64, ["batch", "past + 1"])
    model.graph.input.append(mask)
    dims = dimension_values(model)[1]
    assert make_inputs(input_specs(model), dims)["mask"].shape == (dims["batch"], dims["past"] + 1)


def test_when_nothing_runs_the_input_is_named() -> None:
    shape = np.array([-1, 999_999], np.int64)
    model = build([helper.make_node("Reshape", ["x", "s"], ["y"])], {"x": (T.FLOAT, ["n", "h"])}, ["y"], {"s": shape})
    with pytest.raises(InputError, match=r"input 'x' \[n, h\]: no size that was tried runs .*with calib") as caught:
        dimension_values(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_nothing_is_one_of_any_size(batch: int, tmp_path: Path) -> None:
    model = conv((batch, 3, 8, 8))
    assert input_specs(model)[0].shape == ("x.0", 3, 8, 8)
    assert [dims["x.0"] for dims in dimension_values(model)] == [1, 2, 3]
    onnx.save(model, tmp_path / "m.onnx")
    feed = make_inputs(input_specs(model), {"x.0": 5})
    for source in (model, model.SerializeToString(), tmp_path / "m.onnx"):
        assert run_session(open_session(source), feed)["y"].shape == (5, 4, 6, 6)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == batch


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_nothing_prunes_by_every_budget(batch: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.standard_normal((8, 3 if i == 0 else 8, 3, 3)).astype(np.float32) for i in range(2)}
    nodes = [helper.make_node("Conv", ["x", "w0"], ["c"]), helper.make_node("Relu", ["c"], ["r"])]
    nodes.append(helper.make_node("Conv", ["r", "w1"], ["y"]))
    model = build(nodes, {"x": (T.FLOAT, [batch, 3, 9, 9])}, ["y"], weights)
    data = rng.standard_normal((6, 3, 9, 9)).astype(np.float32)
    for options in (
        {"macs": 0.7, "score": "l2"},
        {"latency": 0.95, "force": True},
        {"size": 0.7, "calib": {"x": data}},
    ):
        result = hwpass.run(model, target="server-cpu", align=1, **options)
        assert result.report.verdicts.exactness is not None
        assert result.report.verdicts.exactness.passed
