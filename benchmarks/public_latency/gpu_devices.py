"""Targets of GPUs from their specifications (`gpu_specs.csv`)."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hwpass.cost_models import Target
from hwpass.cost_models.target import MemoryLevel


@dataclass(frozen=True)
class Device:
    """What is known of a GPU."""

    cores: int
    clock_ghz: float
    gflops: float
    half_gflops: float
    tensor_gflops: float
    bandwidth_gbs: float
    l2_kib: float

    def target(self, base: Target, matrix: bool) -> Target:
        """A target with this device's figures; rates are halves of the GFLOP/s, one MAC is two of these.

        `matrix`: the runtime uses matrix units. What is slower in fp16 computes in fp32.
        """
        half = max(self.gflops, self.half_gflops, self.tensor_gflops if matrix else 0.0)
        ratio = base.memory["L2"].bandwidth_gbs / base.memory["DRAM"].bandwidth_gbs
        return base.model_copy(
            update={
                "peak": {"fp32": self.gflops / 2, "fp16": half / 2, "int8": half},
                "clock_ghz": self.clock_ghz,
                "layout": {**base.layout, "cores": self.cores},
                "memory": {
                    "L2": MemoryLevel(bandwidth_gbs=ratio * self.bandwidth_gbs, capacity_kib=self.l2_kib),
                    "DRAM": MemoryLevel(bandwidth_gbs=self.bandwidth_gbs),
                },
            }
        )


@cache
def _specs() -> list[tuple[re.Pattern[str], Device]]:
    found = []
    with (Path(__file__).with_name("gpu_specs.csv")).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            value = {key: float(row[key] or 0) for key in row if key not in ("pattern", "class", "source")}
            device = Device(
                int(value["cores"]), value["clock_ghz"], value["fp32_gflops"], value["fp16_gflops"],
                value["tensor_gflops"], value["bandwidth_gbs"], value["l2_kib"],
            )  # fmt: skip
            found.append((re.compile(row["pattern"]), device))
    return found


def device(name: str, base: Target, matrix: bool = True) -> Target:
    """The target of a GPU by its name, with the runtime of `base`; that itself where nothing is known of the GPU."""
    for pattern, found in _specs():
        if pattern.search(name):
            return found.target(base, matrix)
    return base
