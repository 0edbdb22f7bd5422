"""Seconds and memory of hwpass itself: coupling, the prune pass, a whole run, each in fresh processes.

    python benchmarks/speed.py ZOO [--sessions 3]
    python benchmarks/speed.py ZOO --calibrated [MODEL.onnx ...] [--samples 256] [--threads 2]
    python benchmarks/speed.py ZOO --memory [--only GLOB] [--score auto] [-o memory.jsonl]

`--calibrated` runs with calibration data, which are noise made here: two networks of the zoo with as many images of
224x224 as `--samples` says, the small networks in `fixtures` with their own number, and models named, at the sizes that
they state. Each once, in a process of its own, for half the predicted latency, without distillation.

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
from typing import Any

import numpy as np
from common import fresh, memory_bound, save_zoo, show, zoo_module

COUPLED = ("tv_resnet50", "tv_densenet121")

#: Networks of the zoo that are pruned on noise, and the sizes that open axes take there.
CALIBRATED = ("tv_mobilenet_v2", "tv_resnet50")
SIDES = {2: 224, 3: 224}

#: The small networks, and as many samples as their calibration data have.
FIXTURES = sorted((Path(__file__).resolve().parent.parent / "fixtures").glob("*.onnx"))
SMALL = 1024


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
    parser.add_argument("--calibrated", nargs="*", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--only", default="*")
    parser.add_argument("--score", default="auto")
    parser.add_argument("-o", "--output", type=Path, default=Path("memory.jsonl"))
    options = parser.parse_args()
    if options.calibrated is not None:
        calibrated(options.zoo, options.calibrated, options.only, options.samples, options.threads)
        return
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


def noise(path: str, samples: int) -> dict[str, np.ndarray]:
    """Standard normal numbers for every input of a model, integers of 0 for those that want these."""
    import hwpass
    from hwpass.runtime.inputs import input_specs

    random = np.random.default_rng(0)
    made = {}
    for spec in input_specs(hwpass.load(path).interface()):
        inner = [size if isinstance(size, int) else SIDES.get(axis, 64) for axis, size in enumerate(spec.shape)]
        shape = [samples, *inner[1:]]
        made[spec.name] = random.standard_normal(shape, np.float32).astype(spec.dtype)
    return made


def on_noise(path: str, samples: str, threads: str) -> dict[str, float]:
    """A whole run with calibration data in this process: seconds, those of its longest passes, and memory."""
    import hwpass

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "noise.npz"
        given: dict[str, Any] = noise(path, int(samples))
        np.savez(file, **given)
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        asked: dict[str, Any] = {"calib": str(file), "threads": int(threads), "distill": "off"}
        result = hwpass.run(path, "server-cpu", latency=0.5, force=True, **asked)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    passes = {record.name.partition("{")[0]: record.seconds for record in result.report.passes}
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**passes, "seconds": seconds, "processor": used, "peak_mib": after.ru_maxrss / 1024}


def calibrated(zoo: Path, named: list[Path], only: str, samples: int, threads: int) -> None:
    """Run networks on noise, and print what each took."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        networks = [(name, samples) for name in CALIBRATED]
        networks += [(str(path), SMALL) for path in FIXTURES] + [(str(path), samples) for path in named]
        for name, count in networks:
            if not fnmatchcase(Path(name).stem, only):
                continue
            path = save_zoo(zoo, name, Path(folder)) if name in CALIBRATED else Path(name)
            found = fresh(Path(__file__), "--on-noise", str(path), str(count), str(threads), timeout=3600)
            if "error" in found:
                print(f"{name}: {found['error']}")
                continue
            keys = ("prune-channels", "compensate", "verify", "seconds", "processor", "peak_mib")
            rows.append([Path(name).stem, count, *(found.get(key, 0.0) for key in keys)])
    columns = ["network", "samples", "prune-channels, s", "compensate, s", "verify, s", "all, s", "processor, s"]
    show(f"runs with calibration data, {threads} threads", [*columns, "peak, MiB"], rows)


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
    elif sys.argv[1:2] == ["--on-noise"]:
        print(json.dumps(on_noise(*sys.argv[2:5])))
    elif sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(*sys.argv[2:4])))
    else:
        main()
