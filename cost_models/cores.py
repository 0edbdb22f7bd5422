"""Targets from specifications alone: a core class of `cores.toml`, a clock, memory and threads."""

from __future__ import annotations

import difflib
import tomllib
from functools import cache
from importlib import resources
from typing import Any

from hwpass.cost_models.target import Target
from hwpass.cost_models.target_files import load_target
from hwpass.errors import UsageError
from hwpass.figures import shown

#: The target whose runtime, constants and energy the core classes share.
BASE = "mobile-cpu"


def core_names() -> list[str]:
    """Names of all core classes, sorted.

    >>> "cortex-a53" in core_names()
    True
    """
    return sorted(_classes())


def core_target(
    core: str,
    *,
    clock_ghz: float | None = None,
    threads: int = 1,
    fast_cores: int = 4,
    slow_percent: int = 100,
    dram_gbs: float | None = None,
    vector_bytes: int | None = None,
    base: Target | None = None,
) -> Target:
    """A target for a core of a class of `cores.toml`; what is not given is the class's usual figure.

    `vector_bytes`: of the registers that the runtime uses where they are narrower than the core's; rates fall in
    proportion. `base` gives the runtime: its constants, fusion and overhead. Raises UsageError for an unknown class.
    """
    classes = _classes()
    if core not in classes:
        near = difflib.get_close_matches(core[:80].lower(), classes, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"core: there is no class '{shown(core)}'{hint}")
    spec = classes[core]
    base = load_target(BASE) if base is None else base
    clock = clock_ghz or float(spec["clock_ghz"])
    width = min(vector_bytes or spec["vector_bytes"], spec["vector_bytes"])
    peak = {
        dtype: spec[dtype] * clock * width / spec["vector_bytes"] for dtype in ("fp32", "fp16", "int8") if dtype in spec
    }
    layout = {
        **base.layout, **{key: spec[key] for key in ("pipes", "issue", "load_bytes", "in_order")},
        "vector_bytes": width, "fast_cores": fast_cores, "slow_percent": slow_percent,
    }  # fmt: skip
    given = base.model_dump(exclude_unset=True, exclude_none=True)
    given |= {
        "name": core, "description": f"{core} at {clock:g} GHz, {threads} thread(s)", "clock_ghz": clock,
        "threads": threads, "peak": peak, "memory": _memory(spec, clock, width, dram_gbs), "layout": layout,
    }  # fmt: skip
    if "shared_bandwidth" in spec:
        given["constants"] = {**base.constants, "shared_bandwidth": float(spec["shared_bandwidth"])}
    for key in ("validation", "aliases", "extends"):
        given.pop(key, None)
    text = "class of cores.toml: recalled specifications; not fitted"
    given["sources"] = {key: text for key in given["sources"]} | {key: text for key in ("memory", "layout", "peak")}
    return Target.model_validate(given)


def _memory(spec: dict[str, Any], clock: float, width: int, dram_gbs: float | None) -> dict[str, Any]:
    """Levels beyond the first: half a register each cycle from L2 and a quarter from L3, as cores sustain."""
    last = dram_gbs or float(spec["dram_gbs"])
    near = max(width / 2 * clock, last)
    levels = {"L2": {"capacity_kib": float(spec["l2_kib"]), "bandwidth_gbs": near, "byte_pj": 1.75}}
    if spec.get("l3_kib", 0) > spec["l2_kib"]:
        far = max(width / 4 * clock, last)
        levels["L3"] = {"capacity_kib": float(spec["l3_kib"]), "bandwidth_gbs": far, "byte_pj": 10.0}
    return {**levels, "DRAM": {"bandwidth_gbs": last, "byte_pj": 162.0}}


@cache
def _classes() -> dict[str, dict[str, Any]]:
    text = (resources.files(__package__) / "cores.toml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = tomllib.loads(text)["core"]
    return found
