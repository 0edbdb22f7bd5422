"""Inputs made up in place of calibration data: on the model's own scale, the same twice, and runnable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from sketch import Sketch

import hwpass
from hwpass.data.dead_leaves import dead_leaves, pink_noise
from hwpass.data.domains import domains
from hwpass.data.input_scale import SCALES, stated_scale
from hwpass.data.synthetic_inputs import synthesise
from hwpass.model.model import Model
from hwpass.runtime.sessions import open_session, run_session
from hwpass.workflows.run import execute

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(autouse=True)
def many_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as a user gets; see `few_inputs`."""
    monkeypatch.setattr("hwpass.data.synthetic_inputs.SAMPLES", 1024)


def load(sketch: Sketch) -> Model:
    return Model.load(sketch.model())


def images(name: str, scale: str, count: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {name: SCALES[scale].of(np.stack([dead_leaves(rng, 3, 16, 16) for _ in range(count)]))}


def test_leaves_are_images() -> None:
    one, other = (dead_leaves(np.random.default_rng(3), 3, 40, 24) for _ in range(2))
    assert np.array_equal(one, other)
    assert one.shape == (3, 40, 24)
    assert one.dtype == np.float32
    many = np.stack([dead_leaves(np.random.default_rng(i), 1, 32, 32) for i in range(64)])
    assert many.min() >= 0
    assert many.max() <= 1
    # Neighbours agree far more often than pixels of different images.
    steps = np.abs(np.diff(many, axis=-1)).mean()
    assert steps < 0.3 * np.abs(many[1:] - many[:-1]).mean()


def test_noise_is_pink() -> None:
    """Amplitude 1/f: an eighth of the frequency has about 64 times the power. Mean zero, variance one."""
    noise = pink_noise(np.random.default_rng(0), (32, 512), (1,))
    assert noise.mean() == pytest.approx(0, abs=1e-3)
    assert noise.std() == pytest.approx(1, abs=1e-3)
    power = np.square(np.abs(np.fft.rfft(noise, axis=1))).mean(axis=0)
    assert power[8:16].mean() / power[64:128].mean() == pytest.approx(64, rel=0.4)


@pytest.mark.parametrize("scale", ["[0, 1]", "[-1, 1]", "[0, 255]"])
def test_the_scale_is_that_of_the_batch_statistics(scale: str) -> None:
    s = Sketch()
    x = s.input(["N", 3, 16, 16], name="x")
    y = s.conv(x, 6, 3, kernel=3)
    s.output(y)
    found = run_session(open_session(s.model()), images("x", scale))[y]
    s.outputs.clear()
    mean, variance = found.mean(axis=(0, 2, 3)), found.var(axis=(0, 2, 3))
    z = s.op("BatchNormalization", y, s.const(np.ones(6)), s.const(np.zeros(6)), s.const(mean), s.const(variance))
    s.output(s.conv(s.op("Relu", z), 2, 6))
    made = synthesise(load(s), macs=1e12)
    assert made is not None
    assert f"dead leaves images in {scale}" in made.what
    value = next(iter(made.calibration.batches(32)))["x"]
    (factor,), (low,) = SCALES[scale].factor, SCALES[scale].shift
    high = low + factor
    assert value.min() == pytest.approx(low)
    assert value.max() == pytest.approx(high)


@pytest.mark.parametrize(
    ("op", "value", "scale"),
    [("Div", 255.0, "[0, 255]"), ("Mul", 1 / 255, "[0, 255]"), ("Sub", 0.45, "[0, 1]"), ("Sub", 123.7, "[0, 255]")],
)
def test_the_scale_that_the_first_operator_states(op: str, value: float, scale: str) -> None:
    s = Sketch()
    s.output(s.conv(s.op(op, s.input(["N", 3, 16, 16], name="x"), s.const(value)), 4, 3))
    assert stated_scale(load(s), "x") == scale


def test_the_scale_of_a_quantised_input() -> None:
    """Steps of 1/127 around 0, of 8 bits with a sign: [-1, 1]."""
    s = Sketch()
    q = [s.const(np.float32(1 / 127)), s.const(np.int8(0))]
    y = s.op("DequantizeLinear", s.op("QuantizeLinear", s.input(["N", 3, 16, 16], name="x"), *q), *q)
    s.output(s.conv(y, 4, 3))
    assert stated_scale(load(s), "x") == "[-1, 1]"


def test_nothing_stated() -> None:
    s = Sketch()
    s.output(s.conv(s.input(["N", 3, 16, 16], name="x"), 4, 3))
    assert stated_scale(load(s), "x") is None


def tokens() -> Sketch:
    s = Sketch()
    ids = s.input(["N", "L"], name="ids", dtype=onnx.TensorProto.INT64)
    s.output(s.linear(s.op("Relu", s.linear(s.op("Gather", s.weight(50, 8), ids), 8, 12)), 12, 3))
    return s


def test_tokens_come_from_the_whole_table() -> None:
    model = load(tokens())
    assert domains(model.graph)[0]["ids"].high == 49
    made = synthesise(model, macs=1e11)
    assert made is not None
    found = np.concatenate([feed["ids"].reshape(-1) for feed in made.calibration.batches(4)])
    assert found.min() == 0
    assert found.max() == 49


def test_recurrent_states_and_signals() -> None:
    s = Sketch()
    x, state = s.input(["N", 1, 256], name="x"), s.input([1, "N", 4], name="state")
    y = s.op("Conv", x, s.weight(6, 1, 8), strides=[4])
    steps = s.op("Transpose", y, perm=[2, 0, 1])
    weights = [s.weight(1, 16, 6, fan=6), s.weight(1, 16, 4, fan=4), s.weight(1, 32, fan=4)]
    out, _, _ = s.ops("LSTM", steps, *weights, "", state, state, count=3, hidden_size=4)
    s.output(out)
    made = synthesise(load(s), macs=1e11)
    assert made is not None
    feed = next(iter(made.calibration.batches(4)))
    assert feed["x"].shape == (4, 1, 256)
    assert feed["state"].shape == (1, 4, 4)
    assert np.abs(np.diff(feed["x"])).mean() < 0.3 * np.abs(feed["x"]).mean()


def test_a_fixed_batch_is_kept() -> None:
    s = Sketch()
    s.output(s.conv(s.input([2, 3, 16, 16], name="x"), 4, 3))
    made = synthesise(load(s), macs=1e12)
    assert made is not None
    assert [feed["x"].shape[0] for feed in made.calibration.batches(8)][:2] == [2, 2]


def test_bytes_in_channels_last() -> None:
    s = Sketch()
    x = s.input(["N", 16, 16, 3], name="x", dtype=onnx.TensorProto.UINT8)
    s.output(s.conv(s.op("Transpose", s.op("Cast", x, to=onnx.TensorProto.FLOAT), perm=[0, 3, 1, 2]), 4, 3))
    made = synthesise(load(s), macs=1e12)
    assert made is not None
    value = next(iter(made.calibration.batches(32)))["x"]
    assert value.dtype == np.uint8
    assert (value.min(), value.max()) == (0, 255)


def test_the_same_twice_and_other_seeds_differ() -> None:
    model = hwpass.load(FIXTURES / "cnn.onnx")
    one, same, other = (synthesise(model, macs=1e12, seed=seed) for seed in (0, 0, 1))
    assert one is not None
    assert same is not None
    assert other is not None
    first, again, third = (next(iter(m.calibration.batches(32)))["image"] for m in (one, same, other))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, third)


