"""GPUs: ncnn's benchmark under Vulkan, timm's batches on NVIDIA cards, layers tuned by search, and narrower networks.

Every device is made from its specifications (`gpu_specs.csv`: cores, clock, rates, bandwidth, cache) on one of the two
targets of its class; a device that is not there gets the target as it is, and ranks alone judge it.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hwpass.cost.fitting import fit_target
from hwpass.cost_models import Target, load_target
from hwpass.cost_models.base import cost_model
from hwpass.cost_models.target import MemoryLevel
from hwpass.cost_models.work import Work
from public_latency import timm_batches
from public_latency.cpu_layers import layer
from public_latency.graphs import Zoo
from public_latency.layers import in_format
from public_latency.mobilenets import mobilenet_v1, mobilenet_v2
from public_latency.ncnn_networks import networks
from public_latency.scores import Pair, Row, Table

#: Networks that a device is fitted to where three are given, as for CPUs: the first of these that were measured.
GIVEN = ("squeezenet", "mobilenet_v2", "resnet18", "mobilenet", "shufflenet_v2", "efficientnet_b0", "vgg16")
#: Rows with one of these flags say nothing of the device.
_SUSPECT = ("failed_gpu", "implausibly", "unusually")
#: Fewer layers of a tag than this are left out.
FEWEST_LAYERS = 50


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


def tables(data: Path, zoo: Zoo | None) -> list[Table]:
    """All tables of GPUs."""
    return [*_ncnn(data), *_timm(data, zoo), _tophub(data), *_pairs(data)]


@dataclass(frozen=True)
class _Run:
    """One run of ncnn's benchmark on one GPU: networks, their work and seconds."""

    name: str
    target: Target
    networks: list[str]
    works: list[Work]
    seconds: list[float]

    def rows(self, fitted: bool) -> list[Row]:
        """Predicted from specifications, or with the target fitted to three networks that judge nothing then."""
        given: list[int] = []
        target = self.target
        if fitted:
            given = [self.networks.index(name) for name in GIVEN if name in self.networks][:3]
            given_works, given_seconds = [self.works[i] for i in given], [self.seconds[i] for i in given]
            target = fit_target(target, given_works, given_seconds, leave_out=False).target
        model = cost_model(target)
        return [
            Row(self.name, name, seconds, float(model.latency(work).sum()), float(work.macs.sum()), number in given)
            for number, (name, work, seconds) in enumerate(zip(self.networks, self.works, self.seconds, strict=True))
        ]


def _ncnn(data: Path) -> Iterator[Table]:
    """ncnn under Vulkan; one run on one GPU is a device."""
    works, base = networks(data), load_target("mobile-gpu")
    runs: dict[str, dict[str, _Run]] = {"mobile-gpu": {}, "nvidia-gpu": {}, "other-gpu": {}}
    left: Counter[str] = Counter()
    for line in _lines(data / "ncnn.csv"):
        if line["backend_effective"] != "gpu" or line["target_class"] not in runs or line["precision"] != "float":
            continue
        if any(flag in line["flags"] for flag in _SUSPECT) or not _number(line["min_ms"]):
            left["rows marked implausible"] += 1
        elif line["network"] not in works:
            left["rows of networks without layers"] += 1
        else:
            dtype = "fp16" if line["precision_inferred"].startswith("fp16") else "fp32"
            name = f"run {line['run_id']}: {line['gpu_name']}"
            target = device(line["gpu_name"], base, matrix=False)
            run = runs[line["target_class"]].setdefault(name, _Run(name, target, [], [], []))
            run.networks.append(line["network"])
            run.works.append(in_format(works[line["network"]], dtype))
            run.seconds.append(_number(line["min_ms"]) * 1e-3)
    for kind, own in runs.items():
        for fitted in (False, True):
            how = "three given" if fitted else "specifications"
            rows = [row for run in own.values() for row in run.rows(fitted)]
            note = "fitted to three networks of each device" if fitted else "from specifications"
            yield Table(f"ncnn under Vulkan, {kind}, {how}", rows, note=note, left_out=dict(left))
            left.clear()


