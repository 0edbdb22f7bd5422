"""Sequences, optionals and the like, which have no node tests of their own, freeze with a reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from onnx import TensorProto, helper
from oracle import check
from sketch import Sketch

from hwpass.coupling.chains import frozen_layers
from hwpass.coupling.groups import couple
from hwpass.model.model import Model


def _sequence(s: Sketch, h: str) -> str:
    return s.op("SequenceConstruct", h, h)


def _first(s: Sketch, sequence: str) -> str:
    return s.op("SequenceAt", sequence, s.const(0))


def _optional(s: Sketch, h: str) -> str:
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    s.op("Optional", type=kind)  # an empty one
    return s.op("OptionalGetElement", s.op("Optional", h))


def _has_element(s: Sketch, h: str) -> str:
    return s.op("Where", s.op("OptionalHasElement", s.op("Optional", h)), h, s.op("Neg", h))


def _length(s: Sketch, h: str) -> str:
    return s.op("Mul", h, s.op("Cast", s.op("SequenceLength", _sequence(s, h)), to=1))


#: From a tensor [N, 5, 6] to one of that shape, by way of the operator.
CONTAINERS: dict[str, Callable[[Sketch, str], str]] = {
    "ConcatFromSequence": lambda s, h: s.op(
        "ConcatFromSequence", s.op("SplitToSequence", h, s.const([2, 4]), axis=2), axis=2
    ),
    "Optional": _optional,
    "OptionalGetElement": _optional,
    "OptionalHasElement": _has_element,
    "SequenceAt": lambda s, h: _first(s, _sequence(s, h)),
    "SequenceConstruct": lambda s, h: _first(s, _sequence(s, h)),
    "SequenceEmpty": lambda s, h: _first(s, s.op("SequenceInsert", s.op("SequenceEmpty"), h)),
    "SequenceErase": lambda s, h: _first(s, s.op("SequenceErase", _sequence(s, h), s.const(1))),
    "SequenceInsert": lambda s, h: _first(s, s.op("SequenceInsert", _sequence(s, h), h)),
    "SequenceLength": _length,
    "SplitToSequence": lambda s, h: s.op("Concat", *[
        s.op("SequenceAt", s.op("SplitToSequence", h, s.const([2, 4]), axis=2), s.const(place)) for place in (0, 1)
    ], axis=2),
}  # fmt: skip


@pytest.mark.parametrize("op", CONTAINERS)
def test_what_goes_through_a_container_keeps_its_width(op: str) -> None:
    s = Sketch(18)
    h = s.linear(s.input(["N", 5, 4]), 4, 6)
    layer = s.nodes[-1].name
    s.output(s.linear(CONTAINERS[op](s, h), 6, 3), s.linear(s.linear(h, 6, 8), 8, 2))
    outcome = check(s.model(), 0)
    assert outcome.surgery.modified  # the 8 channels beside it
    frozen = [node for node in outcome.coupling.nodes if node.op == op]
    assert frozen
    assert {node.frozen for node in frozen} == {f"what passes through {op} keeps its width"}
    assert dict(frozen_layers(outcome.coupling))[layer].startswith("what passes through ")


@pytest.mark.parametrize(("op", "reason"), [
    ("ImageDecoder", "pixels of a picture file"), ("Multinomial", "random numbers are drawn for the whole tensor"),
])  # fmt: skip
def test_what_cannot_be_run_here_freezes(op: str, reason: str) -> None:
    s = Sketch(20)
    if op == "ImageDecoder":
        x = s.op("Cast", s.op("ImageDecoder", s.input(["L"], dtype=TensorProto.UINT8)), to=1)
    else:
        x = s.op("Cast", s.op("Multinomial", s.linear(s.input(["N", 4]), 4, 6), sample_size=3), to=1)
    s.output(s.linear(s.linear(x, 3, 8), 8, 2))
    coupling = couple(Model.load(s.model()))
    assert next(node.frozen for node in coupling.nodes if node.op == op) == reason
    assert [group.width for group in coupling.groups] == [8]
