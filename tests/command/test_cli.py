"""The command line as a user meets it: streams, signals, determinism, and what each command prints."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from hwpass.command.cli import main
from hwpass.files.index_ranges import from_ranges
from hwpass.reporting.schema import Report

ROOT = Path(__file__).parents[2]
CNN = str(ROOT / "fixtures/cnn.onnx")
RESNET = str(ROOT / "fixtures/resnet_se.onnx")


def hwpass(*arguments: str | Path, stdin: bytes | None = None, status: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments], input=stdin)
    assert result.exit_code == status, result.output
    return result


def process(*arguments: str, stdin: int | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hwpass", *arguments]
    # A parent in the background of a shell ignores SIGINT, and its children would.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command, cwd=ROOT, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed
    )


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with out.onnx, plan.json, report.json and report.html of a run."""
    folder = tmp_path_factory.mktemp("run")
    hwpass(
        "run", RESNET, "--target", "mobile-cpu", "--score", "l2", "--macs", "0.6x", "-o", folder / "out.onnx",
        "--plan", folder / "plan.json", "--json", folder / "report.json", "--report", folder / "report.html",
    )  # fmt: skip
    return folder


def test_a_run_writes_everything_asked_for(pruned: Path) -> None:
    report = Report.from_json((pruned / "report.json").read_text(encoding="utf-8"))
    assert report.ratio.macs is not None
    assert report.ratio.macs <= 0.6
    assert report.verdicts.exactness is not None
    assert report.verdicts.exactness.passed
    assert report.budget == {"macs": "0.6x"}
    onnx.checker.check_model(str(pruned / "out.onnx"), full_check=True)
    assert (pruned / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert sorted(p.name for p in pruned.iterdir()) == ["out.onnx", "plan.json", "report.html", "report.json"]


def test_the_same_command_gives_the_same_bytes(pruned: Path, tmp_path: Path) -> None:
    hwpass(
        "run", RESNET, "--target", "mobile-cpu", "--score", "l2", "--macs", "0.6x", "-o", tmp_path / "out.onnx",
        "--plan", tmp_path / "plan.json", "--json", tmp_path / "report.json",
    )  # fmt: skip
    for name in ("out.onnx", "plan.json"):
        assert (tmp_path / name).read_bytes() == (pruned / name).read_bytes()
    assert timeless(tmp_path / "report.json") == timeless(pruned / "report.json")


def timeless(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    del report["seconds"]
    for step in report["passes"]:
        untimed(step)
    return report


def untimed(step: dict[str, Any]) -> None:
    del step["seconds"]
    for part in step["parts"]:
        untimed(part)


def test_standard_streams_carry_the_model(tmp_path: Path) -> None:
    hwpass("run", CNN, "--target", "mobile-cpu", "--score", "l2", "--macs", "0.7x", "-o", tmp_path / "out.onnx")
    result = hwpass(
        "run", "-", "--target", "mobile-cpu", "--score", "l2", "--macs", "0.7x", "-o", "-", stdin=Path(CNN).read_bytes()
    )
    assert result.stdout_bytes == (tmp_path / "out.onnx").read_bytes()
    assert "exactness passed" in result.stderr


def test_json_goes_to_standard_output_alone() -> None:
    result = hwpass("run", CNN, "--target", "mobile-cpu", "--score", "l2", "--macs", "0.7x", "--json", "-")
    assert json.loads(result.stdout)["schema"] == 1
    assert "no model was written" in result.stderr


def test_a_dry_run_writes_no_model(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = hwpass("run", CNN, "--target", "mobile-cpu", "--score", "l2", "--macs", "0.7x", "-o", out, "--dry-run")
    assert not out.exists()
    assert "dry run" in result.stderr


def test_force_keeps_the_best_effort_and_the_status(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = hwpass(
        "run", CNN, "--target", "mobile-cpu", "--score", "l2", "--latency", "0.001x", "-o", out, "--force", status=4
    )
    assert out.stat().st_size < Path(CNN).stat().st_size
    assert result.stderr.count("\n") == 1


def test_a_pipe_gets_no_colours_and_one_line_per_group(pruned: Path) -> None:
    report = Report.from_json((pruned / "report.json").read_text(encoding="utf-8"))
    with process("run", RESNET, "--target", "mobile-cpu", "--score", "l2", "--macs", "0.6x") as running:
        assert running.stdout is not None
        shown = running.stdout.read().decode()
    assert "\x1b" not in shown
    lines = shown.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("group"))
    end = next(i for i, line in enumerate(lines) if "groups changed" in line)
    assert end - start - 1 == len(report.changed_groups())
    assert all(len(line) <= 80 for line in lines[start:end])


def test_interrupt_says_so_in_one_line(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    command = (
        "run",
        "-",
        "--target",
        "mobile-cpu",
        "--score",
        "l2",
        "--macs",
        "0.5x",
        "-o",
        str(tmp_path / "out.onnx"),
    )
    with process(*command, stdin=reading) as running, os.fdopen(writing, "wb", buffering=0) as pipe:
        pipe.write(b"\x08")
        deadline = time.monotonic() + 60
        while waiting(reading) and time.monotonic() < deadline:
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=60)[1].decode()
    os.close(reading)
    assert running.returncode == 130
    assert said == "hwpass: interrupted, nothing was written\n"
    assert not list(tmp_path.iterdir())


def waiting(pipe: int) -> bool:
    """Whether nobody has read yet what was written to a pipe."""
    import array
    import fcntl
    import termios

    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0] > 0


def test_a_closed_pipe_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "hwpass", "targets", "mobile-cpu"]
    with open(writing, "wb") as closed:
        result = subprocess.run(command, cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert result.stderr == b""
    assert result.returncode == 0


def test_an_unexpected_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from hwpass.workflows import run as api

    def broken(*arguments: Any, **options: Any) -> None:
        raise IndexError("list index\nout of range")

    monkeypatch.setattr(api, "run", broken)
    result = hwpass("run", CNN, "--target", "mobile-cpu", "--score", "l2", "--macs", "0.5x", status=1)
    assert result.stderr.startswith("hwpass: unexpected IndexError")
    assert result.stderr.count("\n") == 1
    monkeypatch.setenv("HWPASS_DEBUG", "1")
    with pytest.raises(IndexError):
        CliRunner().invoke(
            main, ["run", CNN, "--target", "mobile-cpu", "--score", "l2", "--macs", "0.5x"], catch_exceptions=False
        )


def test_groups_show_what_is_tied_and_what_is_frozen() -> None:
    shown = hwpass("groups", RESNET).stdout
    assert "of the weights" in shown
    assert "the model's output 'logits'" in shown
    data = json.loads(hwpass("groups", RESNET, "--json", "-").stdout)
    assert data["groups"][0]["name"] == "/0/0.0/Conv"
    assert data["frozen"] == [{"node": "/6/Gemm", "reason": "the model's output 'logits'", "macs": 1280}]
    assert 0.9 < data["reach"]["weights"] <= 1


def test_why_prints_the_chain_of_operators() -> None:
    shown = hwpass("groups", RESNET, "--why", "/2/shortcut/shortcut.0/Conv").stdout
    tie = "    tied to /2/conv2/conv2.0/Conv by\n      /2/Add: "
    assert tie in shown
    assert shown == hwpass("groups", RESNET, "--why", "2/shortcut").stdout
    frozen = hwpass("groups", RESNET, "--why", "/6/Gemm").stdout
    assert "10 output channels are frozen:\n    the model: the model's output 'logits'" in frozen
    assert "128 input channels are group" in frozen


def test_profile_adds_up(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    shown = hwpass("profile", RESNET, "--target", "mobile-cpu", "--json", path).stdout
    found = json.loads(path.read_text(encoding="utf-8"))
    assert sum(k["latency_ms"] for k in found["kernels"]) == pytest.approx(found["latency_ms"])
    assert sum(k["macs"] for k in found["kernels"]) == found["macs"]
    assert sum(k["share"] for k in found["kernels"]) == pytest.approx(1, abs=1e-4)
    assert found["measured"] is None
    assert "MACs" in shown


def test_profile_measures_this_machine() -> None:
    result = hwpass("profile", CNN, "--target", "mobile-cpu", "--measure", "--json", "-")
    measured = json.loads(result.stdout)["measured"]
    assert 0 < measured["low_ms"] <= measured["median_ms"] <= measured["high_ms"]
    assert "unless it ran on a mobile-cpu" in result.stderr


def test_bench_counts_processor_time_of_one_thread_alone() -> None:
    hwpass("bench", RESNET, "--sessions", "1", "--runs", "1", "--cpu-time")
    refused = hwpass("bench", RESNET, "--sessions", "1", "--runs", "1", "--cpu-time", "--threads", "2", status=2)
    assert "one thread" in refused.stderr


def test_bench_compares_with_the_first(pruned: Path) -> None:
    shown = hwpass("bench", RESNET, pruned / "out.onnx", "--sessions", "2", "--runs", "2", "--json", "-")
    first, second = json.loads(shown.stdout)
    assert first["ratio"] == 1
    assert second["ratio_low"] <= second["ratio"] <= second["ratio_high"]
    assert "speed-up" in shown.stderr


def test_targets_show_every_figure_with_a_source() -> None:
    from hwpass.cost_models import target_names

    listed = hwpass("targets").stdout
    for name in target_names():
        assert name in listed
        shown = hwpass("targets", name).stdout
        assert re.search(r"^  peak\.(fp32|fp16|int8) ", shown, re.MULTILINE)
        assert "[1]" in shown


def test_passes_show_every_option() -> None:
    from hwpass.manager import passes
    from hwpass.reporting.listing import pass_options

    shown = hwpass("passes").stdout
    for name, cls in passes().items():
        assert f"\n{name}\n" in f"\n{shown}"
        for option in pass_options(cls):
            assert option.help, f"{name} {option.name} has no help"
            assert f"  {option.name}: {option.help}" in shown


def test_apply_gives_the_model_of_the_run(pruned: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    hwpass("apply", pruned / "plan.json", RESNET, "-o", out)
    assert out.read_bytes() == (pruned / "out.onnx").read_bytes()
    result = hwpass("apply", "-", RESNET, "-o", "-", stdin=(pruned / "plan.json").read_bytes())
    assert result.stdout_bytes == out.read_bytes()


def test_compensation_is_applied_and_applied_again(tmp_path: Path) -> None:
    calib = tmp_path / "calib.npz"
    with np.load(ROOT / "fixtures/calib.npz") as data:
        np.savez(calib, image=data["image"][:64])
    options = ("--calib", calib, "-o", tmp_path / "out.onnx", "--json", tmp_path / "report.json")
    hwpass("run", RESNET, "--target", "mobile-cpu", "--macs", "0.85x", "--plan", tmp_path / "plan.json", *options)
    mended = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [step["name"] for step in mended["passes"]].count("compensate") == 1
    first = (tmp_path / "out.onnx").read_bytes()
    hwpass("apply", tmp_path / "plan.json", RESNET, *options)
    assert (tmp_path / "out.onnx").read_bytes() == first
    hwpass("apply", tmp_path / "plan.json", RESNET, "--compensate", "off", *options)
    plain = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    errors = [r["verdicts"]["fidelity"]["outputs"]["logits"]["rel_l2"] for r in (mended, plain)]
    assert errors[0] < errors[1]


def test_verify_with_a_plan_proves_exactness(pruned: Path) -> None:
    shown = hwpass("verify", RESNET, pruned / "out.onnx", "--plan", pruned / "plan.json").stdout
    assert "exactness passed" in shown
    plain = hwpass("verify", RESNET, pruned / "out.onnx").stdout
    assert "exactness not judged: without the plan" in plain
    assert "fidelity not judged: agrees on" in plain
    assert "on random inputs: this says little; give --calib" in plain
    same = hwpass("verify", RESNET, RESNET).stdout
    assert "exactness passed: largest relative difference 0" in same


def test_verify_proves_exactness_of_weights_changed_since(pruned: Path, tmp_path: Path) -> None:
    model = onnx.load(pruned / "out.onnx")
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 1:
            tensor.CopyFrom(numpy_helper.from_array(values * np.float32(0.9) + np.float32(0.01), tensor.name))
    tuned = tmp_path / "tuned.onnx"
    onnx.save(model, tuned)
    refused = hwpass("verify", RESNET, tuned, "--plan", pruned / "plan.json", status=5).stderr
    assert "not proved: the weights are not those that hwpass wrote" in refused
    shown = hwpass("verify", RESNET, tuned, "--plan", pruned / "plan.json", "--unproved").stdout
    assert "exactness not judged: the weights are not those that hwpass wrote" in shown
    # The same weights under a plan that keeps other channels are no proof.
    plan = json.loads((pruned / "plan.json").read_text(encoding="utf-8"))
    group = next(g for g in plan["groups"] if g["kept"] != f"0-{g['width'] - 1}")
    group["kept"] = from_ranges(group["kept"], group["width"])[1:]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(plan), encoding="utf-8")
    result = hwpass("verify", RESNET, tuned, "--plan", other, status=5)
    assert "exactness failed: the plan gives weight" in result.stderr


def test_verify_fails_below_a_tolerance(pruned: Path) -> None:
    result = hwpass("verify", RESNET, pruned / "out.onnx", "--fidelity", "cosine>=0.999999", status=5)
    assert result.stderr.count("\n") == 1
    assert "written" not in result.stderr


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_and_option_has_help(name: str) -> None:
    import click

    command = main.commands[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name} has no help"
    assert hwpass(name, "--help").stdout.startswith("Usage: ")


def test_scores_in_the_help_are_those_there_are() -> None:
    from hwpass.manager import passes
    from hwpass.reporting.listing import pass_options

    scores = next(o for o in pass_options(passes()["prune-channels"]) if o.name == "score")
    option = next(p for p in main.commands["run"].params if p.name == "score")
    assert option.metavar == "|".join(name for name, _ in scores.choices)


def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    result = hwpass("run", CNN, "--target", "mobile-cpu", "--score", "l2", "--macs", "0.7x", "-o", pipe, status=3)
    assert result.stderr.count("\n") == 1
    assert "not a file" in result.stderr
    assert pipe.is_fifo()
