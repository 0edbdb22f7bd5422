"""The DPU model: three roundings, the depthwise engine, the buffer, the host beside it, and several images at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwpass.cost_models import cost_model, load_target, parse_target, target_names
from hwpass.cost_models.work import Work

MakeWork = Callable[..., Work]
SHIPPED = [name for name in target_names() if load_target(name).model == "FpgaDpu"]

#: 1 step per nanosecond: 8 x 16 x 16 multiply-accumulates at 2048 per nanosecond.
ROUND = """
name = "round"
description = "round figures"
model = "FpgaDpu"
runtime = "none"
align = 16
overhead_us = 0
fusion = []
[peak]
int8 = 2048
[memory.buffer]
capacity_kib = 1
bandwidth_gbs = 1e12
[memory.DDR]
bandwidth_gbs = 1e12
[layout]
pixels = 8
inputs = 16
outputs = 16
depthwise_pixels = 4
cores = 2
[constants]
exposed = 0
shared_gbs = 1e12
host_us = 0
host_byte_ns = 0
[energy]
[energy.mac_pj]
int8 = 1
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


def text(**values: float) -> str:
    found = ROUND
    for key, value in values.items():
        head, mark, tail = found.rpartition(f"\n{key} = ")
        found = head + mark + str(value) + tail[tail.index("\n") :]
    return found


def nanoseconds(target: str, work: Work, threads: int = 1) -> float:
    return float(cost_model(parse_target(target).variant(threads=threads)).latency(work).sum() * 1e9)


def conv(**extents: float) -> dict[str, object]:
    return {"kind": "conv", "itemsize": 1, "m": 49, "n": 16, "k": 16, **extents}


def test_all_three_extents_are_rounded_up(make_work: MakeWork) -> None:
    # 7 rows of 7 positions are 7 steps; 17 channels are two blocks, in and out alike.
    assert nanoseconds(ROUND, make_work([conv()])) == pytest.approx(7)
    assert nanoseconds(ROUND, make_work([conv(k=17)])) == pytest.approx(14)
    assert nanoseconds(ROUND, make_work([conv(n=33, k=17)])) == pytest.approx(42)
    assert nanoseconds(ROUND, make_work([conv(taps=9)])) == pytest.approx(63)
    # 9 rows of 9 positions are 9 x 2 steps.
    assert nanoseconds(ROUND, make_work([conv(m=81)])) == pytest.approx(18)


def test_a_first_layer_takes_a_row_of_its_window_at_once(make_work: MakeWork) -> None:
    # 7x7 over 3 channels: a row of 21 is two blocks, seven rows; without, it would be 49 steps for each position.
    assert nanoseconds(ROUND, make_work([conv(k=3, taps=49)])) == pytest.approx(7 * 7 * 2)
    assert nanoseconds(ROUND, make_work([conv(k=9, taps=9)])) == pytest.approx(7 * 9)


def test_depthwise_convolutions_have_an_engine(make_work: MakeWork) -> None:
    kernel = {"kind": "depthwise", "itemsize": 1, "m": 64, "groups": 20, "n": 1, "k": 1, "taps": 9}
    # 8 rows of two steps of four positions, two blocks of channels, 9 taps
    assert nanoseconds(ROUND, make_work([kernel])) == pytest.approx(8 * 2 * 2 * 9)


def test_constants_and_what_the_buffer_cannot_hold_come_from_dram(make_work: MakeWork) -> None:
    figures = text(bandwidth_gbs=1)
    assert nanoseconds(figures, make_work([conv(weights=256)])) == pytest.approx(256)
    assert nanoseconds(figures, make_work([conv(read=1024)])) == pytest.approx(7)  # fits
    assert nanoseconds(figures, make_work([conv(read=2048)])) == pytest.approx(2048)
    assert nanoseconds(text(bandwidth_gbs=1, exposed=0.5), make_work([conv(weights=4)])) == pytest.approx(7 + 2)


def test_the_host_comes_on_top_of_one_image_and_hides_behind_several(make_work: MakeWork) -> None:
    work = make_work([conv(), conv()], [(-1, 0, 1.0), (0, 1, 1.0)])  # the image takes 400 bytes
    figures = text(host_us=0.01, host_byte_ns=0.1)
    assert nanoseconds(figures, work) == pytest.approx(14 + 10 + 40)
    # two cores take 7 ns per image; eight threads prepare one in 50 / 8 ns, which hides
    assert nanoseconds(figures, work, 8) == pytest.approx(7)
    # with two threads 25 ns per image are what counts
    assert nanoseconds(figures, work, 2) == pytest.approx(25)


def test_cores_share_the_dram(make_work: MakeWork) -> None:
    figures = text(bandwidth_gbs=1, shared_gbs=1.5)
    work = make_work([conv(weights=300)])
    assert nanoseconds(figures, work) == pytest.approx(300)
    assert nanoseconds(figures, work, 2) == pytest.approx(300 / 1.5)


@pytest.mark.parametrize("name", SHIPPED)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    m=st.integers(1, 400), n=st.integers(1, 80), k=st.integers(1, 80), taps=st.sampled_from([1, 9, 49]),
    grown=st.sampled_from(["m", "n", "k"]), threads=st.sampled_from([1, 8]),
)  # fmt: skip
def test_more_work_never_costs_less(
    make_work: MakeWork, name: str, m: int, n: int, k: int, taps: int, grown: str, threads: int
) -> None:
    small = {"m": m, "n": n, "k": k}
    large = small | {grown: small[grown] + 1}
    kernels = [
        conv(taps=taps, weights=c["n"] * c["k"] * taps, read=c["m"] * c["k"], written=c["m"] * c["n"], **c)
        for c in (small, large)
    ]
    model = cost_model(load_target(name).variant(threads=threads))
    found = model.latency(make_work(kernels))[0]
    assert found[0] <= found[1] * (1 + 1e-12)
    assert (model.energy(make_work(kernels)) > 0).all()


def test_the_stair_is_at_sixteen_channels(make_work: MakeWork) -> None:
    """One channel more than a block costs a block; within a block channels are free while arithmetic decides."""
    model = cost_model(load_target("kv260"))
    widths = np.arange(17, 50)
    found = model.latency(make_work([conv(m=784, n=float(w), k=64, taps=9) for w in widths]))[0]
    steps = widths[1:][np.diff(found) > 1e-12]
    assert steps.tolist() == [33, 49]


def test_published_bandwidth(make_work: MakeWork) -> None:
    """VGG-16's first dense layer is bound by its 103 MB of weights: at 7 GB/s 14.7 ms of the 46.5 ms measured."""
    model = cost_model(load_target("kv260"))
    dense = {"kind": "matmul", "itemsize": 1, "m": 1, "n": 4096, "k": 25088, "weights": 25088 * 4096}
    assert model.latency(make_work([dense]))[0, 0] == pytest.approx(14.7e-3, rel=0.02)
