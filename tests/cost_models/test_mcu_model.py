"""The microcontroller model: cycles by hand, stairs at the unrolled loop, flash behind the cache, shipped targets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwpass.cost_models import cost_model, load_target, parse_target, target_names
from hwpass.cost_models.work import Work
from hwpass.errors import InputError

MakeWork = Callable[..., Work]
SHIPPED = [name for name in target_names() if load_target(name).model == "Microcontroller"]

#: 1 GHz, so that a cycle is a nanosecond; 1 MAC per cycle; no cost but what a test adds.
ROUND = """
name = "round"
description = "round figures"
model = "Microcontroller"
runtime = "none"
align = 4
clock_ghz = 1
overhead_us = 0
fusion = []
[peak]
int8 = 1
fp32 = 0.5
[memory.cache]
capacity_kib = 1
bandwidth_gbs = 1e12
[memory.flash]
bandwidth_gbs = 1e12
[layout]
unroll = 4
columns = 2
[constants]
weight_cycles = 0
rest_cycles = 1
gather_cycles = 0
output_cycles = 0
requantise_cycles = 0
depthwise_cycles = 0
depthwise_float_cycles = 0
[energy]
static_w = 1
[energy.mac_pj]
int8 = 1
[sources]
clock_ghz = "test"
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
        line = next(row for row in found.splitlines() if row.startswith(f"{key} ="))
        found = found.replace(line, f"{key} = {value}")
    return found


def nanoseconds(target: str, make_work: MakeWork, **kernel: object) -> float:
    kernel.setdefault("itemsize", 1)
    return float(cost_model(parse_target(target)).latency(make_work([kernel]))[0, 0] * 1e9)


def test_a_convolution_loads_each_weight_once_per_pass(make_work: MakeWork) -> None:
    # m=5, n=3, windows of 2 x 9 = 18: 16 in the loop at 1 cycle and 2 outside at 3: 5 x 3 x (16 + 2 x 3) = 330.
    conv = {"kind": "conv", "m": 5, "n": 3, "k": 2, "taps": 9}
    assert nanoseconds(text(rest_cycles=3), make_work, **conv) == pytest.approx(330)
    # 5 positions are 3 passes of two: 3 x 3 x 18 weights.
    assert nanoseconds(text(weight_cycles=2), make_work, **conv) == pytest.approx(5 * 3 * 18 + 2 * 3 * 3 * 18)
    assert nanoseconds(text(gather_cycles=2), make_work, **conv) == pytest.approx(5 * 3 * 18 + 2 * 5 * 18)


def test_outputs_are_requantised_in_int8_alone(make_work: MakeWork) -> None:
    figures = text(output_cycles=2, requantise_cycles=10)
    dense = {"kind": "matmul", "m": 1, "n": 10, "k": 4}
    assert nanoseconds(figures, make_work, **dense) == pytest.approx(40 + 10 * 12)
    assert nanoseconds(figures, make_work, itemsize=4, **dense) == pytest.approx(80 + 10 * 2)


def test_depthwise_has_a_rate_of_its_own(make_work: MakeWork) -> None:
    figures = text(depthwise_cycles=3, depthwise_float_cycles=5, output_cycles=1)
    kernel = {"kind": "depthwise", "m": 10, "n": 1, "k": 1, "groups": 4, "taps": 9}
    assert nanoseconds(figures, make_work, **kernel) == pytest.approx(40 * (27 + 1))
    assert nanoseconds(figures, make_work, itemsize=4, **kernel) == pytest.approx(40 * (45 + 1))


