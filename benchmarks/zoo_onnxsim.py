"""The peer's side of the zoo: onnxsim's `apply_structured_pruning(sparsity=0.5)`, raw and after `simplify`.

    python benchmarks/zoo_onnxsim.py ZOO [-o zoo_onnxsim.jsonl] [--only GLOB] [--limit 120] [--largest 600]

Small graphs first; each kind has a process of its own with a time limit in seconds and a bound on its memory. Graphs
whose file is larger than `--largest` megabytes are left out. Results are appended to the JSONL file, and graphs
already in it are not run again; `benchmarks/zoo.py --peer FILE` prints them beside its own. MACs are counted by
hwpass, before and after; a result is valid when ONNX Runtime loads it and runs it, with finite outputs of the
declared extents. Needs `onnxsim==0.8.1`.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from common import fresh, save_zoo, zoo_module
from zoo import KINDS

#: Address space of a worker, in bytes.
MEMORY = 12 << 30


def worker(path: Path, kind: str) -> dict[str, Any]:
    """One kind on one file: what became of it, or the step that failed and what it said."""
    import onnx
    import onnxsim
    from common import macs
    from onnxsim.pruning import apply_structured_pruning

    from hwpass.runtime.sessions import open_session

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    row: dict[str, Any] = {"changed": False, "valid": False}
    step, start = "load", time.perf_counter()
    try:
        model = onnx.load(path)
        interface = list(model.graph.output)
        if kind == "simplified":
            step = "simplify"
            model, _ = onnxsim.simplify(model)
        step, before = "prune", parameters(model)
        pruned = apply_structured_pruning(model, sparsity=0.5)
        row["seconds"] = time.perf_counter() - start
        row["changed"] = parameters(pruned) < before
        del model
        step = "load into ONNX Runtime"
        session = open_session(pruned.SerializeToString())
        step = "run"
        row["problem"] = run(session, pruned, interface)
        row["valid"] = not row["problem"]
        step = "count"
        del session
        row["macs"] = macs(pruned) / macs(path) if row["changed"] else 1.0
    except Exception as error:
        row["problem"] = f"{step}: {type(error).__name__}: {' '.join(str(error).split())[:320]}"
    return row


def parameters(model: Any) -> int:
    """Elements of all initialisers."""
    import numpy as np

    return sum(int(np.prod(t.dims, dtype=np.int64)) for t in model.graph.initializer)


def run(session: Any, model: Any, interface: list[Any]) -> str:
    """Run on random inputs; what is wrong with the outputs, if anything."""
    import numpy as np

    from hwpass.errors import InputError
    from hwpass.runtime.dimensions import dimension_values
    from hwpass.runtime.inputs import input_specs, make_inputs
    from hwpass.runtime.sessions import run_session

    sizes = dimension_values(model, session=session)[0]
    try:
        outputs = run_session(session, make_inputs(input_specs(model), sizes, 0, max_token=16))
    except InputError:  # some tables of tokens have two rows
        outputs = run_session(session, make_inputs(input_specs(model), sizes, 0, max_token=2))
    for declared in interface:
        if declared.name not in outputs:
            continue
        value = outputs[declared.name]
        static = [d.dim_value or None for d in declared.type.tensor_type.shape.dim]
        if len(static) == value.ndim and any(s and s != v for s, v in zip(static, value.shape, strict=True)):
            return f"run: output {declared.name} has the shape {list(value.shape)}"
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return f"run: output {declared.name} is not finite"
    return ""


def examine(zoo: Path, name: str, limit: float, largest: float) -> dict[str, Any]:
    """Both kinds on one graph of the zoo."""
    row: dict[str, Any] = {"name": name}
    with tempfile.TemporaryDirectory() as folder:
        path = save_zoo(zoo, name, Path(folder))
        size = sum(p.stat().st_size for p in Path(folder).iterdir()) / 1e6
        for kind in KINDS:
            if size > largest:
                row[kind] = {"changed": False, "valid": False, "problem": f"not run: a file of {size:.0f} MB"}
                continue
            try:
                found = fresh(Path(__file__), "--worker", str(path), kind, timeout=limit)
            except subprocess.TimeoutExpired:
                found = {"changed": False, "valid": False, "problem": f"not done after {limit:.0f} s"}
            if "error" in found:
                found = {"changed": False, "valid": False, "problem": f"crash: {found['error'][:160]}"}
            row[kind] = found
    return row


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("zoo_onnxsim.jsonl"))
    parser.add_argument("--only", default="*")
    parser.add_argument("--limit", type=float, default=120)
    parser.add_argument("--largest", type=float, default=600)
    options = parser.parse_args()
    done = set()
    if options.output.exists():
        done = {json.loads(line)["name"] for line in options.output.read_text().splitlines()}
    names = [n for n in zoo_module(options.zoo).names() if fnmatchcase(n, options.only) and n not in done]
    with open(options.zoo / "index.csv") as stream:
        sizes = {entry["name"]: int(entry["parameters"]) for entry in csv.DictReader(stream)}
    names.sort(key=lambda n: sizes.get(n, 0))
    with open(options.output, "a") as stream:
        for name in names:
            row = examine(options.zoo, name, options.limit, options.largest)
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            print(json.dumps(row), file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(Path(sys.argv[2]), sys.argv[3])))
    else:
        main()
