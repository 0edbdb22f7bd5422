"""Accuracy of the small fixtures at shares of the predicted latency: with data, without, and with the inputs stated.

    python benchmarks/compact.py [-o compact.jsonl] [--networks NAME ...] [--points 0.75 0.5 0.33] [--ways NAME ...]

Other ways than the usual ones leave out a part of hwpass: `--ways "data, whole heads"` (`--help` has them all).

Rows go to the file as they are found, and those that are there are not made again. `distilled` wants torch. Each row
has the measured latency too (in ONNX Runtime, one thread, processor time that a tenth of all runs do not exceed, dense
and pruned in turn), and the drop of accuracy that was predicted without a label.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import show
from numpy.typing import NDArray

import hwpass
from hwpass.cost.bench import bench
from hwpass.manager import Pass
from hwpass.options import RunOptions
from hwpass.passes.compensate import Compensate
from hwpass.passes.prune_channels import PruneChannels
from hwpass.passes.rotate_heads import RotateHeads
from hwpass.passes.rotate_streams import RotateStreams
from hwpass.runtime.sessions import open_session, run_session
from hwpass.workflows.steps import usual

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from fixtures.views import DEVIATION, MEAN, view  # noqa: E402

COMPACT = ROOT / "fixtures" / "compact"
WIDE = ("cnn", "mobilenet", "resnet_se", "densenet", "vit")
POINTS = (0.75, 0.5, 0.33)

#: What a user of a network would say of its input; what the rest state themselves.
STATED = {
    "image_standardised": f"mean={MEAN},std={DEVIATION}",
    "image_standardised_nhwc": f"mean={MEAN},std={DEVIATION}",
    "image_centred": "range=-1..1",
    "image_bytes": "range=0..255",
    "rows": "range=0..1",
}

#: What each way asks for, of the name of an input and calibration data.
WAYS: dict[str, Callable[[str, NDArray[Any]], dict[str, Any] | None]] = {
    "data": lambda name, data: {"calib": {name: data}, "distill": "off"},
    "data, distilled": lambda name, data: {"calib": {name: data}, "distill": "auto"},
    "no data": lambda name, data: {"distill": "off"},
    "no data, stated": lambda name, data: {"distill": "off", "input": STATED[name]} if name in STATED else None,
    "no data, distilled": lambda name, data: {},
    "no data, stated, distilled": lambda name, data: {"input": STATED[name]} if name in STATED else None,
}

#: With data and without distillation, a part of the usual pipeline left out or replaced.
PARTS: dict[str, Callable[[Pass], Pass | None]] = {
    "data, whole heads": lambda step: None if isinstance(step, RotateHeads) else step,
    "data, streams not turned": lambda step: None if isinstance(step, RotateStreams) else step,
    "data, curves once": lambda step: replace(step, rounds=1) if isinstance(step, PruneChannels) else step,
    "data, by norms": lambda step: replace(step, score="l2") if isinstance(step, PruneChannels) else step,
    "data, not refitted": lambda step: None if isinstance(step, Compensate) else step,
}


def prune(path: Path, way: str, point: float, asked: dict[str, Any]) -> hwpass.Result:
    """One run; what would be stopped is made all the same, to see what it is worth."""
    options = {"latency": point, **asked}
    if way in PARTS:
        steps = [PARTS[way](step) for step in usual(RunOptions(**options))]
        options = {"calib": asked["calib"], "pipeline": ",".join(str(step) for step in steps if step is not None)}
    return hwpass.run(path, "server-cpu", force=True, **options)


def samples(name: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Calibration inputs, test inputs and labels in a network's view."""
    if name == "letters":
        with np.load(COMPACT / "calib_words.npz") as data, np.load(COMPACT / "test_words.npz") as test:
            return data[name], test[name], test["label"]
    with np.load(ROOT / "fixtures" / "calib.npz") as data, np.load(ROOT / "fixtures" / "test.npz") as test:
        return view(name, data["image"]), view(name, test["image"]), test["label"]


