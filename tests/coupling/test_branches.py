"""Branches that go as a whole: what may, what goes with it, and that the rest computes what it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from oracle import check
from sketch import Sketch

from hwpass.coupling.branches import branches
from hwpass.coupling.groups import Coupling, couple
from hwpass.model.model import Model

FIXTURES = Path(__file__).parents[2] / "fixtures"


def removable(coupling: Coupling) -> dict[str, int]:
    return {g.name: i for i, g in enumerate(coupling.groups) if branches(coupling)[i] is not None}


@pytest.mark.parametrize("name", ["resnet_se", "mobilenet", "vit"])
def test_any_branch_of_a_trained_network_may_go(name: str) -> None:
    proto = onnx.load(FIXTURES / f"{name}.onnx")
    coupling = couple(Model.load(proto))
    numbers = list(removable(coupling).values())
    assert len(numbers) >= 3
    for number in numbers:
        outcome = check(proto, keep={number: np.zeros(coupling.groups[number].width, bool)})
        assert len(outcome.surgery.model.graph.nodes) < len(coupling.nodes) - 2


def test_all_branches_at_once() -> None:
    proto = onnx.load(FIXTURES / "vit.onnx")
    coupling = couple(Model.load(proto))
    found = removable(coupling).values()
    outcome = check(proto, keep={i: np.zeros(coupling.groups[i].width, bool) for i in found})
    assert "Softmax" not in {n.op for n in outcome.surgery.model.graph.nodes}


def test_what_the_whole_output_needs_stays() -> None:
    # conv -> conv: without the first's channels nothing of the input would reach the output.
    s = Sketch()
    x = s.input([None, 4, 8, 8])
    s.output(s.conv(s.op("Relu", s.conv(x, 6, 4)), 5, 6))
    assert removable(couple(Model.load(s.model()))) == {}


def test_a_padded_window_sees_where_a_constant_ends() -> None:
    # x + conv3x3(relu(conv(conv(x)))): a constant does not go through zero padding, so the inner group must stay.
    s = Sketch()
    x = s.input([None, 4, 8, 8])
    inner = s.op("Relu", s.conv(x, 6, 4))
    middle = s.op("Relu", s.conv(inner, 7, 6))
    s.output(s.conv(s.op("Add", s.conv(x, 5, 4), s.conv(middle, 5, 7, kernel=3, pads=[1] * 4)), 3, 5))
    coupling = couple(Model.load(s.model()))
    widths = {coupling.groups[i].width for i in removable(coupling).values()}
    assert widths == {7}


def concatenated(last: bool = True) -> onnx.ModelProto:
    """conv(cat(x', a, b)), where a and b are branches of two convolutions; without `last`, a and b alone are joined."""
    s = Sketch()
    x = s.input([None, 4, 8, 8])
    stem = s.op("Relu", s.conv(x, 5, 4))
    parts = [
        s.conv(s.op("Relu", s.conv(stem, width, 5)), out, width, kernel=3, pads=[1] * 4)
        for width, out in ((6, 7), (8, 9))
    ]
    joined = s.op("Concat", *([stem] if last else []), *parts, axis=1)
    s.output(s.conv(s.op("Relu", joined), 3, 16 + 5 * last))
    return s.model()


def test_a_part_of_a_concatenation_goes_with_all_that_led_to_it() -> None:
    proto = concatenated()
    coupling = couple(Model.load(proto))
    found = removable(coupling)
    assert {coupling.groups[i].width for i in found.values()} == {7, 9}
    for number in found.values():
        outcome = check(proto, keep={number: np.zeros(coupling.groups[number].width, bool)})
        assert len(outcome.surgery.model.graph.nodes) <= len(coupling.nodes) - 3
    outcome = check(proto, keep={i: np.zeros(coupling.groups[i].width, bool) for i in found.values()})
    assert {n.op for n in outcome.surgery.model.graph.nodes} == {"Conv", "Relu", "Identity"}
    assert len(outcome.surgery.model.graph.nodes) == len(coupling.nodes) - 6


def test_a_concatenation_keeps_one_part() -> None:
    coupling = couple(Model.load(concatenated(last=False)))
    assert len(removable(coupling)) == 1


def test_a_split_stays_for_the_other_half() -> None:
    # One half of a convolution goes through another and is joined to the other half again.
    s = Sketch()
    x = s.input([None, 4, 8, 8])
    first, second = s.ops("Split", s.conv(x, 12, 4), count=2, axis=1)
    s.output(s.conv(s.op("Concat", first, s.op("Relu", second), axis=1), 3, 12))
    proto = s.model()
    coupling = couple(Model.load(proto))
    for number in removable(coupling).values():
        check(proto, keep={number: np.zeros(coupling.groups[number].width, bool)})
