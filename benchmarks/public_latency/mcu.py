"""Microcontrollers: ST's model zoo, TinyEngine's table and MLPerf Tiny, with energy and memory."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import onnx

from hwpass.cost.formats import Formats
from hwpass.cost.kernels import Kernels
from hwpass.cost.prediction import Cost
from hwpass.cost_models import Target, cost_model, load_target
from hwpass.cost_models.work import Work
from hwpass.workflows.inspect import coupled
from public_latency.graphs import Zoo
from public_latency.mcu_networks import MCUNET, TINY, mcunet, st_network
from public_latency.scores import Row, Table

Make = Callable[[], onnx.ModelProto]

#: Targets by board and toolchain, first match: what the board's name and the version of X-CUBE-AI match.
_ST = (
    (r"H7[AB]", r"", "stm32h7a3"),
    (r"H7|F7", r"^[78]\.|^$", "stm32h7-cubeai7"),
    (r"H7|F7", r"", "stm32h7"),
    (r"U5|L5|H5|WBA", r"^[78]\.|^$", "stm32u5-cubeai7"),
    (r"U5|L5|H5|WBA", r"", "stm32u5"),
    (r"F4|L4|F3|G4", r"^[78]\.|^$", "stm32l4-cubeai7"),
    (r"F4|L4|F3|G4", r"", "stm32l4"),
    (r"G0|F0|L0|C0", r"", "mcu-m0"),
)

#: MLPerf Tiny: what processor, and what framework with submitter, match.
_TINY = (
    (r"M85|M55", r"", "mcu-m85"),
    (r"M0", r"", "mcu-m0"),
    (r"Andes|RISC-?V|RV32", r"tflite|tvm|onnc", "mcu-riscv"),
    (r"M7", r"tvm|onnc|tflite|tensorflow lite", "mcu"),
    (r"M7", r"", "stm32h7a3"),
    (r"M33", r"tvm|onnc|tflite|tensorflow lite", "mcu-m4"),
    (r"M33", r"v?(8\.1|9\.|10\.)|plumerai|internal", "stm32u5"),
    (r"M33", r"", "stm32u5-cubeai7"),
    (r"M4", r"tvm|onnc|tflite|tensorflow lite", "mcu-m4"),
    (r"M4", r"v?(8\.1|9\.|10\.)|plumerai", "stm32l4"),
    (r"M4|RXv2", r"", "stm32l4-cubeai7"),
)

#: TinyEngine's table: what library the target stands for.
_LIBRARIES = {
    "CMSIS-NN": "mcu",
    "X-CUBE-AI": "stm32h7-cubeai7",
    "TinyEngine": "stm32h7-tinyengine",
}


def tables(data: Path, zoo: Zoo | None) -> list[Table]:
    """Latency, memory and energy of every table; nothing where a file is not there."""
    del zoo  # all networks are rebuilt
    makers = {
        "stm32_latency.csv": st_latency,
        "stm32_memory.csv": st_memory,
        "tinyengine_h743.csv": tinyengine,
        "mlperf_tiny.csv": mlperf_tiny,
    }
    return [table for file, make in makers.items() if (data / file).is_file() for table in make(data / file)]


def st_latency(file: Path) -> list[Table]:
    """ST's model zoo on boards with a microcontroller; application processors and NPUs are no target of this kind."""
    rows: list[Row] = []
    left = Counter[str]()
    for row in _rows(file):
        make = st_network(row["family"], row["model"], row["resolution"])
        board = "U5" if "HAR page" in row["board"] else row["board"]
        name = None if re.search(r"MP\d|N6", board) else _first(_ST, board, row["cubeai_version"])
        milliseconds = _number(row["inference_ms"])
        if make is None or name is None or not milliseconds:
            left["of unknown networks" if make is None else "on application processors and NPUs"] += 1
            continue
        target = at_clock(load_target(name), _number(row["frequency"]))
        network = f"{row['model'].strip()} {row['resolution']} {row['format']} {row['cubeai_version']}".strip()
        work = Network.named(_key(row), make).work(target, "float" in row["format"].lower())
        rows.append(_row(row["board"], network, milliseconds / 1e3, target, work))
    note = "X-CUBE-AI's version chooses the target; 23 rows of the STM32H747 and those of the STM32U585 were fitted to"
    return [Table("STM32 latency", rows, note=note + ".", left_out=dict(left))]


def tinyengine(file: Path) -> list[Table]:
    """MCUNets under four libraries on one board; reference kernels are no target."""
    latency: list[Row] = []
    ram: list[Row] = []
    flash: list[Row] = []
    left = Counter[str]()
    for row in _rows(file):
        which, milliseconds = row["model"].partition("-")[2], _number(row["latency_ms"])
        if which not in MCUNET or row["library"] not in _LIBRARIES or not milliseconds:
            left["of unknown networks, reference kernels, or out of memory"] += 1
            continue
        target = at_clock(load_target(_LIBRARIES[row["library"]]), 480)
        network = Network.named(which, partial(mcunet, which))
        device = f"{row['board']} {row['library']}"
        latency.append(_row(device, which, milliseconds / 1e3, target, network.work(target, False)))
        for rows, key, needed in zip(
            (ram, flash), ("peak_sram_kb", "flash_kb"), footprint(network, target), strict=True
        ):
            rows.append(Row(device, which, _number(row[key]), needed / 1024, latency[-1].macs))
    note = "The library chooses the target. All rows but withheld ones were fitted to."
    memory = "KiB, not seconds; the runtime's own was read off these rows."
    return [
        Table("MCUNet latency", latency, note=note, left_out=dict(left)),
        Table("MCUNet RAM", ram, note=memory),
        Table("MCUNet flash", flash, note=memory),
    ]


