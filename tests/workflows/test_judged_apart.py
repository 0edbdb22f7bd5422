"""What judges a result has no part in making it; and a result that made-up inputs show to be ruined is not written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hwpass
from hwpass.errors import VerdictError
from hwpass.planning.study import Study
from hwpass.verdicts import fidelity as judged

FIXTURES = Path(__file__).parents[2] / "fixtures"
WORDS = FIXTURES / "compact" / "words.onnx"


def test_samples_that_judge_are_not_those_that_were_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    with np.load(FIXTURES / "calib.npz") as data:
        images = data["image"][:160]
    seen: dict[str, list[bytes]] = {"learned": [], "judged": []}
    of, compare = Study.of.__func__, judged.fidelity  # type: ignore[attr-defined]

    def studied(cls: Any, model: Any, target: Any, context: Any, *more: Any) -> Any:
        seen["learned"] = [row.tobytes() for feed in context.calibration.batches() for row in feed["image"]]
        return of(cls, model, target, context, *more)

    def compared(original: Any, pruned: Any, feeds: Any, *more: Any, **named: Any) -> Any:
        seen["judged"] = [row.tobytes() for feed in feeds() for row in feed["image"]]
        assert named["on"] == "given"
        return compare(original, pruned, feeds, *more, **named)

    monkeypatch.setattr(Study, "of", classmethod(studied))
    monkeypatch.setattr(judged, "fidelity", compared)
    result = hwpass.run(FIXTURES / "cnn.onnx", "mobile-cpu", macs=0.6, score="l2", calib=images, distill="off")
    assert (len(seen["learned"]), len(seen["judged"])) == (140, 20)
    assert not set(seen["learned"]) & set(seen["judged"])
    fidelity = result.report.verdicts.fidelity
    assert fidelity is not None
    figures = fidelity.outputs["logits"]
    low, drop, high = (figures[name] for name in ("drop_low", "drop", "drop_high"))
    assert low is not None
    assert drop is not None
    assert high is not None
    assert 0 <= low <= drop <= high < 0.3
    assert "points of accuracy is predicted" in fidelity.note


def test_too_few_samples_to_set_some_apart_are_said() -> None:
    with np.load(FIXTURES / "calib.npz") as data:
        images = data["image"][:64]
    result = hwpass.run(FIXTURES / "cnn.onnx", "mobile-cpu", macs=0.6, score="l2", calib=images, distill="off")
    fidelity = result.report.verdicts.fidelity
    assert fidelity is not None
    assert "on which the model was fitted too" in fidelity.note


def test_a_ruined_result_is_not_written_without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judged, "RUINED", 0.3)
    asked: dict[str, Any] = {"macs": 0.04, "distill": "off"}
    with pytest.raises(VerdictError, match=r"nothing was written: .*points of accuracy may be lost.*force"):
        hwpass.run(WORDS, "server-cpu", **asked)
    forced = hwpass.run(WORDS, "server-cpu", force=True, **asked)
    fidelity = forced.report.verdicts.fidelity
    assert fidelity is not None
    assert fidelity.alarming
    assert fidelity.state == "not judged"
    assert any("may be lost" in warning for warning in forced.report.warnings)


def test_a_tolerance_of_ones_own_decides_instead() -> None:
    found = hwpass.run(WORDS, "server-cpu", macs=0.04, distill="off", fidelity="top1>=0.01")
    assert found.report.verdicts.fidelity is not None
    assert found.report.verdicts.fidelity.state == "passed"


def test_a_score_that_makes_no_inputs_is_judged_on_random_ones() -> None:
    found = hwpass.run(WORDS, "server-cpu", macs=0.04, score="l2", compensate="off")
    fidelity = found.report.verdicts.fidelity
    assert fidelity is not None
    assert fidelity.state == "not judged"
    assert "drop" not in fidelity.outputs["logits"]
