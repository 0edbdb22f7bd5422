"""GPUs: ncnn's benchmark under Vulkan, timm's batches on NVIDIA cards, layers tuned by search, and narrower networks.

Every device is made from its specifications (`gpu_specs.csv`: cores, clock, rates, bandwidth, cache) on one of the two
targets of its class; a device that is not there gets the target as it is, and ranks alone judge it.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hwpass.cost.fitting import fit_target
from hwpass.cost_models import Target, load_target
from hwpass.cost_models.base import cost_model
from hwpass.cost_models.work import Work
from public_latency import timm_batches
from public_latency.cpu_layers import layer
from public_latency.gpu_devices import device
from public_latency.gpu_phones import phone_tables
from public_latency.graphs import Zoo
from public_latency.layers import in_format
from public_latency.ncnn_networks import networks
from public_latency.scores import Row, Table, with_intervals

#: Networks that a device is fitted to where three are given, as for CPUs: the first of these that were measured.
GIVEN = ("squeezenet", "mobilenet_v2", "resnet18", "mobilenet", "shufflenet_v2", "efficientnet_b0", "vgg16")
#: Rows with one of these flags say nothing of the device.
_SUSPECT = ("failed_gpu", "implausibly", "unusually")
#: Fewer layers of a tag than this are left out.
FEWEST_LAYERS = 50


def tables(data: Path, zoo: Zoo | None) -> list[Table]:
    """All tables of GPUs."""
    return [*_ncnn(data), *_timm(data, zoo), _tophub(data), *phone_tables(data)]


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
            names = [name for name in GIVEN if name in self.networks] or self.networks
            given = [self.networks.index(name) for name in names[:3]]
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
            rows = rows if fitted else with_intervals(rows, base.uncertainty.get("network"), absolute=True)
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
            # The target's runtime is the compiler; its interval says nothing of the other.
            width = base.uncertainty.get("network") if how == "compiled" else None
            held = with_intervals(own, width, absolute=True)
            yield Table(f"timm batches, {how}, {kind}", held, note="from specifications", left_out=dict(left))
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
