"""What the machine does to a command: streams that are closed or full, no memory, no room, signals, odd metrics."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from crash import kills
from networks import network
from onnx import TensorProto, helper, numpy_helper

from hwpass import interrupts
from hwpass.command.cli import main
from hwpass.files import temporary
from hwpass.files.temporary import TemporaryFolder, sweep

ROOT = Path(__file__).parents[2]
RUN = "run m.onnx --target mobile-cpu --score l2 --compensate off --macs 0.7x"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    weights = {"a": rng.normal(size=(8, 24)), "b": rng.normal(size=(24, 4))}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "b"], ["y"], "second"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", size]) for n, size in (("x", 8), ("y", 4)))
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "m.onnx")
    return tmp_path


def shell(text: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which `hwpass` is the command; the status is that of hwpass."""
    command = f"{shlex.quote(sys.executable)} -m hwpass"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    text = text.replace("hwpass ", f"{command} ", 1)
    return subprocess.run(
        ["bash", "-c", text], capture_output=True, check=False, env=environment, timeout=120, preexec_fn=usual_signals
    )


def usual_signals() -> None:
    """Whoever runs the tests may ignore signals, as nohup does, and what is ignored stays ignored in a child."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


FED = RUN.replace("m.onnx", "-", 1)
STREAMS = {
    "standard output is closed, and only read": (f"hwpass {RUN} -o o.onnx >&-", 0, "", True),
    "standard output is closed, and wanted": (f"hwpass {RUN} --json - >&-", 3, "standard output is closed", False),
    "a model to closed standard output": (f"hwpass {RUN} -o - >&-", 3, "standard output is closed", False),
    "standard error is closed": (f"hwpass {RUN} -o o.onnx 2>&-", 0, "", True),
    "standard input is closed": (f"hwpass {FED} -o o.onnx <&-", 3, "it is closed", False),
    "a plan from closed standard input": ("hwpass apply - m.onnx -o o.onnx <&-", 3, "it is closed", False),
    "all streams are closed": (f"hwpass {RUN} -o o.onnx <&- >&- 2>&-", 0, "", True),
    "the report to a full device": (f"hwpass {RUN} -o o.onnx >/dev/full", 3, "o.onnx was written", True),
    "the help to a full device": ("hwpass run --help >/dev/full", 3, "No space left", False),
    "a list to a full device": ("hwpass targets >/dev/full", 3, "No space left", False),
    "a model to a full device": (f"hwpass {RUN} -o - >/dev/full", 3, "cut short", False),
    "a model beside JSON to a full device": (f"hwpass {RUN} -o o.onnx --json - >/dev/full", 3, "cut short", False),
    "errors to a full device": (f"hwpass {RUN} -o o.onnx 2>/dev/full", 0, "", True),
    "a report whose reader leaves": (f"hwpass {RUN} -o o.onnx | true; exit ${{PIPESTATUS[0]}}", 0, "", True),
    "a model whose reader leaves": (
        f"hwpass {RUN} --json - -o o.onnx 2>err | true; cat err >&2; exit ${{PIPESTATUS[0]}}", 3, "cut short", False
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_streams_that_are_closed_or_full(name: str, here: Path) -> None:
    text, status, says, written = STREAMS[name]
    if name == "a model whose reader leaves":
        text = text.replace("exit ${PIPESTATUS[0]}", "").replace("2>err |", "2>err; echo $? >status) |")
        shell("(" + text)
        assert (here / "status").read_text() == f"{status}\n"
        said = (here / "err").read_text()
    else:
        done = shell(text)
        assert done.returncode == status, done.stderr
        said = done.stderr.decode()
    assert said.count("\n") == int(bool(says)), said
    assert says in said
    assert (here / "o.onnx").exists() == written
    assert not list(here.glob(".hwpass*"))


def test_streams_of_ascii_get_plain_letters(here: Path) -> None:
    for text in (f"hwpass {RUN} -o o.onnx", "hwpass profile m.onnx --target mobile-cpu"):
        done = shell(text, PYTHONIOENCODING="ascii", LC_ALL="C")
        assert done.returncode == 0, done.stderr
        assert b" us" in done.stdout
        done.stdout.decode("ascii")


@pytest.mark.parametrize("variables", [{"COLUMNS": "1"}, {"COLUMNS": "0"}, {"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_terminals_of_any_kind_get_the_report(variables: dict[str, str], here: Path) -> None:
    done = shell(f"hwpass {RUN}", **variables)
    assert done.returncode == 0, done.stderr
    assert b"latency" in done.stdout


LIMITS = {
    "no room for libraries": ("ulimit -v 60000; ", 3, "memory"),
    "room for some libraries": ("ulimit -v 230000; ", 3, "memory"),
    "files of no size": ("ulimit -f 20; ", 3, "set TMPDIR"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_of_the_system_are_said_in_one_line(name: str, here: Path) -> None:
    onnx.save(network(4096), "m.onnx")
    limit, status, says = LIMITS[name]
    done = shell(f"{limit}hwpass {RUN} -o o.onnx")
    assert done.returncode == status, done.stderr
    assert done.stderr.count(b"\n") == 1, done.stderr
    assert says in done.stderr.decode()
    assert not (here / "o.onnx").exists()


def test_no_home_no_folder_for_temporary_files_and_no_working_folder(here: Path) -> None:
    assert shell(f"hwpass {RUN} -o a.onnx", TMPDIR="/no/such", HOME="/no/such").returncode == 0
    done = shell(f"mkdir gone; cd gone; rmdir ../gone; hwpass {RUN.replace('m.onnx', '../m.onnx')} -o o.onnx")
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1
    model = here / "m.onnx"
    done = shell(f"mkdir gone; cd gone; rmdir ../gone; hwpass {RUN.replace('m.onnx', str(model))} -o {here}/b.onnx")
    assert done.returncode == 0, done.stderr


METRICS = """
import os, sys
class Own(BaseException): pass
class Number:
    def __float__(self): raise SystemExit(3)
