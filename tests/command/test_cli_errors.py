"""What the command line does with everything that can be wrong: one line, the contract's status, no file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from hwpass.command.cli import main

FIXTURES = Path(__file__).parents[2] / "fixtures"
MODEL = str(FIXTURES / "cnn.onnx")

USAGE, INPUT, BUDGET, VERDICT = 2, 3, 4, 5


@dataclass(frozen=True)
class Case:
    """Arguments in which `{dir}` is an empty folder, the status, and what the one line has to say."""

    name: str
    arguments: str
    status: int
    says: Sequence[str]
    make: Callable[[Path], object] = lambda folder: None
    stdin: bytes = b""


def run(rest: str = "--macs 0.5x", model: str = MODEL, target: str = "mobile-cpu") -> str:
    return f"run {model} --target {target} -o {{dir}}/out.onnx {rest}"


def sweep(rest: str) -> str:
    return f"sweep {MODEL} --target mobile-cpu {rest}"


def write(name: str, data: bytes | str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def arrays(**values: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: np.savez(folder / "data.npz", **values)  # type: ignore[arg-type]


def network(weight: np.ndarray | None) -> Callable[[Path], object]:
    """A model of one product whose outputs are the model's, or (without a weight) of a Relu."""

    def make(folder: Path) -> None:
        shape: list[str | int] = ["N", 8]
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
        if weight is None:
            nodes, weights = [helper.make_node("Relu", ["x"], ["y"], "relu")], []
        else:
            # A hidden layer, so that there is something to remove.
            nodes = [
                helper.make_node("MatMul", ["x", "first"], ["h"], "hidden"),
                helper.make_node("MatMul", ["h", "second"], ["y"], "last"),
            ]
            weights = [numpy_helper.from_array(weight, name) for name in ("first", "second")]
        graph = helper.make_graph(nodes, "g", [x], [y], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / "made.onnx")

    return make


IMAGES = np.zeros((4, 1, 28, 28), np.float32)
BROKEN = np.full((8, 8), np.nan, np.float32)
TARGET = (Path(__file__).parents[2] / "cost_models/targets/mobile-cpu.toml").read_text(encoding="utf-8")

