"""Meters of energy: counters of joules that the machine keeps. Imports nothing of the package.

A meter counts everything that its part of the machine draws, other programs and idle draw included.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")


class NoMeter(Exception):
    """The machine has none that can be read; the message says why."""


class PackageMeter:
    """Processor packages, and their memory where it is counted apart, by Linux powercap (RAPL).

    Zones are /sys/class/powercap/intel-rapl:N (AMD's have the same name); `energy_uj` counts microjoules and starts
    again at `max_energy_range_uj`. Of a package's own parts only `dram` lies outside what the package counts. Source:
    the kernel's Documentation/power/powercap.
    """

    def __init__(self, root: Path | None = None) -> None:
        """Raises NoMeter."""
        self._zones = self._found(POWERCAP if root is None else root)
        self._last = [self._read(zone) for zone in self._zones]
        self._turns = [0] * len(self._zones)

    @staticmethod
    def _found(root: Path) -> list[Path]:
        zones = []
        for zone in sorted(root.glob("intel-rapl:*")):
            try:
                name = (zone / "name").read_text().strip()
            except OSError:
                continue
            if name.startswith("package") or name == "dram":
                zones.append(zone)
        if not zones:
            raise NoMeter(f"this machine has no meter of its processor's energy: {root} has no zone of a package")
        return zones

    @staticmethod
    def _read(zone: Path, file: str = "energy_uj") -> int:
        try:
            return int((zone / file).read_text())
        except PermissionError:
            raise NoMeter(f"{zone / file}: only the administrator may read it; run as one, or allow it") from None
        except (OSError, ValueError) as error:
            raise NoMeter(f"{zone / file}: cannot be read ({error})") from None

    def joules(self) -> float:
        """Joules since some time before, all packages together. Read it at least once in each turn of a counter."""
        total = 0.0
        for place, zone in enumerate(self._zones):
            now = self._read(zone)
            self._turns[place] += now < self._last[place]
            self._last[place] = now
            turns = self._turns[place]
            total += now + (turns * self._read(zone, "max_energy_range_uj") if turns else 0)
        return total / 1e6


class BoardMeter:
    """The first NVIDIA GPU, its whole board, by NVML (nvidia-ml-py; Volta and later count energy)."""

    def __init__(self, nvml: Any = None) -> None:
        """Raises NoMeter."""
        try:
            self._nvml = importlib.import_module("pynvml") if nvml is None else nvml
            self._nvml.nvmlInit()
            self._board = self._nvml.nvmlDeviceGetHandleByIndex(0)
            self.joules()
        except ImportError:
            raise NoMeter("nvidia-ml-py is not installed; `pip install 'hwpass[nvml]'` brings it") from None
        except Exception as error:  # NVMLError, which only the module itself names
            raise NoMeter(f"this machine has no GPU whose energy NVML counts: {error}") from None

    def joules(self) -> float:
        """Joules since the driver was loaded."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._board)) / 1e3


#: Meters by what they measure.
METERS: dict[str, Any] = {"processor": PackageMeter, "nvidia-gpu": BoardMeter}


def why_none(name: str) -> str:
    """Why the meter cannot be read here, or nothing."""
    try:
        METERS[name]()
    except NoMeter as error:
        return str(error)
    return ""


if sys.platform != "linux":  # pragma: no cover  # there is no powercap
    METERS.pop("processor")
