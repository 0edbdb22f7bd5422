"""Paths: text or pathlib, wherever Python takes one; and those that no file can have end in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from sketch import Sketch

import hwpass
from hwpass.command.cli import main
from hwpass.context import Context
from hwpass.cost.bench import bench
from hwpass.cost_models import load_target
from hwpass.files.whole_files import write_text
from hwpass.manager import PassManager
from hwpass.passes.apply_plan import ApplyPlan
from hwpass.passes.verify import Verify
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs
from hwpass.runtime.threads import MOST_THREADS
from hwpass.workflows.compare import verify_models
from hwpass.workflows.inspect import coupled
from hwpass.workflows.job import Job
from hwpass.workflows.profile import profile_model

TARGET = (Path(__file__).parents[2] / "cost_models/targets/mobile-cpu.toml").read_text(encoding="utf-8")
PIPELINE = "fold,prune-channels{macs=0.7x,score=l2},verify"


@dataclass(frozen=True)
class Place:
    """Something that is a path by protocol alone."""

    text: str

    def __fspath__(self) -> str:
        return self.text


KINDS: dict[str, Callable[[str], Any]] = {"str": str, "Path": Path, "PathLike": Place}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its data, a target, a plan, and the model that the plan makes."""
    folder = tmp_path_factory.mktemp("files")
    s = Sketch()
    x = s.input(["N", 12])
    s.output(s.linear(s.op("Relu", s.linear(x, 12, 24)), 24, 4))
    onnx.save(s.model(), folder / "m.onnx")
    arrays: dict[str, Any] = {x: np.random.default_rng(0).random((32, 12), np.float32)}
    np.savez(folder / "data.npz", **arrays)
    (folder / "t.toml").write_text(TARGET, encoding="utf-8")
    result = hwpass.run(folder / "m.onnx", "mobile-cpu", macs=0.7, score="l2", compensate="off")
    assert result.plan is not None
    (folder / "plan.json").write_text(result.plan.to_json(), encoding="utf-8")
    result.save(folder / "small.onnx")
    return folder


@pytest.fixture(scope="module")
def result(files: Path) -> hwpass.Result:
    return hwpass.run(files / "m.onnx", "mobile-cpu", macs=0.7, score="l2", compensate="off")


def specs(files: Path) -> Any:
    return input_specs(onnx.load(files / "m.onnx"))


def swept(source: Any, target: Any, **extra: Any) -> Any:
    return hwpass.sweep(source, target, budget="macs", points=[0.7], score="l2", compensate="off", **extra)


#: What reads a path: the name of the file, and the call.
READS: dict[str, tuple[str, Callable[[Any, Path], object]]] = {
    "load": ("m.onnx", lambda path, files: hwpass.load(path)),
    "load with data of elsewhere": ("m.onnx", lambda path, files: hwpass.load(path, allow_external=True)),
    "Model.load": ("m.onnx", lambda path, files: hwpass.Model.load(path)),
    "run": ("m.onnx", lambda path, files: hwpass.run(path, "mobile-cpu", pipeline=PIPELINE)),
    "run with data": (
        "data.npz",
        lambda path, files: hwpass.run(files / "m.onnx", "mobile-cpu", pipeline=PIPELINE, calib=path),
    ),
    "run for a target": ("t.toml", lambda path, files: hwpass.run(files / "m.onnx", path, pipeline=PIPELINE)),
    "sweep": ("m.onnx", lambda path, files: swept(path, "mobile-cpu")),
    "sweep for a target": ("t.toml", lambda path, files: swept(files / "m.onnx", path)),
    "sweep with data": ("data.npz", lambda path, files: swept(files / "m.onnx", "mobile-cpu", calib=path)),
    "Job": ("m.onnx", lambda path, files: Job(path)),
    "Job with data": ("data.npz", lambda path, files: Job(files / "m.onnx", calib=path)),
    "Job for a target": ("t.toml", lambda path, files: Job(files / "m.onnx", target=path)),
    "Plan.read": ("plan.json", lambda path, files: hwpass.Plan.read(path)),
    "apply-plan": (
        "plan.json",
        lambda path, files: PassManager([ApplyPlan(plan=path)]).run(prepared(files), Context()),
    ),
    "load_target": ("t.toml", lambda path, files: load_target(path)),
    "load_calibration": ("data.npz", lambda path, files: load_calibration(path, specs(files))),
    "profile_model": ("m.onnx", lambda path, files: profile_model(path, "mobile-cpu")),
    "profile_model for a target": ("t.toml", lambda path, files: profile_model(files / "m.onnx", path)),
    "coupled": ("m.onnx", lambda path, files: coupled(path)),
    "bench": ("m.onnx", lambda path, files: bench([path], sessions=1, runs=1)),
    "bench with data of elsewhere": (
        "m.onnx", lambda path, files: bench([path], sessions=1, runs=1, allow_external=True)
    ),
    "verify_models": ("m.onnx", lambda path, files: verify_models(path, files / "m.onnx", None, Verify())),
    "verify_models, the other": ("m.onnx", lambda path, files: verify_models(files / "m.onnx", path, None, Verify())),
    "verify_models with data": (
        "data.npz",
        lambda path, files: verify_models(files / "m.onnx", files / "m.onnx", None, Verify(), calib=path),
    ),
}  # fmt: skip


