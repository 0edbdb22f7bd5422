"""On which scale images are made: as stated, as the model gives away, or as what it tells of classes shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from sketch import Sketch

import hwpass
from hwpass.data.dead_leaves import dead_leaves
from hwpass.data.input_scale import LEAST_TOLD, SCALES, class_scores, information
from hwpass.data.synthetic_inputs import Synthetic, synthesise
from hwpass.model.model import Model
from hwpass.runtime.inputs import StatedInput
from hwpass.runtime.sessions import open_session, run_session

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(autouse=True)
def many_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for a choice; see `few_inputs`."""
    monkeypatch.setattr("hwpass.data.synthetic_inputs.SAMPLES", 200)
    monkeypatch.setattr("hwpass.data.synthetic_inputs.POOL", 6)
    monkeypatch.setattr("hwpass.data.input_scale.TOLD", 256)


def made(model: Model, **stated: StatedInput) -> Synthetic:
    found = synthesise(model, macs=1e6, stated=stated)
    assert found is not None
    return found


def values(found: Synthetic, name: str) -> NDArray[Any]:
    return np.concatenate([np.asarray(feed[name]) for feed in found.calibration.batches(50)])


def plain(dtype: int = onnx.TensorProto.FLOAT, shape: tuple[Any, ...] = ("N", 3, 16, 16)) -> Model:
    s = Sketch()
    x = s.input(list(shape), name="x", dtype=dtype)
    s.output(s.conv(s.op("Relu", s.conv(s.op("Cast", x, to=1), 6, shape[1], kernel=3)), 4, 6))
    return Model.load(s.model())


def test_information() -> None:
    """Nothing where all samples get the same, log of the classes where each is certain of one of them."""
    assert information(np.full((6, 3), 1 / 3)) == pytest.approx(0)
    assert information(np.tile([[1.0, 0.0, 0.0]], (6, 1))) == pytest.approx(0)
    assert information(np.tile(np.eye(3), (2, 1))) == pytest.approx(np.log(3))


def test_which_outputs_are_scores_of_classes() -> None:
    logits = np.asarray([[1.0, 2.0, 0.0]], np.float32)
    scores = class_scores([{"y": logits}])
    assert scores is not None
    assert scores[0] == pytest.approx(np.exp(logits[0]) / np.exp(logits[0]).sum())
    chances = np.asarray([[0.25, 0.75]], np.float32)
    assert class_scores([{"y": chances}, {"y": chances}]) == pytest.approx(np.concatenate([chances] * 2))
    assert class_scores([{"y": logits.reshape(1, 3, 1, 1)}]) is not None
    assert class_scores([{"y": logits}, {"y": logits[:, :2]}]) is None
    others: tuple[dict[str, Any], ...] = (
        {"y": np.zeros((1, 3, 4, 4), np.float32)},
        {"y": np.zeros((1, 1), np.float32)},
        {"y": np.zeros((1, 3), np.int64)},
        {"y": np.full((1, 3), np.nan, np.float32)},
        {"y": logits, "z": logits},
        {"y": np.float32(3)},
    )
    for other in others:
        assert class_scores([other]) is None


@pytest.mark.parametrize(("tells", "said"), [
    ("brightness", "dead leaves maps in "), ("one number", "random values"),
])  # fmt: skip
def test_rows_of_features_are_maps_where_those_tell_more_than_noise(tells: str, said: str) -> None:
    """Pictures read row by row, spectrograms: the mean of noise says nothing, the mean of a map does."""
    s = Sketch()
    x = s.input(["N", 16, 12], name="x")
    flat = s.op("Reshape", x, s.const(np.asarray([-1, 192], np.int64)))
    weight = np.zeros((192, 3), np.float32)
    weight[slice(None) if tells == "brightness" else 0] = [-1, 0, 1]
    weight *= 60 / 192 if tells == "brightness" else 8
    offset = [6.0, 0.0, -6.0] if tells == "brightness" else [0.0, 0.0, 0.0]
    s.output(s.op("Add", s.op("MatMul", flat, s.const(weight)), s.const(np.asarray(offset, np.float32))))
    found = synthesise(Model.load(s.model()), macs=1e3)
    assert found is not None
    assert said in found.what
    neighbours = np.abs(np.diff(values(found, "x"), axis=2)).mean() / values(found, "x").std()
    assert (neighbours < 0.7) == (tells == "brightness")


