"""The verdicts: every way to pass, and every way to fail."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from hwpass.errors import InputError, UsageError, VerdictError
from hwpass.verdicts.exactness import (
    Difference,
    check_valid,
    compare_outputs,
    exactness,
    fidelity,
    first_divergence,
    parse_fidelity,
    require_valid,
)

KEPT = [0, 2, 3]


def perceptron(scale: float = 1.0, kept: list[int] | None = None, zero: bool = False) -> onnx.ModelProto:
    """x[n, 4] -> hidden[n, 5] -> y[n, 3]; `kept` removes the other hidden channels, or zeroes them."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((4, 5)), scale * rng.standard_normal((5, 3))
    if kept is not None and zero:
        mask = np.isin(np.arange(5), kept)
        first, second = first * mask, second * mask[:, None]
    elif kept is not None:
        first, second = first[:, kept], second[kept]
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["hidden"], name="up"),
        helper.make_node("Relu", ["hidden"], ["active"], name="relu"),
        helper.make_node("MatMul", ["active", "second"], ["y"], name="down"),
    ]
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", T.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", T.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(first.astype(np.float32), "first"),
            numpy_helper.from_array(second.astype(np.float32), "second"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def feeds(count: int = 2, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((index + 1, 4)).astype(np.float32)} for index in range(count)]


def index_map(name: str, twin: np.ndarray, pruned: np.ndarray) -> np.ndarray | None:
    return twin[:, KEPT] if name in ("hidden", "active") else twin


# --- comparing outputs


def one(wanted: object, given: object, dtype: str = "float32", atol: float = 0.0) -> Difference:
    left, right = np.asarray(wanted, dtype), np.asarray(given, dtype)
    return compare_outputs([{"y": left}], [{"y": right}], atol=atol)["y"]


def test_differences_are_relative_to_the_largest_magnitude() -> None:
    found = one([0.0, 0.0, -4.0], [0.0, 1.0, -4.0])
    assert (found.max_abs, found.max_rel, found.magnitude) == (1.0, 0.25, 4.0)
    assert found.rms == pytest.approx(math.sqrt(1 / 3))
    assert one([2.0], [3.0], atol=0.5).needed == 0.25


def test_the_worst_case_counts() -> None:
    cases = [{"y": np.ones(2, np.float32)}, {"y": np.full(2, 2, np.float32)}]
    other = [{"y": np.ones(2, np.float32)}, {"y": np.full(2, 3, np.float32)}]
    assert compare_outputs(cases, other)["y"].max_rel == 0.5
    with pytest.raises(ValueError, match="2 reference cases, 1 candidates"):
        compare_outputs(cases, other[:1])


def test_nan_and_inf() -> None:
    nan, inf = math.nan, math.inf
    assert one([nan, 1.0, inf], [nan, 1.0, inf]).problem is None
    assert one([nan, 1.0], [0.0, 1.0]).problem == "0 new NaN, 1 NaN gone"
    assert one([0.0, 1.0], [nan, 1.0]).problem == "1 new NaN, 0 NaN gone"
    assert one([inf, 1.0], [-inf, 1.0]).problem == "1 values are infinite on one side only"
    assert one([nan], [nan]).proves_nothing


def test_integers_and_strings_are_equal_or_not() -> None:
    assert one([1, 2], [1, 2], "int64").problem is None
    assert one([1, 2], [1, 3], "int64").problem == "1 of 2 int64 values differ"
    assert one([True], [False], "bool").problem == "1 of 1 bool values differ"
    assert one(["a"], ["b"], "object").problem == "1 of 1 object values differ"


def test_what_cannot_be_compared() -> None:
    assert one([1.0], [1.0, 2.0]).problem == "shape [2] instead of [1]"
    mixed = compare_outputs([{"y": np.ones(1)}], [{"y": np.ones(1, np.float32)}])["y"]
    assert mixed.problem == "type float32 instead of float64"
    assert compare_outputs([{"y": np.ones(1)}], [{}])["y"].problem == "the output is missing"
    assert one([], []).proves_nothing
    assert one([0.0], [0.0]).proves_nothing
    assert one([0.0], [1.0]).max_rel == math.inf


# --- exactness


def test_a_correct_rewrite_is_exact() -> None:
    verdict = exactness(lambda: perceptron(kept=KEPT, zero=True), perceptron(kept=KEPT), feeds())
    assert verdict.passed
    assert verdict.max_rel <= verdict.would_pass + 1e-6 < verdict.tolerance == 1e-4
    assert verdict.cases == [{"n": 1}, {"n": 2}]
    assert str(verdict).startswith("exact: ")


