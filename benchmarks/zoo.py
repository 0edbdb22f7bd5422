"""Every graph of a zoo through `--macs 0.5x --score l2 --target server-cpu`: changed, valid, exact, MACs left, why not.

    python benchmarks/zoo.py ZOO [-o zoo.jsonl] [--jobs 2] [--only GLOB] [--names NAME ...] [--peer zoo_onnxsim.jsonl]

One process a graph; results are appended to the JSONL file and graphs already in it are not run again. `--peer` names
what `benchmarks/zoo_onnxsim.py` wrote, and adds its columns.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from common import fresh, memory_bound, save_zoo_apart, show, zoo_module

from hwpass.coupling.chains import frozen_layers

#: The share of the MACs that counts as reached: 0.5x, and what rounding to the target's channels costs.
REACHED = 0.55

#: What `benchmarks/zoo_onnxsim.py` does with a graph.
KINDS = ("raw", "simplified")


def worker(zoo: str, name: str) -> dict[str, Any]:
    """One graph, in this process."""
    import onnxruntime

    import hwpass
    from hwpass.coupling.groups import couple
    from hwpass.manager import PassManager
    from hwpass.ops.rule import rules
    from hwpass.workflows.steps import PREPARE

    row: dict[str, Any] = {"name": name}
    with tempfile.TemporaryDirectory() as folder:
        path = save_zoo_apart(Path(zoo), name, Path(folder))
        prepared = PassManager(PREPARE).run(hwpass.load(path))
        rules()  # imports the rules, which is no part of coupling
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
            row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
            onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
            row["status"] = "ok"
        except hwpass.HwpassError as error:
            row["status"], row["message"] = type(error).__name__, str(error)[:300]
        row["seconds"] = time.perf_counter() - start
        row |= memory_bound(path)
    return row


def reasons(coupling: Any) -> list[tuple[float, str]]:
    """Why layers are frozen, with the share of the MACs that each reason holds, largest first."""
    from hwpass.cost.prediction import Cost
    from hwpass.cost_models import load_target

    cost = Cost(coupling, load_target("server-cpu"))
    work = cost.work(cost.dense)
    macs = {k.nodes[0].name: float(m) for k, m in zip(cost.kernels.kernels, work.macs[0], strict=True)}
    total = sum(macs.values()) or 1.0
    held: dict[str, float] = {}
    for node, reason in frozen_layers(coupling):
        held[reason] = held.get(reason, 0.0) + macs.get(node, 0.0) / total
    largest = sorted(held.items(), key=lambda item: item[1], reverse=True)[:5]
    return [(round(share, 4), reason) for reason, share in largest]


def main() -> None:
    """Run what is not there yet, then print the table and the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("zoo.jsonl"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="*")
    parser.add_argument("--names", nargs="*")
    parser.add_argument("--peer", type=Path)
    options = parser.parse_args()
    done = {}
    if options.output.exists():
        rows = [json.loads(line) for line in options.output.read_text().splitlines()]
        done = {row["name"]: row for row in rows}
    wanted = options.names or [n for n in zoo_module(options.zoo).names() if fnmatchcase(n, options.only)]
    todo = [n for n in wanted if n not in done]
    with ThreadPoolExecutor(options.jobs) as pool, open(options.output, "a") as stream:
        jobs = {pool.submit(fresh, Path(__file__), "--worker", str(options.zoo), n, timeout=1200): n for n in todo}
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
    peer = {}
    if options.peer:
        peer = {row["name"]: row for row in map(json.loads, options.peer.read_text().splitlines())}
    rows = [done[n] for n in wanted if n in done]
    table(rows, peer)
    families(rows, peer)


def table(rows: list[dict[str, Any]], peer: dict[str, dict[str, Any]]) -> None:
    """Every graph, worst first."""
    ordered = sorted(rows, key=lambda r: (r.get("status") == "ok", -r.get("macs", 9), r["name"]))
    columns = ["graph", "status", "MACs left", "exactness", "couple s", "run s", "peak / bound", "why"]
    cells = [
        [
            r["name"],
            r["status"],
            r.get("macs", "-"),
            r.get("exact", "-"),
            r.get("couple_seconds", "-"),
            r.get("seconds", "-"),
            r["peak_mb"] / r["bound_mb"] if "peak_mb" in r else "-",
            r.get("message")
            or "; ".join(f"{s:.2f} {t}" for s, t in r.get("reasons", [])[:2] if r.get("macs", 1) > REACHED),
        ]
        for r in ordered
    ]
    if peer:
        columns[7:7] = [f"onnxsim {kind}" for kind in KINDS]
        for r, row in zip(ordered, cells, strict=True):
            row[7:7] = [verdict(peer.get(r["name"], {}).get(kind)) for kind in KINDS]
    show("zoo", columns, cells)


def verdict(found: dict[str, Any] | None) -> str:
    """The peer's result in a cell: the MACs left, unchanged, or invalid."""
    if found is None:
        return "-"
    if found["problem"].startswith("not run"):
        return "not run"
    return "invalid" if not found["valid"] else f"{found['macs']:.3f}" if found["changed"] else "unchanged"


def family(name: str) -> str:
    """The family of a graph, from its name."""
    first = name.removeprefix("dyn_").partition("_")[0]
    known = {"tv": "torchvision", "timm": "timm", "hf": "transformers", "net": "by hand"}
    return known.get(first, "segmentation, detection, video, flow")


def families(rows: list[dict[str, Any]], peer: dict[str, dict[str, Any]]) -> None:
    """Counts per family, for both tools."""
    own: dict[str, Counter[str]] = {}
    for r in rows:
        for key in (family(r["name"]), "all"):
            seen = own.setdefault(key, Counter())
            fine = r["status"] == "ok"
            seen["graphs"] += 1
            seen["valid"] += fine
            seen["reached"] += fine and r["macs"] <= REACHED
            seen["within"] += fine and r["peak_mb"] <= r["bound_mb"]
            for kind in KINDS:
                found = peer.get(r["name"], {}).get(kind)
                if found is None or found["problem"].startswith("not run"):
                    continue
                seen[kind] += 1
                seen[f"{kind} valid"] += found["valid"] and found["changed"]
                seen[f"{kind} unchanged"] += found["valid"] and not found["changed"]
                seen[f"{kind} reached"] += found["valid"] and found["macs"] <= REACHED
    keys = [*sorted(own.keys() - {"all"}), "all"]
    columns = ["family", "graphs", "exact and valid", f"<= {REACHED}x", "memory within its bound"]
    counts = ["graphs", "valid", "reached", "within"]
    show("hwpass", columns, [[key, *(own[key][c] for c in counts)] for key in keys])
    for kind in KINDS if peer else ():
        columns = ["family", "run", "unchanged", "changed and valid", f"<= {REACHED}x"]
        counts = [kind, f"{kind} unchanged", f"{kind} valid", f"{kind} reached"]
        show(f"onnxsim, {kind}", columns, [[key, *(own[key][c] for c in counts)] for key in keys])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(sys.argv[2], sys.argv[3])))
    else:
        main()
