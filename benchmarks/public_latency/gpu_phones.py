"""Phones' GPUs under TensorFlow Lite's delegate: whole networks, and widths of MobileNets."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from hwpass.cost_models import Target, load_target
from hwpass.cost_models.base import cost_model
from hwpass.cost_models.work import Work
from public_latency.catalogue import find
from public_latency.gpu_devices import device
from public_latency.layers import in_format
from public_latency.mobilenets import efficientnet_lite, mobilenet_v1, mobilenet_v2
from public_latency.net import Net
from public_latency.scores import Pair, Row, Table, with_intervals

TARGET = "mobile-gpu-tflite"
#: Sides of images where the tables do not say.
_SIDES = {"inception_v3": 299, "inception_resnet_v2": 299, "inception_v4": 299, "nasnet_large": 331}


def phone_tables(data: Path) -> Iterator[Table]:
    """All tables of TensorFlow Lite on GPUs."""
    yield _networks(data)
    yield from _pairs(data)


def _networks(data: Path) -> Table:
    """Whole networks; a phone of one source in one format is a device."""
    rows: list[Row] = []
    left: Counter[str] = Counter()
    for line in _lines(data / "mobile_small_tables.csv"):
        if not line["backend"].startswith("gpu"):
            continue
        work = network(line["model"], line["width_mult"], line["input_hw"])
        if work is None:
            left["rows of networks that are not rebuilt"] += 1
            continue
        own = in_format(work, computed(line))
        seconds = float(cost_model(_target(f"{line['device']} {line['soc']}")).latency(own).sum())
        name = f"{line['source_id']} {line['device']} {line['precision']}"
        what = f"{line['model']} {line['width_mult']} {line['input_hw']}"
        rows.append(Row(name, what, float(line["latency_ms"]) * 1e-3, seconds, float(work.macs.sum())))
    held = with_intervals(rows, load_target(TARGET).uncertainty.get("network"), absolute=True)
    return Table("TensorFlow Lite, phones, GPU", held, note="from specifications", left_out=dict(left))


def computed(line: Mapping[str, str]) -> str:
    """The format that a GPU computes in. The hosted models are stored in fp32, and the delegate computes those in fp16
    unless it is told not to; EfficientNet-Lite's table has a column for each."""
    return "fp16" if line["source_id"] == "tflite_hosted" else line["precision"]


@cache
def network(name: str, width: str, side: str) -> Work | None:
    """The work of a network in fp32; None where nothing is known of it."""
    name = name.lower().replace("-", "_")
    found = re.fullmatch(r"mobilenet_v([12])", name)
    if found:
        return (mobilenet_v1 if found[1] == "1" else mobilenet_v2)(float(width or 1), int(side or 224))
    found = re.fullmatch(r"efficientnet_lite([0-4])", name)
    if found:
        return efficientnet_lite(int(found[1]))
    build = find(name)
    if build is None:
        return None
    pixels = int(side or _SIDES.get(name, 224))
    net = Net(3, pixels, pixels)
    build(net)
    work = net.work()
    return replace(
        work, itemsize=work.itemsize * 4, read=work.read * 4, written=work.written * 4, weights=work.weights * 4,
        bytes=work.bytes * 4,
    )  # fmt: skip


def _target(name: str) -> Target:
    return device(name, load_target(TARGET), matrix=False)


def _pairs(data: Path) -> Iterator[Table]:
    """A narrower network over the whole one, by source; what is known by its operations alone is left out."""
    lines = [line for line in _lines(data / "pruned_variants.csv") if line["target_class"].endswith("gpu")]
    found: dict[str, list[Pair]] = {}
    left: dict[str, Counter[str]] = {}
    for line in lines:
        source = line["source_id"]
        own, lost = found.setdefault(source, []), left.setdefault(source, Counter())
        if line["variant_kind"] == "baseline":
            continue
        whole = next((b for b in lines if _same(b, line) and b["variant_kind"] == "baseline"), None)
        pair = _pair(whole, line) if whole is not None and line["target_class"] == "mobile-gpu" else None
        if pair is None:
            lost["variants whose widths are not known"] += 1
        else:
            own.append(pair)
    for source, own in found.items():
        yield Table(f"pairs, {source}, GPU", pairs=own, note="widths rebuilt exactly", left_out=dict(left[source]))


def _pair(whole: Mapping[str, str], line: Mapping[str, str]) -> Pair | None:
    family = re.fullmatch(r"(mobilenet_v[12])_(\d+)", line["family"])
    width = re.search(r"\d*\.\d+", line["variant"])
    if family is None or width is None:
        return None
    works = [network(family[1], share, family[2]) for share in ("1", width[0])]
    dense, narrow = (in_format(work, computed(line)) for work in works if work is not None)
    model = cost_model(_target(line["device"]))
    times = [float(model.latency(work).sum()) for work in (dense, narrow)]
    measured = float(line["value"]) / float(whole["value"])
    if "fps" in line["metric"]:
        measured = 1 / measured
    macs = float(narrow.macs.sum() / dense.macs.sum())
    return Pair(line["device"], line["family"], line["variant"], measured, times[1] / times[0], macs)


def _same(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    keys = ("source_id", "device", "backend", "threads", "batch", "precision", "family", "metric")
    return all(one[key] == other[key] for key in keys)


def _lines(file: Path) -> Iterator[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)
