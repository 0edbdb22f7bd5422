"""Quantisation: ranges, placement, what stays in floating point, and the pass with its proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sketch import Sketch

import hwpass
from hwpass.context import Context
from hwpass.cost.prediction import Cost
from hwpass.cost_models import load_target
from hwpass.cost_models.target import Int8
from hwpass.coupling.groups import couple
from hwpass.errors import UsageError
from hwpass.formats.nearness import Near
from hwpass.formats.placement import place
from hwpass.formats.qdq import Writer, activation_parameters, rounded, weight_scales
from hwpass.formats.ranges import METHODS, Seen
from hwpass.formats.sensitivity import left_alone
from hwpass.manager import PassManager
from hwpass.model.model import Model
from hwpass.options import RunOptions
from hwpass.workflows.run import execute
from hwpass.workflows.steps import usual

FIXTURES = Path(__file__).parents[2] / "fixtures"


def seen(values: np.ndarray) -> Seen:
    found = Seen()
    found.widen(values)
    found.count(values)
    return found


def step_error(values: np.ndarray, bounds: tuple[float, float]) -> float:
    own = activation_parameters(bounds, Int8())
    q = np.clip(np.round(values / own.scale) + int(own.point), 0, 255)
    return float(np.square((q - int(own.point)) * own.scale - values).mean())


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_range_lies_within_what_was_seen_and_holds_most_of_it(method: str) -> None:
    values = np.random.default_rng(0).standard_normal(20000).astype(np.float32)
    low, high = METHODS[method](seen(values))
    assert values.min() <= low < -1.5
    assert 1.5 < high <= values.max()


def test_tails_are_cut_off_where_the_method_says() -> None:
    values = np.random.default_rng(0).laplace(size=50000).astype(np.float32) ** 3
    whole = METHODS["minmax"](seen(values))
    assert whole == (values.min(), values.max())
    least = METHODS["mse"](seen(values))
    assert step_error(values, least) < step_error(values, whole)
    assert METHODS["percentile"](seen(values))[1] < 0.9 * whole[1]
    assert METHODS["entropy"](seen(values))[1] < 0.9 * whole[1]


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e4, 1e4, width=32), st.floats(0, 1e4, width=32), st.sampled_from(["uint8", "int8"]), st.booleans())
def test_parameters_cover_the_range_and_zero_exactly(low: float, width: float, kind: str, symmetric: bool) -> None:
    rules = Int8.model_validate({"activations": kind, "symmetric": symmetric})
    own = activation_parameters((low, low + width), rules)
    info = np.iinfo(kind)
    scale, point = float(own.scale), int(own.point)
    assert info.min <= point <= info.max
    assert (info.min - point) * scale <= min(low, 0) + scale
    assert (info.max - point) * scale >= max(low + width, 0) - scale
    if symmetric:
        assert point == (128 if kind == "uint8" else 0)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 8), st.integers(0, 2**31), st.sampled_from([None, 0, 1]))
def test_weights_are_within_half_a_step(bits: int, seed: int, axis: int | None) -> None:
    values = np.random.default_rng(seed).standard_normal((5, 7)).astype(np.float32)
    values[2] = 0
    scales = weight_scales(values, axis, bits)
    wide = scales if axis is None else scales.reshape([-1 if a == axis else 1 for a in range(2)])
    q = rounded(values, scales, axis, bits)
    assert np.abs(q).max() <= 2 ** (bits - 1) - 1
    assert (np.abs(q * wide - values) <= wide * 0.5001).all()


def residual() -> Model:
    s = Sketch(seed=1)
    h = s.op("Relu", s.conv(s.input(["N", 4, 8, 8]), 8, 4, 3, bias=True))
    h = s.op("Relu", s.op("Add", s.conv(h, 8, 8, 3, bias=True), h))
    s.output(s.conv(s.op("Concat", h, s.conv(h, 8, 8, 3), axis=1), 5, 16, 3))
    return Model.load(s.model())


def test_what_follows_a_convolution_stays_in_integers_where_kernels_are() -> None:
    model = residual()
    found = place(model, Int8())
    ops = sorted(node.op for node in found.nodes.values())
    assert ops == ["Add", "Concat", "Conv", "Conv", "Conv", "Conv"]
    relus = {n.outputs[0].name for n in model.graph.nodes if n.op == "Relu"}
    before = {n.inputs[0].name for n in model.graph.nodes if n.op == "Relu"}
    assert relus <= found.tensors.keys()  # a pair behind it cuts off what it does
    assert not before & found.tensors.keys()
    none = place(model, Int8.model_validate({"others": []}))
    assert {node.op for node in none.nodes.values()} == {"Conv"}


def test_layers_stay_in_floating_point_by_name_or_choice() -> None:
    model = residual()
    layers = [n for n in model.graph.nodes if n.op == "Conv"]
    glob = layers[0].name.replace("Conv", "C*v")
    assert glob != layers[0].name
    found = place(model, Int8(), (glob,), {layers[1].outputs[0].name: "as said"})
    assert found.reasons[layers[0].outputs[0].name] == "it is kept"
    assert found.reasons[layers[1].outputs[0].name] == "as said"
    assert sorted(n.op for n in found.nodes.values()) == ["Conv", "Conv"]  # the Add meets floating point


def test_what_integers_do_not_serve_is_left_alone_with_a_reason() -> None:
    s = Sketch(seed=1)
    x = s.input(["N", 20])
    h = s.op("Gemm", x, s.weight(20, 20), alpha=2.0)
    h = s.op("Gemm", h, s.weight(20, 20), s.weight(1, 20, fan=4))
    s.output(s.op("Gemm", h, s.weight(20, 3)))
    found = place(Model.load(s.model()), Int8())
    assert not found.nodes
    assert len(found.reasons) == 3
    assert "fewer than 256 weights" in " ".join(found.reasons.values())


def run(text: str, net: str = "cnn", **options: Any) -> hwpass.Result:
    return execute(FIXTURES / f"{net}.onnx", text, target="server-cpu", calib=FIXTURES / "calib.npz", **options)


def accuracy(model: onnx.ModelProto, count: int = 500) -> float:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with np.load(FIXTURES / "test.npz") as data:
        found = session.run(None, {"image": data["image"][:count]})[0].argmax(axis=1)
        return float((found == data["label"][:count]).mean())


def test_a_quantised_network_keeps_its_accuracy_and_says_what_is_proved() -> None:
    result = run("fold,fuse-bn,quantize{samples=128,ranges=minmax},verify")
    exact = result.report.verdicts.exactness
    assert exact is not None
    assert exact.state == "not judged"
    assert [(leg.name, leg.state) for leg in exact.legs] == [("preparation", "passed"), ("formats", "passed")]
    assert exact.note.startswith("structure proved (10 weight tensors")
    assert "values are judged by fidelity alone" in exact.note
    assert result.report.after.size_bytes < 0.26 * result.report.before.size_bytes
    assert accuracy(result.model.proto()) > accuracy(onnx.load(FIXTURES / "cnn.onnx")) - 0.006


def test_the_worst_layer_comes_back_to_floating_point() -> None:
    """One layer alone breaks the outputs: it is found, and the others stay on integers."""
    layers = ["a", "b", "c", "d"]
    made: list[frozenset[str]] = []

    class Broken:
        def of(self, model: Any, batches: int | None = None) -> Near:
            bad = "c" not in model
            return Near(0.3 if bad else 0.001, 1.0 if bad else 0.01 * (4 - len(model)))

    def make(left: frozenset[str]) -> Any:
        made.append(left)
        return left

    left, _, near = left_alone(make, layers, Broken(), 0.01, 0.1)  # type: ignore[arg-type]
    assert left == {"c"}
    assert near.drop == 0.001
    assert left_alone(make, layers, Broken(), -1.0, 0.1)[0] == frozenset()  # type: ignore[arg-type]


def test_outputs_without_classes_are_bounded_by_their_error() -> None:
    near = Near(None, 0.2)
    assert not near.within(0.01, 0.1)
    assert near.within(0.01, -1)
    assert Near(0.0, 0.2).within(0.01, 0.1)
    assert not Near(0.0, float("inf")).within(-1, -1)


@pytest.mark.parametrize("mode", ["dynamic", "weights"])
def test_modes_without_ranges(mode: str) -> None:
    result = run(f"fold,quantize{{mode={mode}}},verify", "vit")
    exact = result.report.verdicts.exactness
    assert exact is not None
    assert exact.legs[-1].name == "formats"
    assert result.report.after.size_bytes < (0.3 if mode == "dynamic" else 0.2) * result.report.before.size_bytes
    assert accuracy(result.model.proto()) > accuracy(onnx.load(FIXTURES / "vit.onnx")) - 0.01


def test_without_data_made_up_inputs_give_the_ranges_and_a_warning() -> None:
    result = execute(FIXTURES / "cnn.onnx", "quantize{samples=64,ranges=minmax},verify", target="server-cpu")
    assert any("ranges of activations are those" in text for text in result.report.warnings)
    assert accuracy(result.model.proto()) > 0.85


def test_a_second_quantisation_changes_nothing() -> None:
    manager = PassManager.parse("quantize{samples=64,ranges=minmax}")
    model = manager.run(residual())
    assert manager.records[-1].changed
    manager.run(model)
    assert not manager.records[-1].changed


@pytest.mark.parametrize(
    "text", ["mode=other", "ranges=other", "bits=3", "block=20", "block=8", "samples=0"]
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=text.partition("=")[0]):
        PassManager.parse(f"quantize{{{text}}}")


def test_a_target_says_how_it_computes_on_integers() -> None:
    assert load_target("server-cpu").int8.activations == "uint8"


def test_one_option_ends_the_usual_pipeline_in_another_format() -> None:
    steps = usual(RunOptions(latency=0.6, quantize="int8", max_drop=0.03, metric="a.b:c"))
    assert [step.name for step in steps][-2:] == ["quantize", "verify"]
    assert str(steps[-2]) == "quantize{max-drop=0.03}"
    assert "to-fp16" in [step.name for step in usual(RunOptions(latency=0.6, quantize="fp16"))]
    assert "quantize" not in [step.name for step in usual(RunOptions(latency=0.6))]
    with pytest.raises(UsageError, match="quantize"):
        usual(RunOptions(latency=0.6, quantize="int3"))


def test_kernels_on_integers_are_priced_where_the_target_has_rates_for_them() -> None:
    model = Model.load(FIXTURES / "cnn.onnx")
    layers = place(model, Int8())
    own = {name: activation_parameters((0.0, 1.0), Int8()) for name in layers.leaders}
    quantised = Writer(model, layers, own, Int8()).write()

    def cost(net: Model, target: str) -> Cost:
        return Cost(couple(net), load_target(target))

    fast, slow = (cost(quantised, name) for name in ("server-cpu", "server-cpu-avx2"))
    kernels = {kernel.ops for kernel in fast.kernels.kernels if kernel.integer}
    assert kernels == {"Conv+Relu", "MaxPool", "Flatten", "Gemm+Relu", "Gemm"}
    assert fast.base["latency"] < 0.6 * cost(model, "server-cpu").base["latency"]
    assert fast.base["size"] < 0.27 * cost(model, "server-cpu").base["size"]
    # Without integer kernels what is dequantised is multiplied, and the pairs cost time besides.
    assert not any(kernel.integer for kernel in slow.kernels.kernels)
    assert slow.base["latency"] > cost(model, "server-cpu-avx2").base["latency"]
    assert fast.base["macs"] == slow.base["macs"] == cost(model, "server-cpu").base["macs"]


def test_a_target_that_is_slower_on_integers_is_said_beforehand() -> None:
    result = execute(
        FIXTURES / "cnn.onnx", "quantize{samples=64,ranges=minmax},verify", target="server-cpu-avx2",
        calib=FIXTURES / "calib.npz",
    )  # fmt: skip
    assert any("as long on integers" in text for text in result.report.warnings)
    before, after = result.report.before.latency_ms, result.report.after.latency_ms
    assert before is not None
    assert after is not None
    assert after > before


@pytest.mark.parametrize(("opset", "kinds"), [(11, {()}), (13, {(), (8,), (5,)})])
def test_scales_are_per_channel_where_the_operator_set_has_them(opset: int, kinds: set[tuple[int, ...]]) -> None:
    s = Sketch(opset=opset, seed=1)
    h = s.op("Relu", s.conv(s.input(["N", 4, 8, 8]), 8, 4, 3, bias=True))
    s.output(s.conv(h, 5, 8, 3))
    context = Context(target=load_target("server-cpu"))
    model = PassManager.parse("quantize{samples=32,ranges=minmax,max-error=-1},verify").run(
        Model.load(s.model()), context
    )
    scales = [n.inputs[1].values.shape for n in model.graph.nodes if n.op == "DequantizeLinear"]
    assert set(scales) == kinds
    assert any("one scale for a weight" in text for text in context.warnings) == (opset < 13)


def test_an_operator_set_without_quantisation_is_left_alone() -> None:
    s = Sketch(opset=9, seed=1)
    s.output(s.conv(s.input(["N", 4, 8, 8]), 8, 4, 3, bias=True))
    context, manager = Context(), PassManager.parse("quantize")
    manager.run(Model.load(s.model()), context)
    assert not manager.records[0].changed
    assert any("operator set 9 cannot say it" in text for text in context.warnings)