CASES = [
    Case("missing file", run(model="{dir}/no.onnx"), INPUT, ["no.onnx", "no such file"]),
    Case("a directory", run(model="{dir}"), INPUT, ["is a folder"]),
    Case("empty file", run(model="{dir}/m.onnx"), INPUT, ["m.onnx", "empty"], write("m.onnx", b"")),
    Case("empty stdin", run(model="-"), INPUT, ["standard input", "empty"]),
    Case(
        "truncated protobuf",
        run(model="{dir}/m.onnx"),
        INPUT,
        ["m.onnx", "cut short"],
        write("m.onnx", Path(MODEL).read_bytes()[:5000]),
    ),
    Case(
        "text file",
        run(model="{dir}/m.txt"),
        INPUT,
        ["m.txt", "not an ONNX model"],
        write("m.txt", "hello\n"),
    ),
    Case("stdin of text", run(model="-"), INPUT, ["not an ONNX model"], stdin=b"hello\n"),
    Case("unknown target", run(target="mobil-cpu"), USAGE, ["mobil-cpu", "mobile-cpu", "hwpass targets"]),
    Case("missing target file", run(target="{dir}/no.toml"), INPUT, ["no.toml"]),
    Case("target not TOML", run(target="{dir}/t.toml"), INPUT, ["t.toml", "TOML"], write("t.toml", "a = = b")),
    Case(
        "target of a wrong type",
        run(target="{dir}/t.toml"),
        INPUT,
        ["t.toml", "overhead_us"],
        write("t.toml", TARGET.replace("overhead_us =", "overhead_us = 'long' #", 1)),
    ),
    Case(
        "target of an unknown key",
        run(target="{dir}/t.toml"),
        INPUT,
        ["t.toml", "cores", "no such key"],
        write("t.toml", "cores = 4\n" + TARGET),
    ),
    Case("target of an unknown show", "targets mobil-cpu", USAGE, ["mobile-cpu"]),
    Case("budget out of reach", run("--latency 0.001x"), BUDGET, ["--latency 0.001x", "--force"]),
    Case("budget in bytes out of reach", run("--size 1KiB"), BUDGET, ["--size 1KiB"]),
    Case("budget in words", run("--latency fast"), USAGE, ["--latency fast", "0.6x or 12ms"]),
    Case("budget in a wrong unit", run("--energy 5ms"), USAGE, ["--energy 5ms", "5mJ"]),
    Case("budget above the model", run("--macs 1.5x"), USAGE, ["--macs 1.5x"]),
    Case("budget of nothing", run("--macs 0x"), USAGE, ["--macs 0x"]),
    Case("no budget", run(""), USAGE, ["--latency", "--macs"]),
    Case("the same budget twice", run("--macs 0.5x --macs 0.6x"), USAGE, ["--macs", "0.5x, 0.6x"]),
    Case("uniform width and a budget", run("--channels 0.5x --macs 0.6x"), USAGE, ["--channels", "--macs"]),
    Case(
        "nothing to prune",
        run("--latency 0.5x", "{dir}/made.onnx"),
        BUDGET,
        ["nothing in this model can be pruned", "hwpass groups"],
        network(None),
    ),
    Case("NaN in a weight", run(model="{dir}/made.onnx"), INPUT, ["first", "NaN"], network(BROKEN)),
    Case("calibration missing", run("--macs 0.5x --calib {dir}/no.npz"), INPUT, ["no.npz"]),
    Case(
        "calibration of another shape",
        run("--macs 0.5x --calib {dir}/data.npz"),
        INPUT,
        ["data.npz", "image", "28"],
        arrays(image=IMAGES[..., :20]),
    ),
    Case(
        "calibration of another name",
        run("--macs 0.5x --calib {dir}/data.npz"),
        INPUT,
        ["data.npz", "picture", "image"],
        arrays(picture=IMAGES),
    ),
    Case(
        "calibration with NaN",
        run("--macs 0.5x --calib {dir}/data.npz"),
        INPUT,
        ["data.npz", "NaN"],
        arrays(image=IMAGES + np.nan),
    ),
    Case(
        "calibration is text",
        run("--macs 0.5x --calib {dir}/data.npz"),
        INPUT,
        ["data.npz"],
        write("data.npz", "hello"),
    ),
    Case(
        "folder missing",
        f"run {MODEL} --target mobile-cpu --macs 0.5x -o {{dir}}/no/out.onnx",
        INPUT,
        ["does not exist"],
    ),
    Case(
        "below a file",
        f"run {MODEL} --target mobile-cpu --macs 0.5x -o {MODEL}/out.onnx",
        INPUT,
        ["does not exist"],
    ),
    Case(
        "not writable",
        f"run {MODEL} --target mobile-cpu --macs 0.5x -o /proc/out.onnx",
        INPUT,
        ["cannot write"],
    ),
    Case(
        "output is a folder",
        f"run {MODEL} --target mobile-cpu --macs 0.5x -o {{dir}}",
        INPUT,
        ["is a folder"],
    ),
    Case("report not writable", run("--macs 0.5x --report {dir}/no/r.html"), INPUT, ["does not exist"]),
    Case("two outputs in one place", run("--macs 0.5x --json {dir}/out.onnx"), USAGE, ["--json", "--output"]),
    Case("two outputs on stdout", run("--macs 0.5x --json - --plan -"), USAGE, ["--plan", "--json"]),
    Case("no such layer", run("--macs 0.5x --keep nothing*"), USAGE, ["--keep nothing*", "hwpass groups"]),
    Case("no such score", run("--macs 0.5x --score l7"), USAGE, ["l7"]),
    *[
        Case(f"budget {text}", run(f"--latency {text}"), USAGE, ["--latency", text, "0.6x or 12ms"])
        for text in "nanx infms 1e999 1e999ms 0.5 12mJ".split()
    ],
    Case("tolerance that is no number", run("--macs 0.5x --rtol nan"), USAGE, ["--rtol"]),
    Case("tolerance of everything", run("--macs 0.5x --rtol inf"), USAGE, ["--rtol"]),
    Case("tolerance of all of it", run("--macs 0.5x --rtol 1"), USAGE, ["--rtol"]),
    Case("difference of everything", run("--macs 0.5x --atol inf"), USAGE, ["--atol"]),
    Case("pipeline with an option twice", run("--pipeline fold{limit=1,limit=2}"), USAGE, ["limit", "twice"]),
    Case("pipeline cut short", run("--pipeline fold{limit=1"), USAGE, ["character 12"]),
    Case("metric before the model", run("--pipeline verify{metric=nowhere}", "{dir}/no.onnx"), USAGE, ["'nowhere'"]),
    Case("no such pass", run("--pipeline fold,prun"), USAGE, ["prun", "hwpass passes"]),
    Case("no such option of a pass", run("--pipeline fold{limt=3}"), USAGE, ["limt", "limit"]),
    Case("pipeline and budget", run("--pipeline fold --macs 0.5x"), USAGE, ["--pipeline"]),
    Case("pipeline and score", run("--pipeline fold --score l2"), USAGE, ["--score", "--pipeline"]),
    Case("fidelity in words", run("--macs 0.5x --fidelity good"), USAGE, ["good", "cosine>=0.99"]),
    Case("no such metric", run("--macs 0.5x --metric no.where:fn"), USAGE, ["no.where:fn"]),
    Case("drop of no metric", run("--macs 0.5x --max-drop 0.1"), USAGE, ["--max-drop", "--metric"]),
    Case("drop of no metric and no budget", run("--max-drop 0.1"), USAGE, ["--max-drop", "--metric"]),
    Case("metric without a drop or budget", run("--metric a:b"), USAGE, ["--latency", "--max-drop"]),
    Case("drop below zero", run("--metric a:b --max-drop -1"), USAGE, ["--max-drop"]),
    Case("search by no such metric", run("--metric no.where:fn --max-drop 0.1"), USAGE, ["no.where:fn"]),
    Case(
        "fidelity fails",
        run("--macs 0.2x --score l2 --compensate off --fidelity cosine>=0.99999"),
        VERDICT,
        ["logits", "cosine"],
    ),
    Case("points in words", sweep("--points many"), USAGE, ["--points many", "0.9,0.75"]),
    Case("a point above the model", sweep("--points 0.5,1.5"), USAGE, ["--points 1.5"]),
    Case("a point of nothing", sweep("--points 0"), USAGE, ["--points 0"]),
    Case("no such cost to sweep", sweep("--budget channels"), USAGE, ["--budget", "latency"]),
    Case("both tables on stdout", sweep("--csv - --json -"), USAGE, ["--csv", "--json"]),
    Case("models into a file", sweep("-o {dir}/f"), INPUT, ["/f:", "folder"], write("f", "x")),
    Case("models into nowhere", sweep("-o {dir}/no/models"), INPUT, ["/no does not exist"]),
    Case("sweep by no such metric", sweep("--metric no.where:fn"), USAGE, ["no.where:fn"]),
    Case("misspelt option", run("--mac 0.5x"), USAGE, ["--mac", "--macs", "--help"]),
    Case("no such command", "prune model.onnx", USAGE, ["prune", "--help"]),
    Case("missing argument", "apply", USAGE, ["MODEL", "--help"]),
    Case("unknown node", f"groups {MODEL} --why /1/Con", USAGE, ["/1/Con", "nearest"]),
    Case("groups of nothing", "groups {dir}/no.onnx", INPUT, ["no.onnx"]),
    Case("profile of nothing", "profile {dir}/no.onnx --target mobile-cpu", INPUT, ["no.onnx"]),
    Case("bench of nothing", "bench {dir}/no.onnx", INPUT, ["no.onnx"]),
    Case("plan missing", f"apply {{dir}}/no.json {MODEL} -o {{dir}}/out.onnx", INPUT, ["no.json"]),
    Case(
        "plan is text",
        f"apply {{dir}}/p.json {MODEL} -o {{dir}}/out.onnx",
        INPUT,
        ["p.json", "not a plan"],
        write("p.json", "hello"),
    ),
    Case(
        "plan that runs something",
        f"apply {{dir}}/p.json {MODEL} -o {{dir}}/out.onnx",
        INPUT,
        ["p.json", "verify is no preparation pass"],
        write("p.json", '{"schema": 1, "model_sha256": "", "prepare": "verify{metric=a:b}", "groups": []}'),
    ),
    Case(
        "verify by a plan that runs something",
        f"verify {MODEL} {MODEL} --plan {{dir}}/p.json",
        INPUT,
        ["p.json", "apply-plan is no preparation pass"],
        write("p.json", '{"schema": 1, "model_sha256": "", "prepare": "apply-plan{plan=x}", "groups": []}'),
    ),
    Case("plan is a folder", f"apply {{dir}} {MODEL} -o {{dir}}/out.onnx", INPUT, ["is a folder"]),
    Case("plan is endless", f"apply /dev/zero {MODEL} -o {{dir}}/out.onnx", INPUT, ["/dev/zero", "larger than"]),
    Case(
        "target of brackets",
        run(target="{dir}/t.toml"),
        INPUT,
        ["t.toml", "nested too deeply"],
        write("t.toml", "a=" + "[" * 10**5),
    ),
    Case(
        "plan of another model",
        f"apply {{dir}}/p.json {MODEL} -o {{dir}}/out.onnx",
        INPUT,
        ["group conv9"],
        write(
            "p.json",
            '{"schema": 1, "model_sha256": "", "prepare": "", "groups":'
            ' [{"name": "conv9", "width": 2, "kept": [0], "layers": []}]}',
        ),
    ),
    Case("verify of two interfaces", f"verify {MODEL} {{dir}}/made.onnx", INPUT, ["inputs"], network(None)),
    Case("verify of two streams", "verify - -", USAGE, ["standard input"]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_line_the_status_and_no_file(case: Case, tmp_path: Path) -> None:
    case.make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*")}
    arguments = [word.format(dir=tmp_path) if "{dir}" in word else word for word in case.arguments.split()]
    result = CliRunner().invoke(main, arguments, input=case.stdin)
    lines = result.stderr.splitlines()
    assert result.exit_code == case.status, result.output
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("hwpass: ")
    for words in case.says:
        assert words in lines[0]
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(("asked", "shown"), [([], False), (["-W", "default"], True)])
def test_warnings_of_libraries_are_for_those_who_ask(asked: list[str], shown: bool) -> None:
    code = "import warnings, click\nfrom hwpass.command.shell import ShellGroup\ng = ShellGroup()\n"
    code += "@g.command()\ndef c(): warnings.warn('divided by nothing', RuntimeWarning)\ng(['c'])"
    done = subprocess.run([sys.executable, *asked, "-c", code], capture_output=True, text=True, check=True)
    assert ("divided by nothing" in done.stderr) is shown
