"""Distillation: closer to the original or as it was, the same twice, proved, and refused where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import hwpass
import hwpass.passes.distill as distill_pass
from hwpass.errors import UsageError
from hwpass.options import RunOptions
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs
from hwpass.torch import distillation
from hwpass.torch.samples import Augmentation, Samples
from hwpass.workflows.steps import distill_step

PRUNE = "prune-channels{macs=0.15x, score=l2}"
Arrays = dict[str, np.ndarray[Any, Any]]


def network(batch: int | str = "batch", softmax: bool = False, token: bool = False) -> onnx.ModelProto:
    """Two convolutions and a classifier with weights that decay over the channels, as trained ones do."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        fall = np.linspace(1.5, 0.3, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
        values = rng.standard_normal(shape) * fall / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array(values.astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["g" if softmax else "y"], "last", transB=1),
        *([helper.make_node("Softmax", ["g"], ["y"])] if softmax else []),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 12, 12])]
    if token:
        nodes += [helper.make_node("Gather", ["table", "t"], ["r"])]
        inputs.append(helper.make_tensor_value_info("t", TensorProto.INT64, [batch]))
    graph = helper.make_graph(
        nodes, "net", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [weight("w1", 16, 3, 3, 3), weight("w2", 24, 16, 3, 3), weight("w3", 5, 24)],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def images(count: int = 160, seed: int = 1) -> Arrays:
    return {"x": np.random.default_rng(seed).standard_normal((count, 3, 12, 12)).astype(np.float32)}


def run(model: onnx.ModelProto, steps: str, data: Arrays, **more: Any) -> hwpass.Result:
    return hwpass.run(model, "mobile-cpu", pipeline=f"{PRUNE},{steps}verify", calib=data, **more)


def error_of(model: onnx.ModelProto, result: hwpass.Result, path: Path) -> float:
    """The error on inputs that nobody has seen, over the variance of the original's outputs."""
    from hwpass.runtime.sessions import open_session, run_session

    result.save(path)
    wanted, found = (run_session(open_session(m), images(200, 7))["y"] for m in (model, path))
    return float(np.square(wanted - found).mean() / wanted.var())


@pytest.fixture(autouse=True)
def _however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "PATIENCE", 1000.0)


def note(result: hwpass.Result) -> dict[str, Any]:
    found: Any = result.report.notes["distill"]
    return dict(found)


@pytest.mark.parametrize("softmax", [False, True])
def test_the_result_is_closer_on_inputs_that_nobody_saw_and_proved(softmax: bool, tmp_path: Path) -> None:
    model = network(softmax=softmax)
    plain = error_of(model, run(model, "compensate,", images()), tmp_path / "plain.onnx")
    result = run(model, "compensate,distill{seconds=4},", images())
    found = error_of(model, result, tmp_path / "distilled.onnx")
    assert found < 0.9 * plain
    told = note(result)
    assert told["error after"] < told["error before"]
    assert told["steps"] >= distillation.FEWEST
    exactness = result.report.verdicts.exactness
    assert exactness is not None
    assert exactness.state == "passed"
    assert "refit" in {leg.name for leg in exactness.legs}


def test_more_is_learned_where_more_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {}
    for name, most, enough in (("asked", 1, 1e-9), ("more", 3, 1e-9), ("enough", 3, 1e9)):
        monkeypatch.setattr(distillation, "ENOUGH", enough)
        steps[name] = note(run(network(), f"distill{{seconds=1,most={most}}},", images()))["steps"]
    assert steps["asked"] == steps["enough"]
    assert steps["more"] > 2 * steps["asked"]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate((0, 0, 1)):
        run(network(), "distill{seconds=1},", images(), seed=seed).save(tmp_path / f"{number}.onnx")
        found.append((tmp_path / f"{number}.onnx").read_bytes())
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_where_no_state_is_better_the_weights_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(distillation, "LEARNING", 1e3)
    run(network(), "", images()).save(tmp_path / "plain.onnx")
    result = run(network(), "distill{seconds=1},", images())
    result.save(tmp_path / "kept.onnx")
    assert note(result)["error after"] == note(result)["error before"]
    plain, kept = (onnx.load(tmp_path / f"{name}.onnx").graph.initializer for name in ("plain", "kept"))
    for old, new in zip(plain, kept, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(old), numpy_helper.to_array(new))


def test_a_fixed_batch_is_kept(tmp_path: Path) -> None:
    result = run(network(batch=8), "distill{seconds=1},", images())
    # Of 160 samples 20 are set apart for the verdicts, and an eighth of the others judges; whole batches only.
    assert note(result)["samples"] == 119
    result.save(tmp_path / "m.onnx")


def test_a_slow_machine_ends_early_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "PATIENCE", 1.0)
    monkeypatch.setattr(distillation, "RATE", 1e15)
    monkeypatch.setattr(distillation, "NODE_SECONDS", 1e-9)
    monkeypatch.setattr(distillation, "BYTE_SECONDS", 0.0)
    result = run(network(), "distill{seconds=0.2},", images())
    assert any("cut down to" in warning for warning in result.report.warnings)
    assert note(result)["seconds"] < 20


