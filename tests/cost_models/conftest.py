"""Builders shared by the tests of the cost models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from hwpass.cost_models.work import Work

PLAIN = """
name = "plain"
description = "round figures"
model = "CachedSimdCpu"
runtime = "none"
align = 8
overhead_us = 1
fusion = [["Conv", "Relu"]]
[peak]
fp32 = 10
[memory.cache]
capacity_kib = 1024
bandwidth_gbs = 1e12
byte_pj = 1
[memory.dram]
bandwidth_gbs = 1e12
byte_pj = 100
[layout]
block = 8
entry = 4
exit = 1
set_blocks = 4
tile_rows = 6
tile_columns = 16
[constants]
set_floor = 0
exposed = 0
weight_exposed = 0
output_macs = 0
direct_macs = 0
pack_ns = 0
im2col_ns = 0
im2col_strided_ns = 0
im2col_row_ns = 0
plain_output_ns = 0
group_ns = 0
depthwise_mac_ns = 0
depthwise_output_ns = 0
depthwise_channel_ns = 0
winograd = 1
recurrent = 0.5
conversion_ns = 0
[energy]
static_w = 2
[energy.mac_pj]
fp32 = 3
[sources]
align = "test"
overhead_us = "test"
fusion = "test"
peak = "test"
memory = "test"
layout = "test"
constants = "test"
energy = "test"
"""

Kernel = dict[str, object]


def build_work(kernels: Sequence[Kernel], edges: Sequence[tuple[int, int, float]] = ()) -> Work:
    """A Work of one plan, or more where a value is a list over plans; edges are (source, sink, channels)."""
    plans = max((len(v) for k in kernels for v in k.values() if isinstance(v, list)), default=1)

    def column(key: str, default: float) -> np.ndarray:
        values = [np.broadcast_to(np.asarray(k.get(key, default), float), (plans,)) for k in kernels]
        return np.stack(values, axis=1)

    def fixed(key: str, default: float) -> np.ndarray:
        return np.array([k.get(key, default) for k in kernels], float)

    return Work(
        kind=np.array([k["kind"] for k in kernels]),
        itemsize=fixed("itemsize", 4),
        taps=fixed("taps", 1),
        stride=fixed("stride", 1),
        groups=column("groups", 1),
        m=column("m", 0),
        n=column("n", 0),
        k=column("k", 0),
        read=column("read", 0),
        written=column("written", 0),
        weights=column("weights", 0),
        elements=column("elements", 0),
        source=np.array([e[0] for e in edges], np.int64),
        sink=np.array([e[1] for e in edges], np.int64),
        channels=np.broadcast_to(np.array([e[2] for e in edges], float), (plans, len(edges))),
        bytes=np.broadcast_to(np.array([400 * e[2] for e in edges], float), (plans, len(edges))),
        op=np.array([k.get("op", "") for k in kernels]),
    )


@pytest.fixture
def make_work() -> Callable[..., Work]:
    """The builder above."""
    return build_work


@pytest.fixture
def plain() -> str:
    """A target file with round figures and no costs beside arithmetic."""
    return PLAIN
