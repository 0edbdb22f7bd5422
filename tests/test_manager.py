"""Pipelines as text, errors of one line, and the checks between passes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sketch import Sketch

from hwpass.errors import HwpassError, UsageError
from hwpass.ir import Model
from hwpass.manager import Context, Pass, PassManager, PassResult, passes, register

WORDS = st.text("abcxyz0.*", min_size=1, max_size=6)


def options() -> st.SearchStrategy[Pass]:
    """Any registered pass with any options of the right types."""
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "bool": st.booleans(), "int": st.integers(0, 9999), "str": st.just("") | WORDS,
        # ONNX Runtime may have switched subnormal numbers off for the whole process.
        "float": st.floats(0, 1e6, allow_subnormal=False),
        "tuple[str, ...]": st.lists(WORDS, max_size=3).map(tuple),
    }  # fmt: skip
    return st.one_of([
        st.builds(cls, **{f.name: kinds[str(f.type)] for f in dataclasses.fields(cls)}) for cls in passes().values()
    ])  # fmt: skip


@given(st.lists(options(), max_size=4))
def test_any_pipeline_survives_its_text(steps: list[Pass]) -> None:
    manager = PassManager(steps)
    assert PassManager.parse(str(manager)).steps == manager.steps


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        ("fold", "fold"),
        (" fold , fuse-bn ", "fold,fuse-bn"),
        ("fold{limit=1048576}", "fold"),
        ("prune-channels{min-channels=4, macs=0.5x}", "prune-channels{macs=0.5x,min-channels=4}"),
        ("prune-channels{keep=a*|b}", "prune-channels{keep=a*|b}"),
    ],
)
def test_texts_by_hand(text: str, canonical: str) -> None:
    assert str(PassManager.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flod", "there is no pass 'flod'"),
        ("fold{limt=3}", "there is no option 'limt'; its options: limit"),
        ("fold{limit=many}", "option limit=many is not of type int"),
        ("fuse-bn{a=1}", "its options: none"),
        ("verify{rtol=x}", "option rtol=x is not of type float"),
        ("fold;fuse-bn", "cannot read ';fuse-bn'"),
        ("fold{limit=3", "cannot read"),
        ("fold fuse-bn", "cannot read"),
    ],
)
def test_errors_are_one_line_that_names_the_word(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        PassManager.parse(text)
    assert message in str(caught.value) or message.replace("';fuse-bn'", "'fold;fuse-bn'") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_option_has_help() -> None:
    for cls in passes().values():
        assert cls.__doc__
        for option in dataclasses.fields(cls):
            assert option.metadata.get("help"), f"{cls.name} {option.name}"


def test_two_passes_of_one_name() -> None:
    with pytest.raises(ValueError, match="two passes named fold"):
        register(type("Other", (Pass,), {"name": "fold"}))


def model() -> Model:
    s = Sketch()
    s.output(s.op("Relu", s.op("Abs", s.input(["N", 2]))))
    return Model.load(s.model())


@dataclass(frozen=True)
class Rename(Pass):
    """Gives the last node another operator."""

    name = "rename-for-a-test"
    to: str = "Neg"

    def run(self, model: Model, context: Context) -> PassResult:
        last = model.graph.nodes[-1]
        changed = last.op != self.to
        last.op = self.to
        return PassResult(model, changed)


@dataclass(frozen=True)
class Break(Pass):
    """Leaves a node that reads what nothing makes."""

    name = "break-for-a-test"

    def run(self, model: Model, context: Context) -> PassResult:
        model.graph.nodes[-1].inputs[0] = gs.Variable("nowhere")
        return PassResult(model, True)


def test_a_run_leaves_the_given_model_and_keeps_records() -> None:
    given_, said = model(), []
    manager = PassManager([Rename(), Rename()])
    context = Context(progress=said.append)
    result = manager.run(given_, context)
    assert [n.op for n in given_.nodes] == ["Abs", "Relu"]
    assert [n.op for n in result.nodes] == ["Abs", "Neg"]
    assert [r.changed for r in manager.records] == [True, False]
    assert [r.name for r in manager.records] == ["rename-for-a-test"] * 2
    assert said == ["rename-for-a-test"] * 2
    assert [stage.passes for stage in context.findings.stages] == [("rename-for-a-test",)]


def test_a_pass_that_breaks_the_graph_is_named() -> None:
    with pytest.raises(HwpassError, match=r"pass break-for-a-test left Relu .* reading nowhere"):
        PassManager([Break()]).run(model())
    assert PassManager([Break()], check=False).run(model()).nodes[-1].inputs[0].name == "nowhere"


def test_warnings_are_said_once() -> None:
    context = Context()
    context.warn("twice")
    context.warn("twice")
    assert context.warnings == ["twice"]
