"""One definition of an option: Python, the command line, configuration files and passes take it from there."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from sketch import Sketch

import hwpass
from hwpass.command.cli import main
from hwpass.errors import UsageError
from hwpass.manager import PassManager
from hwpass.options import EFFORTS, RunOptions, of_command, of_passes
from hwpass.passes.prune_channels import PruneChannels
from hwpass.passes.verify import Verify
from hwpass.planning.score import judge
from hwpass.workflows.steps import WORK, usual


def network(width: int = 32) -> bytes:
    s = Sketch()
    x = s.op("Relu", s.op("Gemm", s.input([1, 8]), s.weight(8, width)))
    s.output(s.op("Gemm", x, s.weight(width, 4)))
    model = s.model()
    model.graph.node[0].name = "first|layer"
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "m.onnx").write_bytes(network())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(text: str, status: int = 0) -> str:
    result = CliRunner().invoke(main, text.split())
    assert result.exit_code == status, result.output
    return result.output


@pytest.mark.parametrize("command", ["run", "sweep", "apply", "verify"])
def test_the_command_line_takes_every_option(command: str) -> None:
    found = {p.name: p for p in main.commands[command].params if isinstance(p, click.Option)}
    for item in of_command(command):
        told = item.metadata
        assert found[item.name].help == told["also"].get(command, told["help"])
        if not found[item.name].multiple and item.default:
            assert found[item.name].default == item.default


def test_python_shows_every_option() -> None:
    for function, command in ((hwpass.run, "run"), (hwpass.sweep, "sweep")):
        names = set(inspect.signature(function).parameters)
        assert {item.name for item in of_command(command)} <= names


def test_passes_take_the_help_of_the_options_they_stand_for() -> None:
    told = {f.name: f.metadata["help"] for cls in (PruneChannels, Verify) for f in dataclasses.fields(cls)}
    for name in (set(of_passes()) & set(told)) - {"compensate"}:
        whole = next(f for f in dataclasses.fields(RunOptions) if f.name == name).metadata["help"]
        assert told[name][1:10] == whole[1:10]


def test_names_are_never_taken_apart() -> None:
    prune = next(step for step in usual(RunOptions(macs=0.5, keep=["a|b", "c,d"])) if step.name == "prune-channels")
    assert isinstance(prune, PruneChannels)
    assert prune.keep == ("a|b", "c,d")
    assert hwpass.PassManager.parse(str(prune)).steps == (prune,)
    with pytest.raises(UsageError, match="no layer has such a name"):
        hwpass.run(network(), "mobile-cpu", macs=0.5, score="l2", keep=["first|other"])
    kept = hwpass.run(network(), "mobile-cpu", macs=1.0, score="l2", keep=r"first\|layer", compensate="off")
    assert kept.report.verdicts.exactness is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"min_channels": "3"}, "min_channels: a str is not a whole number"),
        ({"align": 2.5}, "align: a float is not a whole number"),
        ({"score": 3}, "score: a int is not a text"),
        ({"rtol": "1e-4"}, "rtol: a str is not a number"),
        ({"keep": [1]}, "keep: a int is no text"),
        ({"metric": 7, "max_drop": 0.1}, "metric: a int is neither a function"),
        ({"macs": True}, "macs: a bool is no budget"),
    ],
)
def test_a_value_of_another_type_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        hwpass.run(network(), "mobile-cpu", **{"macs": 0.5, **given})


def test_what_a_command_does_not_take_is_refused() -> None:
    with pytest.raises(UsageError, match="latency has no effect on sweep"):
        hwpass.sweep(network(), "mobile-cpu", RunOptions(latency=0.5))
    with pytest.raises(TypeError, match="latencyy"):
        hwpass.run(network(), "mobile-cpu", latencyy=0.5)


def test_options_as_one_object_and_by_name() -> None:
    asked = RunOptions(macs=0.9, score="l2", compensate="off")
    one = hwpass.run(network(), "mobile-cpu", asked, macs=0.6)
    other = hwpass.run(network(), "mobile-cpu", macs=0.6, score="l2", compensate="off")
    assert one.report.budget == other.report.budget == {"macs": "0.6x"}
    assert one.plan == other.plan


def test_a_metric_may_be_a_function() -> None:
    x = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    name = hwpass.load(network()).graph.inputs[0].name
    calls = []

    class Spread:
        def __call__(self, predict: Any) -> float:
            calls.append(1)
            return float(np.std([next(iter(predict({name: row[None]}).values())) for row in x]))

    found = hwpass.run(network(), "mobile-cpu", macs=0.7, score="l2", compensate="off", metric=Spread(), max_drop=9.0)
    assert found.report.verdicts.metric is not None
    assert found.report.verdicts.metric.name.endswith("Spread")
    assert len(calls) == 2
    swept = hwpass.sweep(network(), "mobile-cpu", points=[0.8], budget="macs", score="l2", metric=Spread())
    assert swept.metric is not None
    wide = network(8192)
    searched = hwpass.run(wide, "mobile-cpu", score="l2", compensate="off", metric=Spread(), max_drop=99.0)
    assert searched.report.trials


def test_a_file_gives_options_and_the_command_line_goes_first(here: Path) -> None:
    (here / "hwpass.toml").write_text(
        '[run]\nmodel = "m.onnx"\ntarget = "mobile-cpu"\nmacs = 0.5\nscore = "l2"\ncompensate = "off"\n'
        'keep = ["no*", "first*"]\noutput = "out.onnx"\njson = "r.json"\nforce = true\nmin-channels = 2\n'
    )
    assert "no layer has such a name" in call("run --config hwpass.toml", 2)
    call("run --config hwpass.toml --keep first* --macs 1x")
    assert '"macs": "1x"' in (here / "r.json").read_text()
    assert (here / "out.onnx").exists()


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ('[run]\nlatencyy = "0.5x"', 2, "c.toml: [run] latencyy: there is no such option; choose from align"),
        ("[run]\nforce = 1", 2, "c.toml: [run] force: write true or false"),
        ("[run]\nscore = []", 2, "[run] score: takes one value, not 0"),
        ("[run]\nscore = true", 2, "[run] score: write a text, a number or a list of them"),
        ('[run]\nmin-channels = "many"', 2, "'many' is not a valid integer"),
        ("[run]\nmacs = [0.5, 0.6]", 2, "--macs is given 2 times"),
        ('[run]\npipeline = "fold,verify"\nscore = "l2"', 2, "--score has no effect beside --pipeline"),
        ("[other]", 3, "c.toml: has no table [run]"),
        ("run = 3", 3, "c.toml: run is not a table"),
        ("[run", 3, "c.toml: not a configuration: "),
        ("\0", 3, "c.toml: not a configuration: "),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line(here: Path, text: str, status: int, said: str) -> None:
    (here / "c.toml").write_text(text)
    output = call("run m.onnx --target mobile-cpu --config c.toml", status)
    assert said in output
    assert "Traceback" not in output


def test_a_pipeline_on_the_command_line_goes_before_options_of_a_file(here: Path) -> None:
    (here / "c.toml").write_text('[run]\nscore = "l2"\n')
    call("run m.onnx --target mobile-cpu --config c.toml --pipeline fold,verify --dry-run")
    assert "no effect beside" in call("run m.onnx --target mobile-cpu --pipeline fold --score l2", 2)


def test_effort_is_told_to_every_pass_that_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwpass.workflows.steps.installed", lambda: True)
    monkeypatch.setattr("hwpass.passes.distill.installed", lambda: True)
    assert set(WORK) == set(EFFORTS)
    texts = {effort: str(PassManager(usual(RunOptions(macs=0.5, calib="x", effort=effort)))) for effort in EFFORTS}
    assert "prune-channels{macs=0.5x},compensate,distill{most=240.0},lower-norms" in texts["normal"]
    assert "rounds=1" in texts["quick"]
    assert "distill" not in texts["quick"]
    assert "distill{seconds=300.0,most=1200.0}" in texts["thorough"]
    assert all(PassManager.parse(text).steps == PassManager.parse(text).steps for text in texts.values())
    # What is asked for by name goes first.
    asked = str(PassManager(usual(RunOptions(macs=0.5, calib="x", effort="quick", distill="9s"))))
    assert "distill{seconds=9.0}" in asked
    with pytest.raises(UsageError, match="effort='hasty': choose quick, normal or thorough"):
        usual(RunOptions(macs=0.5, effort="hasty"))


def test_quick_measures_on_fewer_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watched(score: str, what: Any) -> Any:
        seen.append(len(what.data))
        return judge(score, what)

    monkeypatch.setattr("hwpass.planning.study.judge", watched)
    data = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
    s = Sketch()
    x = s.op("Relu", s.op("Gemm", s.input(["n", 8]), s.weight(8, 32)))
    s.output(s.op("Gemm", x, s.weight(32, 4)))
    for effort in ("quick", "normal"):
        hwpass.run(s.model(), "mobile-cpu", macs=0.5, calib=data, effort=effort, distill="off")
    assert seen[0] <= 64 < seen[1] == 350