@pytest.mark.parametrize(("data", "seconds", "why"), [
    (images(3), 4, "3 samples are too few"),
    (images(), 1e-6, "a step takes about"),
    ({"x": np.zeros((64, 3, 12, 12), np.float32)}, 4, "no floating-point output varies"),
])  # fmt: skip
def test_what_cannot_be_learned_is_said_and_the_run_goes_on(data: Arrays, seconds: float, why: str) -> None:
    result = run(network(), f"distill{{seconds={seconds}}},", data)
    (warning,) = [w for w in result.report.warnings if w.startswith("nothing was distilled: ")]
    assert why in warning
    assert "distill" not in result.report.notes


def test_options_are_read_before_the_model_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    assert distill_step(RunOptions(distill="off")) == ()
    monkeypatch.setattr("hwpass.workflows.steps.installed", lambda: True)
    (usual,), (short,), (long,) = (distill_step(RunOptions(distill=d)) for d in ("auto", "30s", "2.5min"))
    assert [step.seconds for step in (usual, short, long)] == [60.0, 30.0, 150.0]  # type: ignore[attr-defined]
    for wrong in ("quick", "-3s", "", True, "5 hours"):
        with pytest.raises(UsageError, match="distill"):
            distill_step(RunOptions(distill=wrong))
    monkeypatch.setattr(distill_pass, "find_spec", lambda name: None)
    monkeypatch.setattr("hwpass.workflows.steps.installed", lambda: False)
    assert distill_step(RunOptions()) == ()
    with pytest.raises(UsageError, match=r"pip install 'hwpass\[torch\]'"):
        hwpass.run("no such file", "mobile-cpu", macs=0.5, calib="nothing", distill="30s")


def test_a_run_distils_when_asked_and_not_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwpass.workflows.steps.installed", lambda: True)
    asked: dict[str, Any] = {"macs": 0.15, "score": "l2", "calib": images()}
    assert note(hwpass.run(network(), "mobile-cpu", distill="1s", **asked))["steps"] >= distillation.FEWEST
    assert "distill" not in hwpass.run(network(), "mobile-cpu", distill="off", **asked).report.notes


def test_samples_set_apart_are_not_learned_from() -> None:
    model = network()
    data = images(50)
    samples = Samples(load_calibration(data, input_specs(model)), 40)
    assert (len(samples.learned), len(samples.apart)) == (35, 5)
    both = [np.stack([s["x"][0] for s in part]) for part in (samples.learned, samples.apart)]
    assert not {v.tobytes() for v in both[0]} & {v.tobytes() for v in both[1]}
    feed = samples.feed(samples.batches(samples.learned, 10)[-1])
    assert feed["x"].shape == (5, 3, 12, 12)


def test_variants_come_again_with_what_the_original_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    """The original runs once for each variant that fits into memory; where none fits, for every step."""
    asked: list[bytes] = []
    teach = distillation._Teacher.__call__

    def watched(self: Any, feed: Any) -> Any:
        asked.append(feed["x"].tobytes())
        return teach(self, feed)

    monkeypatch.setattr(distillation._Teacher, "__call__", watched)
    monkeypatch.setattr(distillation, "VARIANTS", 2)
    steps = note(run(network(), "distill{seconds=2},", images()))["steps"]
    once = 2 * 2 + 1  # two rounds of two batches, and the samples that judge
    assert len(asked) == len(set(asked)) == once < steps
    asked.clear()
    monkeypatch.setattr(distillation, "HELD_BYTES", 1000)
    steps = note(run(network(), "distill{seconds=1},", images()))["steps"]
    assert len(asked) == len(set(asked)) == steps + 1


def test_stretches_of_tokens_are_another_samples() -> None:
    """Every position holds what some sample has there, in ids and mask alike; beside other inputs nothing moves."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 1000, (64, 12)) + 1000 * np.arange(12)
    feed = {"ids": ids, "mask": (ids % 2).astype(np.int32)}
    found = Augmentation({"ids": 0, "mask": 0}, feed, 0)(feed)
    assert found["ids"].shape == ids.shape
    assert (found["ids"] % 2 == found["mask"]).all()
    assert all(np.isin(found["ids"][:, place], ids[:, place]).all() for place in range(12))
    changed = (found["ids"] != ids).any(axis=1)
    assert 0.2 < changed.mean() < 0.6
    assert not (found["ids"] == np.roll(ids, 1, axis=0)).all()
    lengths = {**feed, "length": np.arange(64)}
    assert Augmentation({"ids": 0, "mask": 0, "length": 0}, lengths, 0)(lengths) is lengths


def test_images_are_moved_and_mixed_and_single_numbers_never() -> None:
    feed = {"x": images(64)["x"]}
    moved = Augmentation({"x": 0}, feed, 0)(feed)["x"]
    assert moved.shape == feed["x"].shape
    assert moved.dtype == np.float32
    assert (moved != feed["x"]).any(axis=(1, 2, 3)).mean() > 0.9
    assert abs(moved.mean() - feed["x"].mean()) < 0.05
    tokens = {"t": np.arange(9).reshape(3, 3)}
    assert Augmentation({"t": 0}, tokens, 0)(tokens) is tokens
    both = {**feed, "t": np.arange(64)}
    assert Augmentation({"x": 0, "t": 0}, both, 0)(both) is both
