"""Runners: what a command prints, what each failure says, who may add one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from distributions import distribution, python
from onnx import TensorProto as T
from onnx import helper

from hwpass.command.cli import main
from hwpass.cost.bench import bench
from hwpass.errors import InputError, UsageError
from hwpass.plugins import RUNNERS
from hwpass.runners import worker
from hwpass.runners.runner import Job, Outcome, Runner, checked, register, runner_for, runners

CNN = Path(__file__).parents[2] / "fixtures/cnn.onnx"


def small(op: str = "Relu") -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, T.FLOAT, [1, 8]) for name in "xy")
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "small", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def script(folder: Path, text: str) -> str:
    path = folder / "on my phone.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f"command:'{path}' {{model}}"


def test_a_command_prints_milliseconds(tmp_path: Path) -> None:
    runner = script(tmp_path, 'test -s "$1" || exit 7\necho starting up\necho "2.5, 1.5 3.5"\necho')
    (found,) = bench([small()], runner=runner, sessions=2)
    assert found.median_ms == pytest.approx(2.5)
    assert found.quick_ms == pytest.approx(1.5)


def test_a_command_is_told_inputs_runs_and_threads(tmp_path: Path) -> None:
    runner = script(tmp_path, 'test -s "$2" || exit 7\necho "$3$4"') + " {inputs} {runs} {threads}"
    (found,) = bench([small()], runner=runner, sessions=1, runs=3, threads=2)
    assert found.median_ms == pytest.approx(32)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo fast", "printed 'fast'; expected milliseconds, above 0"),
        ("echo 3 ms", "printed '3 ms'; expected"),
        ("echo -1", "printed '-1'; expected"),
        ("echo nan", "printed 'nan'; expected"),
        ("echo 0", "printed '0'; expected"),
        ("printf '\\033[31m1'", r"printed '\x1b[31m1'; expected"),
        ("true", "printed nothing; expected milliseconds"),
        ("echo 1; exit 3", "ended with status 3"),
        ("echo the phone is asleep >&2; exit 1", "ended with status 1: the phone is asleep"),
    ],
)
def test_what_a_command_does_wrong_is_one_line(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(small(), tmp_path / "small.onnx")
    with pytest.raises(SystemExit) as caught:
        main(["bench", str(tmp_path / "small.onnx"), "--runner", script(tmp_path, text)])
    assert caught.value.code == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hwpass: small: cannot be timed: ")
    assert said in line


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    runner = script(tmp_path, f"echo $$ > '{tmp_path}/pid'\nwhile true; do echo 1; sleep 0.05; done")
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"nothing within 0\.5 s"):
        bench([small()], runner=runner, timeout=0.5)
    assert time.monotonic() - begin < 5
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("runner", "said"),
    [
        ("phone", "--runner phone: expected one of command, ncnn, onnxruntime, openvino"),
        ("command:./measure.sh", "expected a program, and {model} where"),
        ("command:", "expected a program, and {model} where"),
        ("command:{model}", "expected a program, and {model} where"),
        ("command:'a {model}", "No closing quotation"),
        ("onnxruntime:Abacus", "expected an execution provider that is there: "),
    ],
)
def test_a_runner_that_makes_no_sense_is_a_matter_of_usage(
    runner: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["bench"], ["profile", "--measure", "--target", "server-cpu"]):
        with pytest.raises(SystemExit) as caught:
            main([*command, str(CNN), "--runner", runner])
        assert caught.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.sh cannot be started: No such file"):
        bench([small()], runner=f"command:{tmp_path}/none.sh {{model}}")


def test_processor_time_is_not_asked_of_what_cannot_count_it() -> None:
    with pytest.raises(UsageError, match="counts no processor time"):
        bench([small()], runner="command:true {model}", cpu_time=True)


def test_a_profile_is_measured_by_a_runner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["profile", str(CNN), "--target", "server-cpu", "--measure", "--runner", script(tmp_path, "echo 4")])
    assert "measured 4.00 ms" in capsys.readouterr().out.replace("4 ms", "4.00 ms")


def test_the_provider_of_onnx_runtime_is_chosen() -> None:
    (found,) = bench([small()], runner="onnxruntime:CPUExecutionProvider", sessions=1, runs=2)
    assert found.median_ms > 0


def test_many_jobs_take_one_process_and_a_bad_one_spoils_no_other(tmp_path: Path) -> None:
    names = []
    for number, op in enumerate(("Relu", "NoSuchOperator", "Tanh")):
        onnx.save(small(op), tmp_path / f"{number}.onnx")
        names.append(tmp_path / f"{number}.onnx")
    np.savez(tmp_path / "feed.npz", np.array("x"), np.zeros((1, 8), np.float32))
    jobs = [Job(path.name, path, tmp_path / "feed.npz", runs=3) for path in names]
    first, bad, last = runner_for("onnxruntime").measure(jobs)
    assert len(first.seconds) == len(last.seconds) == 3
    assert "NoSuchOperator" in bad.failure
    assert "\n" not in bad.failure


def test_times_that_are_none_are_a_failure(tmp_path: Path) -> None:
    job = Job("m", tmp_path, tmp_path)
    for seconds in ((), (0.0,), (float("nan"),), (1.0, -1.0)):
        assert checked(Outcome(seconds), job).failure
    assert not checked(Outcome((1.0,)), job).failure


def test_the_worker_times_the_runs_asked_for_and_leaves_waiting_out() -> None:
    """A run that sleeps takes long and costs nothing."""
    seconds, joules = worker.measure(lambda: time.sleep(0.03), 2)
    assert len(seconds) == 2
    assert min(seconds) >= 0.03
    assert joules is None
    assert max(worker.measure(lambda: time.sleep(0.03), 2, time.thread_time)[0]) < 0.03


def test_names_are_unique_and_written_plainly() -> None:
    class Mine(Runner):
        def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
            yield from (Outcome((1.0,)) for _ in jobs)

    Mine.name = "ncnn"
    with pytest.raises(ValueError, match="two runners named ncnn"):
        register(Mine)
    Mine.name = "My phone"
    with pytest.raises(ValueError, match="no name: write small letters"):
        register(Mine)
    assert set(runners()) == {"command", "ncnn", "onnxruntime", "openvino"}


FROM_OUTSIDE = """
from hwpass.runners.runner import Outcome, Runner

class Sundial(Runner):
    name = "sundial"
    summary = "by the sun"

    def measure(self, jobs):
        for job in jobs:
            yield Outcome((float(self.argument or 3600),))
"""


def test_a_runner_from_outside(tmp_path: Path) -> None:
    distribution(tmp_path, "shade", FROM_OUTSIDE, {RUNNERS: "sundial = {module}:Sundial"})
    done = python(tmp_path, "-m", "hwpass", "bench", str(CNN), "--runner", "sundial:60", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert '"median_ms": 60000.0' in done.stdout
