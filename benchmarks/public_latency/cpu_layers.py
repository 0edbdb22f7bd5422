"""Single layers on CPUs, tuned by search (TopHub)."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from hwpass.cost_models import Target
from hwpass.cost_models.base import cost_model
from hwpass.cost_models.cores import core_target
from hwpass.cost_models.work import Work
from public_latency.layers import FP32, Kernel, in_format, work_of_kernels
from public_latency.scores import Row, Table

#: What a tag names: core class, clock, threads.
_TAGS = {
    "bcm2837": ("cortex-a53", 1.2, 4),
    "rasp3b": ("cortex-a53", 1.2, 4),
    "rk3399": ("cortex-a72", 1.8, 2),
    "pynq": ("cortex-a9", 0.65, 2),
    "ultra96": ("cortex-a53", 1.2, 4),
    "snapdragon835": ("cortex-a73", 2.45, 4),
    "p20pro": ("cortex-a73", 2.36, 4),
    "kirin970": ("cortex-a73", 2.36, 4),
    "mate10": ("cortex-a73", 2.36, 4),
    "mate10pro": ("cortex-a73", 2.36, 4),
    "pixel2": ("cortex-a73", 2.35, 4),
    "skylake-avx512": ("skylake-sp", 3.0, 18),
    "vtacpu": ("cortex-a9", 0.65, 2),
}


def tophub_tables(data: Path, base: Target) -> list[Table]:
    """Layers of each tag; a tag is a device, and a layer a network."""
    rows: list[Row] = []
    left: Counter[str] = Counter()
    with (data / "tophub.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if line["backend"] != "cpu":
                continue
            found = _row(line, base)
            if isinstance(found, str):
                left[found] += 1
            else:
                rows.append(found)
    return [Table("TopHub layers, CPU", rows, note="from specifications; a layer is a row", left_out=dict(left))]


def _row(line: Mapping[str, str], base: Target) -> Row | str:
    """A row, or why there is none."""
    if line["device_tag"] not in _TAGS:
        return "rows of unknown tags"
    if "exceeds" in line["flags"] or line["op"] not in ("conv2d", "group_conv2d", "depthwise_conv2d", "dense"):
        return "rows of other operators"
    core, clock, threads = _TAGS[line["device_tag"]]
    target = core_target(core, clock_ghz=clock, threads=threads, fast_cores=threads, base=base)
    dtype = {"float32": "fp32", "float16": "fp16", "int8": "int8"}.get(line["dtype"], "fp32")
    work = in_format(layer(line), dtype)
    predicted = float(cost_model(target).latency(work).sum())
    name = f"{line['op']} {line['C']}x{line['H']}x{line['W']}-{line['K']} {line['kh']}/{line['stride_h']}"
    return Row(line["device_tag"], name, float(line["best_cost_s"]), predicted, float(line["macs"]))


def layer(line: Mapping[str, str]) -> Work:
    """The Work of one line of TopHub's table."""
    value = {key: float(line[key] or 1) for key in ("N", "C", "H", "W", "K", "kh", "kw", "stride_h", "stride_w")}
    if line["op"] == "dense":
        sizes = {
            "read": value["N"] * value["C"],
            "written": value["N"] * value["K"],
            "weights": value["C"] * value["K"],
        }
        return work_of_kernels([
            Kernel("matmul", "Gemm", 1, value["N"], value["K"], value["C"], axes=0, inputs=[(-1, value["C"], 0)],
                   **{key: size * FP32 for key, size in sizes.items()})
        ])  # fmt: skip
    pads = [float(line[key] or 0) for key in ("pad_t", "pad_b", "pad_l", "pad_r")]
    high = (value["H"] + pads[0] + pads[1] - value["kh"]) // value["stride_h"] + 1
    wide = (value["W"] + pads[2] + pads[3] - value["kw"]) // value["stride_w"] + 1
    groups = float(line["groups"] or 1)
    depthwise = line["op"] == "depthwise_conv2d"
    if depthwise:
        groups = value["C"]
    kind = "depthwise" if depthwise else "grouped" if groups > 1 else "conv"
    out = value["K"]
    taps = value["kh"] * value["kw"]
    return work_of_kernels([
        Kernel(
            kind, "Conv", groups, value["N"] * high * wide, out / groups, value["C"] / groups, taps,
            value["stride_h"] * value["stride_w"], read=value["N"] * value["C"] * value["H"] * value["W"] * FP32,
            written=value["N"] * out * high * wide * FP32, weights=out * value["C"] / groups * taps * FP32,
            inputs=[(-1, value["C"], value["N"] * value["C"] * value["H"] * value["W"] * FP32)],
        )
    ])  # fmt: skip
