"""hwpass as a pass of Microsoft Olive, in a workflow on a fixture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

olive = pytest.importorskip("olive")

from hwpass.integrations.olive import package_config, write_package_config  # noqa: E402
from hwpass.options import of_command  # noqa: E402

FIXTURES = Path(__file__).parents[2] / "fixtures"

pytestmark = pytest.mark.filterwarnings("ignore")  # of Olive and what it imports


def workflow(folder: Path, **asked: Any) -> Any:
    from olive.workflows import run

    config = {
        "input_model": {"type": "ONNXModel", "model_path": str(FIXTURES / "cnn.onnx")},
        "passes": {"smaller": {"type": "Hwpass", "target": "server-cpu", **asked}},
        "output_dir": str(folder / "out"),
        "cache_dir": str(folder / "cache"),
        "log_severity_level": 4,
    }
    return run(config, package_config=write_package_config(folder / "packages.json"))


def written(folder: Path) -> Path:
    found = sorted((folder / "out").rglob("*.onnx"))
    assert len(found) == 1
    return found[0]


def test_a_workflow_makes_a_smaller_model_that_still_classifies(tmp_path: Path) -> None:
    workflow(tmp_path, latency="0.6x", calib=str(FIXTURES / "calib.npz"), distill="off", effort="quick")
    path = written(tmp_path)
    assert path.stat().st_size < 0.9 * (FIXTURES / "cnn.onnx").stat().st_size
    assert any(entry.key.startswith("hwpass") for entry in onnx.load(path).metadata_props)
    data = np.load(FIXTURES / "test.npz")
    found = ort.InferenceSession(path).run(None, {"image": data["image"][:500]})[0].argmax(axis=1)
    assert (found == data["label"][:500]).mean() > 0.88


def test_a_budget_that_cannot_be_met_ends_the_pass(tmp_path: Path) -> None:
    workflow(tmp_path, latency="0.001x", score="l2")
    assert not list((tmp_path / "out").rglob("*.onnx"))


def test_every_option_of_a_run_is_one_of_the_pass(tmp_path: Path) -> None:
    from hwpass.integrations.olive import Hwpass

    params = Hwpass._default_config(None)
    assert {item.name for item in of_command("run")} | {"target", "data_config"} == set(params)
    entry = package_config()["passes"]["Hwpass"]
    assert entry["module_path"] == "hwpass.integrations.olive.Hwpass"
    file = tmp_path / "p.json"
    assert "OnnxQuantization" in json.loads(Path(write_package_config(file)).read_text())["passes"]
