"""MobileNets and EfficientNet-Lite on phones and boards under TFLite, XNNPACK and Paddle-Lite, and their widths."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from math import sqrt
from pathlib import Path

from hwpass.cost_models import Target
from hwpass.cost_models.base import cost_model
from hwpass.cost_models.cores import core_target
from hwpass.cost_models.work import Work
from public_latency.layers import in_format
from public_latency.mobilenets import efficientnet_lite, mobilenet_v1, mobilenet_v2, mobilenet_v3_large
from public_latency.scores import Pair, Row, Table

#: Core class, clock and cores of what the tables name, by a part of the name.
_DEVICES = {
    "pixel 3a": ("cortex-a75", 2.0, 2),
    "pixel 3": ("cortex-a75", 2.8, 4),
    "pixel 4": ("cortex-a76", 2.84, 4),
    "pixel 2": ("cortex-a73", 2.35, 4),
    "pixel": ("kryo", 2.15, 2),
    "845": ("cortex-a75", 2.8, 4),
    "835": ("cortex-a73", 2.45, 4),
    "855": ("cortex-a76", 2.84, 4),
    "rpi 2": ("cortex-a7", 0.9, 4),
    "rpi 3+": ("cortex-a53", 1.4, 4),
    "rpi 3": ("cortex-a53", 1.2, 4),
    "rpi 4": ("cortex-a72", 1.5, 4),
    "rpi 0": ("cortex-a5", 1.0, 1),
}


def mobile_tables(data: Path, base: Target) -> list[Table]:
    """Latency of small networks as published for phones and boards; a device is one with its runtime and threads."""
    left: Counter[str] = Counter()
    rows = []
    for line in _lines(data / "mobile_small_tables.csv"):
        if not line["backend"].startswith("cpu"):
            continue
        work = _network(line["model"], line["width_mult"] or "1", line["input_hw"] or "224")
        target = _target(line["device"], line["threads"], base)
        if work is None or target is None:
            left["rows of other networks or devices"] += 1
            continue
        name = f"{line['source_id']} {line['device']} {line['backend']} {line['threads']} {line['precision']}"
        rows.append(_row(name, line, work, target))
    return [Table("phones and boards, CPU", rows, note="from specifications, runtimes of others", left_out=dict(left))]


def _row(name: str, line: Mapping[str, str], work: Work, target: Target) -> Row:
    own = in_format(work, line["precision"])
    network = f"{line['model']} {line['width_mult']} {line['input_hw']}"
    seconds = float(cost_model(target).latency(own).sum())
    return Row(name, network, float(line["latency_ms"]) * 1e-3, seconds, float(work.macs.sum()))


def pruned_pairs(data: Path, base: Target) -> list[Table]:
    """Latency of a narrower network over that of the whole one, one table per source."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    left: Counter[str] = Counter()
    for line in _lines(data / "pruned_variants.csv"):
        if line["target_class"] == "mobile-cpu" and line["metric"] == "latency_ms":
            key = ("source_id", "device", "backend", "threads", "precision", "family")
            groups[tuple(line[part] for part in key)].append(line)
    pairs: dict[str, list[Pair]] = defaultdict(list)
    for (source, device, *_), lines in groups.items():
        whole = [line for line in lines if line["variant_kind"] == "baseline"]
        for line in lines:
            if line["variant_kind"] == "baseline" or not whole:
                continue
            found = _pair(whole[0], line, _target(device, line["threads"], base))
            if found is None:
                left[f"{source}: variants whose widths are not known"] += 1
            else:
                pairs[source].append(found)
    note = "widths rebuilt exactly; from specifications"
    return [
        Table(f"pairs, {source}, CPU", pairs=found, note=note, left_out={k: n for k, n in left.items() if source in k})
        for source, found in pairs.items()
    ]


def _pair(whole: Mapping[str, str], line: Mapping[str, str], target: Target | None) -> Pair | None:
    dense, variant = _variant(whole, whole), _variant(line, whole)
    if dense is None or variant is None or target is None:
        return None
    model = cost_model(target)
    seconds = [float(model.latency(in_format(work, line["precision"])).sum()) for work in (dense, variant)]
    macs = float(variant.macs.sum() / dense.macs.sum())
    measured = float(line["value"]) / float(whole["value"])
    device = f"{line['device']} {line['threads']} {line['precision']}"
    return Pair(device, line["family"], line["variant"], measured, seconds[1] / seconds[0], macs)


def _variant(line: Mapping[str, str], whole: Mapping[str, str]) -> Work | None:
    """The Work of a variant whose widths are known: a multiplier, or one share of all channels."""
    name = line["family"].lower()
    found = re.fullmatch(r"(mobilenet_v\d\w*?)_(\d+)", name)
    if found is not None and line["variant_kind"] in ("baseline", "width_multiplier"):
        return _network(found.group(1), line["ratio_label"] or "1", found.group(2))
    share = 1.0
    if line["variant_kind"] == "uniform":  # every layer keeps one share, so that MACs fall by its square
        share = sqrt(float(line["gops_or_macs"]) / float(whole["gops_or_macs"]))
    elif line["variant_kind"] != "baseline":
        return None
    if name == "mobilenetv1":
        return mobilenet_v1(share, classes=1000, step=1)
    return mobilenet_v2(share, classes=1000, step=1) if name == "mobilenetv2" else None


@cache
def _network(name: str, width: str, side: str) -> Work | None:
    name = name.lower().replace("-", "_")
    image, share = int(float(side.split("x")[0])), float(width)
    if name in ("mobilenet_v1", "mobilenetv1"):
        return mobilenet_v1(share, image)
    if name in ("mobilenet_v2", "mobilenetv2"):
        return mobilenet_v2(share, image)
    if name in ("mobilenet_v3_large", "mobilenet_v3_large_minimalistic"):
        return mobilenet_v3_large(share, image, plain="minimal" in name)
    found = re.fullmatch(r"efficientnet_lite([0-4])", name)
    return efficientnet_lite(int(found.group(1))) if found else None


def _target(device: str, threads: str, base: Target) -> Target | None:
    for name, (core, clock, cores) in _DEVICES.items():
        if name in device.lower():
            count = int(threads) if threads.isdigit() else cores
            return core_target(core, clock_ghz=clock, threads=count, fast_cores=cores, slow_percent=50, base=base)
    return None


def _lines(file: Path) -> Iterator[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)
