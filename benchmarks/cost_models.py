"""Predictions of every kind of hardware against public measurements.

    python benchmarks/cost_models.py --data DIR [--zoo DIR] [--only KIND ...] [-o rows.jsonl]

Each module of `benchmarks/public_latency` that has a function `tables(data, zoo)` judges one kind of hardware. Only
ratios and ranks are compared, as machines differ. `--data` is a folder of CSV files of measurements.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import public_latency
from common import show
from public_latency.graphs import Zoo
from public_latency.scores import Table, ratios, score


def kinds() -> list[str]:
    """Names of the modules that have tables."""
    found = [module.name for module in pkgutil.iter_modules(public_latency.__path__)]
    return [name for name in found if hasattr(importlib.import_module(f"public_latency.{name}"), "tables")]


def main() -> None:
    """Predict, then show how well it agrees."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of CSV files of measurements")
    parser.add_argument("--zoo", type=Path, help="folder with graphs/ and load.py")
    parser.add_argument("--only", nargs="+", choices=kinds(), default=kinds())
    parser.add_argument("--cache", type=Path, default=Path(".cost_models_cache"), help="what is kept of graphs")
    parser.add_argument("-o", "--output", type=Path, help="write every row and pair here, as JSON lines")
    options = parser.parse_args()
    zoo = Zoo(options.zoo, options.cache) if options.zoo is not None else None
    modules = [importlib.import_module(f"public_latency.{name}") for name in options.only]
    found = [table for module in modules for table in module.tables(options.data, zoo)]
    if options.output is not None:
        with options.output.open("w", encoding="utf-8") as file:
            for table in found:
                for entry in (*table.rows, *table.pairs):
                    file.write(json.dumps({"table": table.name, **asdict(entry)}) + "\n")
    show_rows(found)
    show_pairs(found)
    for table in found:
        left = ", ".join(f"{count} {reason}" for reason, count in table.left_out.items())
        print(f"{table.name}: {table.note}" + (f" Left out: {left}." if left else ""))


def show_rows(tables: Sequence[Table]) -> None:
    """Ranks and errors."""
    rows = []
    for table in tables:
        found = score(table.rows)
        if found is None:
            continue
        held = "-" if found.held is None else f"{found.held:.0%}"
        rows.append([
            table.name, found.devices, found.rows, f"{found.spearman:.3f}", f"{found.spearman_macs:.3f}",
            f"{found.absolute:.1%}", f"{found.scaled:.1%}", f"{found.scaled_macs:.1%}", f"{found.within_10:.0%}",
            f"{found.within_20:.0%}", held,
        ])  # fmt: skip
    columns = ["table", "devices", "rows", "Spearman", "by MACs", "error", "one scale", "by MACs", "in 10 %", "in 20 %",
               "interval holds"]  # fmt: skip
    show("latency of networks", columns, rows)


def show_pairs(tables: Sequence[Table]) -> None:
    """Ratios of narrower variants."""
    rows = []
    for table in tables:
        found = ratios(table.pairs)
        if found is not None:
            rows.append([
                table.name, found.pairs, f"{found.error:.1%}", f"{found.error_90:.1%}", f"{found.error_macs:.1%}",
                found.signs, found.signs_macs,
            ])  # fmt: skip
    if rows:
        columns = ["table", "pairs", "median error", "90 %", "by MACs", "wrong signs", "by MACs"]
        show("latency of variants over that of the network", columns, rows)


if __name__ == "__main__":
    main()
