"""Every graph of a zoo as a torch function: equal to ONNX Runtime, and differentiable in every weight?

    python benchmarks/torch_graphs.py ZOO [-o torch_graphs.jsonl] [--only GLOB] [--sample] [--seconds 600]

Each graph is prepared as `hwpass run` does, and run by ONNX Runtime and as a torch function on the same made-up input.
It passes where no output differs by more than 1e-4 of its largest value, and every weight gets a finite gradient.

Random weights make some graphs of which ONNX Runtime gives two results, as it rewrites the graph or not. Of graphs that
differ it is told how far these two are apart, and how far any node is on the very inputs that it has in ONNX Runtime.
The same graph in double precision tells how far rounding has taken ONNX Runtime, and torch, from what the graph gives.

One process a graph, one thread; results are appended to the JSONL file, and graphs already in it are not run again.
`--sample` takes one graph of each family in the zoo's `index.csv`.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import sys
import tempfile
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import fresh, save_zoo, show, zoo_module
from onnx_graphsurgeon import Constant, Graph

from hwpass.model.model import Model
from hwpass.torch.graph import TorchGraph

#: The largest difference of an output that passes, over its largest magnitude.
TOLERANCE = 1e-4


def worker(zoo: str, name: str) -> dict[str, Any]:
    """One graph, in this process."""
    import torch

    import hwpass
    from hwpass.manager import PassManager
    from hwpass.runtime.dimensions import typical_dimensions
    from hwpass.runtime.inputs import input_specs, make_inputs
    from hwpass.runtime.sessions import open_session, run_session
    from hwpass.torch.graph import TorchGraph, missing
    from hwpass.workflows.steps import PREPARE

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as the session does: random weights make many
    with tempfile.TemporaryDirectory() as folder:
        path = save_zoo(Path(zoo), name, Path(folder))
        model = PassManager(PREPARE).run(hwpass.load(path))
    proto = model.proto()
    session = open_session(proto)
    dims = typical_dimensions(proto, session=session)
    feed = make_inputs(input_specs(proto), dims)
    start = time.perf_counter()
    wanted = run_session(session, feed)
    row: dict[str, Any] = {"name": name, "runtime_seconds": time.perf_counter() - start}
    del session
    row |= {"nodes": len(model.nodes), "missing": missing(model)}
    start = time.perf_counter()
    graph = TorchGraph(model)
    found = graph({key: torch.from_numpy(value) for key, value in feed.items()})
    row["forward_seconds"] = time.perf_counter() - start
    row["gap"] = max(_gap(wanted[key], value) for key, value in found.items())
    start = time.perf_counter()
    # By their size: squares of 1e20 are no numbers.
    scales = {key: float(value.detach().abs().max()) or 1.0 for key, value in found.items()}
    sum((y / scales[key]).square().mean() for key, y in found.items() if y.is_floating_point()).backward()
    row["backward_seconds"] = time.perf_counter() - start
    grads = {key: parameter.grad for key, parameter in graph.parameters.items()}
    row |= {"parameters": len(grads), "without": [key for key, grad in grads.items() if grad is None]}
    row["not_finite"] = [key for key, grad in grads.items() if grad is not None and not torch.isfinite(grad).all()]
    if row["gap"] > TOLERANCE:
        row |= _by_nodes(model, proto, feed, wanted) | _rounded(graph, feed, wanted, found)
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return row


def _by_nodes(model: Model, proto: onnx.ModelProto, feed: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """How far ONNX Runtime is from itself without rewriting the graph, and how far any node's function is from it."""
    import torch

    from hwpass.ops.rule import rule_for
    from hwpass.runtime.sessions import open_session, run_session

    known = {value.name for value in proto.graph.output}
    inner = [t.name for node in model.nodes for t in node.outputs if t.name and t.name not in known]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    values = {**feed, **run_session(open_session(proto, level="none"), feed)}
    gaps = {}
    for node in model.nodes:
        arrays = [t.values if isinstance(t, Constant) else values.get(t.name) for t in node.inputs]
        inputs = [None if a is None else torch.from_numpy(np.array(a)) for a in arrays]
        if not any(isinstance(value, Graph) for value in node.attrs.values()):
            found = rule_for(node).torch(node, inputs, model.opset)
            named = zip(node.outputs, found, strict=False)
            gaps[node.name] = max((_gap(values[t.name], y) for t, y in named if t.name), default=0.0)
    worst = max(gaps, key=lambda name: gaps[name])
    own = max(_gap(value, values[name]) for name, value in wanted.items())
    return {"runtime_gap": own, "node_gap": gaps[worst], "worst_node": worst}


