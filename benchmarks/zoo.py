"""Every graph of a zoo through `--macs 0.5x --score l2 --target server-cpu`: changed, valid, exact, MACs left, why not.

    python benchmarks/zoo.py ZOO [-o zoo.jsonl] [--jobs 2] [--only GLOB] [--peer] [--names NAME ...]

One process a graph; results are appended to the JSONL file and graphs already in it are not run again. `--peer` adds
onnxsim's `apply_structured_pruning(sparsity=0.5)`, raw and after `simplify` (needs `onnxsim==0.8.1`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from common import fresh, save_zoo, show, zoo_module


def worker(zoo: str, name: str, peer: bool) -> dict[str, Any]:
    """One graph, in this process."""
    import onnxruntime

    import hwpass
    from hwpass.coupling import couple
    from hwpass.manager import PassManager

    row: dict[str, Any] = {"name": name}
    with tempfile.TemporaryDirectory() as folder:
        path = save_zoo(Path(zoo), name, Path(folder))
        prepared = PassManager.parse("fold,fuse-bn").run(hwpass.load(path))
        start = time.perf_counter()
        coupling = couple(prepared)
        row["couple_seconds"] = time.perf_counter() - start
        row["nodes"] = len(coupling.nodes)
        row["reasons"] = reasons(coupling)
        del prepared, coupling
        start = time.perf_counter()
        try:
            result = hwpass.run(path, "server-cpu", macs=0.5, score="l2", force=True)
            report = result.report
            row["macs"], row["latency"] = report.ratio.macs, report.ratio.latency
            row["exact"] = report.verdicts.exactness.max_rel if report.verdicts.exactness else None
            row["met"], row["warnings"] = result.unmet is None, report.warnings
            target = Path(folder) / "pruned.onnx"
            result.save(target)
            onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
            row["status"] = "ok"
        except hwpass.HwpassError as error:
            row["status"], row["message"] = type(error).__name__, str(error)[:300]
        row["seconds"] = time.perf_counter() - start
        if peer:
            row["peer"] = {kind: rival(path, kind) for kind in ("raw", "simplified")}
    return row


def reasons(coupling: Any) -> list[tuple[float, str]]:
    """Why layers are frozen, with the share of the MACs that each reason holds, largest first."""
    from hwpass.cost import Cost
    from hwpass.cost_models import load_target

    cost = Cost(coupling, load_target("server-cpu"))
    work = cost.work(cost.dense)
    macs = {k.nodes[0].name: float(m) for k, m in zip(cost.kernels.kernels, work.macs[0], strict=True)}
    total = sum(macs.values()) or 1.0
    held: Counter[str] = Counter()
    for node, reason in coupling.frozen:
        held[reason] += macs.get(node, 0.0) / total
    return [(round(share, 4), reason) for reason, share in held.most_common(5)]


def rival(path: Path, kind: str) -> str:
    """What onnxsim makes of it: the MACs left, or what went wrong."""
    import onnx
    import onnxruntime
    import onnxsim
    from faster import macs
    from onnxsim.pruning import apply_structured_pruning

    try:
        model = onnx.load(path)
        if kind == "simplified":
            model, _ = onnxsim.simplify(model)
        before = macs(model)
        pruned = apply_structured_pruning(model, sparsity=0.5)
        onnxruntime.InferenceSession(pruned.SerializeToString(), providers=["CPUExecutionProvider"])
        return f"{macs(pruned) / before:.3f}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"


def main() -> None:
    """Run what is not there yet, then print the table and the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("zoo.jsonl"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="*")
    parser.add_argument("--names", nargs="*")
    parser.add_argument("--peer", action="store_true")
    options = parser.parse_args()
    done = {}
    if options.output.exists():
        rows = [json.loads(line) for line in options.output.read_text().splitlines()]
        done = {row["name"]: row for row in rows}
    wanted = options.names or [n for n in zoo_module(options.zoo).names() if fnmatchcase(n, options.only)]
    todo = [n for n in wanted if n not in done]
    with ThreadPoolExecutor(options.jobs) as pool, open(options.output, "a") as stream:
        arguments = ["--peer"] if options.peer else []
        jobs = {
            pool.submit(fresh, Path(__file__), "--worker", str(options.zoo), n, *arguments, timeout=1200): n
            for n in todo
        }
        for job in as_completed(jobs):
            try:
                row = {"name": jobs[job], **job.result()}
            except Exception as error:
                row = {"name": jobs[job], "status": type(error).__name__, "message": str(error)[:200]}
            if "error" in row:
                row = {"name": row["name"], "status": "crash", "message": row["error"]}
            done[row["name"]] = row
            stream.write(json.dumps(row) + "\n")
            stream.flush()
    summary([done[n] for n in wanted if n in done])


def summary(rows: list[dict[str, Any]]) -> None:
    """The table, worst first, and the counts that matter."""
    ordered = sorted(rows, key=lambda r: (r.get("status") == "ok", -r.get("macs", 9), r["name"]))
    show(
        "zoo",
        ["graph", "status", "MACs left", "exactness", "couple s", "run s", "why"],
        [
            [
                r["name"],
                r["status"],
                r.get("macs", "-"),
                r.get("exact", "-"),
                r.get("couple_seconds", "-"),
                r.get("seconds", "-"),
                r.get("message")
                or "; ".join(f"{s:.2f} {t}" for s, t in r.get("reasons", [])[:2] if r.get("macs", 1) > 0.55),
            ]
            for r in ordered
        ],
    )
    fine = [r for r in rows if r["status"] == "ok"]
    reached = [r for r in fine if r["macs"] <= 0.55]
    print(f"{len(rows)} graphs, {len(fine)} done and exact, {len(reached)} at 0.55x of the MACs or less")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(sys.argv[2], sys.argv[3], "--peer" in sys.argv)))
    else:
        main()
