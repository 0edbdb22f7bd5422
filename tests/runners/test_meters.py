"""Meters of energy: counters that turn over, parts counted once, and a machine without one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from hwpass.command.cli import main
from hwpass.cost.bench import Timing
from hwpass.reporting.listing import render_timings
from hwpass.runners import meters, worker
from hwpass.runners.meters import BoardMeter, NoMeter, PackageMeter

CNN = Path(__file__).parents[2] / "fixtures/cnn.onnx"


def zone(root: Path, name: str, what: str, energy: int, most: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir(exist_ok=True)
    for file, value in (("name", what), ("energy_uj", energy), ("max_energy_range_uj", most)):
        (folder / file).write_text(f"{value}\n")
    return folder


def test_packages_and_their_memory_are_summed_and_cores_are_not_counted_twice(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 100_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 50_000)
    zone(tmp_path, "intel-rapl:0:1", "dram", 20_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 3_000)
    zone(tmp_path, "intel-rapl:2", "psys", 900_000)
    assert PackageMeter(tmp_path).joules() == pytest.approx(0.123)


def test_a_counter_that_turns_over_goes_on(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    meter = PackageMeter(tmp_path)
    before = meter.joules()
    zone(tmp_path, "intel-rapl:0", "package-0", 100_000)
    assert meter.joules() - before == pytest.approx(0.2)


def test_a_gpu_counts_millijoules() -> None:
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda place: place,
        nvmlDeviceGetTotalEnergyConsumption=lambda board: 2500 + board,
    )
    assert BoardMeter(nvml).joules() == pytest.approx(2.5)
    with pytest.raises(NoMeter, match="no GPU whose energy NVML counts"):
        BoardMeter(SimpleNamespace())


def test_joules_are_of_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "METERED_SECONDS", 0.0)
    runs: list[int] = []
    meter = SimpleNamespace(joules=lambda: 2.0 * len(runs))
    seconds, joules = worker.measure(lambda: runs.append(1), 5, meter=meter)
    assert len(seconds) == 5
    assert joules == pytest.approx(2.0)


def test_a_machine_without_a_meter_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(meters, "POWERCAP", tmp_path)
    for runner, said in (("onnxruntime", "no meter of its processor"), ("command:true {model}", "time alone")):
        with pytest.raises(SystemExit) as caught:
            main(["bench", str(CNN), "--energy", "--runner", runner])
        assert caught.value.code == 3
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_energy_is_shown_where_it_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    render_timings([Timing("m", 1, 1, 1, energy_mj=2.5)], Console(width=200))
    shown = capsys.readouterr().out
    assert "energy" in shown
    assert " 2.5" in shown
    render_timings([Timing("m", 1, 1, 1)], Console(width=200))
    assert "energy" not in capsys.readouterr().out
