"""Passes of other distributions: a good one is found, and a broken one is named and left out."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
from distributions import distribution, python

from hwpass import plugins
from hwpass.cost_models import model_names
from hwpass.errors import UsageError
from hwpass.manager import _PASSES, PassManager, passes, register

ROOT = Path(__file__).parents[2]

PASS = """
from __future__ import annotations
from dataclasses import dataclass, field
from hwpass.manager import Pass, PassResult, register

{before}
{decorator}
@dataclass(frozen=True)
class Mine(Pass):
    '''Nothing -> nothing.'''
    name = {name!r}
    deep: {kind} = field(default=1, metadata={{"help": "how deep"}})

    def run(self, model, context):
        return PassResult(model, False)
{after}
"""


def source(name: str, *, before: str = "", after: str = "", decorator: str = "@register", kind: str = "int") -> str:
    return PASS.format(name=name, before=before, after=after, decorator=decorator, kind=kind)


#: Distribution: the entry point, its module's text, and what the warning has to say (None for one that is good).
MADE: dict[str, tuple[str, str, str | None]] = {
    "good-module": ("good-one = {module}", source("good-one"), None),
    "good-class": ("good-two = {module}:Mine", source("good-two", decorator=""), None),
    "good-rule": (
        "good-three = {module}",
        source("good-three", before="from hwpass.ops.rule import Rule, register as rule\n"
               "@rule\nclass R(Rule):\n    '''Theirs.'''\n    domain, ops = 'their.own', ('Odd',)\n"),
        None,
    ),
    "import-error": ("bad-import = {module}", "import no_such_module_of_anybodys", "no_such_module_of_anybodys"),
    "raises": ("bad-raises = {module}", "raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
    "exits": ("bad-exits = {module}", "import sys; sys.exit('gone')", "SystemExit: gone"),
    "own-exception": ("bad-own = {module}", "class Own(BaseException): pass\nraise Own('mine')", "Own: mine"),
    "syntax": ("bad-syntax = {module}", "def f(:", "SyntaxError"),
    "no-module": ("bad-module = no_module_of_this_name", "", "no_module_of_this_name"),
    "no-attribute": ("bad-attribute = {module}:Nothing", "", "Nothing"),
    "no-value": ("bad-value = not a module!", "", "left out"),
    "duplicate": ("fold = {module}", source("fold"), "two passes named fold"),
    "second-of-one-name": ("good-one = {module}", source("good-one"), "two passes named good-one"),
    "no-pass": ("bad-kind = {module}:thing", "thing = 3", "int is neither"),
    "no-subclass": ("bad-class = {module}:Thing", "class Thing: pass", "Thing is neither"),
    "registers-anything": (
        "bad-register = {module}",
        "from hwpass.manager import register\n@register\nclass T: name = 'x'",
        "T is no subclass",
    ),
    "registers-nothing": ("bad-nothing = {module}", "x = 1", "registers no pass"),
    "no-name": ("bad-name = {module}", source("not a name"), "no name for a pass"),
    "half-way": ("bad-half = {module}", source("half-way", after="raise ValueError('after all')"), "after all"),
    "unknown-types": ("bad-types = {module}", source("bad-types", kind="Nowhere"), "Nowhere"),
    "rule-of-ours": (
        "bad-rule = {module}",
        source("rule-of-ours", after="from hwpass.ops.rule import Rule, register as rule\n"
               "@rule\nclass R(Rule):\n    '''Theirs.'''\n    ops = ('Relu',)\n"),
        "two rules for Relu",
    ),
    "model-of-ours": (
        "bad-model = {module}",
        source("model-of-ours", after="from hwpass.cost_models import CostModel, register as model\n"
               "@model\nclass CachedSimdCpu(CostModel):\n    '''Theirs.'''\n    def latency(self, work): return 0\n"),
        "two cost models named CachedSimdCpu",
    ),
}  # fmt: skip


def install(folder: Path, made: Mapping[str, tuple[str, str, str | None]]) -> None:
    for name, (entry, text, _) in made.items():
        distribution(folder, name, text, {plugins.PASSES: entry})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("site")
    install(made, MADE)
    return made


def said(name: str, lines: str) -> list[str]:
    return [line for line in lines.splitlines() if f"distribution {name}: " in line]


@pytest.fixture(scope="module")
def listed(folder: Path) -> subprocess.CompletedProcess[str]:
    return python(folder, "-m", "hwpass", "passes")


def test_the_command_line_names_each_once_and_goes_on(listed: subprocess.CompletedProcess[str]) -> None:
    assert listed.returncode == 0, listed.stderr
    assert "Traceback" not in listed.stderr
    for name, (entry, _, says) in MADE.items():
        lines = said(name, listed.stderr)
        assert len(lines) == (says is not None), (name, listed.stderr)
        if says is not None:
            assert lines[0].startswith("hwpass: ")
            assert says in lines[0]
            assert entry.partition(" ")[0] in lines[0]
    assert len(listed.stderr.splitlines()) == sum(says is not None for *_, says in MADE.values())


def test_what_is_good_stays_and_what_is_half_way_goes(listed: subprocess.CompletedProcess[str]) -> None:
    names = [line for line in listed.stdout.splitlines() if line and not line.startswith(" ")]
    assert {"good-one", "good-two", "good-three", "fold", "verify"} <= set(names)
    assert not {"half-way", "rule-of-ours", "model-of-ours", "bad-types"} & set(names)


def test_rules_and_cost_models_of_ours_stay(folder: Path) -> None:
    code = """
