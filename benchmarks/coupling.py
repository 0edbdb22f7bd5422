"""How coupling time grows with nodes: processor seconds over a zoo, and the exponent of a log-log fit.

    python benchmarks/coupling.py ZOO [--largest 40] [-o coupling.json]

Graphs of up to `--largest` million parameters (weights do not matter here, and filling them takes most of the time) and
the one with the most nodes. Each is folded first, then coupled twice in one process; the faster time counts.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
from common import show, zoo_module

import hwpass
from hwpass.coupling.groups import couple
from hwpass.manager import PassManager
from hwpass.ops.rule import rules


def exponent(nodes: list[int], seconds: list[float]) -> float:
    """The slope of a least-squares line through log seconds over log nodes."""
    return float(np.polyfit(np.log(nodes), np.log(seconds), 1)[0])


def main() -> None:
    """Couple every graph that is small enough, and print the fits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--largest", type=float, default=40)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    rules()  # imports the rules, which is no part of coupling
    with open(options.zoo / "index.csv") as stream:
        index = list(csv.DictReader(stream))
    most = max(index, key=lambda entry: int(entry["nodes"]))
    found = []
    for entry in index:
        if int(entry["parameters"]) > options.largest * 1e6 and entry is not most:
            continue
        model = PassManager.parse("fold,fuse-bn").run(hwpass.load(zoo_module(options.zoo).load_zoo(entry["name"])))
        times = []
        for _ in range(2):
            start = time.process_time()
            coupling = couple(model)
            times.append(time.process_time() - start)
        found.append((entry["name"], int(entry["nodes"]), len(coupling.nodes), min(times)))
        del model, coupling
    rows = []
    for least in (1, 50, 200, 1000):
        own = [(nodes, seconds) for _, _, nodes, seconds in found if nodes >= least]
        rows.append([f"{least} nodes or more", len(own), exponent(*map(list, zip(*own, strict=True)))])
    show("coupling seconds ~ nodes ** exponent", ["folded graphs of", "graphs", "exponent"], rows)
    name, nodes, folded, seconds = max(found, key=lambda row: row[1])
    print(f"largest: {name}, {nodes} nodes, {folded} when folded, coupled in {seconds:.2f} s")
    if options.output:
        options.output.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
