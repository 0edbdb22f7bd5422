"""Accuracy of the compact networks at measured latency: hwpass without labels, and its peers after an epoch with them.

    pip install -e '.[dev,peers]'
    python benchmarks/compact_measured.py [--networks NAME ...] [--points 0.5 0.33] [--ways GLOB ...]

Run from the root of a checkout. Rows go to a file as they are found, and a second run does what is missing: stop it at
any time. Every way gives the least pruned model that `latency_search` finds whose latency, in ONNX Runtime with one
thread and in processor time, is at most the point's share of the dense one's. hwpass sees the 1,024 calibration samples
without labels; its peers train for one epoch on the labelled training set, with the recipe of the network. The test
samples are looked at once per row. Of the peers' models at a point, with widths rounded to 8 and to 16, the one with
more multiply-accumulates is trained. What a peer cannot do is a row too, with the reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from accuracy import digest, timing_of
from accuracy_rows import Row, Rows, markdown
from compact import COMPACT, ROOT, accuracy, samples
from latency_search import Clock, Found, Maker, Pruned, Refusal, Structure, search, structure_of
from peers_compact import Compact, Kirigami, Shape, parameters, torch_pruning
from peers_torch import ROUNDINGS
from variants import Hwpass

from hwpass.runtime.sessions import open_session, run_session

NETWORKS = ("residual", "transformer", "inverted", "squeezed", "words", "gru", "dense")
POINTS = (0.5, 0.33)

#: Settings tried first: shares of the predicted latency, of the channels, of the parameters that go.
GRID = (0.4, 0.55, 0.68, 0.8, 0.9)

DISTILLED, FITTED = "hwpass, distilled", "hwpass"
RANKED, UNIFORM, KIRIGAMI = "Torch-Pruning L2, all layers", "Torch-Pruning L2, each layer", "torch-kirigami L2"


@dataclass(frozen=True)
class Family:
    """Ways of the same structures: one search per maker finds their settings, and each makes its own model there.

    Of several makers that of the model with the most multiply-accumulates counts at a point.
    """

    makers: Sequence[Callable[[], Maker]]
    ways: Mapping[str, Callable[[Maker, Found], Pruned]]


@dataclass
class Bench:
    """One network with its data, its target and its clock."""

    network: Path
    target: str
    calibration: Path
    clock: Clock
    data: Path
    known: dict[Structure, float] = field(default_factory=dict)  # draft latencies

    @cached_property
    def input(self) -> str:
        """The name of the network's input."""
        return str(onnx.load(self.network).graph.input[0].name)

    def families(self) -> tuple[Family, ...]:
        """What is compared."""
        hwpass = Hwpass(self.network, self.target, self.calibration)
        distilled = replace(hwpass, distill="auto")
        calibration, _, _ = samples(self.input)
        compact = Compact(self.network, self.data, calibration)
        ways = {FITTED: lambda _, found: found.pruned, DISTILLED: lambda _, found: distilled.final(found.setting)}
        return (
            Family([lambda: hwpass], ways),
            _peer(RANKED, lambda rounding: torch_pruning(compact, rounding, everywhere=True)),
            _peer(UNIFORM, lambda rounding: torch_pruning(compact, rounding, everywhere=False)),
            _peer(KIRIGAMI, lambda rounding: Kirigami(compact, rounding).shape()),
        )

    def check(self, model: onnx.ModelProto) -> None:
        """Raise Refusal when a model does not run or gives no numbers."""
        _, inputs, _ = samples(self.input)
        try:
            logits = run_session(open_session(model), {self.input: inputs[:3]})["logits"]
        except Exception as error:  # whatever another tool's model makes the runtime say
            raise Refusal(f"does not run: {' '.join(str(error).split())[:120]}") from error
        if not np.isfinite(logits).all():
            raise Refusal("its outputs are not finite")

    def rows(self, family: Family, missing: Mapping[str, Sequence[float]]) -> Iterator[Row]:
        """The rows of a family: for each way the points that it lacks."""
        _, inputs, labels = samples(self.input)
        points = sorted({point for own in missing.values() for point in own}, reverse=True)
        same: Row = {"network": self.network.stem, "model": digest(self.network), "target": self.target}
        same["dense"] = accuracy(onnx.load(self.network), self.input, inputs, labels)
        found, why = self.searched(family, points)
        for way, point in [(name, point) for name, own in missing.items() for point in own]:
            start, row = time.process_time(), same | {"way": way, "point": point}
            if point not in found:
                yield row | {"accuracy": None, "error": why}
                continue
            maker, one = found[point]
            try:
                pruned, timing = family.ways[way](maker, one), one.timing
            except Refusal as refusal:
                yield row | {"accuracy": None, "setting": one.setting, "error": str(refusal)}
                continue
            if structure_of(pruned.model) != structure_of(one.pruned.model):
                timing = self.clock.finals(self.network, [pruned.model])[0]
            row |= {"accuracy": accuracy(pruned.model, self.input, inputs, labels), **timing_of(timing)}
            row |= {"params": parameters(pruned.model) / parameters(self.network), "setting": one.setting}
            # The seconds are those of distillation or of the epoch, after the search.
            yield row | {**one.pruned.facts, **pruned.facts, "seconds": round(time.process_time() - start, 1)}

    def searched(self, family: Family, points: Sequence[float]) -> tuple[dict[float, tuple[Maker, Found]], str]:
        """The maker and its model at each point that can be met, and why others cannot."""
        best: dict[float, tuple[Maker, Found]] = {}
        reasons = []
        for make in family.makers:
            maker = make()
            found, why = search(self.network, maker, points, GRID, self.clock, say, check=self.check, known=self.known)
            reasons.append(why)
            for point, one in found.items():
                if point not in best or one.pruned.facts["macs"] > best[point][1].pruned.facts["macs"]:
                    best[point] = (maker, one)
        return best, "; ".join(dict.fromkeys(reasons))


