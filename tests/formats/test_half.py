"""Half precision with its guards, and statistics of batch normalisations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from sketch import Sketch

from hwpass.context import Context
from hwpass.errors import UsageError
from hwpass.formats.half import halves, in_half
from hwpass.formats.ranges import Seen
from hwpass.manager import PassManager
from hwpass.model.model import Model
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs
from hwpass.verdicts.formats import same_but_for_formats
from hwpass.workflows.run import execute

FIXTURES = Path(__file__).parents[2] / "fixtures"


def accuracy(model: onnx.ModelProto, count: int = 1000) -> float:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with np.load(FIXTURES / "test.npz") as data:
        found = session.run(None, {"image": data["image"][:count]})[0].argmax(axis=1)
        return float((found == data["label"][:count]).mean())


def test_a_vision_transformer_keeps_its_accuracy_in_half_precision() -> None:
    result = execute(
        FIXTURES / "vit.onnx", "fold,to-fp16{samples=32},verify", target="server-cpu", calib=FIXTURES / "calib.npz"
    )
    assert result.report.after.size_bytes < 0.51 * result.report.before.size_bytes
    assert abs(accuracy(result.model.proto()) - accuracy(onnx.load(FIXTURES / "vit.onnx"))) <= 0.002
    exact = result.report.verdicts.exactness
    assert exact is not None
    assert [leg.name for leg in exact.legs] == ["preparation", "formats"]
    wide = result.report.notes["to-fp16"]["in 32 bits"]
    assert isinstance(wide, dict)
    assert wide["it sums many terms"] == 7


def attention(fill: float = -1e9, epsilon: float = 1e-12) -> Sketch:
    """A product whose scores are masked, and a root that an epsilon guards."""
    s = Sketch(seed=0)
    h = s.op("MatMul", s.input(["N", 16]), s.weight(16, 16))
    masked = s.op("Add", h, s.const(np.full((1, 16), fill, np.float32)))
    kept = s.op("Softmax", masked)
    guarded = s.op("Add", s.op("Mul", kept, kept), s.const(np.asarray(epsilon, np.float32)))
    s.output(s.op("MatMul", s.op("Sqrt", guarded), s.weight(16, 16)))
    return s


def every(model: Model, largest: float = 2.0) -> dict[str, Seen]:
    names = {t.name for node in model.graph.nodes for t in (*node.inputs, *node.outputs)}
    return {name: Seen(-largest, largest) for name in names}


def test_masks_epsilons_and_what_has_no_form_stay_in_32_bits() -> None:
    model = Model.load(attention().model())
    found = halves(model, every(model))
    reasons = sorted(found.reasons.values())
    assert reasons == [
        "its constant of 1e+09 is too large", "its constant of 1e-12 is too small", "no 16-bit form of it is known"
    ]  # fmt: skip
    fine = halves(Model.load(attention(-np.inf, 1e-3).model()), every(model))
    assert not set(fine.reasons.values()) & set(reasons[:2])
    half = in_half(model, found.nodes)
    assert same_but_for_formats(model, half).casts
    feed = {model.graph.inputs[0].name: np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)}
    one, other = (ort.InferenceSession(m.proto().SerializeToString()).run(None, feed)[0] for m in (model, half))
    assert np.isfinite(other).all()
    assert np.abs(one - other).max() <= 5e-3 * np.abs(one).max()


def test_what_would_overflow_stays_in_32_bits() -> None:
    s = Sketch(seed=0)
    h = s.op("MatMul", s.input(["N", 16]), s.weight(16, 16))
    s.output(s.op("Relu", h))
    model = Model.load(s.model())
    seen = every(model)
    seen[model.graph.nodes[0].outputs[0].name] = Seen(-1.0, 20000.0)
    found = halves(model, seen)
    assert not found.nodes
    assert all("values of 2e+04 were seen" in reason for reason in found.reasons.values())
    assert halves(model, every(model), keep=(model.graph.nodes[0].name,)).reasons


def normalised(shift: float) -> Model:
    s = Sketch(seed=4)
    h = s.conv(s.input(["N", 3, 8, 8]), 6, 3, 3)
    vectors = (np.ones(6), np.zeros(6), np.full(6, shift), np.ones(6))
    h = s.op("BatchNormalization", h, *(s.const(v.astype(np.float32)) for v in vectors))
    s.output(s.conv(s.op("Relu", h), 4, 6, 3))
    return Model.load(s.model())


def test_statistics_become_those_of_the_data_and_a_second_run_changes_nothing() -> None:
    model = normalised(5.0)
    images = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
    name = model.graph.inputs[0].name
    context = Context(calibration=load_calibration({name: images}, input_specs(model.interface())))
    manager = PassManager.parse("recalibrate-bn,verify")
    result = manager.run(model, context)
    assert manager.records[0].changed
    proof = context.findings.proof
    assert proof is not None
    assert proof.proved
    assert proof.state == "not judged"
    assert "1 batch normalisation" in (proof.legs[-1].note or "")
    node = next(n for n in result.graph.nodes if n.op == "BatchNormalization")
    shown = result.copy()
    before = next(n for n in shown.graph.nodes if n.op == "BatchNormalization").outputs[0]
    before.dtype = np.float32
    shown.graph.outputs = [before]
    value = ort.InferenceSession(shown.proto().SerializeToString()).run(None, {name: images})[0]
    assert np.abs(value.mean(axis=(0, 2, 3))).max() < 1e-4
    assert np.abs(value.std(axis=(0, 2, 3)) - 1).max() < 1e-3
    assert (node.inputs[4].values > 0).all()
    again = PassManager.parse("recalibrate-bn")
    again.run(result, context)
    assert not again.records[0].changed


@pytest.mark.parametrize("name", ["to-fp16", "recalibrate-bn"])
def test_options_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="samples"):
        PassManager.parse(f"{name}{{samples=0}}")
