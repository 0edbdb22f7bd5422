"""Passes that say they change no value, on networks of a zoo: outputs before and after each, and a second time.

    python benchmarks/exact_passes.py ZOO [--most 50] [--parameters 30e6] [-o rows.jsonl]

Every pass of the registry whose effect is `exact` runs by itself on every network as it was exported. Where it changes
the graph, the outputs on random inputs must be within 1e-5 of the largest magnitude of each output, or within what
changing the inputs by a relative 1e-7 does to them, times 30, for networks that random weights make that sensitive;
and a second run must change nothing. Networks are spread evenly over those of the zoo by size.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import show, zoo_module

from hwpass.context import Context
from hwpass.cost_models import load_target
from hwpass.errors import HwpassError
from hwpass.manager import PassManager, passes
from hwpass.model.model import Model
from hwpass.runtime.dimensions import typical_dimensions
from hwpass.runtime.inputs import input_specs, make_inputs
from hwpass.runtime.sessions import open_session, run_session

LIMIT = 1e-5
#: How much more than a relative change of 1e-7 of the inputs makes is still rounding.
ROUNDING = 30.0


def chosen(zoo: Path, most: int, parameters: float) -> list[str]:
    """Names of networks of at most so many parameters, spread evenly by size."""
    with open(zoo / "index.csv", newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if float(row["parameters"]) <= parameters]
    rows.sort(key=lambda row: (float(row["parameters"]), row["name"]))
    places = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
    return [rows[place]["name"] for place in places]


def outputs(model: onnx.ModelProto, feed: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What a model gives, by the name of the output."""
    return dict(run_session(open_session(model, level="none"), feed))


def apart(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    """The largest difference of any output over its largest magnitude; infinite where they cannot be compared."""
    worst = 0.0
    for name, value in one.items():
        found = other.get(name)
        if found is None or found.shape != value.shape:
            return float("inf")
        if value.dtype.kind != "f":
            worst = max(worst, 0.0 if np.array_equal(value, found) else float("inf"))
            continue
        if not np.array_equal(np.isfinite(value), np.isfinite(found)):
            return float("inf")
        finite = np.isfinite(value)
        gap = float(np.abs(value[finite] - found[finite]).max(initial=0.0))
        scale = float(np.abs(value[finite]).max(initial=0.0))
        worst = max(worst, gap / scale if scale else gap)
    return worst


def moved(feed: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs that are off by a relative 1e-7."""
    rng = np.random.default_rng(1)
    return {
        name: (value * (1 + 1e-7 * rng.choice([-1, 1], value.shape))).astype(value.dtype)
        if value.dtype.kind == "f" else value
        for name, value in feed.items()
    }  # fmt: skip


def judged(name: str, proto: onnx.ModelProto) -> Iterator[dict[str, Any]]:
    """A row for each exact pass on a network."""
    model = Model.load(proto)
    specs = input_specs(proto)
    feed = make_inputs(specs, typical_dimensions(proto), 0)
    wanted = outputs(model.proto(), feed)
    rounding: float | None = None
    for text, cls in passes().items():
        if cls.effect != "exact":
            continue
        start = time.process_time()
        context = Context(target=load_target("server-cpu"), original=proto)
        manager = PassManager.parse(text)
        once = manager.run(model, context)
        row: dict[str, Any] = {"network": name, "pass": text, "changed": manager.records[-1].changed}
        if row["changed"]:
            row["error"] = apart(wanted, outputs(once.proto(), feed))
            if row["error"] > LIMIT and rounding is None:
                rounding = ROUNDING * apart(wanted, outputs(model.proto(), moved(feed)))
            row["allowed"] = max(LIMIT, rounding or 0.0) if row["error"] > LIMIT else LIMIT
            again = PassManager.parse(text)
            twice = again.run(once, context, further=True)
            same = once.proto().SerializeToString(deterministic=True) == twice.proto().SerializeToString(
                deterministic=True
            )
            row["settled"] = same and not again.records[-1].changed
        yield {**row, "seconds": round(time.process_time() - start, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoo", type=Path, help="folder with graphs/, index.csv and load.py")
    parser.add_argument("--most", type=int, default=50)
    parser.add_argument("--parameters", type=float, default=30e6, help="of the largest network")
    parser.add_argument("--names", nargs="*", help="these networks instead")
    parser.add_argument("-o", "--output", type=Path, help="rows as JSON lines; networks that it has are left out")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.output is not None and options.output.is_file():
        rows = [json.loads(line) for line in options.output.read_text(encoding="utf-8").splitlines()]
    done = {row["network"] for row in rows}
    loader = zoo_module(options.zoo)
    for name in options.names or chosen(options.zoo, options.most, options.parameters):
        if name in done:
            continue
        try:
            found = list(judged(name, loader.load_zoo(name)))
        except HwpassError as error:
            found = [{"network": name, "pass": "-", "changed": False, "refused": str(error)}]
        rows += found
        if options.output is not None:
            with open(options.output, "a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(row) + "\n" for row in found)
    table = []
    for text in sorted({row["pass"] for row in rows}):
        own = [row for row in rows if row["pass"] == text]
        fired = [row for row in own if row["changed"]]
        errors = [row["error"] for row in fired]
        table.append(
            (text, str(len(own)), str(len(fired)), f"{max(errors):.1e}" if errors else "-",
             str(sum(row["error"] > LIMIT for row in fired)), str(sum(row["error"] > row["allowed"] for row in fired)),
             str(sum(not row["settled"] for row in fired)))
        )  # fmt: skip
    show(
        "Passes that change no value",
        ("pass", "networks", "changed", "largest error", "above 1e-5", "above rounding", "not settled"),
        table,
    )


if __name__ == "__main__":
    main()
