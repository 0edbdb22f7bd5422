"""The sweep: one study for all points, each proved, the Pareto front marked, and three views that agree."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import hwpass
from hwpass.command.cli import main
from hwpass.coupling.groups import Coupling
from hwpass.model.model import Model
from hwpass.planning import candidates as halfway
from hwpass.planning import study
from hwpass.planning.plan import Plan
from hwpass.reporting.schema import Costs, Ratios
from hwpass.reporting.sweep import SweepPoint, SweepReport, marked
from hwpass.verdicts.masking import masked
from hwpass.workflows import sweep as pareto

ROOT = Path(__file__).parents[2]
CNN = ROOT / "fixtures/cnn.onnx"
RESNET = ROOT / "fixtures/resnet_se.onnx"


def images(count: int) -> np.ndarray:
    with np.load(ROOT / "fixtures/calib.npz") as data:
        return np.asarray(data["image"][:count])


def command(*arguments: str | Path, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["sweep", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


def test_the_dense_model_is_studied_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And once alone where taking curves again on the way to a point would cost too much."""
    monkeypatch.setattr(halfway, "AFFORDABLE", 1.0)
    calls = {"of": 0, "retaken": 0}
    for name in calls:
        inner = getattr(study.Study, name)

        def counted(*arguments: Any, name: str = name, inner: Any = inner) -> Any:
            calls[name] += 1
            return inner(*arguments)

        monkeypatch.setattr(study.Study, name, counted)
    # A generator of feeds, which can be gone through only once.
    feeds = ({"image": image} for image in images(32))
    report = hwpass.sweep(RESNET, "server-cpu", points=[0.5, 0.8, 0.65], calib=feeds, output=tmp_path / "models")
    assert calls == {"of": 1, "retaken": 0}
    assert [p.asked for p in report.points] == ["1x", "0.8x", "0.65x", "0.5x"]
    for point in report.points[1:]:
        assert point.exactness is not None
        assert point.exactness.passed
        assert point.ratio is not None
        assert point.ratio.latency is not None
        assert point.ratio.latency <= float(point.asked.removesuffix("x"))
        assert point.file == str(tmp_path / "models" / f"resnet_se-latency-{point.asked}.onnx")
        onnx.checker.check_model(point.file, full_check=True)
    # A point is what a run of its own gives.
    alone = hwpass.run(RESNET, "server-cpu", latency=0.65, calib={"image": images(32)})
    alone.save(tmp_path / "alone.onnx")
    assert (tmp_path / "alone.onnx").read_bytes() == Path(str(report.points[2].file)).read_bytes()
    assert report.points[2].costs == alone.report.after
    assert report.points[0].costs == alone.report.before
    assert report.points[2].fidelity == alone.report.verdicts.fidelity


def test_table_json_and_csv_agree(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"out.{name}" for name in ("json", "csv")}
    result = command(
        RESNET, "--target", "server-cpu", "--points", "0.9,0.7x,0.01", "--metric", "fixtures.metrics:search_accuracy",
        "--score", "l2", "--json", paths["json"], "--csv", paths["csv"],
    )  # fmt: skip
    data = json.loads(paths["json"].read_text(encoding="utf-8"))
    report = SweepReport.model_validate(data)
    assert data["schema"] == 1
    assert SweepReport.model_validate_json(report.to_json()) == report
    rows = list(csv.DictReader(io.StringIO(paths["csv"].read_text(encoding="utf-8"))))
    assert [row["asked"] for row in rows] == [p["asked"] for p in data["points"]] == ["1x", "0.9x", "0.7x", "0.01x"]
    lines = [line for line in result.stdout.splitlines() if line.lstrip().startswith(("0.", "1x"))]
    for row, point, line in zip(rows, data["points"], lines, strict=True):
        assert row["status"] == point["status"]
        assert row["front"] == str(point["front"]).lower()
        assert row["reason"] == (point["reason"] or "")
        if point["status"] == "unreachable":
            assert point["costs"] is None
            assert row["latency_ms"] == row["exact"] == ""
            assert line == f"0.01x unreachable: {point['reason']}"
            assert "cannot be met" in line
            assert "--force" not in line
            continue
        assert float(row["latency_ms"]) == point["costs"]["latency_ms"]
        assert float(row["latency_ratio"]) == point["ratio"]["latency"]
        assert float(row["metric"]) == point["metric"]
        assert float(row["drop"]) == pytest.approx(data["points"][0]["metric"] - point["metric"])
        cells = line.split()
        assert f"{point['ratio']['latency']:.3f}x" in cells
        assert f"{point['metric']:.4g}" in cells
        assert (cells[-1] == "*") is point["front"]
        assert (row["exact"] == "true") is ("passed" in cells) is (point["status"] == "pruned")


def calibration(folder: Path) -> Path:
    np.savez(folder / "some.npz", image=images(32))
    return folder / "some.npz"