def accuracy(model: onnx.ModelProto, name: str, inputs: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Top-1 accuracy in ONNX Runtime."""
    session = open_session(model)
    starts = range(0, len(inputs), 200)
    found = np.concatenate([run_session(session, {name: inputs[i : i + 200]})["logits"].argmax(1) for i in starts])
    return float((found == labels).mean())


def measured(dense: onnx.ModelProto, pruned: onnx.ModelProto) -> float:
    """The pruned model's latency over the dense one's."""
    before, after = bench([dense, pruned], sessions=5, runs=40, cpu_time=True)
    return after.quick_ms / before.quick_ms


def predicted(report: Any) -> list[float] | None:
    """The drop that is predicted: its low end, what is expected, its high end."""
    fidelity = report.verdicts.fidelity
    (figures,) = fidelity.outputs.values() if fidelity is not None else ({},)
    return [figures[name] for name in ("drop_low", "drop", "drop_high")] if "drop" in figures else None


def main() -> None:
    """Do what is missing, then show the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    compact = sorted(path.stem for path in COMPACT.glob("*.onnx"))
    parser.add_argument("-o", "--output", type=Path, default=Path("compact.jsonl"))
    parser.add_argument("--networks", nargs="+", choices=[*compact, *WIDE], default=compact)
    parser.add_argument("--points", nargs="+", type=float, default=list(POINTS))
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, *PARTS], default=list(WAYS))
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.output.read_text().splitlines()] if options.output.exists() else []
    for network in options.networks:
        path = (COMPACT if network in compact else COMPACT.parent) / f"{network}.onnx"
        dense = onnx.load(path)
        name = dense.graph.input[0].name
        data, inputs, labels = samples(name)
        for way in options.ways:
            asked = WAYS["data" if way in PARTS else way](name, data)
            for point in options.points if asked is not None else ():
                if any((r["network"], r["way"], r["point"]) == (network, way, point) for r in rows):
                    continue
                start = time.perf_counter()
                row = {"network": network, "way": way, "point": point, "dense": accuracy(dense, name, inputs, labels)}
                try:
                    found = prune(path, way, point, asked or {})
                    made = found.model.proto()
                    row |= {"accuracy": accuracy(made, name, inputs, labels)}
                    row |= {"macs": found.report.ratio.macs, "latency": found.report.ratio.latency}
                    row |= {"measured": measured(dense, made), "warnings": found.report.warnings}
                    row |= {"predicted": predicted(found.report)}
                except hwpass.HwpassError as error:
                    row |= {"accuracy": None, "error": str(error)[:200]}
                row["seconds"] = round(time.perf_counter() - start, 1)
                rows.append(row)
                with options.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, file=sys.stderr, flush=True)
    rows = [r for r in rows if r["network"] in options.networks and r["point"] in options.points]
    table(rows, options.points)
    predictions(rows)


def table(rows: list[dict[str, Any]], points: list[float]) -> None:
    """Accuracy, and the latency measured and MACs left, by network and way."""
    cells = []
    for network, way in dict.fromkeys((r["network"], r["way"]) for r in rows):
        own = {r["point"]: r for r in rows if (r["network"], r["way"]) == (network, way)}
        found = [own.get(point) for point in points]
        cells.append([network, next(iter(own.values()))["dense"], way, *map(cell, found)])
    show("compact networks", ["network", "dense", "inputs", *(f"{p:g}x" for p in points)], cells)


def cell(row: dict[str, Any] | None) -> str:
    """Accuracy, the latency measured, and the MACs left."""
    if row is None:
        return "-"
    if row["accuracy"] is None:
        return "not met"
    return f"{row['accuracy']:.4f} ({row['measured']:.2f}, {row['macs']:.2f})"


def predictions(rows: list[dict[str, Any]]) -> None:
    """How often the interval of the predicted drop holds what was lost on the test samples, by way."""
    cells = []
    for way in dict.fromkeys(r["way"] for r in rows):
        own = [r for r in rows if r["way"] == way and r["accuracy"] is not None]
        said = [(r["predicted"], r["dense"] - r["accuracy"]) for r in own if r["predicted"] is not None]
        held = sum(low <= drop <= high for (low, _, high), drop in said)
        gaps = [abs(expected - drop) for (_, expected, _), drop in said]
        cells.append([way, len(own), len(said), held, 100 * float(np.median(gaps)) if gaps else "-"])
    columns = ["inputs", "results", "predicted", "interval holds", "median error, points"]
    show("predicted drops of accuracy", columns, cells)


if __name__ == "__main__":
    main()
