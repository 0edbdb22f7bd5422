"""The report: its schema is a contract, its renderings lose nothing and break on nothing."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from reports import AFTER, BEFORE, report, text
from rich.console import Console

import hwpass
from hwpass.cost.prediction import Cost
from hwpass.cost_models import load_target
from hwpass.coupling.groups import couple
from hwpass.reporting.renderers.html import page as html
from hwpass.reporting.schema import (
    Costs,
    ExactnessVerdict,
    FidelityVerdict,
    Frozen,
    GroupChange,
    MetricVerdict,
    ModelInfo,
    PassRecord,
    Ratios,
    Report,
    Verdicts,
    abbreviated,
    human_bytes,
    human_count,
    human_energy,
    human_seconds,
)
from hwpass.reporting.terminal import closing, show
from hwpass.verdicts.findings import MetricFound


def test_the_schema_has_exactly_these_keys() -> None:
    data = json.loads(report().to_json())
    assert list(data) == [
        "schema", "hwpass", "model", "target", "budget", "options", "before", "after", "ratio", "verdicts", "groups",
        "frozen", "passes", "seconds", "warnings", "trials", "measured", "notes",
    ]  # fmt: skip
    assert data["schema"] == 1
    assert list(data["model"]) == ["path", "sha256", "nodes", "opset"]
    costs = ["latency_ms", "energy_mj", "macs", "params", "size_bytes", "activation_bytes",
             "peak_activation_bytes", "peak_memory_bytes"]  # fmt: skip
    assert list(data["before"]) == list(data["after"]) == costs
    ratios = ["latency", "energy", "macs", "params", "size", "activations", "peak_activations",
              "peak_memory", "compression"]  # fmt: skip
    assert list(data["ratio"]) == ratios
    assert list(data["verdicts"]) == ["exactness", "fidelity", "metric"]
    assert list(data["verdicts"]["exactness"]) == ["passed", "state", "note", "max_abs", "max_rel", "legs"]
    assert list(data["verdicts"]["fidelity"]) == ["passed", "state", "note", "alarming", "outputs"]
    assert list(data["groups"][0]) == ["name", "before", "after", "loss", "latency_gain_ms", "layers"]
    assert list(data["frozen"][0]) == ["node", "reason"]
    assert list(data["passes"][0]) == ["name", "seconds", "changed", "status", "skipped", "parts"]


def test_json_is_deterministic_and_comes_back() -> None:
    first = report().to_json()
    assert first == report(budget={"energy": "5mJ", "latency": "0.6x"}).to_json()
    assert Report.from_json(first).to_json() == first
    assert json.loads(first)["verdicts"]["fidelity"]["outputs"] == {"y": {"cosine": 0.999, "top1": 0.98}}


def test_the_json_schema_describes_what_is_written() -> None:
    schema = Report.model_json_schema()
    assert set(json.loads(report().to_json())) == set(schema["properties"])
    assert schema["properties"]["schema"]["const"] == 1


def test_only_finite_figures_are_written() -> None:
    verdict = ExactnessVerdict(passed=False, state="failed", max_abs=math.inf, max_rel=math.nan)
    failed = report(verdicts=Verdicts(exactness=verdict))
    assert json.loads(failed.to_json())["verdicts"]["exactness"] == {
        "passed": False,
        "state": "failed",
        "note": "",
        "max_abs": None,
        "max_rel": None,
        "legs": [],
    }
    with pytest.raises(ValidationError):
        report(seconds=math.inf)


def test_a_misspelt_key_is_refused() -> None:
    with pytest.raises(ValidationError):
        report(warning=[])
    with pytest.raises(ValidationError):
        Costs.model_validate({"macs": 1, "params": 1, "size_bytes": 1, "latency": 3})


def test_ratios_are_after_over_before() -> None:
    ratio = Ratios.of(BEFORE, AFTER)
    assert ratio.latency == pytest.approx(0.6)
    assert ratio.compression == pytest.approx(2.0)
    nothing = Costs(macs=0, params=0, size_bytes=0)
    assert Ratios.of(nothing, nothing) == Ratios()


def test_the_terminal_shows_costs_verdicts_groups_frozen_and_warnings() -> None:
    shown = text(report())
    for part in (
        "m.onnx for mobile-cpu", "asked",
        "15.5 ms", "9.30 ms", "0.6x", "5mJ", "4.09 G", "97.3 MiB",
        "exactness passed", "fidelity FAILED", "top1 0.98", "a:b: 0.9 before, 0.89 after",
        "64 -> 48", "a, b, c, d", "1 of 2 groups changed",
        "graph output", "[bold]x", "warning: be careful", "3.25 s in all",
    ):  # fmt: skip
        assert part in shown, part
    assert "g2" not in shown


def shown_states(item: Report) -> tuple[str, str]:
    """The terminal with its colours, and the page."""
    console = Console(file=io.StringIO(), width=200, color_system="standard", force_terminal=True)
    show(item, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), html(item)


@pytest.mark.parametrize(
    ("verdict", "colour", "kind"),
    [
        ({"passed": True}, "32m", 'class="passed">passed'),
        ({"passed": False}, "1;31m", 'class="failed">failed'),
        ({"passed": None}, "33m", 'class="open">not judged'),
        ({"passed": None, "alarming": True}, "1;31m", 'class="alarming">not judged'),
    ],
)
def test_green_is_kept_for_what_passed(verdict: dict[str, Any], colour: str, kind: str) -> None:
    judged = FidelityVerdict.model_validate({**verdict, "note": "a sentence", "outputs": {"y": {"cosine": 0.5}}})
    terminal, page = shown_states(report(verdicts=Verdicts(fidelity=judged)))
    word = {True: "passed", False: "FAILED", None: "not judged"}[verdict["passed"]]
    assert f"\x1b[{colour}{word}\x1b[0m: a sentence (y: cosine 0.5)" in terminal
    assert ("\x1b[32m" in terminal) is (verdict["passed"] is True)
    assert kind in page
    assert "a sentence (y: cosine 0.5)" in page


def test_a_state_agrees_with_passed_and_follows_from_it_in_older_files() -> None:
    assert FidelityVerdict.model_validate({"passed": True, "outputs": {}}).state == "passed"
    assert FidelityVerdict.model_validate({"passed": None}).state == "not judged"
    with pytest.raises(ValidationError, match="cannot have"):
        FidelityVerdict.model_validate({"passed": True, "state": "failed"})


@pytest.mark.parametrize(
    ("allowed", "state", "note"),
    [(None, "not judged", "max_drop"), (0.02, "passed", "within"), (0.005, "failed", "more than")],
)
def test_a_metric_without_a_largest_drop_is_not_judged(allowed: float | None, state: str, note: str) -> None:
    verdict = MetricVerdict.of(MetricFound("a:b", 0.9, 0.89, allowed))
    assert verdict.state == state
    assert note in verdict.note
    assert verdict.max_drop == allowed
    written = json.loads(report(verdicts=Verdicts(metric=verdict)).to_json())["verdicts"]["metric"]
    assert (written["passed"], written["state"]) == (verdict.passed, state)


def of_size(path: Path, size: int) -> None:
    with open(path, "wb") as stream:
        stream.truncate(size)


def test_the_closing_line_says_what_was_written_and_that_latency_is_predicted(tmp_path: Path) -> None:
    item = report()
    path = tmp_path / "out.onnx"
    of_size(path, AFTER.size_bytes + 7)
    said = closing(item, str(path), (str(tmp_path / "plan.json"), None, "-"))
    assert f"{AFTER.size_bytes + 7:,} bytes (weights {AFTER.size_bytes:,} bytes, {BEFORE.size_bytes:,} before)" in said
    assert "plan.json" in said
    assert said.endswith("latency is predicted, not measured: see `hwpass bench`")
    # Weights beside the file count.
    of_size(path, 100)
    of_size(path.with_name("out.onnx.data"), AFTER.size_bytes)
    assert f": {AFTER.size_bytes + 100:,} bytes" in closing(item, str(path))
    assert "standard output" in closing(item, "-")
    assert closing(item, None).startswith("no model was written: give -o OUT")
    assert closing(item, None, dry_run=True).startswith("no model was written: this was a dry run")
    costs = Costs(macs=10, params=10, size_bytes=10)
    assert "latency" not in closing(report(before=costs, after=costs), "-")


def test_a_bare_report_is_shown() -> None:
    costs = Costs(macs=10, params=10, size_bytes=10)
    bare = report(
        target=None, budget={}, before=costs, after=costs, ratio=Ratios.of(costs, costs), verdicts=Verdicts(),
        groups=[], frozen=[], passes=[], warnings=[],
    )  # fmt: skip
    shown = text(bare, width=40)
    assert "no group was changed" in shown
    assert "latency" not in shown
    assert "No group was changed" in html(bare)


def test_html_is_self_contained_and_escaped() -> None:
    evil = '<script>alert(1)</script>&"'
    text = html(
        report(
            model=ModelInfo(path=evil, sha256="0" * 64, nodes=1, opset=17),
            target=evil,
            budget={evil: evil},
            groups=[GroupChange(name=evil, before=4, after=2, layers=[evil])],
            frozen=[Frozen(node=evil, reason=evil)],
            passes=[PassRecord(name=evil, seconds=1, changed=False)],
            warnings=[evil],
            verdicts=Verdicts(fidelity=FidelityVerdict(passed=True, state="passed", outputs={evil: {evil: 1.0}})),
        )
    )
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"https?://|src=|@import|url\(", text)
    assert text.startswith("<!DOCTYPE html>")
    assert text.count("<table") == text.count("</table>") == 5
    assert 'aria-label="4 to 2"' in text


def test_figures_for_people() -> None:
    assert [human_bytes(size) for size in (999, 1024, 1024**2 * 97.3)] == ["999 B", "1.00 KiB", "97.3 MiB"]
    assert human_bytes(2**50) == "1024 TiB"
    assert [human_count(count) for count in (0, 1000, 999_999, 1e15)] == ["0", "1.00 k", "1.00 M", "1000 T"]
    assert [human_seconds(s) for s in (0.001, 59.99, 3600, None)] == ["1.00 ms", "60.0 s", "1 h 0 min", "-"]
    assert human_energy(None) == "-"
    assert abbreviated(["a"]) == "a"


def test_costs_are_those_of_pairs_and_zeros_too() -> None:
    """Before and after a cut, a factored layer and masks: not those of the plan alone."""
    target = load_target("server-cpu")
    path = Path(__file__).parents[2] / "fixtures" / "cnn.onnx"
    data = {"image": np.load(path.with_name("calib.npz"))["image"][:96]}
    pipeline = (
        "fold,fuse-bn,{}factorize{{latency=0.8x,refit=false}},prune-weights{{zeros=magnitude,refit=false}},verify"
    )
    found = {}
    for cut in ("", "prune-channels{latency=0.8x,score=l2},"):
        result = hwpass.run(path, "server-cpu", pipeline=pipeline.format(cut), calib=data)
        after = result.report.after
        assert after.latency_ms == pytest.approx(1e3 * Cost(couple(result.model), target).base["latency"])
        found[cut] = result.report.ratio.latency
        assert result.report.after.size_bytes == result.model.size_bytes()
    assert found[""] == pytest.approx(0.8, abs=0.05)
    assert found["prune-channels{latency=0.8x,score=l2},"] == pytest.approx(0.64, abs=0.06)
