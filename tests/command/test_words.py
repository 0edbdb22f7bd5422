"""Messages speak the reader's words: options on the command line, parameters in Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sketch import Sketch

import hwpass
from hwpass.command.cli import main
from hwpass.cost.bench import bench
from hwpass.errors import option, words_of_a_pipeline, words_of_the_shell
from hwpass.manager import PassManager
from hwpass.passes.verify import Verify
from hwpass.reporting.schema import MetricVerdict
from hwpass.workflows.compare import verify_models
from hwpass.workflows.profile import profile_model

ROOT = Path(__file__).parents[2]
CNN = ROOT / "fixtures" / "cnn.onnx"

#: Files whose texts only the shell sees, or that are not in words, each with the reason.
APART = {
    "hwpass/command/cli.py": "declares the options, and speaks to the shell alone",
    "hwpass/command/measuring.py": "declares the options of commands that measure, and speaks to the shell alone",
    "hwpass/command/debugging.py": "declares options, and speaks to the shell alone",
    "hwpass/command/pipelines.py": "declares options, and speaks to the shell alone",
    "hwpass/command/shared_options.py": "declares options of several commands",
    "hwpass/command/derived_options.py": "declares options as well",
    "hwpass/command/from_options.py": "declares options, and speaks to the shell alone",
    "hwpass/options.py": "holds the help of the command line",
    "hwpass/command/shell.py": "prints what click says about options",
    "hwpass/reporting/renderers/html.py": "names of CSS variables begin with two dashes",
    "hwpass/errors.py": "is where an option gets its dashes",
}

OPTION = re.compile(r"(?<![\w-])--[a-z]")


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string that may reach a reader: no docstring, and nothing that `in_words` chooses among.

    What stands in the braces of an f-string is taken for a word.
    """
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body and isinstance(node.body[0], ast.Expr)
    }  # fmt: skip
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "in_words":
            continue
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "x" for part in node.values]
            yield node.lineno, "".join(map(str, parts))
            waiting += [part for part in node.values if not isinstance(part, ast.Constant)]
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            yield node.lineno, node.value
        waiting += ast.iter_child_nodes(node)


def sources() -> Iterator[Path]:
    for folder in ("hwpass", "passes", "cost_models"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.relative_to(ROOT).as_posix() not in APART:
                yield path


def test_no_text_spells_an_option_by_itself() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text!r}"
        for path in sources()
        for line, text in literals(ast.parse(path.read_text(encoding="utf-8")))
        if OPTION.search(text)
    ]
    assert not found, "write these with hwpass.errors.option or in_words:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("raise E('give --calib')", 1),
        ("raise E(f'--{name} {value}')", 1),
        ("raise E(in_words('give --calib', 'give calib'))", 0),
        ("def f():\n    '''--calib'''\n    return '--calib'", 1),
        ("x = 'a -- b', '--- a/file', 'no--where'", 0),
    ],
)
def test_the_search_for_options_finds_them(code: str, count: int) -> None:
    assert len([text for _, text in literals(ast.parse(code)) if OPTION.search(text)]) == count


def test_the_exceptions_are_needed() -> None:
    for name in APART:
        texts = literals(ast.parse((ROOT / name).read_text(encoding="utf-8")))
        assert any(re.search("--[a-z]", text) for _, text in texts), name


def test_words_of_each_reader() -> None:
    assert option("max_drop", 0.1) == "max_drop=0.1"
    with words_of_the_shell():
        assert option("max_drop", 0.1) == "--max-drop 0.1"
        with words_of_a_pipeline():
            assert option("max_drop", 0.1) == "max-drop=0.1"
            assert option("latency", "0.6x") == "latency=0.6x"
        assert option("max_drop") == "--max-drop"


def images(count: int = 8) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).random((count, 1, 28, 28), np.float32)}


def run(**extra: Any) -> Callable[[], object]:
    return lambda: hwpass.run(CNN, "mobile-cpu", **extra)


def sweep(**extra: Any) -> Callable[[], object]:
    return lambda: hwpass.sweep(CNN, "mobile-cpu", **extra)