def _timm(data: Path, zoo: Zoo | None) -> Iterator[Table]:
    """Batches of images in half precision; a card with one compiler and layout is a device."""
    base = load_target("nvidia-gpu")
    sources = [("rebuilt networks", None)] if zoo is None else [("rebuilt networks", None), ("graphs of the zoo", zoo)]
    for kind, graphs in sources:
        found: dict[str, list[Row]] = {"compiled": [], "not compiled": []}
        left: Counter[str] = Counter()
        for line, work in timm_batches.rows(_lines(data / "timm_infer.csv"), timm_batches.Networks(graphs)):
            if work is None:
                left[f"rows that are no {kind}"] += 1
                continue
            how = "compiled" if line["torch_compile"] == "1" else "not compiled"
            name = f"{line['hardware']} {line['precision']} {line['layout']} {line['pytorch']}"
            network = f"{line['model']} {line['img_size']}"
            target = device(line["hardware"], base)
            found[how].append(_row(name, network, _number(line["step_ms"]) * 1e-3, target, work))
        for how, own in found.items():
            yield Table(f"timm batches, {how}, {kind}", own, note="from specifications", left_out=dict(left))
            left.clear()


def _tophub(data: Path) -> Table:
    """Layers tuned by search, without the start of a kernel; a tag with one backend and format is a device."""
    base = load_target(Path(__file__).with_name("tuned-gpu.toml"))
    rows: list[Row] = []
    left: Counter[str] = Counter()
    for line in _lines(data / "tophub.csv"):
        if not line["backend"].startswith("gpu"):
            continue
        if "exceeds" in line["flags"] or line["op"] not in ("conv2d", "depthwise_conv2d", "dense"):
            left["rows of other operators"] += 1
            continue
        dtype = {"float16": "fp16", "int8": "int8"}.get(line["dtype"], "fp32")
        named = line["device_tag"].replace("mali-", "").replace("adreno-", "Adreno ")
        target = device(named, base, matrix=False)
        name = f"{line['op']} {line['C']}x{line['H']}x{line['W']}-{line['K']} {line['kh']}/{line['stride_h']}"
        tag = f"{line['backend']} {line['device_tag']} {dtype}"
        rows.append(_row(tag, name, float(line["best_cost_s"]), target, in_format(layer(line), dtype)))
    sizes = Counter(row.device for row in rows)
    kept = [row for row in rows if sizes[row.device] > FEWEST_LAYERS]
    left["rows of tags with few layers"] += len(rows) - len(kept)
    return Table("TopHub layers, GPU", kept, note="from specifications; a layer is a row", left_out=dict(left))


def _pairs(data: Path) -> Iterator[Table]:
    """Widths of MobileNets on a phone's GPU; what is known by its operations alone is left out."""
    lines = [line for line in _lines(data / "pruned_variants.csv") if line["target_class"].endswith("gpu")]
    found: dict[str, list[Pair]] = {}
    left: Counter[str] = Counter()
    for line in lines:
        if line["variant_kind"] == "baseline":
            continue
        whole = next((b for b in lines if _same(b, line) and b["variant_kind"] == "baseline"), None)
        family = re.fullmatch(r"mobilenet_v([12])_(\d+)", line["family"])
        width = re.search(r"\d*\.\d+", line["variant"])
        if whole is None or family is None or width is None:
            left["variants whose widths are not known"] += 1
            continue
        make = mobilenet_v1 if family[1] == "1" else mobilenet_v2
        dense, narrow = (in_format(make(w, int(family[2])), "fp16") for w in (1.0, float(width[0])))
        model = cost_model(device(line["device"], load_target("mobile-gpu"), matrix=False))
        times = [float(model.latency(work).sum()) for work in (dense, narrow)]
        found.setdefault(line["source_id"], []).append(Pair(
            line["device"], line["family"], line["variant"], float(line["value"]) / float(whole["value"]),
            times[1] / times[0], float(narrow.macs.sum() / dense.macs.sum()),
        ))  # fmt: skip
    for source, own in found.items():
        yield Table(f"pairs, {source}, GPU", pairs=own, note="widths rebuilt exactly", left_out=dict(left))


def _same(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    keys = ("source_id", "device", "backend", "threads", "batch", "precision", "family", "metric")
    return all(one[key] == other[key] for key in keys)


def _row(name: str, network: str, measured: float, target: Target, work: Work) -> Row:
    seconds = float(cost_model(target).latency(work).sum())
    return Row(name, network, measured, seconds, float(work.macs.sum()))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _lines(file: Path) -> Iterator[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)
