"""Seconds and memory of hwpass itself: coupling, the prune pass, a whole run, each in fresh processes.

python benchmarks/speed.py ZOO [--sessions 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import fresh, save_zoo, show

COUPLED = ("tv_resnet50", "tv_densenet121")


def worker(kind: str, path: str) -> dict[str, float]:
    """One measurement in this process."""
    import hwpass
    from hwpass.cost_models import load_target
    from hwpass.coupling import couple
    from hwpass.manager import Context, PassManager

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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: save_zoo(options.zoo, name, Path(folder)) for name in COUPLED}
        rows = []
        for kind, name in [*(("couple", n) for n in COUPLED), ("prune", "tv_resnet50"), ("run", "tv_resnet50")]:
            found = [fresh(Path(__file__), "--worker", kind, str(paths[name])) for _ in range(options.sessions)]
            for error in (f["error"] for f in found if "error" in f):
                raise SystemExit(f"{kind} {name}: {error}")
            seconds = [f["seconds"] for f in found]
            memory = "-"
            if kind == "run":
                peak, size = max(f["peak_mb"] for f in found), found[0]["size_mb"]
                memory = f"{peak:.0f} MB (model {size:.0f} MB, 4 x + 300 = {4 * size + 300:.0f} MB)"
            rows.append([f"{kind} {name}", statistics.median(seconds), min(seconds), max(seconds), memory])
    show("hwpass itself", ["what", "seconds, median", "min", "max", "peak resident memory"], rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(*sys.argv[2:4])))
    else:
        main()