def exits(predict): sys.exit(0)
def interrupts(predict): raise KeyboardInterrupt
def closes(predict): raise GeneratorExit
def own(predict): raise Own("two\\nlines")
def stops(predict): raise StopIteration
def nothing(predict): return None
def text(predict): return "0.5"
def huge(predict): return 10**400
def several(predict): return __import__("numpy").ones(3)
def floats(predict): return Number()
def deep(predict): return deep(predict)
def infinite(predict): return float("inf")
def prints(predict):
    print("garbage")
    os.write(1, b"more garbage")
    return 1.0
def moves(predict):
    os.chdir("/")
    return 1.0
def shuts(predict):
    sys.stdout.close()
    return 1.0
"""


@pytest.mark.parametrize("name", ["exits", "interrupts", "closes", "own", "stops", "nothing", "text", "huge",
                                  "several", "floats", "deep", "infinite"])  # fmt: skip
def test_a_metric_that_goes_wrong_is_named(name: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text(METRICS, encoding="utf-8")
    if name in ("exits", "interrupts", "closes"):  # what ends a process is tried on one
        done = shell(f"hwpass {RUN} --metric mine:{name} -o o.onnx")
        status, said = done.returncode, done.stderr.decode()
    else:
        status, said = within(name, monkeypatch)
    assert status == 2, said
    assert said.count("\n") == 1
    assert f"metric {name}" in said
    assert not (here / "o.onnx").exists()


def within(metric: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Status and errors of a run in this process with a metric of the module `mine`, which goes again."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    sys.modules.pop("mine", None)
    try:
        result = CliRunner().invoke(main, [*RUN.split(), "--metric", f"mine:{metric}", "-o", "o.onnx"])
    finally:
        sys.modules.pop("mine", None)
    return result.exit_code, result.stderr


@pytest.mark.parametrize("line", ["raise SystemExit(0)", "raise KeyboardInterrupt", "def f(:", "x = 1\0"])
def test_a_module_of_a_metric_that_goes_wrong_is_named(line: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text(line, encoding="utf-8")
    if line.startswith("raise"):
        done = shell(f"hwpass {RUN} --metric mine:f -o o.onnx")
        status, said = done.returncode, done.stderr.decode()
    else:
        status, said = within("f", monkeypatch)
    assert status == 2, said
    assert said.count("\n") == 1
    assert "importing mine raised" in said


def test_a_metric_does_not_get_into_results(here: Path) -> None:
    Path("mine.py").write_text(METRICS, encoding="utf-8")
    done = shell(f"hwpass {RUN} --metric mine:prints --json -")
    assert json.loads(done.stdout)["verdicts"]["metric"]["after"] == 1
    for name in ("moves", "shuts"):
        done = shell(f"hwpass {RUN} --metric mine:{name} -o {name}.onnx")
        assert done.returncode == 0, done.stderr
        assert (here / f"{name}.onnx").is_file()


@pytest.mark.parametrize(("number", "status", "word"), [("INT", 130, "interrupted"), ("TERM", 143, "terminated"),
                                                        ("HUP", 129, "hung up")])  # fmt: skip
def test_signals_say_what_was_written(number: str, status: int, word: str, here: Path) -> None:
    """The metric and a reader that waits send the signal to the command from within: during the work and after it."""
    Path("mine.py").write_text(
        f"import os, signal\ndef fn(predict): os.kill(os.getpid(), signal.SIG{number}); return 1.0\n", encoding="utf-8"
    )
    done = shell(f"hwpass {RUN} --metric mine:fn -o o.onnx")
    assert done.returncode == status
    assert done.stderr.decode() == f"hwpass: {word}, nothing was written\n"
    assert sorted(p.name for p in here.iterdir() if p.suffix != "") == ["m.onnx", "mine.py"]
    os.mkfifo("pipe")
    with started(*RUN.split(), "-o", "o.onnx", "--plan", "p.json", output="pipe") as process:
        with open("pipe", "rb") as pipe:
            # A pipe that nobody empties stops the report, which comes after the files.
            del pipe
        process.wait(60)
    assert process.returncode == 0


def started(*words: str, output: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f"exec {shlex.quote(sys.executable)} -m hwpass {' '.join(words)} >{output}"
    return subprocess.Popen(["bash", "-c", command], stderr=subprocess.PIPE, env=environment)


def test_an_ignored_hang_up_stays_ignored(here: Path) -> None:
    Path("mine.py").write_text(
        "import os, signal\ndef fn(predict): os.kill(os.getpid(), signal.SIGHUP); return 1.0\n", encoding="utf-8"
    )
    done = shell(f"trap '' HUP; hwpass {RUN} --metric mine:fn -o o.onnx")
    assert done.returncode == 0, done.stderr


def test_a_signal_after_the_files_says_that_they_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts.run, "written", ["o.onnx", "p.json"])
    assert interrupts.outcome("terminated") == "terminated after o.onnx and p.json were written"
    monkeypatch.setattr(interrupts.run, "written", ["o.onnx"])
    assert interrupts.outcome("hung up") == "hung up after o.onnx was written"
    monkeypatch.setattr(interrupts.run, "written", list("abcde"))
    assert interrupts.outcome("interrupted") == "interrupted after a and 4 others were written"


def test_a_signal_waits_while_files_get_their_names(here: Path) -> None:
    code = (
        "import os, signal\nfrom hwpass import interrupts\ninterrupts.watch()\ninterrupts.run.written = []\n"
        "with interrupts.held():\n    os.kill(os.getpid(), signal.SIGTERM)\n    interrupts.wrote('o.onnx')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=environment)
    assert done.returncode == 143
    assert done.stderr == b"hwpass: terminated after o.onnx was written\n"


def test_the_worker_of_a_bench_ends_with_it(here: Path) -> None:
    with started("bench", "m.onnx", "--sessions", "1", "--runs", "1000000", output="/dev/null") as process:
        deadline = time.monotonic() + 60
        while not (workers := children(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said == b"hwpass: interrupted, nothing was written\n"
    assert workers
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(worker) for worker in workers)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in text.read_text().split()] if text.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_folders_of_ended_runs_are_removed_and_those_in_use_are_not(tmp_path: Path) -> None:
    (tmp_path / ".hwpass-77-left_over").mkdir()
    (tmp_path / "hwpass-78-left_over").mkdir()
    (tmp_path / ".hwpass-77-left_over" / "o.onnx").write_bytes(b"draft")
    others = [".hwpass-notes", "hwpass-results", "hwpass-2024"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / ".hwpass-79-file").write_bytes(b"a file of somebody's")
    with TemporaryFolder(tmp_path) as mine:
        # Another process meets it while it is in use.
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from hwpass.files import temporary; temporary.sweep(sys.argv[1])",
             str(tmp_path)],
            cwd=ROOT, check=False,
        )  # fmt: skip
        assert done.returncode == 0
        assert mine.is_dir()
        left = sorted(p.name for p in tmp_path.iterdir() if p != mine)
        assert left == sorted([*others, ".hwpass-79-file"])
    assert not mine.exists()


def test_a_folder_that_was_taken_for_left_over_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, calls = temporary._locked, []

    def taken(folder: str) -> int | None:
        calls.append(folder)
        if len(calls) == 1:
            sweep(tmp_path)  # between the folder and its lock
            calls.append("removed")
        return locked(folder)

    monkeypatch.setattr(temporary, "_locked", taken)
    with TemporaryFolder(tmp_path) as mine:
        assert mine.is_dir()
        assert len(list(tmp_path.iterdir())) == 1


def test_threads_may_make_folders_at_once(tmp_path: Path) -> None:
    def work() -> None:
        for _ in range(20):
            with TemporaryFolder(tmp_path) as mine:
                (mine / "x").write_bytes(b"x")
                sweep(tmp_path)
                assert (mine / "x").exists()

    failed: list[object] = []
    before, threading.excepthook = threading.excepthook, failed.append
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    threading.excepthook = before
    assert not failed
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the script is for Linux")
def test_kills_lose_nothing() -> None:
    assert kills.main(["--kills", "2", "--sigint", "2", "--sigterm", "2", "--disks", "1", "--seed", "7"]) == 0
