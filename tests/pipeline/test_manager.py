"""Pipelines as text, errors of one line, and the checks between passes."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sketch import Sketch

import hwpass
from hwpass import pipeline_toml
from hwpass.context import Context
from hwpass.errors import HwpassError, InputError, UsageError
from hwpass.manager import _PASSES, Pass, PassManager, PassResult, passes, register
from hwpass.model.model import Model
from hwpass.pipeline import Group, Repeat

FIXTURES = Path(__file__).parents[2] / "fixtures"

ANY_TEXT = st.text(max_size=8) | st.text('abc*,{}|"\\\\= ', max_size=8)
NUMBERS = st.floats(0, 0.99, allow_subnormal=False)  # ONNX Runtime may have switched subnormals off in the process
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int": st.integers(1, 9999),
    "float": NUMBERS,
    "str": ANY_TEXT,
    "tuple[str, ...]": st.lists(ANY_TEXT, max_size=3).map(tuple),
}
SHARES = st.just("") | st.floats(0.01, 1).map("{:.2f}x".format)
#: Options whose text has a meaning that is checked when a pass is made.
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "latency": SHARES, "energy": SHARES | st.just("5 mJ"), "memory": SHARES | st.just("2MiB"),
    "size": SHARES, "macs": SHARES | st.just("300M"), "channels": st.just(""),
    "score": st.sampled_from(["auto", "gram", "l2", "random"]),
    "fidelity": st.lists(st.sampled_from(["cosine>=0.9", "a|b:top1>=98%", 'o,"{}:max_abs<1']), max_size=3).map(tuple),
    "pattern": st.sampled_from(["unstructured", "4x1"]), "sparsity": st.floats(0.01, 0.99),
    "metric": st.just("json:loads"), "max_drop": st.floats(-1, 1, allow_subnormal=False),
}  # fmt: skip


def values_of(field: dataclasses.Field[Any]) -> st.SearchStrategy[Any]:
    """Values of one option: of its choices where it has such, else of its type; its default goes too."""
    if field.name in SPECIAL:
        return SPECIAL[field.name]
    if "choices" in field.metadata:
        return st.sampled_from([choice for choice, _ in field.metadata["choices"]()])
    return st.just(field.default) | KINDS[str(field.type)]


def options() -> st.SearchStrategy[Pass]:
    """Any registered pass with any options that make sense."""

    def made(cls: type[Pass], values: dict[str, Any]) -> Pass:
        try:
            return cls(**values)
        except UsageError:
            return cls()  # most values of that option make no sense

    return st.one_of([
        st.fixed_dictionaries({f.name: values_of(f) for f in dataclasses.fields(cls)}).map(partial(made, cls))
        for cls in passes().values()
    ])  # fmt: skip


def pipelines() -> st.SearchStrategy[list[Any]]:
    """Any passes, some of them in brackets and some repeated."""
    some = st.lists(st.deferred(lambda: steps), min_size=1, max_size=3)
    groups = some.map(lambda inner: Group(*inner))
    repeats = st.builds(lambda inner, n: Repeat(*inner, n=n), some, st.integers(1, 12))
    steps = st.one_of(options(), options(), groups, repeats)
    return st.lists(steps, max_size=3)


@given(pipelines())
def test_any_pipeline_survives_its_text_and_its_toml(steps: list[Any]) -> None:
    manager = PassManager(steps)
    text = str(manager)
    assert PassManager.parse(text).pipeline == manager.pipeline
    items = tomllib.loads(pipeline_toml.written(manager.pipeline))["pipeline"]
    read = pipeline_toml.read(items, passes())
    assert tuple(read) == manager.pipeline
    assert str(PassManager(read)) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        ("fold", "fold"),
        (" fold , fuse-bn ", "fold,fuse-bn"),
        ("fold{limit=1048576}", "fold"),
        ("prune-channels{min-channels=4, macs=0.5x}", "prune-channels{macs=0.5x,min-channels=4}"),
        ("prune-channels{keep=a*|b}", "prune-channels{keep=a*|b}"),
        ('prune-channels{ keep = "a,{b}" | c , macs = 0.5x }', 'prune-channels{macs=0.5x,keep="a,{b}"|c}'),
        ('prune-channels{keep="a\\"|\\u00e9"}', 'prune-channels{keep="a\\"|é"}'),
        ('prune-channels{keep="conv"|a"b}', 'prune-channels{keep=conv|a"b}'),
        ("verify{exact=no}", "verify{exact=false}"),
        ("verify{exact}", "verify"),
        ("fold{}\n,\tfuse-bn{ }", "fold,fuse-bn"),
        ("fold,", "fold"),
    ],
)
def test_texts_by_hand(text: str, canonical: str) -> None:
    assert str(PassManager.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flod", "there is no pass 'flod' (at character 1)"),
        ("fold, flod", "there is no pass 'flod' (at character 7)"),
        ("fold{limt=3}", "there is no option 'limt'; its options: limit"),
        ("fold{limit=many}", "option limit=many is not of type int"),
        ("fold{limit=" + "9" * 5000 + "}", "is not of type int"),
        ("fold{limit=1_000}", "option limit=1_000 is not of type int"),
        ("fold{limit=٣}", "is not of type int"),
        ("fold{limit}", "option limit needs a value"),
        ("verify{metric}", "option metric needs a value"),
        ("fuse-bn{a=1}", "its options: none"),
        ("verify{rtol=x}", "option rtol=x is not of type float"),
        ("verify{rtol=1_0}", "option rtol=1_0 is not of type float"),
        ("verify{exact=maybe}", "option exact=maybe is not of type bool"),
        ("prune-channels{min-channels=2,min_channels=3}", "option min-channels is given twice (at character 31)"),
        ("verify{rtol=0.1,rtol=0.1}", "option rtol is given twice"),
        ("fold;fuse-bn", "cannot read ';fuse-bn' at character 5"),
        ("fold fuse-bn", "cannot read 'fuse-bn' at character 6"),
        ("fold{limit=3", "it ends at character 12, expected a comma or a closing brace"),
        ("fold{limit=3,", "it ends at character 13, expected the name of an option"),
        ("fold{limit=3,}", "cannot read '}' at character 14"),
        ("fold{=3}", "cannot read '=3}' at character 6"),
        ("fold{limit={3}}", "cannot read '{3}}' at character 12"),
        ("fold}", "cannot read '}' at character 5"),
        ("{limit=3}", "cannot read '{limit=3}' at character 1, expected the name of a pass"),
        ("fold,,fuse-bn", "cannot read ',fuse-bn' at character 6"),
        (",", "cannot read ',' at character 1"),
        ("fоld", "cannot read 'оld' at character 2"),
        ("fold\x1b[31m", "cannot read '\\\\x1b[31m'"),
        ("fold\nfold", "cannot read 'fold' at character 6"),
        ('prune-channels{keep="a}', "expected a text in double quotes"),
        ('prune-channels{keep="a"b}', "cannot read 'b}' at character 24"),
        ('prune-channels{keep="\\x"}', "expected a text in double quotes"),
        ("fold," * 200 + "fold," * 200 + "fold", "more than 256 passes"),
        ("fold" + "{" * 100_000, "100004 characters; write at most 65536"),
        ("{" * 60_000, "at character 1"),
        ("fold{limit=" + "|" * 60_000 + "}", "is not of type int"),
        ('prune-channels{keep="' + "\\" * 60_000, "expected a text in double quotes"),
    ],
)
def test_errors_are_one_line_that_names_the_word(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        PassManager.parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text",
    [
        "fold{limit=-1}",
        "fold{limit=99999999999}",
        "compensate{samples=0}",
        "compensate{rows=-5}",
        "prune-channels{score=l7}",
        "prune-channels{score=L2}",
        "prune-channels{min-channels=0}",
        "prune-channels{rounds=-1}",
        "prune-channels{align=-8}",
        "prune-channels{align=99999999}",
        "prune-channels{channels=0.5x,macs=0.5x}",
        *[
            f"prune-channels{{latency={budget}}}"
            for budget in "nanx infms -1x 0x 1e999 1e999ms 1e999x 1.5x 0.5 x ms 12 12mJ 0.5xx 0x5x 1e-400s".split()
        ],
        "prune-channels{macs=0.5}",
        "prune-channels{size=0.5MiBx}",
        "prune-channels{size=0.2b}",
        "prune-channels{macs=" + "9" * 60_000 + "}",
        "verify{rtol=nan}",
        "verify{rtol=inf}",
        "verify{rtol=-0.1}",
        "verify{rtol=1}",
        "verify{atol=nan}",
        "verify{atol=inf}",
        "verify{atol=-1}",
        "verify{max-drop=nan,metric=a:b}",
        "verify{max-drop=inf,metric=a:b}",
        "verify{max-drop=0.1}",
        "verify{metric=nothing}",
        "verify{metric=a.b:}",
        "verify{metric=:fn}",
        "verify{metric=a b:fn}",
        "verify{metric=../a:fn}",
        "verify{fidelity=good}",
        "verify{fidelity=cosine>=0.9|cosin>=0.9}",
        "verify{fidelity=cosine>=nan}",
        "verify{fidelity=cosine>=1e999}",
        "verify{fidelity=" + "a" * 60_000 + "}",
    ],
)
def test_a_value_that_makes_no_sense_is_refused_when_the_pass_is_made(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        PassManager.parse(f"fold,{text}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_metric_that_is_not_there_is_found_before_any_pass_runs() -> None:
    said: list[str] = []
    manager = PassManager([Rename(), *PassManager.parse("verify{metric=no_such_module_here:fn}").steps])
    with pytest.raises(UsageError, match="no_such_module_here"):
        manager.run(model(), Context(progress=said.append))
    assert said == []


def test_a_pass_that_refuses_its_options_its_own_way_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Picky(Rename):
        name = "picky-for-a-test"

        def __post_init__(self) -> None:
            raise ValueError("not\nthis")

    monkeypatch.setitem(_PASSES, "picky-for-a-test", Picky)
    with pytest.raises(UsageError, match=r"pass picky-for-a-test: not\\nthis"):
        PassManager.parse("picky-for-a-test{to=Abs}")


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
    given_ = model()
    said: list[str] = []
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


def test_a_metric_without_an_original_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^a metric needs the original model in the context$"):
        Context().metric_before("json:loads")


def test_warnings_are_said_once() -> None:
    context = Context()
    context.warn("twice")
    context.warn("twice")
    assert context.warnings == ["twice"]


class Breaks(Pass):
    """A pass that fails as it is told."""

    name = "breaks"
    effect = "none"
    error: ClassVar[Exception]

    def run(self, model: Model, context: Context) -> PassResult:
        raise self.error


def test_an_error_says_which_pass_and_what_ran_before() -> None:
    model = Model.load(FIXTURES / "cnn.onnx")
    for error in (InputError("its own words"), KeyError("k")):
        Breaks.error = error
        step = Breaks()
        with pytest.raises(type(error)) as caught:
            PassManager([*PassManager.parse("fold,fuse-bn").steps, step]).run(model)
        assert caught.value.__notes__[-1] == "in pass breaks, after fold, fuse-bn"
        with pytest.raises(type(error)) as caught:
            PassManager([step]).run(model)
        assert caught.value.__notes__[-1] == "in pass breaks, the first"


def test_an_error_in_a_pipeline_of_ones_own_says_so_in_its_line() -> None:
    with pytest.raises(UsageError) as caught:
        hwpass.run(FIXTURES / "cnn.onnx", "mobile-cpu", pipeline="fold,compensate")
    assert str(caught.value) == "compensate goes after prune-channels in a pipeline (in pass compensate, after fold)"
    with pytest.raises(hwpass.HwpassError) as other:
        hwpass.run(FIXTURES / "cnn.onnx", "mobile-cpu", macs=1e-9, score="l2")
    assert "in pass" not in str(other.value)


class Denies(Pass):
    """A pass that changes weights and says that it did not."""

    name = "denies"
    effect = "refit"

    def run(self, model: Model, context: Context) -> PassResult:
        node = next(node for node in model.graph.nodes if node.op == "Conv")
        node.inputs[1] = gs.Constant("denied", 2 * node.inputs[1].values)
        return PassResult(model, False)


def test_what_a_pass_denies_to_have_done_is_thrown_away() -> None:
    model = Model.load(FIXTURES / "cnn.onnx")
    steps = PassManager.parse("fold").steps
    once = PassManager([*steps, Denies()]).run(model)
    assert once.proto().SerializeToString() == PassManager(steps).run(model).proto().SerializeToString()
