"""Noise on a layer, against what linear algebra says of it."""

from __future__ import annotations

import numpy as np
import pytest
from sketch import Sketch

from hwpass.model.model import Model
from hwpass.planning import sensitivity
from hwpass.planning.consumers import affordable
from hwpass.planning.sensitivity import Loud, sensitivities
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs


def _chain(batch: int | str, depth: int) -> tuple[Model, list[Loud], np.ndarray]:
    """Layers of orthogonal matrices: noise of a share of a layer's output is that share of the model's."""
    rng = np.random.default_rng(0)
    s = Sketch()
    x = s.input([batch, 16], "x")
    layers = []
    for _ in range(depth):
        x = s.op("MatMul", x, s.const(np.linalg.qr(rng.standard_normal((16, 16)))[0]))
        layers.append(Loud(x, np.dtype(np.float32), 1.0))
    s.output(x)
    return Model.load(s.model()), layers, rng.standard_normal((64, 16)).astype(np.float32)


@pytest.mark.parametrize(("batch", "depth"), [("n", 3), ("n", 20), (1, 20)])
def test_a_change_that_arrives_whole_counts_one(batch: int | str, depth: int) -> None:
    """In any number of stages, and where samples go one by one: what they vary by is taken over all of them."""
    model, layers, x = _chain(batch, depth)
    data = load_calibration({"x": x}, input_specs(model.interface()))
    found = sensitivities(model, layers, 1.0, data)
    assert len(found) == depth
    # 32 samples of 16 numbers: the squares of 512 normal numbers add up to 512, give or take 32.
    assert [value for value in found if value is not None] == pytest.approx([1.0] * depth, rel=0.3)
    assert found == sensitivities(model, layers, 1.0, data)


def test_stages_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, layers, x = _chain("n", 20)
    data = load_calibration({"x": x}, input_specs(model.interface()))
    staged = sensitivities(model, layers, 1.0, data)
    monkeypatch.setattr(sensitivity, "STAGES", 1)
    assert staged == pytest.approx(sensitivities(model, layers, 1.0, data), rel=1e-4)


def test_a_layer_that_nobody_hears() -> None:
    """Relu of what is far below zero: no noise of usual size comes through."""
    s = Sketch()
    quiet = s.op("MatMul", s.input(["n", 4], "x"), s.const(np.eye(4)))
    beside = s.op("MatMul", "x", s.const(np.eye(4)))
    s.output(s.op("Add", s.op("Relu", s.op("Sub", quiet, s.const(np.float32(100)))), beside))
    model = Model.load(s.model())
    x = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
    data = load_calibration({"x": x}, input_specs(model.interface()))
    layers = [Loud(name, np.dtype(np.float32), 1.0) for name in (quiet, beside)]
    found = sensitivities(model, layers, 1.0, data)
    assert found[0] == pytest.approx(1e-6)
    assert found[1] == pytest.approx(1.0, rel=0.5)


def test_a_model_that_takes_no_noise_gives_none() -> None:
    model, layers, x = _chain("n", 2)
    data = load_calibration({"x": x}, input_specs(model.interface()))
    assert sensitivities(model, [Loud(layers[0].output, np.dtype(np.int32), 1.0)], 1.0, data) == []
    assert sensitivities(model, [], 1.0, data) == []


@pytest.mark.parametrize(("samples", "macs", "left"), [(256, 1e6, 256), (256, 4e9, 128), (100, 1e12, 100)])
def test_statistics_of_costly_models_take_fewer_samples(samples: int, macs: float, left: int) -> None:
    """5e11 multiply-accumulates are 125 samples of 4e9: every second of 256. And never fewer than 96 of more."""
    model, _, _ = _chain("n", 1)
    data = load_calibration({"x": np.zeros((samples, 16), np.float32)}, input_specs(model.interface()))
    some = affordable(data, macs)
    assert sum(len(feed["x"]) for feed in some.batches(1)) == left
