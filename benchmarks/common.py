"""What the benchmark programs share: the zoo of weightless graphs, fresh processes, and tables."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from rich.console import Console
from rich.table import Table

import hwpass
from hwpass.cost.prediction import Cost
from hwpass.cost_models import load_target
from hwpass.coupling.groups import couple


def zoo_module(folder: Path) -> Any:
    """The `load.py` beside a folder of graphs: it fills a graph with reproducible weights."""
    spec = importlib.util.spec_from_file_location("zoo_load", folder / "load.py")
    if spec is None or spec.loader is None or not (folder / "load.py").is_file():
        raise SystemExit(f"{folder}: no load.py there; name the folder that has graphs/ and load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_zoo(folder: Path, name: str, target: Path) -> Path:
    """Write one filled graph as an ONNX file."""
    model = zoo_module(folder).load_zoo(name)
    data = target / f"{name}.onnx"
    if model.ByteSize() < 1_900_000_000:
        onnx.save(model, data)
    else:
        onnx.save(model, data, save_as_external_data=True, location=data.name + ".data")
    return data


def save_zoo_apart(folder: Path, name: str, target: Path) -> Path:
    """The same in a process of its own, where this one measures its memory."""
    done = fresh(Path(__file__), str(folder), name, str(target))
    if "error" in done:
        raise RuntimeError(done["error"])
    return Path(done["path"])


def macs(model: onnx.ModelProto | Path) -> float:
    """Multiply-accumulates at batch 1."""
    source = str(model) if isinstance(model, Path) else model
    return Cost(couple(hwpass.load(source)), load_target("server-cpu")).base["macs"]


def memory_bound(model: Path) -> dict[str, float]:
    """MB of a model's constants and of the activations that live at once in one inference at batch 1, and the bound on
    a run without data that follows: three times both, plus 400 MB."""
    loaded = hwpass.load(model)
    base = Cost(couple(loaded), load_target("server-cpu")).base
    size = loaded.size_bytes()
    activations = base["memory"] - base["size"]
    bound = 3 * (size + activations) / 1e6 + 400
    return {"size_mb": size / 1e6, "activations_mb": activations / 1e6, "bound_mb": bound}


def fresh(program: Path, *arguments: str, timeout: float = 600) -> dict[str, Any]:
    """Run a benchmark's worker in a process of its own; its last line is JSON."""
    done = subprocess.run(
        [sys.executable, str(program), *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )
    try:
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except (IndexError, json.JSONDecodeError):
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:300]}


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table that can be pasted into Markdown."""
    console = Console(width=max(120, Console().width), highlight=False)
    table = Table(title=title, title_justify="left", box=None)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        table.add_row(*[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row])
    console.print(table)


if __name__ == "__main__":
    print(json.dumps({"path": str(save_zoo(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))}))
