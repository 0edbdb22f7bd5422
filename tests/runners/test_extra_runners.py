"""Runners that need an extra: they are tested where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from hwpass.cost.bench import bench
from hwpass.errors import InputError

ROOT = Path(__file__).parents[2]
CNN, RESIDUAL = ROOT / "fixtures/cnn.onnx", ROOT / "fixtures/resnet_se.onnx"
RUNNERS = {"openvino": ("openvino",), "ncnn": ("ncnn", "pnnx")}


@pytest.mark.parametrize("runner", RUNNERS)
def test_two_models_are_timed(runner: str) -> None:
    for module in RUNNERS[runner]:
        pytest.importorskip(module)
    first, second = bench([CNN, RESIDUAL], runner=runner, sessions=2, runs=5, cpu_time=True)
    assert first.ratio == 1
    assert 0.01 < first.median_ms < 1000
    assert second.ratio > 0.1


@pytest.mark.parametrize("runner", RUNNERS)
def test_without_the_extra_the_extra_is_named(runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in RUNNERS[runner] else real(name))
    with pytest.raises(InputError, match=rf"runner {runner}: .* is not installed; `pip install 'hwpass\[{runner}\]'`"):
        bench([CNN], runner=runner)


def test_what_pnnx_cannot_convert_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pnnx")
    pytest.importorskip("ncnn")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("NoSuchOperator", ["x"], ["y"])], "bad", value[:1], value[1:])
    onnx.save(helper.make_model(graph), tmp_path / "bad.onnx")
    with pytest.raises(InputError, match="bad: cannot be timed: ") as caught:
        bench([tmp_path / "bad.onnx"], runner="ncnn", sessions=1, runs=1)
    assert "\n" not in str(caught.value)
