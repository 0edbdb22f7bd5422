"""Findings of a pass's own: from a pass of another distribution to every form of the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributions import distribution, python
from reports import report, text

from hwpass.plugins import PASSES
from hwpass.reporting.renderers.html import page
from hwpass.reporting.renderers.markdown import Markdown
from hwpass.reporting.schema import Report
from hwpass.verdicts.findings import Findings
from hwpass.verdicts.notes import as_note

ROOT = Path(__file__).parents[2]
CNN = ROOT / "fixtures/cnn.onnx"

CENSUS = """
from __future__ import annotations
from dataclasses import dataclass
import numpy as np
from hwpass.manager import Pass, PassResult, register

@register
@dataclass(frozen=True)
class Census(Pass):
    '''A network -> the same network, its operators counted.'''
    name = "census"
    effect = "none"

    def run(self, model, context):
        ops = [node.op for node in model.walk()]
        context.findings.note(self.name, {"Conv": np.int64(ops.count("Conv")), "kinds": sorted(set(ops)), "of": "<m>"})
        return PassResult(model, False)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("census")
    distribution(made, "census", CENSUS, {PASSES: "census = {module}"})
    return made


def test_a_pass_from_outside_has_findings_in_every_report(folder: Path) -> None:
    done = python(
        folder, "-m", "hwpass", "run", str(CNN), "--target", "mobile-cpu", "--pipeline",
        "fold,census,prune-channels{macs=0.7x,score=l2},census,verify", "--dry-run", "--json", "r.json",
        "--report", "r.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    notes = json.loads((folder / "r.json").read_text(encoding="utf-8"))["notes"]
    assert list(notes) == ["census"]
    assert list(notes["census"]) == ["Conv", "kinds", "of"]
    assert notes["census"]["Conv"] > 0
    assert "Conv" in notes["census"]["kinds"]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["pass", "found", "value"] in lines
    assert ["census", "Conv", str(notes["census"]["Conv"])] in lines
    html = (folder / "r.html").read_text(encoding="utf-8")
    assert "<h2>Found by passes</h2>" in html
    assert "<td>&lt;m&gt;</td>" in html


def noted() -> Report:
    return report(notes={"b": {"y": 2.5, "x": "a|b\n\x1b[2J<i>"}, "a": {"z": {"deep": [1, None]}}})


def test_notes_come_back_from_json() -> None:
    written = noted().to_json()
    assert list(json.loads(written)["notes"]) == ["a", "b"]
    assert list(json.loads(written)["notes"]["b"]) == ["y", "x"]
    assert Report.from_json(written).to_json() == written


def test_notes_are_shown_on_one_printable_line_each() -> None:
    rows = noted().note_rows()
    assert rows == [("a", "z", '{"deep": [1, null]}'), ("b", "y", "2.5"), ("b", "x", "a|b\\n\\x1b[2J<i>")]
    for shown in (text(noted()), page(noted()), Markdown().page(noted())):
        assert "\x1b" not in shown
        assert "2.5" in shown
    assert "a|b\\n\\x1b[2J&lt;i&gt;" in page(noted())
    assert "| b | x | a&#124;b&#92;n" in Markdown().page(noted())


def test_reports_without_notes_say_nothing_of_them() -> None:
    assert "found" not in text(report())
    assert "Found by passes" not in page(report())
    assert "Found by passes" not in Markdown().page(report())


def test_a_later_note_adds_to_an_earlier_one_and_leaves_copies_alone() -> None:
    first = Findings()
    first.note("census", {"a": 1, "b": 2})
    second = Findings(notes=dict(first.notes))
    second.note("census", {"b": 3, "c": 4})
    assert second.notes == {"census": {"a": 1, "b": 3, "c": 4}}
    assert first.notes == {"census": {"a": 1, "b": 2}}


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"n": np.float32(0.5), "m": np.bool_(True)}, {"n": 0.5, "m": True}),
        ({"n": float("inf"), "m": np.asarray([[1, 2]])}, {"n": None, "m": [[1, 2]]}),
        ({"n": "m\udcff", 3: {"k": (1, "x")}}, {"n": "m\\udcff", "3": {"k": [1, "x"]}}),
    ],
)
def test_notes_are_plain(given: Mapping[Any, Any], plain: dict[str, Any]) -> None:
    assert as_note(given) == plain
    json.dumps(as_note(given), allow_nan=False)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", 1j, np.asarray([object()])])
def test_what_json_has_no_form_for_is_named(value: object) -> None:
    with pytest.raises(TypeError, match=r"note shape: a .* is no JSON"):
        as_note({"shape": value})
