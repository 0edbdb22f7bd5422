"""Plans: JSON and back, and what does not fit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sketch import Sketch

from hwpass.coupling.groups import Coupling, couple
from hwpass.errors import InputError
from hwpass.files.index_ranges import from_ranges, to_ranges
from hwpass.manager import PassManager, preparation
from hwpass.model.model import Model
from hwpass.planning.plan import Plan, PlannedWeight
from hwpass.workflows.steps import PREPARE


def coupled() -> Coupling:
    s = Sketch()
    s.output(s.conv(s.conv(s.conv(s.input(["N", 3, 4, 4]), 4, 3), 5, 4), 2, 5))
    return couple(Model.load(s.model()))


def plan(coupling: Coupling) -> Plan:
    return Plan.of(coupling, [np.asarray([0, 2]), np.asarray([1, 3, 4])], "fold")


def test_a_plan_survives_json() -> None:
    made = plan(coupled())
    text = made.to_json()
    assert Plan.from_json(text) == made
    assert Plan.from_json(text).to_json() == text
    assert json.loads(text)["schema"] == 1


def test_the_mask_keeps_the_named_channels() -> None:
    coupling = coupled()
    keep = plan(coupling).keep(coupling)
    assert keep[0]
    first, second = coupling.groups
    assert keep[first.components].tolist() == [True, False, True, False]
    assert keep[second.components].tolist() == [False, True, False, True, True]
    assert plan(coupling).widths() == {first.name: 2, second.name: 3}


def test_a_group_that_the_plan_leaves_out_is_whole() -> None:
    coupling = coupled()
    made = plan(coupling)
    made.groups.pop()
    assert made.keep(coupling)[coupling.groups[1].components].all()


def edited(**changes: object) -> str:
    data = json.loads(plan(coupled()).to_json())
    data["groups"][0].update(changes)
    return json.dumps(data)


def whole(**changes: object) -> str:
    return json.dumps(json.loads(plan(coupled()).to_json()) | changes)


def test_kept_channels_are_written_as_ranges() -> None:
    coupling = coupled()
    made = Plan.of(coupling, [np.asarray([0, 1, 3]), np.asarray([2])], "fold")
    made.weights.append(PlannedWeight(node="conv", input=1, tensor="w", kept=[[0, 1, 3], None]))
    data = json.loads(made.to_json())
    assert [g["kept"] for g in data["groups"]] == ["0-1,3", "2"]
    assert data["weights"][0]["kept"] == ["0-1,3", None]
    assert Plan.from_json(made.to_json()) == made


@pytest.mark.parametrize("kept", ["0-1,3", " 3, 0 - 1", [0, 1, 3], [3, 1, 0]])
def test_ranges_and_lists_are_read_alike(kept: object) -> None:
    assert Plan.from_json(edited(kept=kept)).groups[0].kept == [0, 1, 3]


def test_no_channel_at_all_is_an_empty_text() -> None:
    assert Plan.from_json(edited(kept="")).groups[0].kept == []


@given(st.sets(st.integers(0, 400)))
def test_any_positions_survive_their_text(positions: set[int]) -> None:
    assert from_ranges(to_ranges(sorted(positions)), 401) == sorted(positions)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the file"),
        ("", "the file"),
        ("[]", "the file"),
        ("null", "the file"),
        ('{"schema": 1}', "model_sha256"),
        (edited(kept=[-1]), "groups.0.kept.0"),
        (edited(kept="-1"), "groups.0.kept: '-1' is not a position"),
        (edited(kept="3-1"), "groups.0.kept: the range 3-1 runs backwards"),
        (edited(kept="0-99999999999"), "is not a position or a range"),
        (edited(kept="0-999999999"), "more than 8388608 positions"),
        (edited(kept="0,,1"), "groups.0.kept"),
        (edited(kept="\u0663"), "groups.0.kept"),
        (edited(kept=["0"]), "groups.0.kept.0"),
        (edited(kept=[True]), "groups.0.kept.0"),
        (edited(kept=[0.0]), "groups.0.kept.0"),
        (edited(kept=[0, 1, 0]), "groups.0: channel 0 is there twice"),
        (edited(kept="0-2,1"), "groups.0: channel 1 is there twice"),
        (edited(kept=[0, 4]), "keeps channel 4, but its 4 are 0 to 3"),
        (edited(width=0), "groups.0.width"),
        (edited(width=-4), "groups.0.width"),
        (edited(width=10**30), "groups.0.width"),
        (edited(width=float("nan")), "NaN is no number"),
        (edited(width=float("inf")), "Infinity is no number"),
        (edited(width=4.0), "groups.0.width"),
        (edited(more=1), "groups.0.more"),
        (edited(name="a\nb", kept=[9]), "group a"),
        (whole(groups=[json.loads(edited())["groups"][0]] * 2), "is there twice"),
        (whole(weights=[{"node": "n", "input": -1, "tensor": "t", "kept": []}]), "weights.0.input"),
        (whole(weights=[{"node": "n", "input": 0, "tensor": "t", "kept": [[1, 1]]}]), "channel 1 is there twice"),
        (whole()[:-1] + ', "prepare": ""}', "key prepare is there twice"),
        (whole(schema=2), "schema"),
        (whole().replace('"width": 4', '"width": ' + "9" * 5000), "the file"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"x\\ny": 1}', "x\\ny"),
    ],
)
def test_what_is_not_a_plan_names_the_field(text: str, message: str) -> None:
    with pytest.raises(InputError, match="not a plan") as caught:
        Plan.from_json(text, "p.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith("p.json: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_ranges_that_mean_more_than_memory_holds_are_refused() -> None:
    group = json.loads(edited(width=8_000_000, kept="0-7999999"))["groups"][0]
    with pytest.raises(InputError, match=r"groups\.1\.kept: more than 388608 positions"):
        Plan.from_json(whole(groups=[group | {"name": str(n)} for n in range(1000)]))


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    with open(path, "wb") as stream:
        stream.truncate(8 << 30)
    with pytest.raises(InputError, match=r"p\.json: not a plan: it is larger than"):
        Plan.read(path)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        ("verify{metric=side_effect:fn}", "verify is no preparation pass; a plan may name conv1d-to-2d, eliminate"),
        ("fold,apply-plan{plan=/etc/passwd}", "apply-plan is no preparation pass"),
        ("fold,prune-channels{macs=0.5x}", "prune-channels is no preparation pass"),
        ("compensate", "compensate is no preparation pass"),
        ("flod", "there is no pass 'flod'"),
        ("fold{", "the name of an option"),
        ("fold,", "the name of a pass"),
        ("fold{limit=-1}", "limit=-1"),
        ("fold," * 100_000 + "fold", "characters"),
    ],
)
def test_a_plan_runs_nothing_but_preparation(
    prepare: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "side_effect.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"p\.json: prepare: ") as caught:
        preparation(Plan.from_json(whole(prepare=prepare)), "p.json")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "side_effect" not in sys.modules


def test_every_usual_preparation_may_stand_in_a_plan() -> None:
    for text in (",".join(map(str, PREPARE)), "", "fold{limit=4}"):
        assert preparation(Plan.from_json(whole(prepare=text))) == list(PassManager.parse(text).steps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "other"}, "names group other"),
        ({"width": 6}, "has 6 channels"),
        ({"kept": []}, "without a channel"),
    ],
)
def test_a_plan_for_another_model(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan.from_json(edited(**changes)).keep(coupled())


@pytest.mark.parametrize("position", [-1, 4])
def test_a_plan_changed_in_python_is_checked_again(position: int) -> None:
    made = plan(coupled())
    made.groups[0].kept.append(position)
    with pytest.raises(InputError, match="outside 0 to 3"):
        made.keep(coupled())


def test_the_digest_is_the_decisions() -> None:
    made = plan(coupled())
    digest = made.digest
    assert len(digest) == 64
    again = Plan.from_json(edited(kept=[2, 0]))
    again.groups.reverse()
    again.weights.append(PlannedWeight(node="conv", input=1, tensor="w", kept=[None]))
    assert again.digest == digest
    for other in (edited(kept=[0, 1]), whole(prepare=""), whole(model_sha256="0")):
        assert Plan.from_json(other).digest != digest


def test_a_whole_group_is_one_that_is_not_listed() -> None:
    coupling = coupled()
    made = plan(coupling)
    short = made.model_copy(update={"groups": made.groups[:1]})
    listed = short.completed(coupling, [])
    assert listed.widths() == {coupling.groups[0].name: 2, coupling.groups[1].name: 5}
    assert listed.digest == short.digest