def test_a_wrong_rewrite_is_not_and_the_first_tensor_is_named() -> None:
    twin, wrong = perceptron(kept=KEPT, zero=True), perceptron(scale=1.01, kept=KEPT)
    verdict = exactness(twin, wrong, feeds(), index_map=index_map)
    assert not verdict.passed
    assert verdict.worst_output == "y"
    assert verdict.would_pass == pytest.approx(0.01, rel=1e-3)
    assert verdict.first_divergence is not None
    assert verdict.first_divergence.startswith("'y', output of MatMul 'down': relative difference")
    assert "0.01 would have passed" in str(verdict)
    assert exactness(twin, wrong, feeds(), rtol=0.02).passed
    assert exactness(twin, wrong, feeds(), atol=1.0).passed


def test_a_leak_is_found_where_it_begins() -> None:
    found = first_divergence(
        perceptron(kept=[0, 1, 3], zero=True), perceptron(kept=KEPT), feeds()[1], index_map, chunk_bytes=1
    )
    assert found is not None
    assert (found.tensor, found.node, found.op_type) == ("hidden", "up", "MatMul")
    same = perceptron(kept=KEPT, zero=True).SerializeToString()
    assert first_divergence(same, perceptron(kept=KEPT), feeds()[1], index_map) is None
    assert first_divergence(same, perceptron(kept=[0]), feeds()[1], lambda *_: None) is None


def test_a_pruned_model_that_does_not_load_or_run_fails() -> None:
    twin, broken = perceptron(), perceptron(kept=KEPT)
    broken.graph.initializer[1].CopyFrom(perceptron(kept=[0]).graph.initializer[1])
    verdict = exactness(twin, broken, feeds())
    assert not verdict.passed
    assert verdict.would_pass == math.inf
    assert "the pruned model is unusable" in str(verdict)
    with pytest.raises(InputError, match="cannot load it"):
        exactness(broken, twin, feeds())
    with pytest.raises(InputError, match="give at least one feed"):
        exactness(twin, twin, [])


def test_zero_outputs_prove_nothing() -> None:
    verdict = exactness(perceptron(scale=0), perceptron(scale=0), feeds())
    assert not verdict.passed
    assert "nothing is proved" in str(verdict)
    nodes = [helper.make_node("Mul", ["y", "nought"], ["z"])]
    model = perceptron()
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nought"))
    model.graph.output.append(helper.make_tensor_value_info("z", T.FLOAT, ["n", 3]))
    verdict = exactness(model, model, feeds())
    assert verdict.passed
    assert verdict.warnings == ["output 'z' is empty, zero or NaN in every case and proves nothing"]


def test_a_changed_output_shape_fails() -> None:
    twin, other = perceptron(), perceptron()
    other.graph.initializer[1].CopyFrom(
        numpy_helper.from_array(np.ones((5, 2), np.float32), other.graph.initializer[1].name)
    )
    other.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    verdict = exactness(twin, other, feeds())
    assert verdict.reason == "output 'y': shape [1, 2] instead of [1, 3]"