def test_a_stated_scale_is_that_of_maps_too() -> None:
    s = Sketch()
    x = s.input(["N", 16, 12], name="x")
    mean = s.op("ReduceMean", x, axes=[1, 2], keepdims=1)
    logits = s.op("MatMul", s.op("Reshape", mean, s.const(np.asarray([-1, 1], np.int64))),
                  s.const(np.asarray([[-9.0, 0.0, 9.0]], np.float32)))  # fmt: skip
    s.output(s.op("Add", logits, s.const(np.asarray([27.0, 0.0, -27.0], np.float32))))
    found = synthesise(Model.load(s.model()), macs=1e3, stated={"x": StatedInput(range=(1.0, 5.0))})
    assert found is not None
    assert "dead leaves maps in [1, 5], as stated" in found.what
    assert values(found, "x").min() >= 1
    assert 4 < values(found, "x").max() <= 5


@pytest.mark.parametrize("network", ["cnn", "mobilenet", "vit"])
def test_networks_without_statistics_are_seen_on_the_scale_they_were_trained_on(network: str) -> None:
    """Their images lie in [0, 1], and nothing in the graphs says so."""
    assert "images in [0, 1]" in made(hwpass.load(FIXTURES / f"{network}.onnx")).what


@pytest.mark.parametrize("true", ["[-1, 1]", "standardised for a dark ground"])
def test_a_network_that_wants_another_scale(true: str) -> None:
    """The same network behind an operator that undoes the scale, in a form that states nothing."""
    proto = onnx.load(FIXTURES / "mobilenet.onnx")
    (factor,), (shift,) = SCALES[true].factor, SCALES[true].shift
    undo = [
        onnx.numpy_helper.from_array(np.full((1, 1, 1, 1), 1 / factor, np.float32), "undo_w"),
        onnx.numpy_helper.from_array(np.full(1, -shift / factor, np.float32), "undo_b"),
    ]
    proto.graph.initializer.extend(undo)
    for node in proto.graph.node:
        node.input[:] = ["undone" if name == "image" else name for name in node.input]
    proto.graph.node.insert(0, onnx.helper.make_node("Conv", ["image", "undo_w", "undo_b"], ["undone"]))
    said = made(Model.load(proto)).what
    assert true in said
    assert "images in [0, 1]" not in said


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("true", ["[0, 1]", "[-1, 1]", "standardised"])
def test_folded_normalisations_tell_the_scale_of_a_model_without_classes(true: str, channels: int) -> None:
    """What was normalised on images of a scale is balanced there: among the two that are tried is the right one."""
    images = np.stack([dead_leaves(np.random.default_rng([7, i]), channels, 16, 16) for i in range(32)])
    s = Sketch(seed=11)
    x = name = s.input(["N", channels, 16, 16], name="x")
    for width, before in ((16, channels), (16, 16)):
        weight = s.rng.standard_normal((width, before, 3, 3)).astype(np.float32)
        y = s.op("Conv", x, s.const(weight), pads=[1] * 4)
        s.output(y)
        found = run_session(open_session(s.model()), {name: SCALES[true].of(images)})[y]
        s.outputs.clear()
        deviation = found.std(axis=(0, 2, 3))
        bias = -found.mean(axis=(0, 2, 3)) / deviation
        x = s.op("Relu", s.op("Conv", x, s.const(weight / deviation[:, None, None, None]), s.const(bias), pads=[1] * 4))
    s.output(s.conv(x, 2, 16))
    s.drop_unread()
    said = made(Model.load(s.model())).what
    assert true in said
    assert "on which it is balanced best" in said


def test_where_nothing_tells_the_usual_is_a_guess_and_said_so() -> None:
    said = made(plain()).what
    assert "standardised" in said
    assert "a guess: state it by input='x:range=LOW..HIGH'" in said


def test_a_stated_range_is_that_of_the_images() -> None:
    found = made(plain(), x=StatedInput(range=(-2.0, 6.0)))
    pixels = values(found, "x")
    assert (pixels.min(), pixels.max()) == (-2.0, 6.0)
    assert "in [-2, 6], as stated" in found.what


def test_stated_means_and_deviations_are_of_each_channel() -> None:
    pixels = values(made(plain(), x=StatedInput(mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))), "x")
    assert pixels.min(axis=(0, 2, 3)) == pytest.approx([0.0, -1.0, -4.0])
    assert pixels.max(axis=(0, 2, 3)) == pytest.approx([1.0, 1.0, 0.0])


def test_numbers_for_other_channels_than_there_are() -> None:
    with pytest.raises(hwpass.UsageError, match="2 numbers for 3 channels"):
        made(plain(), x=StatedInput(std=(1.0, 0.5)))


