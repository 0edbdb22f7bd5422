"""CPUs: ncnn's benchmark on phones, boards and servers, and what other runtimes publish.

Every device is made from its specifications (core class, clock, cores); no latency is looked at but for the networks
that a table says are given.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from hwpass.cost.fitting import fit_target
from hwpass.cost_models import Target, load_target
from hwpass.cost_models.base import cost_model
from hwpass.cost_models.cores import core_target
from hwpass.cost_models.work import Work
from public_latency.cpu_layers import tophub_tables
from public_latency.cpu_pairs import mobile_tables, pruned_pairs
from public_latency.graphs import Zoo
from public_latency.layers import in_format
from public_latency.ncnn_devices import device
from public_latency.ncnn_networks import networks
from public_latency.scores import Row, Table

#: Networks that a device is fitted to where three are given: chosen beforehand, the first of these that were measured.
GIVEN = ("squeezenet", "mobilenet_v2", "resnet18", "mobilenet", "shufflenet_v2", "efficientnet_b0", "vgg16")
#: Kinds of device of the table that the core classes describe.
CLASSES = ("mobile-cpu", "arm-server-cpu", "x86-cpu")


def tables(data: Path, zoo: Zoo | None) -> list[Table]:
    """All tables of CPUs."""
    base = load_target("mobile-cpu")
    # TFLite, XNNPACK and Paddle-Lite pad the last vector of channels, and TVM lays out each layer for itself.
    plain = base.model_copy(update={"layout": {**base.layout, "pack": 1}})
    found = _ncnn_tables(data, base)
    found += tophub_tables(data, plain)
    found += mobile_tables(data, plain)
    found += pruned_pairs(data, plain)
    return found


class _Run:
    """One run of ncnn's benchmark: a device, with so many threads, and the networks that it timed."""

    def __init__(self, rows: Sequence[dict[str, str]], base: Target) -> None:
        self.rows = rows
        spec = device(rows[0])
        self.known = spec.known
        self.target = core_target(
            spec.core, clock_ghz=spec.clock_ghz, threads=int(rows[0]["threads"]), fast_cores=spec.fast_cores,
            slow_percent=spec.slow_percent, vector_bytes=spec.vector_bytes, base=base,
        )  # fmt: skip
        self.name = f"run {rows[0]['run_id']}: {rows[0]['device'][:60]}"

    def predicted(self, works: Sequence[Work], fitted: bool) -> tuple[Target, set[int]]:
        """The target, fitted to the given networks if so wanted, and the numbers of their rows."""
        if not fitted:
            return self.target, set()
        names = [row["network"] for row in self.rows]
        given = [names.index(name) for name in GIVEN if name in names][:3]
        seconds = [float(self.rows[number]["min_ms"]) * 1e-3 for number in given]
        found = fit_target(self.target, [works[number] for number in given], seconds, leave_out=False)
        return found.target, set(given)


def _ncnn_tables(data: Path, base: Target) -> list[Table]:
    works = networks(data)
    left: Counter[str] = Counter()
    rows = _ncnn_rows(data, works, left)
    ones = {run: found for run, found in rows.items() if run[1] == "float" and found[0]["threads"] == "1"}
    many = {run: found for run, found in rows.items() if run[1] == "float" and found[0]["threads"] != "1"}
    whole = {run: found for run, found in rows.items() if run[1] == "int8" and found[0]["threads"] == "1"}
    threes = "fitted to three networks of each device"
    specs = "from the specifications of each device alone"

    def table(name: str, runs: dict[tuple[str, str], list[dict[str, str]]], fitted: bool) -> Table:
        return Table(
            f"ncnn, {name}, {'three given' if fitted else 'specifications'}",
            rows=[row for found in runs.values() for row in _run_rows(_Run(found, base), works, fitted)],
            note=threes if fitted else specs,
            left_out=dict(left) if name == "one thread, float" else {},
        )

    return [
        table("one thread, float", ones, False),
        table("one thread, float", ones, True),
        table("one thread, int8", whole, False),
        table("several threads, float", many, False),
        table("several threads, float", many, True),
    ]


def _ncnn_rows(data: Path, works: dict[str, Work], left: Counter[str]) -> dict[tuple[str, str], list[dict[str, str]]]:
    """Rows that can be predicted, by run and precision; `left` counts the others."""
    found: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    with (data / "ncnn.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["backend_effective"] != "cpu" or row["target_class"].endswith("gpu"):
                continue
            if "assumed_host_cpu" in row["flags"] and row["precision"] == "int8":
                left["int8 rows of GPU runs"] += 1
            elif row["target_class"] not in CLASSES:
                left["rows of other architectures (RISC-V, MIPS, ...)"] += 1
            elif row["network"] not in works:
                left["rows of networks without layers"] += 1
            elif not _positive(row["min_ms"]) or "implausibly_fast" in row["flags"]:
                left["rows marked implausible"] += 1
            else:
                found[row["run_id"], row["precision"]].append(row)
    return found


def _positive(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def _run_rows(run: _Run, works: dict[str, Work], fitted: bool) -> list[Row]:
    formats = [row["precision_inferred"] or "fp32" for row in run.rows]
    own = [in_format(works[row["network"]], dtype) for row, dtype in zip(run.rows, formats, strict=True)]
    target, given = run.predicted(own, fitted)
    model = cost_model(target)
    low = high = None
    return [
        Row(
            run.name, row["network"], float(row["min_ms"]) * 1e-3, float(model.latency(work).sum()),
            float(work.macs.sum()), number in given, low, high,
        )
        for number, (row, work) in enumerate(zip(run.rows, own, strict=True))
    ]  # fmt: skip