def test_half_precision_has_a_wider_tolerance() -> None:
    def half(scale: float) -> onnx.ModelProto:
        node = helper.make_node("Mul", ["x", "s"], ["y"])
        graph = helper.make_graph(
            [node],
            "half",
            [helper.make_tensor_value_info("x", T.FLOAT16, ["n", 4])],
            [helper.make_tensor_value_info("y", T.FLOAT16, ["n", 4])],
            [numpy_helper.from_array(np.array(scale, np.float16), "s")],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    data = [{"x": np.ones((1, 4), np.float16)}]
    assert exactness(half(1.0), half(1.002), data).passed
    assert not exactness(half(1.0), half(1.1), data).passed


# --- validity


def test_valid_and_invalid_models(tmp_path: Path) -> None:
    model = perceptron()
    assert check_valid(model) == []
    require_valid(model)
    onnx.save(model, tmp_path / "m.onnx")
    assert check_valid(tmp_path / "m.onnx") == []
    model.graph.node[1].input[0] = "nowhere"
    (reason,) = check_valid(model)
    assert "nowhere" in reason
    assert "\n" not in reason
    with pytest.raises(VerdictError, match=r"the rewritten model is invalid: .*nowhere"):
        require_valid(model)
    assert check_valid(tmp_path / "none.onnx")
    del model.graph.output[:]
    assert check_valid(model) == ["the graph has no outputs"]


def test_shapes_are_inferred_strictly_unless_the_original_fails_too() -> None:
    model = perceptron()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    with pytest.raises(VerdictError, match=r"invalid: .*7"):
        require_valid(model, perceptron())
    require_valid(model, model)


# --- fidelity


def test_identical_models_are_faithful() -> None:
    tolerances = [parse_fidelity(text) for text in ("cosine>=1", "max_abs<=0", "snr_db>100", "top1>=100%")]
    verdict = fidelity(perceptron(), perceptron, lambda: iter(feeds()), tolerances)
    assert verdict.passed
    assert verdict.batches == 2
    item = verdict.outputs["y"]
    assert (item.max_abs, item.rel_l2, item.top1_agreement) == (0.0, 0.0, 1.0)
    assert item.cosine == pytest.approx(1)
    assert item.snr_db == 200


def test_figures_are_those_of_the_whole_data() -> None:
    verdict = fidelity(perceptron(), perceptron(scale=2), iter(feeds()), [parse_fidelity("cosine>=0.9")])
    item = verdict.outputs["y"]
    assert verdict.passed
    assert item.rel_l2 == pytest.approx(1, rel=1e-6)
    assert item.cosine == pytest.approx(1, rel=1e-6)
    assert item.snr_db == pytest.approx(0, abs=1e-5)
    assert item.top1_agreement == 1


def test_outputs_that_find_no_room_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "w+b"))  # noqa: SIM115
    with pytest.raises(InputError, match=r"no room in the folder .*: No space left on device; make room or set TMPDIR"):
        fidelity(perceptron(), perceptron(), feeds())


def test_each_condition_can_fail() -> None:
    opposite = perceptron(scale=-1)
    for text in ("cosine>=0.99", "top1>=99%", "rel_l2<0.1", "y:snr_db>20", "max_abs<1e-3"):
        verdict = fidelity(perceptron(), opposite, feeds(), [parse_fidelity(text)])
        assert not verdict.passed
        assert len(verdict.failures) == 1
        assert "output 'y': " in verdict.failures[0]
    with pytest.raises(UsageError, match="no output 'z'; there are 'y'"):
        fidelity(perceptron(), opposite, feeds(), [parse_fidelity("z:cosine>=0.9")])
    with pytest.raises(InputError, match="no data"):
        fidelity(perceptron(), opposite, [])


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_new_nan_and_inf_fail_without_any_tolerance(scale: float) -> None:
    verdict = fidelity(perceptron(), perceptron(scale=scale), feeds())
    assert verdict.state == "failed"
    assert "values are NaN or Inf on one side only" in verdict.failures[0]


def test_shapes_that_depend_on_the_data_fail_only_when_asked_for() -> None:
    def positions(threshold: float) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Greater", ["x", "t"], ["g"]),
            helper.make_node("Cast", ["g"], ["f"], to=T.FLOAT),
            helper.make_node("NonZero", ["f"], ["y"]),
        ]
        graph = helper.make_graph(
            nodes,
            "positions",
            [helper.make_tensor_value_info("x", T.FLOAT, ["n", 4])],
            [helper.make_tensor_value_info("y", T.INT64, [2, "found"])],
            [numpy_helper.from_array(np.array(threshold, np.float32), "t")],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    verdict = fidelity(positions(0), positions(9), feeds())
    assert verdict.state == "not judged"
    assert "could not be compared: shape" in verdict.note
    assert "instead of" in verdict.warnings[0]
    assert not fidelity(positions(0), positions(9), feeds(), [parse_fidelity("top1>=0.5")]).passed
    assert fidelity(positions(0), positions(0), feeds(), [parse_fidelity("top1>=1")]).passed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosine", "write it as metric>=value"),
        ("cosine=0.9", "write it as metric>=value"),
        ("sine>=0.9", "no metric 'sine'; there are max_abs, rel_l2, cosine, snr_db, top1"),
        ("cosine>=high", "'high' is not a number"),
        ("cosine>=nan", "not a finite number"),
    ],
)
def test_bad_tolerances_are_usage_errors(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_fidelity(text)
    assert "\n" not in str(caught.value)


def test_tolerances_may_name_outputs_with_colons() -> None:
    found = parse_fidelity("scope/out:0:top1 >= 98.5 %")
    assert (found.output, found.metric, found.comparison, found.value) == ("scope/out:0", "top1", ">=", 0.985)