def _rounded(graph: TorchGraph, feed: dict[str, Any], wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """How far ONNX Runtime and torch are from the graph in double precision; nothing where casts forbid that."""
    import torch

    tensors = {key: torch.from_numpy(value) for key, value in feed.items()}
    try:
        with torch.no_grad():
            exact = graph.double()({k: v.double() if v.is_floating_point() else v for k, v in tensors.items()})
    except RuntimeError:
        return {}
    single = {"runtime_off": wanted, "torch_off": found}
    return {name: max(_gap(exact[key], made[key]) for key in exact) for name, made in single.items()}


def _gap(wanted: Any, found: Any) -> float:
    """The largest difference over the largest magnitude."""
    wanted, found = (value.detach().numpy() if hasattr(value, "detach") else value for value in (wanted, found))
    a, b = np.asarray(wanted, np.float64), np.asarray(found, np.float64)
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    finite = np.isfinite(a)
    scale = np.abs(a[finite]).max(initial=0.0)
    return float(np.abs(a - b)[finite].max(initial=0.0) / (scale or 1.0))


def passes(row: dict[str, Any]) -> bool:
    """Whether a graph is equal, and every weight has a gradient."""
    return not (row.get("error") or row["missing"] or row["without"] or row["not_finite"]) and row["gap"] <= TOLERANCE


def _why(row: dict[str, Any]) -> str:
    if row.get("error"):
        return str(row["error"])
    said = [*row["missing"]]
    if row["gap"] > TOLERANCE:
        said.append(f"differs by {row['gap']:.1e}")
        if "node_gap" in row:
            said.append(f"ONNX Runtime from itself by {row['runtime_gap']:.1e}, nodes by {row['node_gap']:.1e}")
        if "runtime_off" in row:
            said.append(f"off by {row['runtime_off']:.1e} in ONNX Runtime, by {row['torch_off']:.1e} in torch")
    for key, text in (("without", "no gradient"), ("not_finite", "gradient not finite")):
        if row[key]:
            said.append(f"{text}: {len(row[key])} of {row['parameters']}, {', '.join(row[key][:3])}")
    return "; ".join(said)


def main() -> None:
    """Run what is not there yet, then print the table and the share that passes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("torch_graphs.jsonl"))
    parser.add_argument("--only", default="*")
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    done = {}
    if options.output.exists():
        done = {row["name"]: row for row in map(json.loads, options.output.read_text().splitlines())}
    wanted = [name for name in zoo_module(options.zoo).names() if fnmatchcase(name, options.only)]
    with open(options.zoo / "index.csv") as stream:
        index = {row["name"]: row for row in csv.DictReader(stream)}
    if options.sample:
        first = {index[name]["family"]: name for name in reversed(wanted)}
        wanted = [name for name in wanted if name in first.values()]
    # Small graphs first.
    wanted.sort(key=lambda name: int(index[name]["macs_batch1"]) if name in index else 0)
    with open(options.output, "a") as stream:
        for name in wanted:
            if name in done:
                continue
            try:
                row = fresh(Path(__file__), "--worker", str(options.zoo), name, timeout=options.seconds)
            except Exception as error:
                row = {"error": type(error).__name__}
            done[name] = {**row, "name": name}
            stream.write(json.dumps(done[name]) + "\n")
            stream.flush()
    table([done[name] for name in wanted if name in done])


def table(rows: list[dict[str, Any]]) -> None:
    """Every graph, those that fail first, and the share that passes."""
    columns = ["graph", "difference", "parameters", "forward s", "backward s", "ONNX Runtime s", "why not"]
    keys = ("gap", "parameters", "forward_seconds", "backward_seconds", "runtime_seconds")
    cells = [
        [row["name"], *(row.get(key, "-") for key in keys), "" if passes(row) else _why(row)]
        for row in sorted(rows, key=lambda row: (passes(row), row["name"]))
    ]
    show("torch graphs", columns, cells)
    passed = sum(map(passes, rows))
    equal = sum(row.get("gap", 1.0) <= TOLERANCE for row in rows)
    print(f"{passed} of {len(rows)} pass, {passed / max(len(rows), 1):.1%}; {equal} are equal to {TOLERANCE:g}")
    alike = sum(row.get("node_gap", 1.0) <= TOLERANCE for row in rows)
    print(f"of the others, {alike} have nodes that all are, on the inputs that ONNX Runtime has there")
    off = [row["runtime_off"] for row in rows if "runtime_off" in row]
    far = sum(value > TOLERANCE for value in off)
    print(
        f"and {len(off) - far} are equal in double precision; of {far} ONNX Runtime itself is farther than that from it"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(sys.argv[2], sys.argv[3])))
    else:
        main()
