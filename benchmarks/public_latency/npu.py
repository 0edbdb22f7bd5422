"""Edge TPU, NPUs of phones and boards, Hailo chips: published latencies of whole networks against the targets.

One target stands for all devices of a table, so that a device's own speed is one factor; ranks and errors after that
factor are judged, against multiply-accumulates on the same rows. Networks are rebuilt from their public architecture
(`catalogue`), or taken from the zoo.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hwpass.cost_models import cost_model, load_target
from hwpass.cost_models.target import DTYPE_BYTES, Target
from hwpass.cost_models.work import Work
from public_latency.catalogue import ZOO, find
from public_latency.graphs import Zoo
from public_latency.net import Net, in_format
from public_latency.scores import Row, Table, with_intervals


@dataclass(frozen=True)
class Case:
    """One measured row: what ran where, and how long."""

    device: str
    network: str
    shape: tuple[int, ...]  #: channels, height, width
    seconds: float
    dtype: str
    coarse: tuple[float, float] | None = None  #: parameters (1e6) and operations (1e9) by the table


#: Rows of a file, each a case, or the reason why it is none.
Cases = Iterator[Case | str]


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def edgetpu(data: Path, usb: bool) -> Cases:
    """Coral Edge TPUs on several hosts; one whose bus is not named is a desktop computer with the USB stick."""
    sizes = {"efficientnet-edgetpu-s": 224, "efficientnet-edgetpu-m": 240, "efficientnet-edgetpu-l": 300}
    for row in _rows(data / "edgetpu.csv"):
        if row["backend"] != "edgetpu":
            yield "not on the accelerator"
            continue
        if usb == any(board in row["platform"] for board in ("Dev Board", "M.2", "PCIe")):
            continue
        size = _number(row["input_hw"])
        side = int(size) if size > 0 else sizes.get(row["model"].lower(), 224)
        yield Case(row["platform"], row["model"], (3, side, side), _number(row["latency_ms"]) / 1e3, "int8")


#: Inputs that the file states otherwise than the model was exported with, recalled, not verified. At the stated size it
#: would run at a twentieth of the rate of its like; it was noticed as an outlier.
EXPORTED = {"unet_segmentation": (3, 640, 1280)}
#: Names that mean another network in this file, by its parameters.
HUB_NAMES = {"yolov3": "an unknown YOLOv3 of 11.5 million parameters"}


def hub(data: Path, precision: str) -> Cases:
    """Qualcomm AI Hub, rows that ran on the NPU in one precision; a device with a runtime counts as a device."""
    for row in _rows(data / "qai_hub.csv"):
        if row["primary_compute_unit"] != "NPU" or row["precision"] != precision:
            continue
        name = HUB_NAMES.get(row["model_id"], row["model_id"])
        sides = [int(text) for text in re.findall(r"\d+", row["input_resolution"])]
        sides = [side for side in sides if side > 30][:2]
        if not sides:
            yield "no input size"
            continue
        if name == "yamnet":
            shape: tuple[int, ...] = (1, 96, 64)
        elif row["domain"] != "Computer Vision":
            shape = (1, max(sides), 1)
        else:
            shape = EXPORTED.get(name, (3, sides[0], sides[-1]))
        dtype = "fp16" if precision == "float" else "int8"
        yield Case(f"{row['device']}, {row['runtime']}", name, shape, _number(row["inference_ms"]) / 1e3, dtype)


def hailo(data: Path) -> Cases:
    """Hailo chips, the interval between pictures at batch 1."""
    for row in _rows(data / "hailo.csv"):
        match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", row["input_hwc"])
        if not match:
            yield "several inputs"
            continue
        high, wide, channels = map(int, match.groups())
        seconds = 1 / _number(row["fps_batch1"])
        coarse = (_number(row["params_m"]), _number(row["ops_g"]))
        yield Case(row["chip"], row["network"], (channels, high, wide), seconds, "int8", coarse)


def rknn(data: Path) -> Cases:
    """Rockchip NPUs, int8 networks for pictures."""
    for row in _rows(data / "rknn.csv"):
        sides = [int(text) for text in re.findall(r"\d+", row["input_shape"])]
        if row["dtype"] != "INT8" or len(sides) < 4:
            yield "not a picture in int8"
            continue
        yield Case(row["npu_platform"], row["model"], (sides[1], sides[2], sides[3]), 1 / _number(row["fps"]), "int8")


def coarse_work(parameters: float, operations: float, layers: int = 40) -> Work:
    """A stand-in for a network of which only parameters and operations are known: equal convolutions of 3x3.

    Each has n input and n output channels, so that 9 n^2 is its share of the parameters, and as many positions as make
    up its operations.
    """
    n = max(1, round((parameters / layers / 9) ** 0.5))
    m = max(1.0, operations / 2 / layers / (9 * n * n))
    net = Net(n, max(1, round(m**0.5)))
    x = net.input
    for _ in range(layers):
        x = net.conv(x, n, 3)
    return net.work()


@dataclass
class Networks:
    """The work of networks, each built once."""

    zoo: Zoo | None
    found: dict[tuple[str, tuple[int, ...]], Work | None] = field(default_factory=dict)

    def work(self, case: Case, target: Target) -> Work | None:
        """The work of a case's network in its format; None where it cannot be rebuilt."""
        key = (case.network, case.shape)
        if key not in self.found:
            self.found[key] = self._build(case, target)
        found = self.found[key]
        return None if found is None else in_format(found, DTYPE_BYTES[case.dtype])

    def _build(self, case: Case, target: Target) -> Work | None:
        graph = ZOO.get(case.network.lower())
        if self.zoo is not None and graph in self.zoo.names():
            return self.zoo.work(graph, target.fusion)
        build = find(case.network)
        if build is None:
            return None
        net = Net(*case.shape)
        build(net)
        return net.work()


