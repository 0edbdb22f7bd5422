"""Is the result really faster? Dense against pruned at half the MACs, in ONNX Runtime, one thread.

    python benchmarks/faster.py ZOO [NET ...] [--sessions 5]

Fresh processes, interleaved, denormals flushed. With `onnxsim` installed its structured pruning at the sparsity that
leaves the nearest share of the MACs is timed in the same run, and so is a uniform width without rounding.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import onnx
from common import macs, save_zoo, show

import hwpass
from hwpass.cost.bench import bench

NETS = ("tv_mobilenet_v2", "tv_resnet50")


def peer(path: Path, share: float) -> tuple[onnx.ModelProto, float] | None:
    """onnxsim's structured pruning at the sparsity whose result is nearest to a share of the MACs."""
    try:
        import onnxsim
        from onnxsim.pruning import apply_structured_pruning
    except ImportError:
        return None
    simplified, _ = onnxsim.simplify(onnx.load(path))
    dense, best = macs(path), None
    for sparsity in (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5):
        try:
            given = onnx.ModelProto()
            given.CopyFrom(simplified)  # it may edit what it is given
            model: Any = apply_structured_pruning(given, sparsity=sparsity)
            left = macs(model) / dense
            bench([model], sessions=1, runs=1)  # it may load and yet not run
        except Exception as error:
            print(f"onnxsim at {sparsity}: {error}")
            continue
        if best is None or abs(left - share) < abs(best[1] - share):
            best = (model, left)
    return best


def main() -> None:
    """Prune, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("nets", nargs="*", default=NETS)
    parser.add_argument("--sessions", type=int, default=5)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    for name in options.nets:
        with tempfile.TemporaryDirectory() as folder:
            dense = save_zoo(options.zoo, name, Path(folder))
            models: list[tuple[str, Any, float, float | None]] = [("dense", dense, 1.0, 1.0)]
            result = hwpass.run(dense, "server-cpu", macs=0.5, score="l2")
            ratio = result.report.ratio
            models.append(("hwpass --macs 0.5x", result.model.proto(), ratio.macs or 0.0, ratio.latency))
            uniform = hwpass.run(dense, "server-cpu", channels=0.7, align=1, score="l2")
            ratio = uniform.report.ratio
            models.append(("hwpass --channels 0.7x --align 1", uniform.model.proto(), ratio.macs or 0.0, ratio.latency))
            rival = peer(dense, 0.5)
            if rival is not None:
                models.append(("onnxsim structured pruning", rival[0], rival[1], None))
            timings = bench([m for _, m, _, _ in models], sessions=options.sessions, runs=options.runs)
            rows = []
            for (label, _, share, predicted), t in zip(models, timings, strict=True):
                spread = f"{t.low_ms:.2f}-{t.high_ms:.2f}"
                speed = f"{1 / t.ratio:.2f}x [{1 / t.ratio_high:.2f}-{1 / t.ratio_low:.2f}]"
                rows.append([label, f"{share:.3f}", f"{t.median_ms:.2f}", spread, speed,
                             "-" if predicted is None else f"{1 / predicted:.2f}x"])  # fmt: skip
            show(name, ["model", "MACs left", "ms", "sessions", "speed-up", "predicted"], rows)


if __name__ == "__main__":
    main()
