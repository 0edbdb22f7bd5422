"""Calibration data that mislead are told from good ones, without a label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sketch import Sketch

import hwpass
from hwpass.data.doctor import concerns
from hwpass.model.model import Model
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs

FIXTURES = Path(__file__).parents[2] / "fixtures"
NETWORKS = ("cnn", "mobilenet", "resnet_se", "densenet", "vit")


def pictures() -> NDArray[np.float32]:
    with np.load(FIXTURES / "calib.npz") as data:
        found: NDArray[np.float32] = data["image"][:256]
    return found


def told(model: Model, values: NDArray[Any], macs: float = 0.0) -> list[str]:
    specs = input_specs(model.interface())
    return concerns(model, load_calibration({specs[0].name: values.astype(np.float32)}, specs), macs)


def seen(network: str, values: NDArray[Any]) -> list[str]:
    return told(hwpass.load(FIXTURES / f"{network}.onnx"), values)


@pytest.mark.parametrize("network", NETWORKS)
def test_nothing_is_said_of_good_data(network: str) -> None:
    assert seen(network, pictures()) == []
    assert seen(network, pictures()[100:180]) == []


def test_few_samples() -> None:
    (text,) = seen("cnn", pictures()[:16])
    assert "16 samples are few" in text


def test_the_same_pictures_again_and_again() -> None:
    rng = np.random.default_rng(0)
    chosen = pictures()[rng.integers(0, 50, 256)]
    noisy = np.clip(chosen + rng.normal(0, 0.02, chosen.shape), 0, 1)
    moved = np.stack([np.roll(one, tuple(rng.integers(-1, 2, 2)), (1, 2)) for one in chosen])
    for values in (chosen, noisy, moved):
        assert any("nearly the same as another" in text for text in seen("cnn", values))
    assert seen("cnn", np.repeat(pictures()[:1], 80, axis=0))[0] == "all samples are the same: give different ones"


@pytest.mark.parametrize("network", NETWORKS)
def test_pictures_of_one_kind(network: str) -> None:
    with np.load(FIXTURES / "test.npz") as data:
        values = data["image"][data["label"] == 3]
    assert any("give inputs of every kind" in text for text in seen(network, values))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("factor", "shift"), [(1 / 255, 0.0), (2.0, -1.0)])
def test_pictures_on_another_scale(network: str, factor: float, shift: float) -> None:
    found = seen(network, pictures() * factor + shift)
    assert any("times as much of them in [0, 1]: scale input 'image'" in text for text in found)


def test_pictures_on_another_scale_than_the_graph_states() -> None:
    s = Sketch()
    x = s.input(["N", 1, 28, 28], name="x")
    s.output(s.conv(s.op("Div", x, s.const(255.0)), 4, 1))
    model = Model.load(s.model())
    (text,) = told(model, pictures())
    assert "images lie in [0, 1], and the model prepares such in [0, 255]" in text
    assert told(model, pictures() * 255) == []


def test_costly_models_are_only_asked_what_that_is_worth() -> None:
    """Two inputs in a thousand fit the work: nothing is said of classes, and of the rest all."""
    model = hwpass.load(FIXTURES / "cnn.onnx")
    assert told(model, pictures() / 255, macs=1e10) == []
    assert len(told(model, pictures() / 255)) == 1
    assert len(told(model, np.repeat(pictures()[:1], 80, axis=0), macs=1e10)) == 1


def test_samples_of_different_sizes_and_numbers_that_are_no_classes() -> None:
    s = Sketch()
    x = s.input(["N", 3, "h", "w"], name="x")
    s.output(s.conv(x, 4, 3))
    model = Model.load(s.model())
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.random((1, 3, 8, 8 + i % 2)).astype(np.float32)} for i in range(70)]
    assert concerns(model, load_calibration(feeds, input_specs(model.interface()))) == []


def test_a_run_says_it() -> None:
    asked: dict[str, Any] = {"macs": 0.7, "distill": "off", "calib": {"image": pictures()[:16]}}
    report = hwpass.run(FIXTURES / "cnn.onnx", "mobile-cpu", **asked).report
    assert any(text.startswith("calibration data: 16 samples are few") for text in report.warnings)