def test_weights_that_the_cache_cannot_hold_come_from_flash_in_every_pass(make_work: MakeWork) -> None:
    figures = ROUND.replace("[memory.flash]\nbandwidth_gbs = 1e12", "[memory.flash]\nbandwidth_gbs = 1")

    def weights_alone(size: float) -> float:
        conv = {"kind": "conv", "m": 8, "n": 1, "k": 4}
        return nanoseconds(figures, make_work, weights=size, **conv) - nanoseconds(figures, make_work, **conv)

    assert weights_alone(1024) == pytest.approx(1024)
    assert weights_alone(1536) == pytest.approx(1536 * (1 + 0.5 * 3))  # half of it stays, 8 positions are 4 passes
    assert weights_alone(2048) == pytest.approx(2048 * 4)


def test_what_a_view_does_costs_nothing(make_work: MakeWork) -> None:
    work = make_work([{"kind": "free", "itemsize": 1}, {"kind": "elementwise", "itemsize": 1, "written": 8}])
    found = cost_model(load_target("stm32h7")).latency(work)[0]
    assert found[0] == 0
    assert found[1] > 0


def test_a_target_without_a_clock_is_refused() -> None:
    bare = ROUND.replace("clock_ghz = 1\n", "").replace('clock_ghz = "test"\n', "")
    with pytest.raises(InputError, match="clock_ghz: missing"):
        cost_model(parse_target(bare))


@pytest.mark.parametrize("name", SHIPPED)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    m=st.integers(1, 200), n=st.integers(1, 64), k=st.integers(1, 16), taps=st.sampled_from([1, 9, 25]),
    grown=st.sampled_from(["m", "n", "k"]),
)  # fmt: skip
def test_more_work_never_costs_less(
    make_work: MakeWork, name: str, m: int, n: int, k: int, taps: int, grown: str
) -> None:
    small = {"m": m, "n": n, "k": 4 * k}
    large = small | {grown: small[grown] + (4 if grown == "k" else 1)}
    kernels = [
        {"kind": "conv", "itemsize": 1, "taps": taps, "weights": c["n"] * c["k"] * taps, **c} for c in (small, large)
    ]
    model = cost_model(load_target(name))
    found = model.latency(make_work(kernels))[0]
    assert found[0] <= found[1] * (1 + 1e-12)
    assert (model.energy(make_work(kernels)) > 0).all()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_channel_beyond_a_multiple_of_four_costs_more_than_one_of_four(name: str, make_work: MakeWork) -> None:
    model = cost_model(load_target(name))
    kernels = [{"kind": "conv", "itemsize": 1, "m": 64, "n": 16, "k": k} for k in (12, 13, 16)]
    before, odd, even = model.latency(make_work(kernels))[0]
    assert odd - before > (even - before) / 4


def test_the_compiler_decides_as_much_as_the_core(make_work: MakeWork) -> None:
    """MLPerf Tiny on one board: keyword spotting takes 1.7 times as long under X-CUBE-AI 7.3 as under 9.0."""
    kernels = [
        {"kind": "conv", "itemsize": 1, "m": 125, "n": 64, "k": 64},
        {"kind": "depthwise", "itemsize": 1, "m": 125, "n": 1, "k": 1, "groups": 64, "taps": 9},
    ]
    old, new = (cost_model(load_target(n)).latency(make_work(kernels)).sum() for n in ("stm32l4-cubeai7", "stm32l4"))
    assert 1.3 < old / new < 2.2


def test_the_published_stair_from_int8_to_float(make_work: MakeWork) -> None:
    """ST MNIST on an STM32H747: 14.63 ms in float and 4.718 ms in int8, 3.1 times. Its largest layer alone:"""
    model = cost_model(load_target("stm32h7"))
    conv = {"kind": "conv", "m": 196, "n": 32, "k": 16, "taps": 9}
    whole, floating = (model.latency(make_work([conv | {"itemsize": size}]))[0, 0] for size in (1, 4))
    assert 2.5 < floating / whole < 5


def test_a_slower_clock_is_slower_in_proportion(make_work: MakeWork) -> None:
    target = load_target("stm32u5")
    assert np.isclose(target.clock_ghz or 0, 0.16)
    assert load_target("stm32u575") == target
