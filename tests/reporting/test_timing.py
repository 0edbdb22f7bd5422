"""Where the time of a run went, as a tree in the terminal and in the JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from reports import report

from hwpass.command.cli import main
from hwpass.reporting.schema import Report
from hwpass.reporting.schema_of_passes import PassRecord, TimedPart
from hwpass.reporting.timing import timing_rows

CNN = Path(__file__).parents[2] / "fixtures/cnn.onnx"


def test_the_tree_of_a_report_by_hand() -> None:
    curves = TimedPart(name="curves", seconds=1.0, count=3)
    study = TimedPart(name="study", seconds=1.5, count=1, parts=[curves, TimedPart(name="tiny", seconds=1e-6, count=1)])
    passes = [
        PassRecord(name="fold", seconds=0.5, changed=True),
        PassRecord(name="prune-channels{macs=0.5x}", seconds=2.0, changed=True, parts=[study]),
        PassRecord(name="distill", seconds=0.0, changed=False, skipped="the limit is 2"),
    ]
    assert timing_rows(report(passes=passes, seconds=4.0)) == [
        ("fold", "500 ms", "12.5 %", ""),
        ("prune-channels", "2.00 s", "50.0 %", ""),
        ("  study", "1.50 s", "37.5 %", ""),
        ("    curves", "1.00 s", "25.0 %", "3 times"),
        ("    the rest of it", "500 ms", "12.5 %", ""),
        ("  the rest of it", "500 ms", "12.5 %", ""),
        ("distill", "-", "-", "did not run: the limit is 2"),
        ("outside passes", "1.50 s", "37.5 %", ""),
    ]


def test_a_run_tells_the_parts_of_its_passes(tmp_path: Path) -> None:
    ended = CliRunner().invoke(main, [
        "run", str(CNN), "--target", "mobile-cpu", "--macs", "0.5x", "--score", "l2", "--timing", "--dry-run",
        "--json", str(tmp_path / "report.json"),
    ])  # fmt: skip
    assert ended.exit_code == 0
    tree = ended.stdout
    told = ["\nfold-redundant ", "\n  coupling ", "\nprune-channels ", "\n  allocation ", "\n  cut ", "\nverify "]
    assert [tree.index(line) for line in told] == sorted(tree.index(line) for line in told)
    found = Report.from_json((tmp_path / "report.json").read_text())
    for item in found.passes:
        assert sum(part.seconds for part in item.parts) <= item.seconds + 1e-3
    prune = next(item for item in found.passes if item.name.startswith("prune-channels"))
    assert {"allocation", "cut"} <= {part.name for part in prune.parts}
    verify = next(item for item in found.passes if item.name.startswith("verify"))
    assert "proof" in {part.name for part in verify.parts}
    assert json.loads(found.to_json())["passes"][0]["parts"] == []


@pytest.mark.parametrize("seconds", [0.0, 1e-9])
def test_a_run_of_no_time_has_a_tree_too(seconds: float) -> None:
    rows = timing_rows(report(passes=[], seconds=seconds))
    assert [row[0] for row in rows] == ["outside passes"]