def test_a_stated_layout_makes_images_of_any_number_of_channels() -> None:
    """Thirteen bands are no picture to whoever does not know."""
    model = plain(shape=("N", 13, 16, 16))
    assert "random values" in made(model).what
    found = made(model, x=StatedInput(range=(0.0, 1.0), layout="NCHW"))
    assert "dead leaves images" in found.what
    pixels = values(found, "x")
    across = np.abs(np.diff(pixels, axis=3)).mean()
    assert across < 0.5 * np.abs(pixels[1:] - pixels[:-1]).mean()


def test_a_stated_range_of_whole_numbers_signals_and_features() -> None:
    s = Sketch()
    ids = s.input(["N", 8], name="ids", dtype=onnx.TensorProto.INT64)
    wave = s.input(["N", 1, 400], name="wave")
    rest = s.input(["N", 8], name="rest")
    s.output(s.op("ReduceMean", s.op("Gather", s.weight(50, 8), ids), keepdims=0, axes=[1]))
    s.output(s.op("Conv", wave, s.weight(6, 1, 8)))
    s.output(s.linear(rest, 8, 3))
    stated = {"ids": (3.0, 7.0), "wave": (-4.0, 4.0), "rest": (10.0, 12.0)}
    found = made(Model.load(s.model()), **{n: StatedInput(range=r) for n, r in stated.items()})
    for name, (low, high) in stated.items():
        seen = values(found, name)
        assert low <= seen.min() < seen.max() <= high
    assert set(np.unique(values(found, "ids"))) == {3, 4, 5, 6, 7}
    assert np.abs(np.diff(values(found, "wave"))).mean() < 0.3 * np.abs(values(found, "wave")).mean()


def test_as_many_of_each_class_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model calls an image bright, dark or neither: few of the images made are bright."""
    s = Sketch()
    x = s.input(["N", 1, 16, 16], name="x")
    mean = s.op("ReduceMean", x, axes=[1, 2, 3], keepdims=1)
    flat = s.op("Reshape", mean, s.const(np.asarray([-1, 1], np.int64)))
    logits = s.op("MatMul", flat, s.const(np.asarray([[-60.0, 0.0, 60.0]], np.float32)))
    s.output(s.op("Add", logits, s.const(np.asarray([12.0, 0.0, -42.0], np.float32))))
    model = Model.load(s.model())
    stated = {"x": StatedInput(range=(0.0, 1.0))}

    def counts() -> tuple[NDArray[Any], str]:
        found = synthesise(model, macs=1e3, stated=stated)
        assert found is not None
        means = values(found, "x").mean(axis=(1, 2, 3))
        scores = means[:, None] * [-60, 0, 60] + [12, 0, -42]
        return np.bincount(scores.argmax(axis=1), minlength=3), found.what

    balanced, said = counts()
    assert "as many of each class as could be" in said
    monkeypatch.setattr("hwpass.data.synthetic_inputs.POOL", 1)
    first, unsaid = counts()
    assert "each class" not in unsaid
    assert balanced.sum() == first.sum() == 200
    assert balanced.tolist() in ([67, 67, 66], [67, 66, 67], [66, 67, 67])
    assert first.max() > 80


@pytest.mark.parametrize("network", ["cnn", "mobilenet", "resnet_se", "densenet", "vit"])
def test_networks_that_tell_made_up_images_apart_are_not_doubted(network: str) -> None:
    assert made(hwpass.load(FIXTURES / f"{network}.onnx")).doubt == ""


def test_a_model_that_hardly_tells_made_up_inputs_apart() -> None:
    """Features of no structure are all the same to a classifier that waits for something else."""
    s = Sketch()
    h = s.op("Relu", s.linear(s.input(["N", 24], name="x"), 24, 64))
    scores = s.op("Mul", s.linear(h, 64, 4), s.const(np.float32(0.01)))
    s.output(s.op("Add", scores, s.const(np.asarray([9.0, 0.0, 0.0, 0.0], np.float32))))
    assert "hardly tells the inputs apart" in made(Model.load(s.model())).doubt
    report = hwpass.run(s.model(), "mobile-cpu", macs=0.8, distill="off").report
    assert any("give real inputs with calib" in text and "hardly tells" in text for text in report.warnings)


def test_leaves_tell_something() -> None:
    """What the choice of a scale rests on: a trained network tells made-up images apart."""
    images = np.stack([dead_leaves(np.random.default_rng(i), 1, 28, 28) for i in range(64)])
    session = hwpass.load(FIXTURES / "cnn.onnx")
    from hwpass.runtime.sessions import open_session, run_session

    scores = class_scores([run_session(open_session(session.proto()), {"image": images})])
    assert scores is not None
    assert information(scores) > 3 * LEAST_TOLD
