"""Calibration: a fit finds the figures that made the measurements, noise of rounds is none, and errors are told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from hwpass import interrupts
from hwpass.command.cli import main
from hwpass.cost.calibrated import best_step, half_width, held, step_shares, text_of
from hwpass.cost.figure_fit import figure, fit_figures, seconds_of, with_figures
from hwpass.cost.kernels import Kernels
from hwpass.cost.measuring import Log, measure_rounds, steady
from hwpass.cost.microbenchmarks import STEPS, Micro, chains, step_name
from hwpass.cost.small_networks import small_networks
from hwpass.cost_models import load_target, parse_target
from hwpass.cost_models.work import Work
from hwpass.errors import InputError, UsageError
from hwpass.runners.runner import Job, Outcome, Runner
from hwpass.workflows.calibrate import calibrate, calibrate_from
from hwpass.workflows.inspect import coupled

ROOT = Path(__file__).parents[2]
#: Few operators, so that a fit takes a second.
BASE = load_target("server-cpu")
BASE = BASE.model_copy(
    update={"op_ns": {key: BASE.op_ns[key] for key in ("Sigmoid", "MaxPool", "Softmax", "default")}, "fused_ns": {}}
)
#: Layers of several kinds, and one small network.
CHOSEN = (
    "step-dense-64", "step-dense-52", "step-inverted-48", "conv3-128-28", "conv3-30-28", "conv1-128-28", "conv1-960-7",
    "depthwise3-144-28", "depthwise3-96-56", "depthwise5-96-28", "depthwise7-384-14",
    "linear-197-192-768", "linear-64-200-600", "gemm-512-512", "unary-Sigmoid",
    "memory-4096", "memory-65536", "memory-524288", "memory-4194304", "overhead", "overhead-conv", "network-fire",
)  # fmt: skip


@pytest.fixture(scope="module")
def works() -> dict[str, Work]:
    found = {}
    for micro in [*chains(), *small_networks()]:
        if micro.name in CHOSEN:
            kernels = Kernels(coupled(micro.make()), BASE.fusion)
            found[micro.name] = kernels.work(kernels.dense[None, :])
    assert set(found) == set(CHOSEN)
    return found


def test_names_are_unique() -> None:
    names = [micro.name for micro in [*chains(), *small_networks()]]
    assert len(set(names)) == len(names)


def test_a_fit_finds_the_figures_that_made_the_measurements(works: dict[str, Work]) -> None:
    true = {
        "peak.fp32": 60.0,
        "overhead_us": 0.5,
        "memory.DRAM.bandwidth_gbs": 9.0,
        "constants.depthwise_mac_ns": 0.035,
        "op_ns.Sigmoid": 0.5,
    }
    noise = np.exp(0.02 * np.random.default_rng(1).standard_normal(len(works)))
    measured = seconds_of(with_figures(BASE, true), list(works.values())) * noise
    fit = fit_figures(BASE, list(works.values()), measured)
    assert np.median(np.abs(fit.residuals)) < 0.03
    for key, value in true.items():
        assert figure(fit.target, key) == pytest.approx(value, rel=0.25), key
        assert abs(np.log(figure(BASE, key) / value)) > 0.3, "the base would do as well"
    assert {"peak.fp32", "overhead_us", "op_ns.Sigmoid"} <= set(fit.determined)
    # nothing here pools
    assert {"op_ns.MaxPool", "op_ns.Softmax", "constants.recurrent"} <= set(fit.undetermined)
    own = float(np.log(seconds_of(fit.target, list(works.values()))[-1]) - np.log(measured[-1]))
    assert own == pytest.approx(fit.residuals[-1], abs=0.01)


def test_what_is_left_out_is_not_seen(works: dict[str, Work]) -> None:
    measured = seconds_of(BASE, list(works.values()))
    place = list(works).index("unary-Sigmoid")
    measured[place] *= 3  # only it tells what a sigmoid costs
    fit = fit_figures(BASE, list(works.values()), measured)
    assert abs(fit.residuals[place]) < 0.2
    assert fit.left_out[place] < -0.7


def test_what_a_round_is_slower_is_no_models() -> None:
    rng = np.random.default_rng(0)
    models, rounds = np.log(rng.uniform(1, 9, (40, 1))), np.log([[1.0, 1.5, 1.0, 0.8, 1.1]])
    found = steady(models + rounds + 0.001 * rng.standard_normal((40, 5)))
    assert np.ptp(found, axis=1).max() < 0.02
    assert np.abs(found.mean(axis=1) - models[:, 0]).max() < 0.02


def test_steps_that_pay_are_found() -> None:
    blocks = {step_name("dense", width): float(np.ceil(width / 16)) for width in STEPS}
    assert best_step(step_shares(blocks), 0) == 16
    straight = {step_name("dense", width): float(width) for width in STEPS}
    assert best_step(step_shares(straight), 0) == 1
    assert best_step(step_shares({}), 8) == 8


def test_intervals_hold_what_they_say() -> None:
    draws = np.random.default_rng(0).standard_normal((300, 40))
    inside = np.mean([abs(row[-1]) <= half_width(row[:-1]) for row in draws])
    assert 0.85 < inside < 0.96
    assert held(np.array([0.1] * 9 + [5.0])) == 9


class Made(Runner):
    """Times that the cost model itself gives, a factor longer, with noise; names with `fails` in them do not run."""

    name = "made"
    bases = ("server-cpu",)

    def __init__(self, factor: float = 1.0, fails: str = "?", works: dict[str, Work] | None = None) -> None:
        super().__init__()
        self.factor, self.fails, self.jobs, self.works = factor, fails, 0, works or {}
        self.random = np.random.default_rng(0)

    def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            self.jobs += 1
            if self.fails in job.name:
                yield Outcome(failure="no such layer")
                continue
            seconds = float(seconds_of(BASE, [self.works[job.name]])[0])
            yield Outcome((seconds * self.factor * float(np.exp(0.02 * self.random.standard_normal())),))


def some() -> list[Micro]:
    return [micro for micro in [*chains(), *small_networks()] if micro.name in CHOSEN]


def test_a_calibration_writes_a_target_and_goes_on_from_its_measurements(
    tmp_path: Path, works: dict[str, Work]
) -> None:
    log = tmp_path / "log.jsonl"
    runner = Made(3.0, "overhead-conv", works)
    found = calibrate(runner, minutes=0.0, log=log, base=BASE, micros=some(), name="mine")
    assert runner.jobs == 2 * len(CHOSEN) - 1
    target = parse_target(found.text)
    assert target == found.target
    assert (target.name, target.align, target.threads) == ("mine", BASE.align, 1)
    assert 0.8 < figure(target, "peak.fp32") / (figure(BASE, "peak.fp32") / 3) < 1.25
    assert "fitted by" in target.source("peak.fp32")
    assert "that of server-cpu" in target.source("energy.static_w")
    assert any("overhead-conv: no such layer" in line for line in found.lines)
    assert target.uncertainty["network"] > 0
    again = Made(3.0, "overhead-conv", works)
    second = calibrate(again, minutes=0.0, log=log, resume=True, base=BASE, micros=some(), name="mine")
    assert again.jobs == 0
    assert second.text == found.text
    with pytest.raises(UsageError, match="measured with threads 1, not 2"):
        calibrate(again, threads=2, log=log, resume=True, base=BASE, micros=some())
    assert text_of(parse_target(found.text)) == found.text


def test_what_is_cut_short_goes_on(tmp_path: Path) -> None:
    jobs = [Job(str(i), tmp_path, tmp_path) for i in range(5)]

    class Stops(Made):
        def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
            for _ in jobs:
                self.jobs += 1
                if self.jobs > self.factor:
                    raise KeyboardInterrupt
                yield Outcome((1.0,))

    log = Log({"runner": "made"}, tmp_path / "log.jsonl")
    log.start()
    with pytest.raises(KeyboardInterrupt):
        measure_rounds(Stops(7), jobs, log, 0)
    later, runner = Log({"runner": "made"}, tmp_path / "log.jsonl"), Stops(100)
    later.read()
    measure_rounds(runner, jobs, later, 0)
    assert runner.jobs == 3
    assert {name: sorted(own) for name, own in later.sessions.items()} == {job.name: [0, 1] for job in jobs}
    whole = (tmp_path / "log.jsonl").read_text()
    Log({"runner": "made"}, tmp_path / "log.jsonl").start()
    assert (tmp_path / "log.old.jsonl").read_text() == whole


def test_an_interrupt_says_where_the_measurements_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts.run, "written", [])
    log = Log({"runner": "made"}, tmp_path / "log.jsonl")
    log.start()
    assert interrupts.outcome("interrupted") == "interrupted, nothing was written"
    log.add("one", 0, Outcome((1.0,)))
    log.add("two", 0, Outcome((1.0,)))
    assert interrupts.outcome("interrupted") == f"interrupted after {tmp_path / 'log.jsonl'} was written"


def test_a_runner_that_runs_nothing_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0 of 6 models ran with made; .*: no such layer"):
        calibrate(Made(fails=""), minutes=0.0, micros=some()[:6])


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["-o", "here"], 2, "--output here: a target is found by a name that ends in .toml"),
        (["-o", "t.toml", "--from", "m.csv"], 2, "--from needs --base"),
        (["-o", "t.toml", "--from", "m.csv", "--base", "server-cpu", "--resume", "x"], 2, "leave out --resume"),
        (["-o", "t.toml", "--from", "m.csv", "--base", "server-cpu"], 3, "m.csv: cannot be read: No such file"),
        (["-o", "t.toml", "--from", "no.csv", "--base", "server-cpu"], 3, "no column milliseconds"),
        (["-o", "t.toml", "--from", "bad.csv", "--base", "server-cpu"], 3, "bad.csv line 3: milliseconds: expected"),
        (["-o", "t.toml", "--from", "none.csv", "--base", "server-cpu"], 3, "no rows"),
        (["-o", "t.toml", "--resume", "none.jsonl"], 3, "none.jsonl: cannot be read"),
        (["-o", "t.toml", "--resume", "bad.csv"], 3, "not measurements of an earlier calibration"),
        (["-o", "t.toml", "--runner", "command:true {model}"], 2, "name the target to start at by --base"),
        (["-o", "t.toml", "--threads", "2", "--cpu-time"], 2, "--cpu-time needs one thread"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    words: list[str], status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no.csv").write_text("model,ms\nm.onnx,1\n")
    (tmp_path / "bad.csv").write_text("model,milliseconds\nm.onnx,1\nm.onnx,fast\n")
    (tmp_path / "none.csv").write_text("model,milliseconds\n")
    with pytest.raises(SystemExit) as caught:
        main(["calibrate", *words])
    assert caught.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "t.toml").exists()


def test_a_table_of_whole_models_gives_a_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["model,milliseconds"]
    for name in ("cnn", "resnet_se", "mobilenet", "densenet"):
        kernels = Kernels(coupled(ROOT / f"fixtures/{name}.onnx"), BASE.fusion)
        seconds = 2.5 * float(seconds_of(BASE, [kernels.work(kernels.dense[None, :])])[0])
        rows.append(f"{ROOT}/fixtures/{name}.onnx,{seconds * 1e3}")
    (tmp_path / "measured.csv").write_text("\n".join(rows))
    with pytest.raises(SystemExit) as caught:
        main(
            [
                "calibrate",
                "--from",
                str(tmp_path / "measured.csv"),
                "--base",
                "server-cpu",
                "-o",
                str(tmp_path / "b.toml"),
            ]
        )
    assert not caught.value.code
    target = load_target(tmp_path / "b.toml")
    assert target.name == "b"
    for line in rows[1:]:
        path, ms = line.split(",")
        kernels = Kernels(coupled(Path(path)), target.fusion)
        predicted = float(seconds_of(target, [kernels.work(kernels.dense[None, :])])[0]) * 1e3
        assert predicted == pytest.approx(float(ms), rel=0.1)
    assert "resnet_se.onnx: predicted" in capsys.readouterr().out


def test_a_table_names_models_from_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/cnn.onnx").write_bytes((ROOT / "fixtures/cnn.onnx").read_bytes())
    (tmp_path / "m.csv").write_text("milliseconds, model\n 2.0, models/cnn.onnx\n")
    target = calibrate_from(tmp_path / "m.csv", "server-cpu").target
    kernels = Kernels(coupled(ROOT / "fixtures/cnn.onnx"), target.fusion)
    assert seconds_of(target, [kernels.work(kernels.dense[None, :])])[0] == pytest.approx(2e-3, rel=0.1)
