"""The bundled trained networks: accuracy and latency, predicted and measured, at several budgets.

    python benchmarks/trained.py [--target server-cpu] [--budgets 0.9 0.75 0.6] [--sessions 5]

Run from the root of a checkout. The measured latency is ONNX Runtime's on this machine, one thread.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common import show

import hwpass
from hwpass.bench import bench
from hwpass.metric import evaluate_metric

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Prune each network at each budget, score and time it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="server-cpu")
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.9, 0.75, 0.6])
    parser.add_argument("--score", default="auto")
    parser.add_argument("--sessions", type=int, default=5)
    parser.add_argument("--runs", type=int, default=50)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from fixtures.metrics import accuracy

    calibration = ROOT / "fixtures" / "calib.npz"
    rows = []
    for path in sorted((ROOT / "fixtures").glob("*.onnx")):
        results = []
        for budget in options.budgets:
            try:
                results.append(
                    (budget, hwpass.run(path, options.target, latency=budget, calib=calibration, score=options.score))
                )
            except hwpass.HwpassError as error:
                rows.append([path.stem, f"{budget:g}x", "-", "-", "-", str(error)[:80]])
        timings = bench([path, *(r.model.proto() for _, r in results)], sessions=options.sessions, runs=options.runs)
        rows.append(
            [path.stem, "dense", f"{evaluate_metric(accuracy, path):.4f}", "1", "1", f"{timings[0].median_ms:.3f} ms"]
        )
        for (budget, result), t in zip(results, timings[1:], strict=True):
            score = evaluate_metric(accuracy, result.model.proto())
            rows.append(
                [
                    path.stem,
                    f"{budget:g}x",
                    f"{score:.4f}",
                    f"{result.report.ratio.latency:.3f}",
                    f"{t.ratio:.3f}",
                    f"[{t.ratio_low:.3f}-{t.ratio_high:.3f}]",
                ]
            )
    show(
        f"target {options.target}, score {options.score}",
        ["network", "budget", "accuracy", "predicted latency", "measured latency", "rounds"],
        rows,
    )


if __name__ == "__main__":
    main()