#: Wrong calls, what the message must name, and the same on the command line where it can be written there.
WRONG: dict[str, tuple[Callable[[], object], str, str]] = {
    "no budget": (run(), "latency, energy, memory, size, macs or channels", "run M --target mobile-cpu"),
    "an empty budget": (run(latency=""), "latency: it is empty", ""),
    "a budget of another type": (run(latency=[1]), "latency: a list is no budget", ""),
    "a budget in words": (run(latency="fast"), "latency='fast'", "run M --target mobile-cpu --latency fast"),
    "a budget beside uniform width": (
        run(macs=0.5, channels=0.5), "channels", "run M --target mobile-cpu --macs 0.5x --channels 0.5x"
    ),
    "a budget out of reach": (run(latency=0.001), "force=True", "run M --target mobile-cpu --latency 0.001x"),
    "a pipeline and a budget": (
        run(pipeline="fold", macs=0.5), "pipeline", "run M --target mobile-cpu --pipeline fold --macs 0.5x"
    ),
    "a pipeline without proof": (
        run(pipeline="fold"), "unproved=True", "run M --target mobile-cpu --pipeline fold"
    ),
    "no such score": (run(macs=0.5, score="l7"), "score='l7'", "run M --target mobile-cpu --macs 0.5x --score l7"),
    "gram without data": (
        run(macs=0.5, score="gram"), "calib", "run M --target mobile-cpu --macs 0.5x --score gram"
    ),
    "activation without data": (
        run(macs=0.5, score="activation"), "calib", "run M --target mobile-cpu --macs 0.5x --score activation"
    ),
    "no such layer": (
        run(macs=0.5, keep=["nothing*"]), "keep='nothing*'", "run M --target mobile-cpu --macs 0.5x --keep nothing*"
    ),
    "no such way to compensate": (run(macs=0.5, compensate="yes"), "compensate='yes'", ""),
    "too large a tolerance": (run(macs=0.5, rtol=1.0), "rtol=1.0", "run M --target mobile-cpu --macs 0.5x --rtol 1"),
    "no difference": (run(macs=0.5, atol=-1.0), "atol=-1.0", ""),
    "a drop of no metric": (
        run(macs=0.5, max_drop=0.1), "max_drop", "run M --target mobile-cpu --macs 0.5x --max-drop 0.1"
    ),
    "a drop below nothing": (run(macs=0.5, metric="json:loads", max_drop=-0.1), "max_drop=-0.1", ""),
    "channels below one": (run(macs=0.5, min_channels=0), "min_channels=0", ""),
    "a step below one": (run(macs=0.5, align=-1), "align=-1", ""),
    "no threads": (run(macs=0.5, threads=0), "threads=0", "run M --target mobile-cpu --macs 0.5x --threads 0"),
    "no such cost": (sweep(budget="channels"), "budget='channels'", "sweep M --target mobile-cpu --budget channels"),
    "no points": (sweep(points=[]), "points", ""),
    "a point above the model": (sweep(points=[1.5]), "points=1.5", "sweep M --target mobile-cpu --points 1.5"),
    "points in words": (sweep(points="many"), "points='many'", "sweep M --target mobile-cpu --points many"),
    "time of more threads than one": (
        lambda: bench([CNN], threads=2, cpu_time=True), "threads or cpu_time", "bench M --threads 2 --cpu-time"
    ),
    "no sessions": (lambda: bench([CNN], sessions=0), "sessions=0", "bench M --sessions 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_python_gets_words_of_python(name: str) -> None:
    call, names, _ = WRONG[name]
    with pytest.raises(hwpass.HwpassError) as caught:
        call()
    text = str(caught.value)
    assert names in text
    assert "--" not in text
    assert "\n" not in text


@pytest.mark.parametrize("name", [name for name, case in WRONG.items() if case[2]])
def test_the_command_line_gets_options(name: str) -> None:
    words = [str(CNN) if word == "M" else word for word in WRONG[name][2].split()]
    ended = CliRunner().invoke(main, words)
    assert ended.exit_code in (2, 4, 5)
    assert len(ended.stderr.splitlines()) == 1
    assert "--" in ended.stderr


def test_reports_and_verdicts_speak_to_who_asked() -> None:
    found = hwpass.run(CNN, "mobile-cpu", macs=0.7, score="l2", compensate="off")
    assert "--" not in found.report.to_json()
    assert "give calib" in found.report.to_json()
    found = hwpass.run(CNN, "mobile-cpu", macs=0.7, calib=images(), compensate="off", score="l2")
    assert "--" not in found.report.to_json()
    assert "fidelity" in found.report.verdicts.fidelity.note  # type: ignore[union-attr]
    swept = hwpass.sweep(CNN, "mobile-cpu", budget="macs", points=[0.7, 0.001], score="l2", compensate="off")
    assert "--" not in swept.to_json()
    ended = CliRunner().invoke(
        main, f"run {CNN} --target mobile-cpu --macs 0.7x --score l2 --compensate off --json -".split()
    )
    assert "give --calib" in ended.stdout


def test_a_comparison_speaks_to_who_asked() -> None:
    found = hwpass.run(CNN, "mobile-cpu", macs=0.7, score="l2", compensate="off")
    pruned = found.model.proto()
    compared = verify_models(CNN, pruned, None, Verify())
    assert compared.verdicts.exactness is not None
    assert "give plan" in str(compared.verdicts)
    assert "--" not in str(compared.verdicts)


def test_a_metric_without_a_bound_names_the_parameter() -> None:
    from hwpass.verdicts.findings import MetricFound

    verdict = MetricVerdict.of(MetricFound("f", 1.0, 0.9, None))
    assert verdict.note.endswith("judge it with max_drop")
    with words_of_the_shell():
        assert MetricVerdict.of(MetricFound("f", 1.0, 0.9, None)).note.endswith("judge it with --max-drop")


def test_external_data_of_elsewhere_names_the_parameter(tmp_path: Path) -> None:
    import onnx

    s = Sketch()
    s.output(s.op("Relu", s.linear(s.input(["N", 40]), 40, 30)))
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "m.onnx"
    onnx.save(s.model(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../w.bin"
    path.write_bytes(proto.SerializeToString())
    (tmp_path / "models" / "w.bin").rename(tmp_path / "w.bin")
    for call in (lambda: hwpass.load(path), lambda: profile_model(path, "mobile-cpu")):
        with pytest.raises(hwpass.InputError, match="allow_external=True") as caught:
            call()
        assert "--" not in str(caught.value)
    ended = CliRunner().invoke(main, ["groups", str(path)])
    assert "give --allow-external" in ended.stderr


@pytest.mark.parametrize("text", ["verify{rtol=1}", "verify{max-drop=0.1}", "prune-channels{score=l7}",
                                  "prune-channels{min-channels=0}", "prune-channels{latency=2x}"])  # fmt: skip
def test_a_pipeline_of_the_users_own_is_spoken_of_in_its_own_words(text: str) -> None:
    key = text.partition("{")[2].partition("=")[0]
    with pytest.raises(hwpass.UsageError) as caught:
        PassManager.parse(text)
    assert key.replace("-", "_") in str(caught.value)
    ended = CliRunner().invoke(main, ["run", str(CNN), "--target", "mobile-cpu", "--pipeline", text])
    assert ended.exit_code == 2
    assert f"hwpass: {key}" in ended.stderr
    assert f"--{key}" not in ended.stderr
