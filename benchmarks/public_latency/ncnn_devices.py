"""Devices of ncnn's benchmark from their headings: core class, clock, cores, memory. No latency is looked at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hwpass.cost_models.cores import core_names

#: Names of micro-architectures as the table gives them; others are found by their own name.
_ALIASES = {
    "kryo 280": "cortex-a73",
    "kryo 360": "cortex-a75",
    "kryo 385": "cortex-a75",
    "kryo 460": "cortex-a76",
    "kryo 468": "cortex-a76",
    "kryo 485": "cortex-a76",
    "kryo 585": "cortex-a77",
    "kryo 670": "cortex-a78",
    "kryo 680": "cortex-x1",
    "coffee lake": "skylake",
    "kaby lake": "skylake",
    "comet lake": "skylake",
    "skylake-sp": "skylake-sp",
    "ice lake": "ice-lake-sp",
    "alder lake": "golden-cove",
    "raptor lake": "golden-cove",
    "tiger lake": "tiger-lake",
    "zen+": "zen",
    "a72": "cortex-a72",
    "broadwell": "haswell",
    "neoverse v3": "neoverse-v2",
}
#: A class for cores that none is known of, by what kind of device it is.
_GENERIC = {"mobile-cpu": "cortex-a73", "arm-server-cpu": "neoverse-n1", "x86-cpu": "haswell"}

_CLOCK = re.compile(r"(\d+(?:\.\d+)?)\s*([GM])hz", re.IGNORECASE)
_CORES = re.compile(r"hz\s*[x*]\s*(\d+)|(\d+)\s*[x*×]\s*\d+(?:\.\d+)?\s*[GM]hz|\b(dual|quad|octa)\b", re.IGNORECASE)
_WORDS = {"dual": 2, "quad": 4, "octa": 8}
_GPU = re.compile(r"graphics|vega|mali|adreno|radeon|geforce|powervr", re.IGNORECASE)
#: Cores of a device whose heading does not count them: enough for every thread.
_UNCOUNTED = 64


@dataclass(frozen=True)
class Device:
    """One core and what stands beside it."""

    core: str
    known: bool  #: False: the class was chosen by the kind of device alone
    clock_ghz: float | None
    fast_cores: int
    slow_percent: int = 100
    vector_bytes: int | None = None  #: None: all that the core has


def device(row: Mapping[str, str]) -> Device:
    """The device of a row of `ncnn.csv`. `powersave` 1 runs on the little cores, which the heading lists last."""
    heading = row["device"]
    parts = re.split(r"\+|,(?=[^,]*hz)", heading)
    clocked = [part for part in parts if _CLOCK.search(part) and not _GPU.search(part)]
    core, known = _class(row["cpu_uarch"], row["target_class"])
    if row["target_class"] == "x86-cpu":
        width = 32 if row["variant"] == "no-avx512" else None
        return Device(
            core, known, _clock(heading) if len(_CLOCK.findall(heading)) > 1 else None, _UNCOUNTED, 100, width
        )
    if not clocked:
        return Device(core, known, None, _UNCOUNTED)
    if row["powersave"] == "1" and len(clocked) > 1:
        little = clocked[-1]
        named = re.search(r"cortex-a\d+|\ba\d\d\b", little, re.IGNORECASE)
        core = _class(named.group().lower() if named else "cortex-a55", row["target_class"])[0]
        return Device(core, True, _clock(little), _counted(little))
    first = _clock(clocked[0])
    slow = 100 if len(clocked) == 1 else max(1, min(100, round(100 * _slowest(clocked[1:], core) / first)))
    return Device(core, known, first, _counted(clocked[0]), slow)


def _class(named: str, kind: str) -> tuple[str, bool]:
    text = named.lower()
    for alias, core in sorted(_ALIASES.items(), key=lambda item: -len(item[0])):
        if text.startswith(alias):
            return core, True
    words = re.sub(r"\s+", "-", text.split("(")[0].split("+")[0].strip())
    for candidate in (words, f"cortex-{words}"):
        if candidate in core_names():
            return candidate, True
    return _GENERIC.get(kind, "cortex-a73"), False


def _clock(text: str) -> float:
    """The highest clock of a part of a heading, GHz."""
    return max(float(figure) / (1000 if unit.upper() == "M" else 1) for figure, unit in _CLOCK.findall(text))


def _counted(text: str) -> int:
    """How many cores a part of a heading lists; a part with a clock alone is one core."""
    found = _CORES.search(text)
    if found is None:
        return 1
    after, before, word = found.groups()
    return _WORDS[word.lower()] if word else int(after or before)


def _slowest(parts: list[str], core: str) -> float:
    """Clock of the slowest cores; little ones of an older class do about half as much in a cycle."""
    little = re.search(r"a5[35]|a510|a520|a7\b", " ".join(parts), re.IGNORECASE)
    share = 0.5 if little and core not in ("cortex-a53", "cortex-a55") else 1.0
    return min(_clock(part) for part in parts) * share