import warnings
warnings.simplefilter("ignore")
from hwpass.manager import passes
passes()
from hwpass.ops.rule import rules
from hwpass.cost_models import load_target, cost_model
model = cost_model(load_target("mobile-cpu"))
print(rules()["", "Relu"].__module__, type(model).__module__, ("their.own", "Odd") in rules())
"""
    done = python(folder, "-c", code)
    ours, model, theirs = done.stdout.split()
    assert ours.startswith("hwpass.ops.")
    assert model.startswith("hwpass.cost_models.")
    assert theirs == "True"


def test_python_warns_once_per_process(folder: Path) -> None:
    code = """
import warnings
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    from hwpass.manager import PassManager, passes
    passes(), passes(), PassManager.parse("fold")
from hwpass.plugins import PluginWarning
for w in found:
    assert issubclass(w.category, PluginWarning), w
    print(w.message)
"""
    done = python(folder, "-c", code)
    assert done.returncode == 0, done.stderr
    for name, (_, _, says) in MADE.items():
        assert len(said(name, done.stdout)) == (says is not None)


@pytest.mark.parametrize("name", ["bad-import", "bad_types", "half-way", "rule-of-ours"])
def test_a_pipeline_that_names_one_says_why_it_is_not_there(name: str, folder: Path) -> None:
    model = ROOT / "fixtures" / "cnn.onnx"
    done = python(folder, "-m", "hwpass", "run", str(model), "--target", "mobile-cpu", "--pipeline", f"fold,{name}")
    assert done.returncode == 2
    *_, last = done.stderr.splitlines()
    assert last.startswith(f"hwpass: pipeline: there is no pass '{name}' (at character 6); distribution ")
    assert "left out: " in last


def test_warnings_that_are_errors_break_nothing_that_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, {"raises": MADE["raises"]})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_LOADED", {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(plugins.PluginWarning, match="distribution raises"):
            passes()
        assert "fold" in passes()
    with pytest.raises(UsageError, match=r"there is no pass 'bad-raises' .*RuntimeError: two lines"):
        PassManager.parse("bad-raises")


def test_interrupts_are_no_fault_of_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, {"waits": ("waits = {module}", "raise KeyboardInterrupt", None)})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_LOADED", {})
    with pytest.raises(KeyboardInterrupt):
        passes()
    assert plugins.PASSES not in plugins._LOADED


EVERYWHERE = """
import hwpass.planning.scores.norms
from hwpass.cost_models import CostModel, register as model
from hwpass.manager import passes
from hwpass.ops.rule import Rule, register as rule
from hwpass.planning.score import Score, register as score
from hwpass.reporting.renderer import Renderer, register as renderer
from hwpass.runtime.reader import Reader, register as reader

@rule
class R(Rule):
    ops, domain = ("Odd",), "their.own"

@model
class Abacus(CostModel):
    def latency(self, work): return 0

@score
class S(Score):
    name = "odd"
    def importance(self, seen): return []

@renderer
class F(Renderer):
    suffixes = (".odd",)
    def page(self, report): return ""

@reader
class D(Reader):
    suffixes = (".odd",)
    def read(self, path, source, specs): return []

raise ValueError("after all")
"""


def test_what_is_half_way_leaves_every_registry_and_what_is_ours_stays(tmp_path: Path) -> None:
    distribution(tmp_path, "everywhere", EVERYWHERE, {plugins.COST_MODELS: "odd = {module}"})
    code = """
from hwpass.plugins import PluginWarning
import warnings
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    from hwpass.cost_models.base import model_classes
    print(*model_classes())
    from hwpass.manager import passes
    from hwpass.ops.rule import rules
    from hwpass.planning.score import scores
    from hwpass.reporting.renderer import renderers
    from hwpass.runtime.reader import readers
    print(*scores())
    print(*renderers(), *readers())
    print(("their.own", "Odd") in rules(), ("", "Relu") in rules(), "fold" in passes())
print(len(found))
"""
    done = python(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    models, scores, suffixes, others, warned = done.stdout.splitlines()
    assert models.split() == model_names()
    assert scores == "activation auto bn gram l1 l2 random"
    assert suffixes == ".htm .html .md .npy .npz .txt /"
    assert (others, warned) == ("False True True", "1")


@pytest.mark.parametrize("thing", [3, "text", dict])
def test_only_passes_are_registered(thing: object) -> None:
    before = dict(_PASSES)
    with pytest.raises(TypeError, match="no subclass of hwpass"):
        register(thing)  # type: ignore[type-var]
    assert before == _PASSES