def test_a_sweep_along_size_without_a_metric_weighs_the_error_on_data(tmp_path: Path) -> None:
    result = command(
        CNN, "--target", "mobile-cpu", "--budget", "size", "--points", "0.7,0.2", "--score", "l2", "--csv", "-",
        "--compensate", "off", "--calib", calibration(tmp_path),
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["metric"] for row in rows] == ["", "", ""]
    assert float(rows[0]["rel_l2"]) == 0 < float(rows[1]["rel_l2"]) < float(rows[2]["rel_l2"])
    for row, share in zip(rows, (1, 0.7, 0.2), strict=True):
        assert float(row["size_ratio"]) <= share
        assert row["front"] == "true"
        assert row["data"] == ("" if share == 1 else "given")
        assert row["fidelity"] == ("" if share == 1 else "not judged")
    assert "along size" in result.stderr
    # Most weights are gone, and no refit: the warning names the point that it is about.
    assert "warning: at 0.2x: output 'logits' is far from the original's on your data" in result.stderr


def test_random_inputs_mark_no_front(tmp_path: Path) -> None:
    """They agree on all first choices where the labelled images show half of them to be wrong."""
    result = command(
        CNN, "--target", "mobile-cpu", "--points", "0.5,0.2", "--score", "l2", "--compensate", "off",
        "--json", tmp_path / "o.json", "--csv", tmp_path / "o.csv",
    )  # fmt: skip
    data = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
    assert [p["front"] for p in data["points"]] == [False] * 3
    assert data["front_note"] in result.stdout
    assert "give --metric, or inputs with --calib" in data["front_note"]
    assert {p["fidelity"]["state"] for p in data["points"][1:]} == {"not judged"}
    assert {p["fidelity"]["passed"] for p in data["points"][1:]} == {None}
    rows = list(csv.DictReader(io.StringIO((tmp_path / "o.csv").read_text(encoding="utf-8"))))
    assert [row["data"] for row in rows] == ["", "random", "random"]
    assert [row["front"] for row in rows] == ["false"] * 3
    assert "*" not in result.stdout
    assert "top1 (random)" in result.stdout


def test_nothing_within_reach_is_a_budget_that_cannot_be_met(tmp_path: Path) -> None:
    result = command(CNN, "--target", "mobile-cpu", "--points", "0.01,0.001", "--score", "l2", "--json",
                     tmp_path / "o.json", status=4)  # fmt: skip
    assert result.stderr.count("\n") == 1
    statuses = [p["status"] for p in json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))["points"]]
    assert statuses == ["dense", "unreachable", "unreachable"]


def test_a_model_that_fails_a_verdict_is_shown_but_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def other_channels(coupling: Coupling, plan: Plan) -> Model:
        turned = [g.model_copy(update={"kept": [g.width - 1 - i for i in g.kept]}) for g in plan.groups]
        return masked(coupling, plan.model_copy(update={"groups": turned}))

    monkeypatch.setattr("hwpass.verdicts.proof.masked", other_channels)
    result = command(
        CNN, "--target", "mobile-cpu", "--points", "0.7", "--score", "l2", "-o", tmp_path / "models", status=5
    )
    assert "FAILED" in result.stdout
    assert "0.7x failed: exactness failed" in result.stdout
    assert "a verdict failed at 0.7x" in result.stderr
    assert list((tmp_path / "models").iterdir()) == []


def test_an_interrupted_sweep_leaves_no_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    proved = pareto._Sweep.point

    def interrupted(work: Any, share: float, *rest: Any) -> SweepPoint:
        if share < 0.7:
            raise KeyboardInterrupt
        return proved(work, share, *rest)

    monkeypatch.setattr(pareto._Sweep, "point", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hwpass.sweep(CNN, "mobile-cpu", points=[0.8, 0.6], score="l2", output=tmp_path)
    assert list(tmp_path.iterdir()) == []


def point(cost: float, metric: float, status: str = "pruned") -> SweepPoint:
    costs = Costs(latency_ms=cost, macs=1, params=1, size_bytes=1)
    ratio = Ratios(latency=cost)
    return SweepPoint.model_validate(
        {"asked": f"{cost:g}x", "status": status, "costs": costs, "ratio": ratio, "metric": metric}
    )


FIGURE = st.integers(0, 6).map(lambda value: value / 4)


@given(st.lists(st.tuples(FIGURE, FIGURE), min_size=1, max_size=12))
def test_the_front_is_what_no_other_point_beats(figures: list[tuple[float, float]]) -> None:
    points = marked([point(*pair) for pair in figures], "latency")
    front = sorted(pair for pair, p in zip(figures, points, strict=True) if p.front)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(front))
    for cost, metric in figures:
        on_front = any((cost, metric) == pair for pair in front)
        beaten = any(c <= cost and m >= metric and (c, m) != (cost, metric) for c, m in figures)
        assert on_front is not beaten


def test_a_failed_point_is_never_on_the_front() -> None:
    points = marked([point(1.0, 0.9, "dense"), point(0.5, 0.95, "failed"), point(0.6, 0.8)], "latency")
    assert [p.front for p in points] == [True, False, True]


def test_the_command_offers_the_points_of_the_function() -> None:
    option = next(p for p in main.commands["sweep"].params if p.name == "points")
    assert pareto.parse_points(str(option.default)) == list(pareto.POINTS)


def test_points_are_taken_once_and_in_order() -> None:
    assert pareto._shares([0.5, 0.9, 0.5]) == [0.9, 0.5]
    with pytest.raises(hwpass.UsageError, match="at least one"):
        pareto._shares([])
    with pytest.raises(hwpass.UsageError, match="points=nan"):
        pareto._shares([float("nan")])
    with pytest.raises(hwpass.UsageError, match="budget='channels'"):
        hwpass.sweep(CNN, "server-cpu", budget="channels")
