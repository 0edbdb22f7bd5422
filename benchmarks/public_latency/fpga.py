"""FPGAs with a DPU: the Vitis AI model zoo, and its pruned networks by their counts of operations."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import pickle
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import hwpass
from hwpass.cost.formats import Formats
from hwpass.cost.kernels import Kernels
from hwpass.cost_models import Target, cost_model, load_target
from hwpass.cost_models.work import Work
from hwpass.workflows.inspect import coupled
from public_latency.dpu_networks import Make, vitis_network
from public_latency.graphs import Zoo
from public_latency.scores import Pair, Row, Table

#: How far a rebuilt network's operations may be from the published ones.
AGREE = 0.1
#: Pixels and channels in parallel by operations per cycle: AMD PG338.
_ENGINES = {512: (4, 8), 800: (4, 10), 1024: (8, 8), 1152: (4, 12), 1600: (8, 10), 2304: (8, 12), 3136: (8, 14),
            4096: (8, 16)}  # fmt: skip
#: Threads that are taken for "several": the source does not say how many.
SEVERAL = 8


def tables(data: Path, zoo: Zoo | None) -> list[Table]:
    """Latency with one thread, time per image with several, and ratios of pruned networks."""
    networks = Networks(None if zoo is None else zoo.cache)
    found = []
    if (data / "vitis_ai_dpu.csv").is_file():
        found += latencies(data / "vitis_ai_dpu.csv", networks)
    if (data / "pruned_variants.csv").is_file():
        found.append(pruned(data / "pruned_variants.csv", networks))
    return found


def latencies(file: Path, networks: Networks) -> list[Table]:
    """Frames per second of unpruned networks, one thread and several."""
    single: list[Row] = []
    several: list[Row] = []
    left = Counter[str]()
    for row in _rows(file):
        target = dpu(row["board"], row["dpu_config"])
        known = vitis_network(row["model_full_name"], row["input_hw"])
        if target is None or known is None or row["pruned_fraction_of_ops"]:
            left["on other engines" if target is None else "pruned" if known else "of unknown networks"] += 1
            continue
        work, macs = networks.work(*known, target), _number(row["gops_per_image"]) / 2 * 1e9
        if not macs or abs(float(work.macs.sum()) / macs - 1) > AGREE:
            left["whose operations disagree"] += 1
            continue
        for rows, key, threads in ((single, "fps_single_thread", 1), (several, "fps_multi_thread", SEVERAL)):
            if _number(row[key]):
                predicted = float(cost_model(target.variant(threads=threads)).latency(work).sum())
                factor = math.exp(target.uncertainty["network"])
                low, high = predicted / factor, predicted * factor
                name, seconds = row["model_full_name"], 1 / _number(row[key])
                rows.append(Row(row["board"], name, seconds, predicted, macs, low=low, high=high))
    note = "All boards were fitted to; what is known of networks and boards left out stands in the targets' validation."
    return [
        Table("DPU, one thread", single, note=note, left_out=dict(left)),
        Table("DPU, several threads", several, note=f"Seconds per image with {SEVERAL} threads."),
    ]


def pruned(file: Path, networks: Networks) -> Table:
    """Ratios of pruned networks, whose channels are not known: all groups get one share, so that operations agree."""
    pairs: list[Pair] = []
    left = Counter[str]()
    dense: dict[tuple[str, str, str], dict[str, str]] = {}
    chosen = [row for row in _rows(file) if row["source_id"].startswith("vitis_ai")]
    for row in chosen:
        if row["variant_kind"] == "baseline":
            dense[row["device"], row["family"], row["metric"]] = row
    for row in chosen:
        before = dense.get((row["device"], row["family"], row["metric"]))
        if row["variant_kind"] == "baseline" or before is None:
            continue
        target = dpu(*row["device"].split("|", 1)) if "|" in row["device"] else None
        known = vitis_network(before["variant"], _extents(before["variant"]))
        if target is None or known is None:
            left["on other engines" if target is None else "of unknown networks"] += 1
            continue
        share = _number(row["gops_or_macs"]) / _number(before["gops_or_macs"])
        target = target.variant(threads=1 if row["threads"] == "1" else SEVERAL)
        model = cost_model(target)
        seconds = [float(model.latency(networks.work(*known, target, part)).sum()) for part in (1.0, share)]
        measured = _number(before["value"]) / _number(row["value"])
        device = f"{row['device'].partition('|')[0].strip()}, {row['metric']}"
        pairs.append(Pair(device, row["family"], row["variant"], measured, seconds[1] / seconds[0], share))
    note = (
        "Uniform shares of all groups' channels at the published operations; the true channels are published nowhere."
    )
    return Table("DPU pairs", pairs=pairs, note=note, left_out=dict(left))


#: Targets of other boards by what their configuration matches.
_BOARDS = ((r"192 AIEs", "vck190"), (r"C20B14", "vek280"), (r"DPUCAHX8H", "alveo-u55c"))


def dpu(board: str, configuration: str) -> Target | None:
    """The target of a board and its configuration, such as "3 * B4096  @ 281MHz"; None for engines without a target."""
    found = re.search(r"(\d+)\s*\*\s*B(\d+)F?\s*@\s*(\d+)\s*MHz", configuration)
    if found is None:
        name = next((name for what, name in _BOARDS if re.search(what, f"{board} {configuration}")), None)
        return None if name is None else load_target(name)
    base = load_target("fpga-dpu")
    cores, operations, megahertz = map(int, found.groups())
    if operations not in _ENGINES:
        return None
    pixels, channels = _ENGINES[operations]
    layout = base.layout | {"cores": cores, "pixels": pixels, "inputs": channels, "outputs": channels}
    peak = {"int8": operations / 2 * megahertz / 1e3}
    return base.model_copy(update={"clock_ghz": megahertz / 1e3, "peak": peak, "layout": layout})


@dataclass
class Networks:
    """Work of rebuilt networks in int8 at a share of their operations; `cache` keeps it between runs."""

    cache: Path | None

    def __post_init__(self) -> None:
        self._works: dict[str, Work] = {}
        self._kernels: dict[str, Kernels] = {}

    def work(self, key: str, make: Make, target: Target, share: float = 1.0) -> Work:
        """The work with one share of channels everywhere, so that `share` of the multiply-accumulates remain."""
        name = f"{key} {share:.4f}"
        if name not in self._works:
            digest = hashlib.sha256(json.dumps([hwpass.__version__, name, target.fusion]).encode()).hexdigest()[:24]
            file = None if self.cache is None else self.cache / f"dpu-{digest}.pickle"
            if file is not None and file.is_file():
                self._works[name] = pickle.loads(file.read_bytes())  # written by the lines below
            else:
                self._works[name] = self._made(key, make, target, share)
                if file is not None:
                    file.write_bytes(pickle.dumps(self._works[name]))
        return replace(self._works[name])  # what a target keeps with a work is its own

    def _made(self, key: str, make: Make, target: Target, share: float) -> Work:
        if key not in self._kernels:
            self._kernels[key] = Kernels(coupled(make()), target.fusion, None, Formats(target))
        kernels = self._kernels[key]
        if share == 1.0:
            return kernels.work(kernels.dense[None, :])
        widths = np.linspace(0.02, 1.0, 197)
        plans = np.maximum(np.rint(kernels.dense[None, :] * widths[:, None]), 1)
        macs = np.array([float(kernels.work(plan[None, :]).macs.sum()) for plan in plans])
        return kernels.work(plans[[int(np.abs(macs / macs[-1] - share).argmin())]])


def _extents(variant: str) -> str:
    """Height and width in a name such as tf_vgg16_imagenet_224_224_30.96G."""
    found: Sequence[str] = re.findall(r"_(\d{2,4})_(\d{2,4})(?=_)", variant)
    return "x".join(found[-1]) if found else ""


def _number(text: str) -> float:
    found = re.search(r"\d+(\.\d+)?", text or "")
    return float(found[0]) if found else 0.0


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)
