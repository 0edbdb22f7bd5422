"""Plans: JSON and back, and what does not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sketch import Sketch

from hwpass.coupling import Coupling, couple
from hwpass.errors import InputError
from hwpass.ir import Model
from hwpass.plan import Plan


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the file"),
        ('{"schema": 1}', "model_sha256"),
        (edited(kept=[-1]), "groups.0.kept.0"),
        (edited(more=1), "groups.0.more"),
        (plan(coupled()).to_json().replace('"schema": 1', '"schema": 2'), "schema"),
    ],
)
def test_what_is_not_a_plan_names_the_field(text: str, message: str) -> None:
    with pytest.raises(InputError, match="not a plan") as caught:
        Plan.from_json(text, "p.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith("p.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "other"}, "names group other"),
        ({"width": 6}, "has 6 channels"),
        ({"kept": [0, 4]}, "the model's has 4"),
        ({"kept": []}, "without a channel"),
    ],
)
def test_a_plan_for_another_model(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan.from_json(edited(**changes)).keep(coupled())
