"""Passes that do not do what they declare are named; skips say why; what fails leaves the last good model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from sketch import Sketch

import hwpass
from hwpass.context import Context
from hwpass.contract import NO_NORM_BEHIND_CONV, Condition
from hwpass.errors import InputError, ProofError, UsageError
from hwpass.instruments.preserved import CheckPreserved
from hwpass.manager import Pass, PassManager, PassResult, passes, register
from hwpass.model.fingerprint import Fingerprint
from hwpass.model.model import Model
from hwpass.pipeline import Group, Repeat

FIXTURES = Path(__file__).parents[2] / "fixtures"


def small() -> Model:
    s = Sketch()
    x = s.op("Conv", s.input(["N", 3, 6, 6]), s.weight(4, 3, 3, 3))
    x = s.op("Relu", x)
    s.output(s.op("Conv", x, s.weight(5, 4, 1, 1)))
    return Model.load(s.model())


@dataclass(frozen=True)
class Step(Pass):
    """Does what a test tells it."""

    name = "step-for-a-test"
    what: str = "nothing"

    def run(self, model: Model, context: Context) -> PassResult:
        if self.what in ("edits", "edits, then fails", "edits silently"):
            model.graph.nodes[1].op = "Sigmoid"
        if self.what == "edits, then fails":
            raise InputError("half-way")
        if self.what == "copies":
            model = model.copy()
            model.graph.nodes[1].op = "Sigmoid"
        if self.what == "narrows":
            first, last = (n for n in model.graph.nodes if n.op == "Conv")
            first.inputs[1] = gs.Constant("w0", first.inputs[1].values[:3])
            last.inputs[1] = gs.Constant("w1", last.inputs[1].values[:, :3])
            model.invalidate_shapes()
        if self.what == "tunes":
            node = model.graph.nodes[0]
            node.inputs[1] = gs.Constant("w0", 2 * node.inputs[1].values)
        if self.what == "skips":
            return PassResult(model, False, reason="nothing to do it on")
        return PassResult(model, self.what in ("edits", "copies", "narrows", "tunes"))


def declared(**declarations: Any) -> type[Step]:
    return type("Declared", (Step,), declarations)


def test_a_pass_that_edits_in_place_may_do_so_and_the_model_before_it_stays() -> None:
    model = small()
    manager = PassManager([declared(in_place=True)("edits"), declared(in_place=None)("copies")])
    result = manager.run(model)
    assert [node.op for node in result.nodes] == ["Conv", "Sigmoid", "Conv"]
    assert [node.op for node in model.nodes] == ["Conv", "Relu", "Conv"]


@pytest.mark.parametrize(
    ("in_place", "what", "message"),
    [
        (True, "copies", "pass step-for-a-test gave a new model; it declares in_place = True"),
        (False, "edits", "pass step-for-a-test edited the model that it was given; it declares in_place = False"),
        (False, "edits silently", "pass step-for-a-test edited the model that it was given"),
    ],
)
def test_one_that_does_otherwise_is_named(in_place: bool, what: str, message: str) -> None:
    with pytest.raises(ProofError, match=message):
        PassManager([declared(in_place=in_place)(what)]).run(small())


def test_a_pass_that_fails_half_way_leaves_the_last_good_model() -> None:
    manager = PassManager([Step("tunes"), Step("edits, then fails")])
    with pytest.raises(InputError, match="half-way"):
        manager.run(small())
    assert manager.last_good is not None
    assert [node.op for node in manager.last_good.nodes] == ["Conv", "Relu", "Conv"]
    assert manager.last_good.nodes[0].inputs[1].name == "w0"


def test_records_say_how_a_step_went_and_why_not() -> None:
    manager = PassManager([Step("edits"), Step(), Step("skips")])
    manager.run(small())
    assert [(r.status, r.reason) for r in manager.records] == [
        ("changed", ""), ("ran", ""), ("skipped", "nothing to do it on"),
    ]  # fmt: skip


def test_what_a_pass_requires_is_asked_for_before_it_runs() -> None:
    never = Condition("never", "it never holds", lambda model, context: "{name} needs what is never there")
    ran: list[str] = []
    with pytest.raises(UsageError, match="step-for-a-test needs what is never there"):
        PassManager([declared(requires=(never,), run=lambda self, m, c: ran.append("ran"))()]).run(small())
    assert ran == []


def test_what_a_pass_ensures_is_looked_for_when_it_ran() -> None:
    def missing(model: Model, context: Context) -> str | None:
        return next((f"{node.op} is there" for node in model.nodes if node.op == "Relu"), None)

    relu = Condition("no-relu", "there is no Relu", missing)
    PassManager([declared(ensures=(relu,))("edits")]).run(small())
    with pytest.raises(ProofError, match="pass step-for-a-test ensures no-relu, and does not: Relu is there"):
        PassManager([declared(ensures=(relu,))("tunes")]).run(small())


def test_a_norm_that_is_left_behind_a_convolution_is_seen() -> None:
    s = Sketch()
    x = s.op("Conv", s.input(["N", 3, 6, 6]), s.weight(4, 3, 3, 3))
    scale, shift, mean, variance = (s.const(np.ones(4, np.float32)) for _ in range(4))
    s.output(s.op("BatchNormalization", x, scale, shift, mean, variance))
    model = Model.load(s.model())
    assert "alone reads a Conv" in str(NO_NORM_BEHIND_CONV.missing(model, Context()))
    fused = PassManager.parse("fuse-bn").run(model)
    assert NO_NORM_BEHIND_CONV.missing(fused, Context()) is None


@pytest.mark.parametrize(("weight", "scale", "shift"), [(1e30, 1e30, 0.0), (1.0, 1.0, 3e38), (1.0, np.nan, 0.0)])
def test_a_norm_that_no_finite_weight_stands_for_stays_and_is_not_missed(
    weight: float, scale: float, shift: float
) -> None:
    s = Sketch()
    x = s.op("Conv", s.input(["N", 3, 4, 4]), s.const(np.full((4, 3, 1, 1), weight, np.float32)))
    by, plus, mean = (s.const(np.full(4, v, np.float32)) for v in (scale, shift, -shift))
    s.output(s.op("BatchNormalization", x, by, plus, mean, s.const(np.ones(4, np.float32))))
    kept = PassManager.parse("fuse-bn").run(Model.load(s.model()))
    assert [n.op for n in kept.graph.nodes] == ["Conv", "BatchNormalization"]


@pytest.mark.parametrize("analysis", ["shapes", "coupling", "cost"])
def test_an_analysis_that_is_not_preserved_is_found(analysis: str) -> None:
    def run(what: str) -> None:
        PassManager([declared(preserves=(analysis,))(what)], instruments=[CheckPreserved()]).run(small())

    run("tunes")
    with pytest.raises(ProofError, match=f"declares that it preserves {analysis}, and does not"):
        run("narrows")


def test_what_passes_of_a_run_preserve_is_checked_with_every_proof() -> None:
    pipeline = "fold,fuse-bn,fold-redundant,prune-channels{macs=0.7x,score=l2},compensate{samples=64,rows=512},verify"
    result = hwpass.run(
        FIXTURES / "cnn.onnx", "mobile-cpu", pipeline=pipeline, calib=FIXTURES / "calib.npz", verify_each=True
    )
    compensated = next(record for record in result.report.passes if record.name.startswith("compensate"))
    assert compensated.status == "changed"
    assert {"shapes", "coupling"} <= set(passes()["compensate"].preserves)


@pytest.mark.parametrize(
    ("declarations", "error", "message"),
    [
        ({"preserves": ("colours",)}, ValueError, "there is no analysis 'colours'; shapes, coupling, cost"),
        ({"requires": ("target",)}, TypeError, "tuples of hwpass.contract.Condition"),
        ({"name": "repeat"}, ValueError, "repeat means something else in a pipeline"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(
    declarations: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        register(type("Wrong", (Step,), {"name": "wrong-for-a-test", **declarations}))


@dataclass(frozen=True)
class Countdown(Pass):
    """Renames the middle node until it has had three names."""

    name = "countdown-for-a-test"
    names: ClassVar[tuple[str, ...]] = ("Relu", "Sigmoid", "Tanh", "Abs")

    def run(self, model: Model, context: Context) -> PassResult:
        node = model.graph.nodes[1]
        place = self.names.index(node.op)
        if place + 1 == len(self.names):
            return PassResult(model, False)
        node.op = self.names[place + 1]
        return PassResult(model, True)


def test_a_repetition_ends_with_the_round_that_changes_nothing() -> None:
    context = Context()
    manager = PassManager([Group(Repeat(Countdown(), n=9)), Step()])
    assert manager.run(small(), context).nodes[1].op == "Abs"
    assert [record.changed for record in manager.records] == [True, True, True, False, False]
    said = context.findings.notes["repeat"]["repeat{n=9}(countdown-for-a-test)"]
    assert said == "4 rounds of at most 9, the last one changed nothing"


def test_a_repetition_that_is_not_done_says_so() -> None:
    context = Context()
    assert PassManager([Repeat(Countdown(), n=2)]).run(small(), context).nodes[1].op == "Tanh"
    (said,) = context.findings.notes["repeat"].values()
    assert said == "2 rounds of at most 2, the last one still changed the model"


def test_a_fingerprint_is_that_of_a_copy_until_an_edit() -> None:
    model = small()
    mark = Fingerprint(model)
    for edit in (
        lambda m: setattr(m.graph.nodes[1], "op", "Sigmoid"),
        lambda m: m.graph.nodes[0].attrs.update(pads=[1, 1, 1, 1]),
        lambda m: m.graph.nodes[0].inputs.__setitem__(1, gs.Constant("w", m.graph.nodes[0].inputs[1].values.copy())),
        lambda m: setattr(m.graph.nodes[2].inputs[0], "name", "other"),
        lambda m: setattr(m.graph.outputs[0], "name", "other"),
        lambda m: m.graph.nodes.pop(),
    ):
        copy = model.copy()
        assert Fingerprint(copy) == mark
        edit(copy)
        assert Fingerprint(copy) != mark
    assert Fingerprint(model) == mark
