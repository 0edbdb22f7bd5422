"""Seconds and memory of hwpass itself: coupling, the prune pass, a whole run, each in fresh processes.

    python benchmarks/speed.py ZOO [--sessions 3]
    python benchmarks/speed.py ZOO --memory [--only GLOB] [--score auto] [-o memory.jsonl]

`--memory` runs every graph without data once, each in a process of its own, and holds the peak of resident memory
against three times the model and the activations of one inference, plus 400 MB.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from fnmatch import fnmatchcase
from pathlib import Path

from common import fresh, memory_bound, save_zoo, show, zoo_module

COUPLED = ("tv_resnet50", "tv_densenet121")


def worker(kind: str, path: str) -> dict[str, float]:
    """One measurement in this process."""
    import hwpass
    from hwpass.context import Context
    from hwpass.cost_models import load_target
    from hwpass.coupling.groups import couple
    from hwpass.manager import PassManager

    if kind == "run":
        start = time.perf_counter()
        result = hwpass.run(path, "server-cpu", macs=0.5, score="l2")
        result.save(Path(path).with_suffix(".pruned.onnx"))
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"seconds": seconds, "peak_mb": peak / 1e6, "size_mb": Path(path).stat().st_size / 1e6}
    prepared = PassManager.parse("fold,fuse-bn").run(hwpass.load(path))
    if kind == "couple":
        start = time.perf_counter()
        couple(prepared)
        return {"seconds": time.perf_counter() - start}
    manager = PassManager.parse("prune-channels{macs=0.5x,score=l2}")
    manager.run(prepared, Context(target=load_target("server-cpu")))
    return {"seconds": manager.records[-1].seconds}


def main() -> None:
    """Measure, each figure in `--sessions` fresh processes, and print medians with their extremes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--only", default="*")
    parser.add_argument("--score", default="auto")
    parser.add_argument("-o", "--output", type=Path, default=Path("memory.jsonl"))
    options = parser.parse_args()
    if options.memory:
        memory(options.zoo, options.only, options.score, options.output)
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: save_zoo(options.zoo, name, Path(folder)) for name in COUPLED}
        rows = []
        for kind, name in [*(("couple", n) for n in COUPLED), ("prune", "tv_resnet50"), ("run", "tv_resnet50")]:
            found = [fresh(Path(__file__), "--worker", kind, str(paths[name])) for _ in range(options.sessions)]
            for error in (f["error"] for f in found if "error" in f):
                raise SystemExit(f"{kind} {name}: {error}")
            seconds = [f["seconds"] for f in found]
            held = "-"
            if kind == "run":
                most, size = max(f["peak_mb"] for f in found), found[0]["size_mb"]
                held = f"{most:.0f} MB (model {size:.0f} MB, 4 x + 300 = {4 * size + 300:.0f} MB)"
            rows.append([f"{kind} {name}", statistics.median(seconds), min(seconds), max(seconds), held])
    show("hwpass itself", ["what", "seconds, median", "min", "max", "peak resident memory"], rows)


def peak(path: str, score: str) -> dict[str, float]:
    """The peak of resident memory of a run without data, in this process."""
    import hwpass

    result = hwpass.run(path, "server-cpu", macs=0.5, score=score, force=True)
    result.save(Path(path).with_suffix(".pruned.onnx"))
    return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}


def memory(zoo: Path, only: str, score: str, output: Path) -> None:
    """Measure graphs that are not in the file of results yet, and print those nearest to their bounds."""
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    names = [n for n in zoo_module(zoo).names() if fnmatchcase(n, only) and n not in {row["name"] for row in rows}]
    with open(output, "a") as stream:
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                path = save_zoo(zoo, name, Path(folder))
                found = fresh(Path(__file__), "--peak", str(path), score, timeout=3600)
                rows.append({"name": name, **memory_bound(path), **found})
            stream.write(json.dumps(rows[-1]) + "\n")
            stream.flush()
    good = [row for row in rows if "error" not in row]
    good.sort(key=lambda row: row["bound_mb"] / row["peak_mb"])
    columns = ["graph", "model, MB", "activations, MB", "peak, MB", "bound, MB", "peak / bound"]
    keys = ("size_mb", "activations_mb", "peak_mb", "bound_mb")
    table = [[row["name"], *(row[key] for key in keys), row["peak_mb"] / row["bound_mb"]] for row in good[:12]]
    over = sum(row["peak_mb"] > row["bound_mb"] for row in good)
    show(f"peak resident memory without data: {over} of {len(good)} over their bounds, the nearest", columns, table)
    for row in rows:
        if "error" in row:
            print(f"{row['name']}: {row['error']}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print(json.dumps(peak(*sys.argv[2:4])))
    elif sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(*sys.argv[2:4])))
    else:
        main()
