"""What the command line says and reads of pipelines: presets, configurations, errors that point at a character."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hwpass.command.cli import main
from hwpass.cost_models import Target, load_target, target_names
from hwpass.cost_models.target_files import parse_target
from hwpass.errors import InputError, UsageError
from hwpass.manager import _PASSES, PassManager
from hwpass.options import RunOptions
from hwpass.pipeline import flat
from hwpass.workflows.presets import preset
from hwpass.workflows.run import pipeline_of

ROOT = Path(__file__).parents[2]
CNN = ROOT / "fixtures/cnn.onnx"


def hwpass(*arguments: str | Path, status: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    return result


@pytest.mark.parametrize("name", ["edge-tpu", "server-cpu", "mcu"])
def test_a_preset_is_a_pipeline_that_reads_back(name: str) -> None:
    result = hwpass("passes", "--preset", name)
    text, why = result.stdout.strip(), result.stderr.strip()
    assert str(PassManager.parse(text)) == text
    names = [step.name for step in PassManager.parse(text).steps]
    target = load_target(name)
    assert ("quantize" in names) == (list(target.peak) == ["int8"])
    assert names.index("prune-channels") < names.index("verify") == len(names) - 1
    assert "it computes in" in why


def test_every_target_has_a_preset() -> None:
    for name in target_names():
        steps = [step.name for step in flat(preset(load_target(name), RunOptions(latency="0.6x")).steps)]
        assert "prune-channels" in steps, name


def test_a_preset_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    _PASSES.known()
    monkeypatch.delitem(_PASSES, "quantize")
    with pytest.raises(UsageError, match="the preset of edge-tpu needs the pass quantize, which is not there"):
        preset(load_target("edge-tpu"))


def stated(pipeline: str, tmp_path: Path) -> Target:
    base, child = tmp_path / "base.toml", tmp_path / "child.toml"
    child.write_text('name = "child"\ndescription = "one more"\nextends = "base.toml"\n')
    base.write_text(f'name = "base"\ndescription = "one"\nextends = "mobile-cpu"\npipeline = {json.dumps(pipeline)}\n')
    return parse_target(child.read_text(), str(child))


def test_a_target_names_its_own_and_hands_it_on(tmp_path: Path) -> None:
    target = stated("fold,repeat{n=2}(fuse-bn,prune-channels),verify", tmp_path)
    assert str(PassManager(preset(target).steps)) == "fold,repeat{n=2}(fuse-bn,prune-channels),verify"
    filled = pipeline_of(target, RunOptions(preset=True, macs=0.5))
    assert filled is not None
    assert str(PassManager(filled)) == "fold,repeat{n=2}(fuse-bn,prune-channels{macs=0.5x}),verify"


@pytest.mark.parametrize(
    ("pipeline", "asked", "error", "message"),
    [
        ("fold,flod", {}, InputError, "target child: pipeline: pipeline: there is no pass 'flod'"),
        ("fold,verify", {"macs": "0.5x"}, UsageError, "no prune-channels without a budget"),
        ("prune-channels{macs=0.7x}", {"macs": "0.5x"}, UsageError, "no prune-channels without a budget"),
    ],
)
def test_a_target_whose_pipeline_does_not_fit(
    pipeline: str, asked: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        preset(stated(pipeline, tmp_path), RunOptions(**asked))


def test_the_pipeline_that_would_run_is_printed_and_nothing_runs() -> None:
    given = ("run", "there-is-no.onnx", "--target", "mobile-cpu", "--print-pipeline")
    text = hwpass(*given, "--latency", "0.6x", "--keep", "a,b").stdout
    assert 'prune-channels{latency=0.6x,keep="a,b"},compensate,' in text
    assert text.endswith("verify\n")
    assert str(PassManager.parse(text)) == text.strip()
    assert "is searched for" in hwpass(*given, "--metric", "json:loads", "--max-drop", "0.01").stderr
    assert hwpass(*given, "--pipeline", " fold , (verify)").stdout == "fold,(verify)\n"


@pytest.mark.parametrize(
    ("text", "below", "message"),
    [
        ("fold,flod", "flod", "there is no pass 'flod' (at character 6)"),
        ("fold,repeat{n=3}(fuse-bn,(flod))", "flod", "there is no pass 'flod'"),
        ("fold{limt=3}", "limt", "there is no option 'limt'"),
        ("fold,fold{limit=many}", "limit", "option limit=many is not of type int"),
        ("fold,verify{rtol=7}", "verify", "rtol"),
        ("fold,repeat{n=0}(fold)", "repeat", "repeat: n=0: give 1 to 1000"),
        ("fold,repeat{m=1}(fold)", "m=1", "there is no option 'm'; its options: n"),
        ("fold,repeat", "repeat", "repeat needs passes in brackets; write repeat{n=3}(a,b)"),
        ("fold,repeat()", ")", "cannot read ')' at character 13, expected the name of a pass"),
        ("fold,fuse-bn(fold)", "fuse-bn", "'fuse-bn' takes no passes; only repeat does"),
        ("fold,(fuse-bn", "", "it ends at character 13, expected a comma or a closing bracket"),
        ("fold,(fuse-bn}", "}", "cannot read '}' at character 14"),
        ("fold)", ")", "cannot read ')' at character 5"),
        ("(" * 40 + "fold" + ")" * 40, None, "more than 32 brackets inside one another"),
        ("verify{rtol=0.1,rtol=0.1}", None, "option rtol is given twice (at character 17)"),
        ("fold," * 40 + "flod," + "fold," * 40, "flod", "there is no pass 'flod' (at character 201)"),
    ],
)
def test_an_error_is_one_line_and_points_at_the_character(text: str, below: str | None, message: str) -> None:
    """The command line keeps to one line, which says the character; the error itself has the text with a mark."""
    result = hwpass("run", CNN, "--target", "mobile-cpu", "--pipeline", text, status=2)
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr
    with pytest.raises(UsageError) as raised:
        PassManager.parse(text)
    shown, mark = raised.value.pointed.splitlines()
    assert mark.strip() == "^"
    if below is not None:
        assert shown[mark.index("^") :].startswith(below)
        assert shown.strip(". ") in text


def write(folder: Path, text: str) -> Path:
    model = folder / "model.onnx"
    shutil.copy(CNN, model)
    (folder / "hwpass.toml").write_text(text)
    return model


TOML = """
[run]
target = "mobile-cpu"
pipeline = [
    "fold",
    {repeat = 2, steps = ["fuse-bn"]},
    {pass = "prune-channels", macs = "0.7x", score = "l2", keep = ["head*", "a,b*"]},
    ["verify"],
]
"""


def test_a_pipeline_is_read_from_the_file_beside_the_model(tmp_path: Path) -> None:
    model = write(tmp_path, TOML)
    text = hwpass("run", model, "--print-pipeline").stdout
    assert text == 'fold,repeat{n=2}(fuse-bn),prune-channels{macs=0.7x,score=l2,keep=head*|"a,b*"},(verify)\n'
    assert hwpass("run", model, "--print-pipeline", "--pipeline", "fold").stdout == "fold\n"


def test_the_report_says_where_an_option_came_from(tmp_path: Path) -> None:
    model = write(tmp_path, '[run]\ntarget = "mobile-cpu"\nmacs = 0.7\nscore = "l1"\nseed = 7\n')
    result = hwpass("run", model, "--score", "l2", "--compensate", "off", "--json", tmp_path / "report.json")
    told = json.loads((tmp_path / "report.json").read_text())["options"]
    beside = str(tmp_path / "hwpass.toml")
    assert told == {
        "compensate": {"value": "off", "origin": "command line"},
        "macs": {"value": "0.7x", "origin": beside},
        "score": {"value": "l2", "origin": "command line"},
        "seed": {"value": "7", "origin": beside},
        "target": {"value": "mobile-cpu", "origin": beside},
    }
    assert "hwpass.toml: target mobile-cpu, macs 0.7x, seed 7" in result.stdout


def test_a_file_that_is_named_is_taken_instead(tmp_path: Path) -> None:
    model = write(tmp_path, '[run]\ntarget = "no-such-target"\n')
    other = tmp_path / "other.toml"
    other.write_text('[run]\ntarget = "mobile-cpu"\nmacs = 0.6\n')
    for given in (("--config", other, model), (model, "--config", other)):
        assert "macs=0.6x" in hwpass("run", *given, "--print-pipeline").stdout


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ('[run]\nmetric = "os:system"\n', 2, "a file that lies beside a model may not say this; give it by --config"),
        ('[run]\nsave-after = "x"\n', 2, "may not say this"),
        ("[run]\nallow-external = true\n", 2, "may not say this"),
        ("[run]\nbudget = 3\n", 2, "there is no such option"),
        ("[run\n", 3, "not a configuration"),
        ("[run]\npipeline = [3]\n", 2, "[run] pipeline, step 1: write a name, {pass"),
        ('[run]\npipeline = ["fold", {pass = "flod"}]\n', 2, "pipeline, step 2: there is no pass 'flod'"),
        ('[run]\npipeline = [{pass = "fold", limt = 1}]\n', 2, "pass fold has no option 'limt'; its options: limit"),
        ('[run]\npipeline = [{pass = "verify", rtol = "x"}]\n', 2, "step 1: rtol: a str is not a number"),
        ('[run]\npipeline = [["fold", {repeat = 0, steps = ["fold"]}]]\n', 2, "step 1, step 2: repeat: "),
        ("[run]\npipeline = [[]]\n", 2, "there is nothing in brackets"),
        ('[run]\npipeline = [{repeat = 2, step = ["fold"]}]\n', 2, "step: no such key; write repeat = 3, steps"),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_a_line(text: str, status: int, message: str, tmp_path: Path) -> None:
    model = write(tmp_path, text)
    error = hwpass("run", model, "--target", "mobile-cpu", "--print-pipeline", status=status).stderr
    assert message in error
    assert "hwpass.toml: " in error


def test_a_file_without_a_table_of_the_command_says_nothing(tmp_path: Path) -> None:
    model = write(tmp_path, "[sweep]\npoints = '0.5'\n")
    assert "macs=0.6x" in hwpass("run", model, "--target", "mobile-cpu", "--macs", "0.6x", "--print-pipeline").stdout


def test_preset_and_pipeline_exclude_each_other() -> None:
    asked = RunOptions(preset=True, pipeline="fold")
    with pytest.raises(UsageError, match="pipeline and preset both say what runs; give one of them"):
        pipeline_of("edge-tpu", asked)