def test_none_when_nothing_runs() -> None:
    """Reshape to an extent that no size of the input has."""
    s = Sketch()
    s.output(s.linear(s.op("Reshape", s.input(["N", "L"]), s.const([7, 1013])), 1013, 2))
    assert synthesise(load(s)) is None


def test_pruning_without_data_says_so_and_refits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwpass.data.synthetic_inputs.SAMPLES", 256)
    source = FIXTURES / "resnet_se.onnx"
    images = np.load(FIXTURES / "test.npz")["image"][:500]
    dense = run_session(open_session(source), {"image": images})["logits"].argmax(1)

    def agreement(result: hwpass.Result) -> float:
        found = run_session(open_session(result.model.proto()), {"image": images})["logits"]
        return float((found.argmax(1) == dense).mean())

    plain = hwpass.run(source, "server-cpu", macs=0.6, score="l2", compensate="off")
    blind = hwpass.run(source, "server-cpu", macs=0.6)
    assert not plain.report.warnings
    assert any("no calibration data" in warning for warning in blind.report.warnings)
    assert agreement(blind) > agreement(plain) + 0.2


@pytest.mark.parametrize("score", ["l1", "l2", "bn", "random"])
def test_an_explicit_score_stays_without_made_up_inputs(score: str) -> None:
    result = hwpass.run(FIXTURES / "resnet_se.onnx", "server-cpu", macs=0.7, score=score)
    assert not any("calibration" in warning for warning in result.report.warnings)
    assert "compensate" not in [record.name for record in result.report.passes]


def test_without_compensation_auto_is_l2() -> None:
    results = [
        hwpass.run(FIXTURES / "cnn.onnx", "server-cpu", macs=0.6, score=score, compensate="off")
        for score in ("auto", "l2")
    ]
    assert results[0].model.proto() == results[1].model.proto()


def test_tokens_are_pruned_without_data() -> None:
    text = "fold,fuse-bn,fold-redundant,prune-channels{macs=0.9x},compensate,verify"
    result = execute(tokens().model(), text, target="server-cpu", force=True)
    assert result.report.verdicts.exactness is not None
    assert result.report.verdicts.exactness.passed
