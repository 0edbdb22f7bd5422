"""Hooks around every pass: what they are told, in which order, and that an error in one ends the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
from sketch import Sketch

from hwpass.context import Context
from hwpass.errors import InputError, VerdictError
from hwpass.instrument import Instrument, PassRecord, Step
from hwpass.manager import Pass, PassManager, PassResult
from hwpass.model.model import Model
from hwpass.spans import collected, span


def model() -> Model:
    s = Sketch()
    s.output(s.op("Relu", s.op("Abs", s.input(["N", 2]))))
    return Model.load(s.model())


@dataclass(frozen=True)
class Rename(Pass):
    """Gives the last node another operator, in place."""

    name = "rename-for-a-test"
    to: str = "Neg"

    def run(self, model: Model, context: Context) -> PassResult:
        with span("inner"), span("most inner"):
            changed = model.graph.nodes[-1].op != self.to
        model.graph.nodes[-1].op = self.to
        return PassResult(model, changed)


@dataclass(frozen=True)
class Fails(Pass):
    """Raises."""

    name = "fails-for-a-test"

    def run(self, model: Model, context: Context) -> PassResult:
        raise InputError("its own words")


class Watch(Instrument):
    """Writes down what it is told."""

    needs_before: ClassVar[bool] = True

    def __init__(self, refuse: str = "", object_to: str = "") -> None:
        self.refuse, self.object_to = refuse, object_to
        self.seen: list[tuple[str, ...]] = []

    def begin(self, steps: Sequence[Step], model: Model, context: Context) -> None:
        self.seen.append(("begin", *map(str, steps)))

    def refuses(self, step: Step, model: Model, context: Context) -> str | None:
        return "not today" if self.refuse and self.refuse in str(step) else None

    def before(self, step: Step, model: Model, context: Context) -> None:
        self.seen.append(("before", str(step), model.nodes[-1].op))

    def after(self, step: Step, before: Model, model: Model, record: PassRecord, context: Context) -> None:
        self.seen.append(("after", record.name, before.nodes[-1].op, model.nodes[-1].op, str(record.changed)))
        if self.object_to and self.object_to in str(step):
            raise VerdictError("objection")

    def skipped(self, step: Step, model: Model, record: PassRecord, context: Context) -> None:
        self.seen.append(("skipped", record.name, str(record.skipped)))

    def failed(self, step: Step, model: Model, error: Exception, context: Context) -> None:
        self.seen.append(("failed", str(step), model.nodes[-1].op, str(error)))

    def end(self, model: Model, context: Context) -> None:
        self.seen.append(("end", model.nodes[-1].op))


NEG, EXP = "rename-for-a-test", "rename-for-a-test{to=Exp}"


def test_hooks_are_told_of_every_pass_in_order() -> None:
    watch = Watch(refuse="Exp")
    manager = PassManager([Rename(), Rename("Exp"), Rename()], instruments=[watch])
    manager.run(model())
    assert watch.seen == [
        ("begin", NEG, EXP, NEG),
        ("before", NEG, "Relu"),
        ("after", NEG, "Relu", "Neg", "True"),
        ("skipped", EXP, "not today"),
        ("before", NEG, "Neg"),
        ("after", NEG, "Neg", "Neg", "False"),
        ("end", "Neg"),
    ]
    assert [record.skipped for record in manager.records] == [None, "not today", None]


def test_a_failure_reaches_every_instrument_with_the_model_before_it() -> None:
    first, second = Watch(), Watch()
    with pytest.raises(InputError) as caught:
        PassManager([Rename(), Fails(), Rename()], instruments=[first, second]).run(model())
    assert first.seen[-1] == second.seen[-1] == ("failed", "fails-for-a-test", "Neg", "its own words")
    assert caught.value.place == "in pass fails-for-a-test, after rename-for-a-test"


def test_what_a_hook_refuses_is_a_failure_of_the_pass() -> None:
    watch = Watch(object_to="Exp")
    with pytest.raises(VerdictError, match="objection") as caught:
        PassManager([Rename(), Rename("Exp")], instruments=[watch]).run(model())
    assert caught.value.place == "in pass rename-for-a-test, after rename-for-a-test"
    assert watch.seen[-1] == ("failed", EXP, "Neg", "objection")


def test_a_pass_is_timed_with_its_parts() -> None:
    manager = PassManager([Rename(), Rename()])
    manager.run(model())
    for record in manager.records:
        assert record.span is not None
        assert record.span.seconds == record.seconds > 0
        (inner,) = record.span.parts.values()
        (innermost,) = inner.parts.values()
        assert (inner.name, innermost.name) == ("inner", "most inner")
        assert record.seconds >= inner.seconds >= innermost.seconds > 0


def test_parts_of_one_name_are_one_part_and_nothing_is_timed_without_a_collector() -> None:
    with span("nobody collects"), collected("all") as root:
        for _ in range(3):
            with span("loop"):
                pass
    assert [(part.name, part.count) for part in root.parts.values()] == [("loop", 3)]
    assert root.rest == pytest.approx(root.seconds - root.parts["loop"].seconds)


def test_an_error_ends_the_spans_that_are_open() -> None:
    with pytest.raises(KeyError), collected("all") as root, span("open"):
        raise KeyError
    assert root.parts["open"].count == 1
    with collected("next") as other, span("part"):
        pass
    assert list(other.parts) == ["part"]
