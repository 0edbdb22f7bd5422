"""The search for the fastest model within an allowed drop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import hwpass
from hwpass import BudgetError, UsageError
from hwpass.command.cli import main
from hwpass.workflows import metric_search as search

ROOT = Path(__file__).parents[2]
CNN = ROOT / "fixtures/cnn.onnx"
METRIC = "fixtures.metrics:search_accuracy"


def images(count: int) -> np.ndarray:
    with np.load(ROOT / "fixtures/calib.npz") as data:
        return np.asarray(data["image"][:count])


def scored(monkeypatch: pytest.MonkeyPatch, score: Callable[[float], float]) -> list[object]:
    """The metric becomes a function of the share of the weights that are left; the models it was asked of."""
    asked: list[object] = []

    def metric(function: object, model: onnx.ModelProto | Path, threads: int = 1) -> float:
        asked.append(model)
        proto = onnx.load(model) if isinstance(model, Path) else model
        weights = sum(int(np.prod(t.dims)) for t in proto.graph.initializer)
        dense = sum(int(np.prod(t.dims)) for t in onnx.load(CNN).graph.initializer)
        return score(weights / dense)

    for module in ("hwpass.workflows.metric_search", "hwpass.verdicts.task_metric", "hwpass.passes.verify"):
        monkeypatch.setattr(f"{module}.evaluate_metric", metric)
    return asked


def test_the_fastest_model_within_the_drop() -> None:
    # Feeds from a generator, which can be gone through only once.
    feeds = ({"image": image} for image in images(48))
    found = hwpass.run(CNN, "server-cpu", calib=feeds, metric=METRIC, max_drop=0.02, score="l2")
    report = found.report
    assert report.verdicts.metric is not None
    assert report.verdicts.metric.passed
    assert report.verdicts.metric.drop <= 0.02
    assert report.verdicts.exactness is not None
    assert report.verdicts.exactness.passed
    fastest = min((t for t in report.trials if t.passed), key=lambda t: t.latency)
    assert report.budget == {"latency": fastest.asked}
    assert report.ratio.latency == pytest.approx(fastest.latency)
    assert report.verdicts.metric.after == fastest.metric
    assert 0.1 < fastest.latency < 0.95
    assert any(not t.passed for t in report.trials)
    # The report says how to have the same model without the search.
    again = hwpass.run(CNN, "server-cpu", calib={"image": images(48)}, latency=fastest.asked, score="l2")
    assert again.plan == found.plan
    assert again.model.proto() == found.model.proto()


def test_it_ends_between_the_last_that_passed_and_the_first_that_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scored(monkeypatch, lambda weights: 1.0 if weights >= 0.5 else 0.0)
    report = hwpass.run(CNN, "server-cpu", metric=METRIC, max_drop=0.5, score="l2").report
    assert report.ratio.params is not None
    assert report.ratio.latency is not None
    assert report.ratio.params >= 0.5
    slowest_dropped = max(t.latency for t in report.trials if not t.passed)
    assert slowest_dropped < report.ratio.latency
    # The original once, every trial once, and the winner's verdict.
    assert len(asked) == 1 + len(report.trials) + 1
    assert len(report.trials) <= search.TRIALS
    assert len({t.latency for t in report.trials}) == len(report.trials)


def test_everything_within_the_drop_gives_about_the_narrowest(monkeypatch: pytest.MonkeyPatch) -> None:
    scored(monkeypatch, lambda weights: 1.0)
    report = hwpass.run(CNN, "server-cpu", metric=METRIC, max_drop=0.0, score="l2").report
    assert all(t.passed for t in report.trials)
    with pytest.raises(BudgetError, match="still takes"):
        hwpass.run(CNN, "server-cpu", latency=min(t.latency for t in report.trials) - search.BRACKET, score="l2")


def test_nothing_within_the_drop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scored(monkeypatch, lambda weights: weights)
    arguments = ["run", str(CNN), "--target", "server-cpu", "--metric", METRIC, "--max-drop", "0", "--score", "l2"]
    arguments += ["-o", str(tmp_path / "out.onnx"), "--json", str(tmp_path / "out.json")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 4, result.output
    assert result.stderr.count("\n") == 1
    assert "--max-drop 0: none of" in result.stderr
    assert list(tmp_path.iterdir()) == []
    result = CliRunner().invoke(main, [*arguments, "--force"])
    assert result.exit_code == 4, result.output
    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert report["verdicts"]["metric"]["passed"] is False
    assert report["verdicts"]["metric"]["max_drop"] == 0
    assert report["verdicts"]["metric"]["drop"] == min(t["drop"] for t in report["trials"])
    assert "warning: --max-drop 0" in result.stdout
    onnx.checker.check_model(str(tmp_path / "out.onnx"))


def test_a_model_without_channels_to_remove_says_so() -> None:
    with pytest.raises(BudgetError, match="nothing in this model can be pruned"):
        hwpass.run(CNN, "server-cpu", metric=METRIC, max_drop=0.01, keep=["*"], score="l2")


def test_with_a_budget_the_drop_is_a_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    scored(monkeypatch, lambda weights: weights)
    report = hwpass.run(CNN, "server-cpu", macs=0.7, metric=METRIC, max_drop=0.9, score="l2").report
    assert report.trials == []
    with pytest.raises(hwpass.VerdictError, match=r"more than max_drop=0\.001"):
        hwpass.run(CNN, "server-cpu", macs=0.7, metric=METRIC, max_drop=0.001, score="l2")


@pytest.mark.parametrize("drop", [-0.1, float("nan")])
def test_a_drop_below_zero_is_refused(drop: float) -> None:
    with pytest.raises(UsageError, match="max_drop"):
        hwpass.run(CNN, "server-cpu", metric=METRIC, max_drop=drop, score="l2")
