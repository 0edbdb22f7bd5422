"""One budget met by channels, ranks and bits together, beside each of them alone: accuracy at equal predicted cost.

    pip install -e '.[dev]'
    python benchmarks/mixes.py [--networks NAME ...] [--target server-cpu] [--metric latency] [--points 0.5 0.35 0.25]

Run from the root of a checkout. Every way sees the same calibration samples, without labels; nothing is distilled. What
cannot meet a point stands there as such. The test samples are looked at once per row.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import onnx
from accuracy_rows import markdown
from compact import COMPACT, ROOT, accuracy, samples

import hwpass

NETWORKS = ("cnn", "mobilenet", "resnet_se", "densenet", "vit")
POINTS = (0.5, 0.35, 0.25)

#: What is compared: the means that may be used. The last may mix them.
WAYS = {"channels": (), "ranks": ("factorize",), "bits": ("quantize",), "all": ("factorize", "quantize")}

#: What stands before lower ranks or integers alone.
PREPARED = "fold,fuse-bn"


def row(network: str, way: str, point: float, options: argparse.Namespace) -> dict[str, object]:
    """One way at one point of one network."""
    path = next(p for p in (COMPACT / f"{network}.onnx", ROOT / "fixtures" / f"{network}.onnx") if p.exists())
    model = onnx.load(path)
    name = str(model.graph.input[0].name)
    data, inputs, labels = samples(name)
    found: dict[str, object] = {"network": network, "way": way, "point": point, "target": options.target}
    found |= {"metric": options.metric, "dense": accuracy(model, name, inputs, labels)}
    start = time.process_time()
    try:
        if way in ("ranks", "bits"):
            step = f"factorize{{{options.metric}={point}x}}" if way == "ranks" else "quantize"
            result = hwpass.run(path, options.target, pipeline=f"{PREPARED},{step},verify", calib={name: data})
        else:
            given: dict[str, Any] = {options.metric: point, "distill": "off", "also": WAYS[way]}
            result = hwpass.run(path, options.target, calib={name: data}, **given)
    except hwpass.BudgetError as error:
        return found | {"accuracy": None, "error": str(error)}
    share = getattr(result.report.ratio, options.metric if options.metric != "size" else "size_bytes")
    found |= {"share": share, "seconds": round(time.process_time() - start, 1)}
    if share is None or share > point * 1.001:
        return found | {"accuracy": None, "error": f"it takes {share:.3f}x"}
    told = result.report.notes.get("allocation")
    if isinstance(told, dict):
        found["chosen"] = next(mix for mix, own in told.items() if isinstance(own, dict) and own["chosen"])
    return found | {"accuracy": accuracy(result.model.proto(), name, inputs, labels)}


def table(rows: list[dict[str, object]], points: list[float]) -> str:
    """All rows as Markdown."""
    lines = []
    for network, way in dict.fromkeys((r["network"], r["way"]) for r in rows):
        own = {r["point"]: r for r in rows if r["network"] == network and r["way"] == way}
        cells = []
        for point in points:
            one = own.get(point)
            if one is None or one["accuracy"] is None:
                cells.append("-" if one is None else "not met")
            else:
                cells.append(f"{one['accuracy']:.4f}" + (f" ({one['chosen']})" if "chosen" in one else ""))
        first = next(iter(own.values()))
        lines.append([str(network), f"{first['dense']:.4f}", str(way), *cells])
    return markdown(["network", "dense", "way", *(f"{point:g}x" for point in points)], lines)


def main() -> None:
    """Measure what is asked for, print the table; rows go to a file as they are found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--target", default="server-cpu")
    parser.add_argument("--metric", choices=("latency", "size"), default="latency")
    parser.add_argument("--points", nargs="+", type=float, default=list(POINTS))
    parser.add_argument("-o", "--output", type=Path, help="a file of JSON lines to add rows to")
    options = parser.parse_args()
    rows = []
    for network in options.networks:
        for point in options.points:
            for way in WAYS:
                rows.append(row(network, way, point, options))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                if options.output is not None:
                    with options.output.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(rows[-1]) + "\n")
    print(table(rows, options.points))


if __name__ == "__main__":
    main()