def prepared(files: Path) -> hwpass.Model:
    plan = hwpass.Plan.read(files / "plan.json")
    return PassManager.parse(plan.prepare).run(hwpass.load(files / "m.onnx"), Context())


def stored(path: Any, result: hwpass.Result) -> None:
    os.mkdir(path)
    result.model.store(path)


WRITES: dict[str, tuple[str, Callable[[Any, hwpass.Result, Path], object]]] = {
    "Result.save": ("o.onnx", lambda path, result, files: result.save(path)),
    "Result.write": ("o.onnx", lambda path, result, files: result.write(path)),
    "Model.save": ("o.onnx", lambda path, result, files: result.model.save(path)),
    "Model.write": ("o.onnx", lambda path, result, files: result.model.write(path)),
    "Model.store": ("store", lambda path, result, files: stored(path, result)),
    "write_text": ("o.json", lambda path, result, files: write_text(path, "{}")),
    "sweep": ("models", lambda path, result, files: swept(files / "m.onnx", "mobile-cpu", output=path)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READS)
def test_what_reads_takes_paths_of_every_kind(name: str, kind: str, files: Path) -> None:
    file, call = READS[name]
    call(KINDS[kind](str(files / file)), files)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WRITES)
def test_what_writes_takes_paths_of_every_kind(
    name: str, kind: str, files: Path, result: hwpass.Result, tmp_path: Path
) -> None:
    file, call = WRITES[name]
    call(KINDS[kind](str(tmp_path / file)), result, files)
    assert (tmp_path / file).exists()


#: Paths that no file has, or that cannot stand in a line as they are.
ODD = {
    "a zero byte": "odd\0name.onnx",
    "a line feed": "no\nsuch\nfile.onnx",
    "a line of Unicode": "no\u2028such\x85file.onnx",
    "an escape": "no\x1b[31msuch.onnx",
    "half a pair": "no\ud800such.onnx",
    "a long name": "n" * 300 + ".onnx",
    "a long path": "/".join(["n" * 200] * 40) + "/m.onnx",
    "a path of 200 KiB": "n/" * 100_000 + "m.onnx",
    "nothing": "",
}


def right_ending(odd: str, file: str) -> str:
    return odd.replace(".onnx", Path(file).suffix) if odd else odd


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", [name for name in READS if "data of elsewhere" not in name])
def test_reading_where_nothing_can_be_is_one_line(name: str, odd: str, files: Path, tmp_path: Path) -> None:
    file, call = READS[name]
    os.chdir(tmp_path)
    with pytest.raises(hwpass.HwpassError) as caught:
        call(right_ending(ODD[odd], file), files)
    check(caught.value)


@pytest.mark.parametrize("odd", [odd for odd in ODD if "line" not in odd and odd != "an escape"])
@pytest.mark.parametrize("name", ["Result.save", "Model.save", "write_text", "sweep"])
def test_writing_where_nothing_can_be_is_one_line(
    name: str, odd: str, files: Path, result: hwpass.Result, tmp_path: Path
) -> None:
    os.chdir(tmp_path)
    path = ODD[odd] if odd != "half a pair" else "no\ud800where/such.onnx"
    with pytest.raises(hwpass.HwpassError) as caught:
        WRITES[name][1](path, result, files)
    check(caught.value)
    assert list(tmp_path.iterdir()) == []