def _peer(name: str, make: Callable[[int], Shape]) -> Family:
    """A peer: structures for the search, by the rounding of widths, and an epoch of training for what was chosen."""

    def tuned(maker: Any, found: Found) -> Pruned:
        return maker.tuned(found.setting)  # type: ignore[no-any-return]

    return Family([partial(make, rounding) for rounding in ROUNDINGS], {name: tuned})


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def target_here() -> str:
    """The target that is closest to this machine's processor."""
    listed = Path("/proc/cpuinfo")
    return "server-cpu" if listed.exists() and "avx512f" in listed.read_text() else "server-cpu-avx2"


def cell(row: Row | None) -> str:
    """Accuracy, and the shares of the latency, the MACs and the parameters."""
    if row is None:
        return "-"
    if row["accuracy"] is None:
        return "not met"
    return f"{row['accuracy']:.4f} ({row['latency']:.2f}, {row['macs']:.2f}, {row['params']:.2f})"


def table(rows: Rows, points: Sequence[float]) -> str:
    """All rows as Markdown, and the reasons for what is missing."""
    lines: list[list[str]] = []
    reasons: dict[tuple[str, str, float], str] = {}
    for network, way in dict.fromkeys((r["network"], r["way"]) for r in rows.rows):
        own = rows.of(network=network, way=way)
        cells = [cell(next((r for r in own if r["point"] == point), None)) for point in points]
        lines.append([network, f"{own[0]['dense']:.4f}", way, *cells])
        reasons |= {(network, way, r["point"]): r["error"] for r in own if r.get("error")}
    said = [f"- {network}, {way}, {point:g}x: {why}" for (network, way, point), why in reasons.items()]
    return markdown(["network", "dense", "way", *(f"{p:g}x" for p in points)], lines) + "\n\n" + "\n".join(said)


def main() -> None:
    """Do what is missing, then show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = [name for name in NETWORKS if (COMPACT / f"{name}.onnx").exists()]
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "compact_measured.jsonl")
    parser.add_argument("--networks", nargs="*", choices=there, default=there, help="none: only show the table")
    parser.add_argument("--points", nargs="+", type=float, default=list(POINTS), help="shares of the dense latency")
    parser.add_argument("--ways", nargs="+", default=["*"], metavar="GLOB", help="only these, by name")
    parser.add_argument("--target", default=target_here())
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"), help="IDX files")
    parser.add_argument("--sessions", type=int, default=5, help="fresh processes per timing that is reported")
    parser.add_argument("--runs", type=int, default=500, help="runs per process")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(options.output)
    few = min(4, options.sessions)
    clock = Clock(options.sessions, options.runs, few, options.runs, cpu_time=True, first_sessions=2 * options.sessions)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            network = COMPACT / f"{name}.onnx"
            calibration = Path(folder) / f"{name}.npz"
            bench = Bench(network, options.target, calibration, clock, options.data)
            np.savez(calibration, **{bench.input: samples(bench.input)[0]})  # type: ignore[arg-type]
            key = {"network": name, "model": digest(network)}
            for family in bench.families():
                asked = [way for way in family.ways if any(fnmatchcase(way, glob) for glob in options.ways)]
                missing = {way: left for way in asked if (left := rows.missing(options.points, **key, way=way))}
                for row in bench.rows(family, missing) if missing else ():
                    rows.add(row)
                    say(str(row))
    print(table(rows, options.points))


if __name__ == "__main__":
    main()
