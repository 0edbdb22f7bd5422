"""Low rank beside fewer channels: measured speed and what is lost, at the same predicted latencies.

    python benchmarks/low_rank.py fixtures [cnn ... vgg16.onnx]
    python benchmarks/low_rank.py network tv_vgg16 --zoo FOLDER --side 64

Every way gets the same images and budgets. `both` removes channels for half of the way and factors for the rest. The
speed is processor time on one core, fresh processes in turns (`hwpass.bench`). Loss is the squared error of the outputs
on images that nothing was fitted on, over their variance; the fixtures have accuracy besides. The last column is the
speed over that of channels alone at equal loss, which is read between the budgets: logarithms of speeds are joined by
straight lines over the root of the error, from the dense network on. A file is another network of the fixtures' task,
such as the one of `train_vgg.py`. The network of the zoo has the random weights of its loader: its layers have no low
rank to be found, so that it shows the least that there is to gain.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from common import show, zoo_module

import hwpass
from hwpass.cost.bench import bench

FIXTURES = Path(__file__).parent.parent / "fixtures"
NETS = ("cnn", "densenet", "mobilenet", "resnet_se", "vit")
BUDGETS = (0.8, 0.6, 0.45)
WAYS = ("channels", "low rank", "both")
TARGET = "server-cpu"


def ways(budget: float) -> dict[str, str]:
    """Pipelines that come to a share of the latency."""
    half = (1 + budget) / 2
    start = "fold,fuse-bn,fold-redundant"
    return {
        "channels": f"{start},prune-channels{{latency={budget:.3f}x}},compensate,verify",
        "low rank": f"{start},factorize{{latency={budget:.3f}x}},verify",
        "both": f"{start},prune-channels{{latency={half:.3f}x}},compensate,"
        f"factorize{{latency={budget / half:.3f}x}},verify",
    }


def outputs(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """The first output on some images."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: images[i : i + 8]})[0] for i in range(0, len(images), 8)])


def compare(
    name: str, proto: onnx.ModelProto, calib: Mapping[str, np.ndarray], held: np.ndarray, labels: np.ndarray | None,
    dims: Mapping[str, int] | None = None, budgets: Sequence[float] = BUDGETS, chosen: Sequence[str] = WAYS,
) -> list[list[str]]:  # fmt: skip
    """Rows of one network."""
    dense = outputs(proto, held)
    variance = float(np.square(dense - dense.mean(axis=0)).sum())
    rows: list[list[str]] = []
    measured: list[tuple[int, str, float, float]] = []  # row, way, speed, error
    for budget in budgets:
        made: dict[str, tuple[onnx.ModelProto, float]] = {}
        for way, pipeline in ways(budget).items():
            if way not in chosen:
                continue
            try:
                options: dict[str, Any] = {"dim": [f"{k}={v}" for k, v in dims.items()]} if dims else {}
                result = hwpass.run(proto, TARGET, pipeline=pipeline, calib=dict(calib), **options)
                made[way] = result.model.proto(), result.report.ratio.latency or 1.0
            except hwpass.HwpassError as error:
                rows.append([name, f"{budget}", way, "-", "-", "-", "-", str(error)[:80]])
        timings = bench([proto, *(model for model, _ in made.values())], cpu_time=True, dims=dims)
        for (way, (model, predicted)), timing in zip(made.items(), timings[1:], strict=True):
            found = outputs(model, held)
            lost = float(np.square(found - dense).sum()) / variance
            points = ""
            if labels is not None:
                points = f"{100 * float((dense.argmax(1) == labels).mean() - (found.argmax(1) == labels).mean()):.2f}"
            measured.append((len(rows), way, 1 / timing.ratio, lost))
            rows.append([name, f"{budget}", way, f"{predicted:.3f}", f"{1 / timing.ratio:.2f}x", f"{lost:.2g}", points])
            print(" | ".join(rows[-1]), flush=True)
    by_channels = [(speed, lost) for _, way, speed, lost in measured if way == "channels"]
    for place, way, speed, lost in measured:
        at_equal = None if way == "channels" else speed_at(lost, by_channels)
        rows[place].append("-" if at_equal is None else f"{speed / at_equal:.2f}x")
    return rows


def speed_at(error: float, known: Sequence[tuple[float, float]]) -> float | None:
    """The speed at an error, between (speed, error) and the dense network; None beyond the largest error."""
    points = sorted([(0.0, 0.0), *((np.sqrt(e), np.log(s)) for s, e in known)])
    errors, speeds = zip(*points, strict=True)
    # A plan that is slower at a larger error says nothing: the faster one is to be had at that error too.
    if np.sqrt(error) > errors[-1]:
        return None
    return float(np.exp(np.interp(np.sqrt(error), errors, np.maximum.accumulate(speeds))))


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("fixtures", "network"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--side", type=int, default=224, help="of the images of a network")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    options = parser.parse_args()
    rows = []
    if options.what == "fixtures":
        with np.load(FIXTURES / "calib.npz") as calib, np.load(FIXTURES / "test.npz") as test:
            data, images, labels = calib["image"], test["image"], test["label"]
        for name in options.names or NETS:
            path = Path(name) if name.endswith(".onnx") else FIXTURES / f"{name}.onnx"
            proto = onnx.load(path)
            rows += compare(path.stem, proto, {"image": data}, images, labels, None, options.budgets, options.ways)
    else:
        proto = zoo_module(options.zoo).load_zoo(options.names[0])
        given = proto.graph.input[0]
        shape = (options.samples + 16, 3, options.side, options.side)
        images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        calib = {given.name: images[: options.samples]}
        held = images[options.samples :]
        rows += compare(options.names[0], proto, calib, held, None, None, options.budgets, options.ways)
    show(
        f"{TARGET}, one core",
        ["network", "budget", "way", "predicted", "speed", "error", "points lost", "at equal error"],
        rows,
    )


if __name__ == "__main__":
    main()