def check(error: hwpass.HwpassError) -> None:
    text = str(error)
    assert error.exit_code in (2, 3)
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    assert len(text) <= 1200


COMMANDS = {
    "a model": "run ODD --target mobile-cpu --macs 0.7x",
    "a target": "run M --target ODD.toml --macs 0.7x",
    "data": "run M --target mobile-cpu --macs 0.7x --calib ODD",
    "an output": "run M --target mobile-cpu --macs 0.7x -o no/ODD",
    "a report": "run M --target mobile-cpu --macs 0.7x --report no/ODD",
    "JSON": "run M --target mobile-cpu --macs 0.7x --json no/ODD",
    "a plan to write": "run M --target mobile-cpu --macs 0.7x --plan no/ODD",
    "a model to sweep": "sweep ODD --target mobile-cpu",
    "a folder": "sweep M --target mobile-cpu -o no/ODD",
    "CSV": "sweep M --target mobile-cpu --csv no/ODD",
    "a model to profile": "profile ODD --target mobile-cpu",
    "a target to show": "targets ODD",
    "groups": "groups ODD",
    "a plan": "apply ODD M -o o.onnx",
    "a model to apply to": "apply P ODD -o o.onnx",
    "an original": "verify ODD M",
    "a pruned model": "verify M ODD",
    "a plan to verify by": "verify M M --plan ODD",
    "a model to time": "bench ODD",
}


# A name of nothing in a folder that is not there is the folder, which has tests of its own.
CALLED = [(name, odd) for name in COMMANDS for odd in ODD if not (odd == "nothing" and "no/ODD" in COMMANDS[name])]


@pytest.mark.parametrize(("name", "odd"), CALLED)
def test_odd_paths_on_the_command_line_are_one_line(name: str, odd: str, files: Path, tmp_path: Path) -> None:
    os.chdir(tmp_path)
    known = {"M": str(files / "m.onnx"), "P": str(files / "plan.json")}
    words = [known.get(word, word.replace("ODD", ODD[odd])) for word in COMMANDS[name].split()]
    ended = CliRunner().invoke(main, words)
    assert ended.exit_code in (2, 3), ended.output
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert len(ended.stderr) < 1300
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(autouse=True)
def _home() -> Any:
    here = os.getcwd()
    yield
    os.chdir(here)


@pytest.mark.parametrize("threads", [0, -1, MOST_THREADS + 1, 10**9, 1.5, "2", None, True])
def test_threads_have_one_bound(threads: Any, files: Path) -> None:
    model = files / "m.onnx"
    calls: list[Callable[[], object]] = [
        lambda: hwpass.run(model, "mobile-cpu", macs=0.7, threads=threads),
        lambda: hwpass.sweep(model, "mobile-cpu", threads=threads),
        lambda: Job(model, threads=threads),
        lambda: Context(threads=threads),
        lambda: profile_model(model, "mobile-cpu", threads=threads),
        lambda: verify_models(model, model, None, Verify(), threads=threads),
        lambda: bench([model], threads=threads),
    ]
    for call in calls:
        with pytest.raises(hwpass.UsageError, match=f"threads.*: give a number from 1 to {MOST_THREADS}"):
            call()


def test_threads_on_the_command_line_have_the_same_bound(files: Path) -> None:
    for count in ("0", str(MOST_THREADS + 1)):
        words = ["profile", str(files / "m.onnx"), "--target", "mobile-cpu", "--threads", count]
        ended = CliRunner().invoke(main, words)
        assert ended.exit_code == 2
        assert "--threads" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


def test_numbers_of_numpy_are_numbers_of_threads(files: Path) -> None:
    assert json.loads(hwpass.run(files / "m.onnx", "mobile-cpu", macs=0.7, score="l2", compensate="off",
                                 threads=np.int64(1)).report.to_json())  # fmt: skip