def mlperf_tiny(file: Path) -> list[Table]:
    """Latency and energy of four networks; the processor and the compiler choose the target."""
    latency: list[Row] = []
    energy: list[Row] = []
    left = Counter[str]()
    for row in _rows(file):
        name = None
        if not row["accelerator"] and not row["model_variant"] and row["benchmark"] in TINY:
            name = _first(_TINY, row["processor"], f"{row['framework']} {row['submitter']} {row['system']}")
        milliseconds = _number(row["latency_ms_derived"])
        if name is None or not milliseconds:
            left["on accelerators, unknown processors or other networks"] += 1
            continue
        target = at_clock(load_target(name), _number(row["processor_freq"]))
        work = Network.named(row["benchmark"], TINY[row["benchmark"]]).work(target, False)
        device = f"{row['round']} {row['submitter']} {row['system']}"
        latency.append(_row(device, row["benchmark"], milliseconds / 1e3, target, work))
        joules = _number(row["energy_uj_per_inf"]) / 1e6
        if joules:
            predicted = float(cost_model(target).energy(work).sum())
            energy.append(replace(latency[-1], measured=joules, predicted=predicted, low=None, high=None))
    together = [replace(row, device="all", network=f"{row.device} {row.network}") for row in energy]
    note = "Processor and compiler choose the target, at the row's clock. The targets' sources say what was fitted to."
    return [
        Table("MLPerf Tiny latency", latency, note=note, left_out=dict(left)),
        Table("MLPerf Tiny energy", energy, note="As for latency; joules per inference."),
        Table("MLPerf Tiny energy, all boards", together, note="The same rows as one set, without a scale per board."),
    ]


def st_memory(file: Path) -> list[Table]:
    """RAM and flash of ST's model zoo in KiB."""
    ram: list[Row] = []
    flash: list[Row] = []
    left = Counter[str]()
    for row in _rows(file):
        make = st_network(row["family"], row["model"], row["resolution"])
        board = row["series_or_board"]
        name = None if "N6" in board else _first(_ST, board, row["cubeai_version"])
        if make is None or name is None:
            left["of unknown networks" if make is None else "of NPUs"] += 1
            continue
        network = f"{row['model'].strip()} {row['resolution']} {row['format']} {row['cubeai_version']}".strip()
        target = load_target(name)
        floating = "float" in row["format"].lower()
        made = Network.named(_key(row), make)
        macs = float(made.work(target, floating).macs.sum())
        needs = footprint(made, target, floating)
        for rows, key, predicted in ((ram, "total_ram_kib", needs[0]), (flash, "total_flash_kib", needs[1])):
            if _number(row[key]):
                rows.append(Row(board, network, _number(row[key]), predicted / 1024, macs))
    note = "KiB, not seconds; what the runtime takes per layer was read off these rows, the arena was not fitted."
    return [Table("STM32 RAM", ram, note=note, left_out=dict(left)), Table("STM32 flash", flash, note=note)]


def at_clock(target: Target, megahertz: float) -> Target:
    """The same core and library at another clock: all of its rates follow, the memory's too."""
    if not megahertz or target.clock_ghz is None:
        return target
    factor = megahertz / 1e3 / target.clock_ghz
    memory = {
        name: level.model_copy(update={"bandwidth_gbs": level.bandwidth_gbs * factor})
        for name, level in target.memory.items()
    }
    static = target.energy.model_copy(update={"static_w": target.energy.static_w * factor})
    changed = {
        "clock_ghz": target.clock_ghz * factor,
        "overhead_us": target.overhead_us / factor,
        "peak": {dtype: rate * factor for dtype, rate in target.peak.items()},
        "op_ns": {op: each / factor for op, each in target.op_ns.items()},
        "memory": memory,
        "energy": static,
    }
    return target.model_copy(update=changed)


def footprint(network: Network, target: Target, floating: bool = False) -> tuple[float, float]:
    """Bytes of RAM and of flash that a network takes."""
    cost = Cost(network.coupling, target.model_copy(update={"dtype": "fp32" if floating else "int8"}))
    found = cost(cost.dense[None, :], ("ram", "flash"))
    return float(found["ram"][0]), float(found["flash"][0])


class Network:
    """A network that is built and coupled once."""

    _known: ClassVar[dict[str, Network]] = {}

    def __init__(self, make: Make) -> None:
        self.coupling = coupled(make())

    @classmethod
    def named(cls, key: str, make: Make) -> Network:
        """The network of a key, made at first."""
        if key not in cls._known:
            cls._known[key] = cls(make)
        return cls._known[key]

    def work(self, target: Target, floating: bool) -> Work:
        """All of it in float, or all in int8."""
        formats = Formats(target.model_copy(update={"dtype": "fp32" if floating else "int8"}))
        kernels = Kernels(self.coupling, target.fusion, None, formats)
        return kernels.work(kernels.dense[None, :])


def _row(device: str, network: str, seconds: float, target: Target, work: Work) -> Row:
    predicted, factor = float(cost_model(target).latency(work).sum()), math.exp(target.uncertainty["network"])
    macs = float(work.macs.sum())
    return Row(device, network, seconds, predicted, macs, low=predicted / factor, high=predicted * factor)


def _key(row: dict[str, str]) -> str:
    return f"{row['family']} {row['model'].strip()} {row['resolution']}"


def _first(table: tuple[tuple[str, str, str], ...], board: str, toolchain: str) -> str | None:
    """The target of the first row that both match."""
    for device, library, name in table:
        if re.search(device, board, re.IGNORECASE) and re.search(library, toolchain, re.IGNORECASE):
            return name
    return None


def _number(text: str) -> float:
    """The first number of a text, 0 where there is none."""
    found = re.search(r"\d+(\.\d+)?", text or "")
    return float(found[0]) if found else 0.0


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)
