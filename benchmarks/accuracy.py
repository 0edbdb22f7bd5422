"""Accuracy at a measured latency without training: hwpass, its parts, and its peers, on the bundled trained networks.

    pip install -e '.[dev,peers]'
    python fixtures/train.py --weights WEIGHTS      # the torch modules that the peers prune; trains what is not there
    python benchmarks/accuracy.py --weights WEIGHTS --zoo ZOO

Without `--weights` those of cnn, resnet_se and vit are made from the ONNX files, which have all of their weights.

Run from the root of a checkout. Rows go to a file as they are found, and a second run does what is missing: stop it at
any time. `--parts` chooses among methods (hwpass), peers, ablation, tuned (a peer after an epoch of training) and
predictions; `--again 'hwpass*'` forgets the rows of some methods, after a change of hwpass for instance. The tables are
printed, and `--write` puts them into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import variants
from accuracy_rows import Row, Rows, tables
from common import save_zoo
from latency_search import Clock, Found, Maker, Structure, search

import hwpass
from hwpass.verdicts.task_metric import evaluate_metric

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from fixtures.metrics import accuracy  # noqa: E402

CALIBRATION = ROOT / "fixtures" / "calib.npz"
README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- accuracy.py writes from here -->", "<!-- to here -->"
POINTS = (0.75, 0.6, 0.5, 0.4, 0.33)
FEW = (0.5, 0.33)  # the points of the ablation and of the fine-tuned peer
PARTS = ("methods", "peers", "ablation", "predictions", "tuned")
ZOO_NETS = ("tv_mobilenet_v2", "tv_resnet50")


@dataclass
class Study:
    """What one run does, network by network."""

    rows: Rows
    target: str
    points: Sequence[float]
    clock: Clock
    weights: Path | None
    data: Path
    only: Sequence[str] = ("*",)
    known: dict[Path, dict[Structure, float]] = field(default_factory=dict)  # draft latencies by network

    def row(self, network: Path, kind: str, method: str, **values: Any) -> None:
        """Record and say."""
        row: Row = {"network": network.stem, "model": digest(network), "kind": kind, "method": method, **values}
        self.rows.add(row)
        shown = {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in values.items() if k != "tried"}
        self.say(f"{network.stem}, {method}: {shown}")

    def asked(self, points: Sequence[float], **key: Any) -> list[float]:
        """The points that are to be done for a method: none where it is not among those asked for."""
        if not any(fnmatchcase(key["method"], glob) for glob in self.only):
            return []
        return self.rows.missing(points, **key)

    @staticmethod
    def say(text: str) -> None:
        """A line of progress."""
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def compare(
        self, network: Path, kind: str, name: str, ways: Callable[[], Mapping[str, Maker]], grid: Sequence[float],
        points: Sequence[float],
    ) -> None:  # fmt: skip
        """One method at every point that has no row: of its ways that meet the point the most accurate counts."""
        missing = self.asked(points, network=network.stem, model=digest(network), kind=kind, method=name)
        if not missing:
            return
        dense = evaluate_metric(accuracy, network)
        found: dict[float, dict[str, tuple[Found, float]]] = {point: {} for point in missing}
        reasons = []
        for label, maker in ways().items():
            self.say(f"{network.stem}, {name}{', ' + label if label else ''}")
            known = self.known.setdefault(network, {})
            there, why = search(network, maker, missing, grid, self.clock, self.say, known=known)
            reasons.append(why)
            for point, one in there.items():
                found[point][label] = (one, evaluate_metric(accuracy, one.pruned.model))
        for point, ways_there in found.items():
            values: dict[str, Any] = {"target": self.target, "point": point, "dense": dense}
            if not ways_there:
                self.row(network, kind, name, **values, accuracy=None, error="; ".join(dict.fromkeys(reasons)))
                continue
            best = max(ways_there, key=lambda label: ways_there[label][1])
            one, value = ways_there[best]
            tried = [
                {"way": label, "setting": f.setting, "accuracy": a, "latency": f.timing.ratio, **f.pruned.facts}
                for label, (f, a) in ways_there.items()
            ]
            self.row(network, kind, name, **values, accuracy=value, **timing_of(one.timing), setting=one.setting,
                     way=best, **one.pruned.facts, tried=tried)  # fmt: skip

    def methods(self, network: Path) -> None:
        """hwpass with data, without, and plain l2."""
        for name, maker in variants.methods(network, self.target, CALIBRATION).items():
            self.compare(network, "method", name, partial(dict, {"": maker}), variants.GRID, self.points)

    def ablation(self, network: Path) -> None:
        """hwpass without one of its parts."""
        few = [p for p in self.points if p in FEW]
        key = {"network": network.stem, "model": digest(network)}
        for name, maker in variants.same_plans(network, self.target, CALIBRATION).items():
            for point in self.asked(few, **key, kind="ablation", method=name):
                whole = self.rows.of(**key, kind="method", method="hwpass", point=point)
                if not whole or whole[0]["accuracy"] is None:
                    self.say(f"{network.stem}, {name}, {point:g}x: no model of the part `methods` to take it from")
                    continue
                pruned = maker.final(whole[0]["setting"])
                if pruned.facts["macs"] != whole[0]["macs"]:
                    raise SystemExit(f"{network.stem}: hwpass plans otherwise than in its rows; add --again hwpass")
                # The structure is that of the whole, and so is its latency.
                same = {k: whole[0][k] for k in ("target", "point", "dense", "latency", "low", "high", "ms", "setting")}
                value = evaluate_metric(accuracy, pruned.model)
                self.row(network, "ablation", name, **same, accuracy=value, **pruned.facts)
        for name, maker in variants.other_plans(network, self.target, CALIBRATION).items():
            self.compare(network, "ablation", name, partial(dict, {"": maker}), variants.GRID, few)

    def peers(self, network: Path) -> None:
        """Torch-Pruning and onnxsim."""
        peers_torch, peers_onnxsim = peer_modules()
        source: list[Any] = []  # loaded when the first row needs it

        def torch_ways(importance: str) -> Mapping[str, Maker]:
            if not source:
                source.append(peers_torch.Source.load(network, self.weights, self.data))
            return peers_torch.variants(source[0], importance)  # type: ignore[no-any-return]

        for importance in peers_torch.IMPORTANCES:
            name = f"Torch-Pruning {importance}"
            self.compare(network, "method", name, partial(torch_ways, importance), peers_torch.GRID, self.points)
        for wanda, name in ((False, "onnxsim L2"), (True, "onnxsim wanda and finetune")):
            ways = partial(peers_onnxsim.variants, network, wanda)
            self.compare(network, "method", name, ways, peers_onnxsim.GRID, self.points)

    def tuned(self, network: Path) -> None:
        """Torch-Pruning L2 after one epoch of training, from the way of its row that keeps the most MACs."""
        peers_torch, _ = peer_modules()
        name = "Torch-Pruning L2, one epoch"
        key = {"network": network.stem, "model": digest(network)}
        for point in self.asked([p for p in self.points if p in FEW], **key, kind="tuned", method=name):
            before = self.rows.of(**key, kind="method", method="Torch-Pruning L2", point=point)
            if not before or before[0]["accuracy"] is None:
                self.say(f"{network.stem}, {name}, {point:g}x: no model of the part `peers` to start from")
                continue
            start = max(before[0]["tried"], key=lambda tried: tried["macs"])
            source = peers_torch.Source.load(network, self.weights, self.data)
            maker = peers_torch.variants(source, "L2")[start["way"]]
            pruned = maker.tuned(start["setting"], self.data)
            timing = self.clock.finals(network, [pruned.model])[0]
            self.row(network, "tuned", name, point=point, dense=before[0]["dense"], untuned=start["accuracy"],
                     accuracy=evaluate_metric(accuracy, pruned.model), **timing_of(timing), way=start["way"],
                     setting=start["setting"], **pruned.facts)  # fmt: skip

    def prediction(self, network: Path, calibration: Path | None) -> None:
        """A plan predicted at half the latency, measured."""
        name = f"predicted 0.5x on {self.target}"
        key = {"network": network.stem, "model": digest(network), "kind": "prediction", "method": name}
        if not self.asked([0.5], **key):
            return
        options: dict[str, Any] = {}
        if not calibration:  # random weights: only the plan matters
            options = {"score": "l2", "compensate": "off"}
        result = hwpass.run(network, self.target, latency=0.5, calib=calibration, **options)
        timing = self.clock.finals(network, [result.model.proto()])[0]
        ratio = result.report.ratio
        self.row(network, "prediction", name, point=0.5, predicted=ratio.latency, macs=ratio.macs, **timing_of(timing))


def peer_modules() -> tuple[Any, Any]:
    """The programs that run the peers, which need packages of their own."""
    try:
        import peers_onnxsim
        import peers_torch
    except ImportError as error:
        raise SystemExit(f"the peers need {error.name}: pip install -e '.[peers]', or leave out their parts") from error
    return peers_torch, peers_onnxsim


def timing_of(timing: Any) -> Row:
    """The measured latency as recorded: ratio to the dense model, extreme rounds, milliseconds (fastest tenth)."""
    return {"latency": timing.ratio, "low": timing.ratio_low, "high": timing.ratio_high, "ms": timing.quick_ms}


def digest(path: Path) -> str:
    """Which version of a network's file it is."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def write(text: str) -> None:
    """Put the tables where the README has a place for them."""
    old = README.read_text(encoding="utf-8")
    head, rest = old.split(BEGIN)
    README.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    """Do what is missing, then show everything."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    networks = sorted((ROOT / "fixtures").glob("*.onnx"))
    parser.add_argument("--networks", nargs="+", default=[p.stem for p in networks], choices=[p.stem for p in networks])
    parser.add_argument("--points", nargs="+", type=float, default=list(POINTS), help="shares of the dense latency")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="none: only show the tables")
    parser.add_argument("--methods", nargs="+", default=["*"], metavar="GLOB", help="only these, by name")
    parser.add_argument("--target", default="server-cpu")
    parser.add_argument("--weights", type=Path, help="folder of state dicts; else what exports kept")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"), help="IDX files")
    parser.add_argument("--zoo", type=Path, help="folder of graphs; with it the predictions cover two of its networks")
    parser.add_argument("--rows", type=Path, default=ROOT / "benchmarks" / "accuracy.jsonl")
    parser.add_argument("--again", nargs="+", default=[], metavar="GLOB", help="methods whose rows are forgotten first")
    parser.add_argument("--sessions", type=int, default=11, help="fresh processes per timing that is reported")
    parser.add_argument("--runs", type=int, default=300, help="runs per process")
    parser.add_argument("--cpu-time", action="store_true", help="time the one thread, on a machine busy otherwise")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/README.md")
    options = parser.parse_args()
    chosen = [path for path in networks if path.stem in options.networks]
    drafts = min(Clock.draft_sessions, options.sessions)
    clock = Clock(options.sessions, options.runs, drafts, cpu_time=options.cpu_time)
    rows = Rows(options.rows, options.again)
    study = Study(rows, options.target, options.points, clock, options.weights, options.data, options.methods)
    for part in (p for p in PARTS if p in options.parts):
        if part != "predictions":
            for network in chosen:
                getattr(study, part)(network)
            continue
        for network in chosen:
            study.prediction(network, CALIBRATION)
        for name in ZOO_NETS if options.zoo else ():
            with tempfile.TemporaryDirectory() as folder:
                study.prediction(save_zoo(options.zoo, name, Path(folder)), None)
    text = tables(rows, {path.stem: digest(path) for path in networks})
    print(text)
    if options.write:
        write(text)


if __name__ == "__main__":
    main()
