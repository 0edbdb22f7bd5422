"""`prune-weights`: zeros under every pattern, on every product, refitted or not, and every way not to fire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from sketch import Sketch

import hwpass
from hwpass.context import Context
from hwpass.cost_models import load_target
from hwpass.errors import UsageError
from hwpass.manager import PassManager
from hwpass.model.model import Model
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs

ROOT = Path(__file__).parents[2]


def net(seed: int = 0) -> onnx.ModelProto:
    """A convolution of one input, one of eight, a grouped one, a transposed one, a MatMul, and a turned Gemm."""
    s = Sketch(seed=seed)
    x = s.op("Relu", s.op("Conv", s.input(["N", 1, 8, 8], "image"), s.weight(8, 1, 3, 3), s.weight(8, fan=9)))
    x = s.op("Relu", s.op("Conv", x, s.weight(8, 8, 3, 3), s.weight(8, fan=9), pads=[1] * 4))
    x = s.op("Relu", s.op("Conv", x, s.weight(8, 4, 1, 1), s.weight(8, fan=9), group=2))
    x = s.op("Relu", s.op("ConvTranspose", x, s.weight(8, 4, 2, 2), s.weight(4, fan=9), strides=[2, 2]))
    x = s.op("Flatten", s.op("AveragePool", x, kernel_shape=[4, 4], strides=[4, 4]))
    x = s.op("Relu", s.op("Add", s.op("MatMul", x, s.weight(36, 16)), s.weight(16, fan=9)))
    s.output(s.op("Gemm", x, s.weight(4, 16), s.weight(4, fan=9), transB=1))
    return s.model()


def images(count: int = 160, seed: int = 5) -> np.ndarray:
    smooth = np.random.default_rng(seed).standard_normal((count, 1, 8, 8)).cumsum(axis=2).cumsum(axis=3)
    return np.asarray(smooth / smooth.std(), np.float32)


def context(proto: onnx.ModelProto, data: bool = True, **more: Any) -> Context:
    calibration = load_calibration({"image": images()}, input_specs(proto)) if data else None
    return Context(original=proto, calibration=calibration, **more)


def pruned(text: str, proto: onnx.ModelProto | None = None, data: bool = True, **more: Any) -> tuple[Model, Context]:
    proto = net() if proto is None else proto
    made = context(proto, data, **more)
    return PassManager.parse(text).run(Model.load(proto), made), made


def weights(model: Model) -> dict[str, np.ndarray]:
    """By operator and number, in order."""
    found = [n for n in model.graph.nodes if n.op in ("Conv", "ConvTranspose", "MatMul", "Gemm")]
    return {f"{n.op}{i}": n.inputs[1].values for i, n in enumerate(found)}


def outputs(model: Model | onnx.ModelProto) -> np.ndarray:
    proto = model if isinstance(model, onnx.ModelProto) else model.proto()
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": images(64, seed=9)})[0])


@pytest.mark.parametrize("data", [True, False])
def test_two_of_four_lie_along_the_inputs(data: bool) -> None:
    """For each output and each position of the window, two of four consecutive input channels at most: counted here."""
    model, made = pruned("prune-weights{pattern=2:4},verify", data=data)
    found = weights(model)
    for name, axis in {"Conv1": 1, "Conv2": 1, "MatMul4": 0, "Gemm5": 1}.items():
        rows = np.moveaxis(found[name], axis, -1)
        for start in range(0, rows.shape[-1], 4):
            assert np.count_nonzero(rows[..., start : start + 4], axis=-1).max() == 2, name
    assert found["Conv0"].all()
    told: Any = made.findings.notes["prune-weights"]
    assert [v["left alone"] for v in told["layers"].values() if "left alone" in v] == [
        "1 inputs are no multiple of 4", "sparse kernels know no transposed convolution",
    ]  # fmt: skip
    assert told["sparsity"] == 0.5
    assert made.findings.proof is not None
    assert made.findings.proof.state == "passed"
    assert [leg.name for leg in made.findings.proof.legs] == ["preparation", "masks", "masking"]


@pytest.mark.parametrize(
    ("options", "share"),
    [("sparsity=0.75,spread=uniform", 0.75), ("pattern=4x1,sparsity=0.5,spread=uniform", 0.5), ("sparsity=0.9", None)],
)
def test_each_layer_has_its_zeros(options: str, share: float | None) -> None:
    model, made = pruned(f"prune-weights{{{options}}},verify")
    told: Any = made.findings.notes["prune-weights"]
    found = weights(model)
    for (name, values), layer in zip(found.items(), told["layers"].values(), strict=False):
        zeros = 1 - np.count_nonzero(values) / values.size
        if "sparsity" in layer:
            assert layer["sparsity"] == pytest.approx(zeros, abs=1e-4)
            assert share is None or zeros == pytest.approx(share, abs=0.02), name
    count = sum(np.count_nonzero(v) for v in found.values())
    size = sum(v.size for v in found.values())
    if share is None:
        assert 1 - count / size == pytest.approx(0.9, abs=0.01)
    assert made.findings.proof is not None
    assert made.findings.proof.state == "passed"


def test_a_refit_is_closer_than_magnitude_and_than_no_refit() -> None:
    dense = outputs(net())
    errors = {
        text: float(np.square(outputs(pruned(f"prune-weights{{sparsity=0.7{text}}}")[0]) - dense).mean())
        for text in ("", ",refit=false", ",zeros=magnitude", ",zeros=magnitude,refit=false,spread=uniform")
    }
    least = min(errors, key=errors.__getitem__)
    assert least == "", errors
    assert errors[""] < 0.5 * errors[",zeros=magnitude,refit=false,spread=uniform"]


def test_kept_values_are_the_given_ones_without_a_refit() -> None:
    before = weights(Model.load(net()))
    for text, data in (("prune-weights{refit=false}", True), ("prune-weights", False)):
        model, made = pruned(text, data=data)
        declared = made.findings.stages[-1].declared
        assert declared is not None
        assert not declared.refitted
        for name, values in weights(model).items():
            kept = values != 0
            np.testing.assert_array_equal(values[kept], before[name][kept])


def test_a_second_run_changes_nothing() -> None:
    for text in ("prune-weights{pattern=2:4}", "prune-weights{sparsity=0.8}", "prune-weights{spread=uniform}"):
        model, _ = pruned(text)
        manager = PassManager.parse(text)
        again = manager.run(model, context(net()))
        assert not manager.records[-1].changed
        assert again.proto().SerializeToString(deterministic=True) == model.proto().SerializeToString(
            deterministic=True
        )


def test_runs_agree_byte_for_byte() -> None:
    first, second = (
        pruned("prune-weights{sparsity=0.8}")[0].proto().SerializeToString(deterministic=True) for _ in "ab"
    )
    assert first == second


@pytest.mark.parametrize(("target", "store", "sparse"), [
    ("server-cpu", "auto", True), ("mobile-cpu", "auto", False), ("server-cpu", "dense", False),
    ("mobile-cpu", "sparse", True),
])  # fmt: skip
def test_sparse_tensors_are_written_where_the_runtime_reads_them(
    target: str, store: str, sparse: bool, tmp_path: Path
) -> None:
    text = f"prune-weights{{sparsity=0.9,store={store}}},verify"
    model, made = pruned(text, target=load_target(target))
    model.save(tmp_path / "out.onnx")
    proto = onnx.load(tmp_path / "out.onnx")
    assert bool(proto.graph.sparse_initializer) is sparse
    stored = str(made.findings.notes["prune-weights"]["stored"])
    assert ("as sparse tensors" in stored) is sparse
    onnx.checker.check_model(proto)
    session = ort.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"image": images(64, seed=9)})[0], outputs(model))
    again = hwpass.load(tmp_path / "out.onnx")
    assert again.sparse == model.sparse
    for name, values in weights(again).items():
        np.testing.assert_array_equal(values, weights(model)[name])
    if sparse:
        assert (tmp_path / "out.onnx").stat().st_size < 0.6 * len(net().SerializeToString())
        held = proto.graph.sparse_initializer[0]
        assert np.all(numpy_helper.to_array(held.values) != 0)


def test_named_layers_are_kept() -> None:
    last = next(n.name for n in net().graph.node if n.op_type == "Gemm")
    model, _ = pruned(f'prune-weights{{keep="{last}"}}')
    assert weights(model)["Gemm5"].all()
    assert not weights(model)["MatMul4"].all()
    with pytest.raises(UsageError, match="no layer has such a name"):
        pruned("prune-weights{keep=nowhere}")


def test_shared_weights_recurrent_layers_and_bodies_are_left_alone() -> None:
    s = Sketch()
    x, w = s.input(["N", 8], "image"), s.weight(8, 8)
    y = s.op("Relu", s.op("MatMul", s.op("Relu", s.op("MatMul", x, w)), w))
    s.output(s.op("Relu", s.op("MatMul", y, s.weight(8, 4))))
    made = Context()
    model = PassManager.parse("prune-weights").run(Model.load(s.model()), made)
    assert [bool(n.inputs[1].values.all()) for n in model.graph.nodes if n.op == "MatMul"] == [True, True, False]
    told: Any = made.findings.notes["prune-weights"]
    reasons = [layer.get("left alone") for layer in told["layers"].values()]
    assert reasons.count("its weight is shared with another layer") == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prune-weights{sparsity=1}", "give a share between 0 and 1"),
        ("prune-weights{sparsity=0.7,pattern=2:4}", "leave sparsity out"),
        ("prune-weights{pattern=4:2}", "write unstructured, N:M"),
        ("prune-weights{zeros=best}", "option zeros=best: write auto or gram or magnitude"),
        ("prune-weights{spread=even}", "write power or uniform"),
        ("prune-weights{store=zip}", "write auto or dense or sparse"),
        ("prune-weights{rows=0}", "give 1 or more"),
    ],
)
def test_options_that_make_no_sense(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        PassManager.parse(text)


def test_gram_without_data_is_refused() -> None:
    with pytest.raises(UsageError, match="zeros=gram needs calibration data"):
        pruned("prune-weights{zeros=gram}", data=False)


def test_a_refit_behind_it_leaves_the_zeros_alone() -> None:
    proto = net()
    made = context(proto, target=load_target("server-cpu"))
    text = "prune-channels{macs=0.8x,score=l2},prune-weights{sparsity=0.6},compensate,verify"
    manager = PassManager.parse(text)
    model = manager.run(Model.load(proto), made)
    assert [r.changed for r in manager.records] == [True, True, False, False]
    assert any("would fill the zeros" in line for line in made.warnings)
    assert made.findings.proof is not None
    assert made.findings.proof.state == "passed"
    assert sum(np.count_nonzero(v == 0) for v in weights(model).values()) > 0


def test_channels_are_pruned_first() -> None:
    with pytest.raises(UsageError, match="prune-channels goes before prune-weights"):
        pruned("prune-weights,prune-channels{macs=0.8x,score=l2}", target=load_target("server-cpu"))
