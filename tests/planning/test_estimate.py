"""How long choosing channels and refitting will take is told before it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwpass.context import Context
from hwpass.coupling.groups import couple
from hwpass.manager import PassManager
from hwpass.model.model import Model
from hwpass.planning import estimate
from hwpass.planning.estimate import announced, estimated_seconds
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs

FIXTURES = Path(__file__).parents[2] / "fixtures"


def situation(name: str) -> tuple[Model, Context]:
    model = PassManager.parse("fold,fuse-bn").run(Model.load(FIXTURES / f"{name}.onnx"))
    with np.load(FIXTURES / "calib.npz") as data:
        calibration = load_calibration({"image": data["image"][:256]}, input_specs(model.interface()))
    return model, Context(calibration=calibration, threads=2)


def test_more_samples_layers_and_rounds_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_inference", lambda coupling, data: 1e-3)
    monkeypatch.setattr(estimate, "_slowness", lambda: 1.0)
    model, context = situation("cnn")
    coupling, data = couple(model), context.calibration
    assert data is not None
    some = estimated_seconds(coupling, data, context)
    assert some is not None
    few = estimated_seconds(coupling, replace(data, every=2), context)
    assert few is not None
    assert some - few == pytest.approx(estimate.INFERENCES * 128e-3)
    assert estimated_seconds(coupling, data, replace(context, threads=1)) == pytest.approx(1.5 * some)
    assert estimated_seconds(coupling, data, context, rounds=1) == pytest.approx(0.3 * some)
    deeper = estimated_seconds(couple(situation("densenet")[0]), data, context)
    assert deeper is not None
    assert deeper > some + estimate.LAYER * 10


def test_what_is_measured_is_a_time() -> None:
    model, context = situation("cnn")
    assert context.calibration is not None
    assert 0 < (estimated_seconds(couple(model), context.calibration, context) or 0) < 1e4


@pytest.mark.parametrize(("seconds", "said"), [(2.0, ""), (8.31, "8 s"), (57.4, "57 s"), (1234.0, "21 min")])
def test_long_runs_are_announced(seconds: float, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "estimated_seconds", lambda *_: seconds)
    model, context = situation("cnn")
    told: list[str] = []
    assert context.calibration is not None
    announced(couple(model), context.calibration, replace(context, progress=told.append))("curves")
    assert told == [f"curves; channels and refit take about {said}" if said else "curves"]