def judged(name: str, target: Target, cases: Cases, networks: Networks, note: str, coarse: bool = False) -> Table:
    """Predict every case; `coarse`: only those without a graph, from parameters and operations."""
    model = cost_model(target)
    rows: list[Row] = []
    left: Counter[str] = Counter()
    for case in cases:
        if isinstance(case, str):
            left[case] += 1
            continue
        work = networks.work(case, target)
        if coarse:
            if work is not None or case.coarse is None or not min(case.coarse) > 0:
                left["with a graph, or without figures"] += 1
                continue
            work = coarse_work(case.coarse[0] * 1e6, case.coarse[1] * 1e9)
        if work is None or not case.seconds > 0:
            left["network not rebuilt"] += 1
            continue
        macs = case.coarse[1] * 5e8 if coarse and case.coarse is not None else float(work.macs.sum())
        rows.append(Row(case.device, case.network, case.seconds, float(model.latency(work).sum()), macs))
    return Table(name, with_intervals(rows, target.uncertainty.get("network")), note=note, left_out=dict(left))


def tables(data: Path, zoo: Zoo | None) -> list[Table]:
    """All tables of this kind."""
    networks = Networks(zoo)
    whole = "networks rebuilt from their public architecture."
    plan: list[tuple[str, str, Callable[[], Cases], str, bool]] = [
        ("Edge TPU, PCIe", "edge-tpu", lambda: edgetpu(data, usb=False), whole, False),
        ("Edge TPU, USB", "coral-usb", lambda: edgetpu(data, usb=True), whole, False),
        ("AI Hub, float (fp16)", "mobile-npu", lambda: hub(data, "float"), whole, False),
        ("AI Hub, w8a8", "mobile-npu", lambda: hub(data, "w8a8"), whole, False),
        ("Hailo", "hailo-8", lambda: hailo(data), whole, False),
        ("Hailo, coarse", "hailo-8", lambda: hailo(data), "40 equal convolutions of the table's parameters and "
         "operations stand for a network that was not rebuilt.", True),
        ("Rockchip", "rk3588-npu", lambda: rknn(data), whole, False),
    ]  # fmt: skip
    return [
        judged(name, load_target(target), cases(), networks, note, coarse) for name, target, cases, note, coarse in plan
    ]
