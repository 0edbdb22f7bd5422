"""SIMD cores by specification: numbers derived by hand, and what must hold for any core and any work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwpass.cost_models import Target, cost_model, load_target
from hwpass.cost_models.cores import core_names, core_target
from hwpass.cost_models.work import Work
from hwpass.errors import InputError, UsageError

MakeWork = Callable[..., Work]
NAMED = (
    "mobile-cpu",
    "raspberry-pi-3",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "pixel-3",
    "snapdragon-855",
    "dimensity-9300",
)


def bare(**constants: float) -> Target:
    """mobile-cpu where nothing costs but what `constants` says."""
    base = load_target("mobile-cpu")
    ones = ("product", "matmul", "depthwise_plain", "thread_share", "thread_share_light", "shared_bandwidth")
    zero = {key: 1.0 if key in ones else 0.0 for key in base.constants}
    return base.model_copy(update={"overhead_us": 0.0, "constants": {**zero, **constants}})


def us(target: Target, work: Work) -> float:
    return float(cost_model(target).latency(work).sum() * 1e6)


def single(make_work: MakeWork, itemsize: float = 4.0, **kernel: object) -> Work:
    work = make_work([kernel], [(-1, 0, 1.0)])
    return replace(work, itemsize=np.full_like(work.itemsize, itemsize))


def test_a_pointwise_convolution_runs_at_the_peak(make_work: MakeWork) -> None:
    # 100 x 32 x 32 MACs at 19.2 GMAC/s = 5.333 us; in fp16 twice as fast; 30 output channels pad to 32 in fp32.
    assert us(bare(), single(make_work, kind="conv", m=100, n=32, k=32)) == pytest.approx(102400 / 19.2e3)
    assert us(bare(), single(make_work, 2.0, kind="conv", m=100, n=32, k=32)) == pytest.approx(102400 / 38.4e3)
    assert us(bare(), single(make_work, kind="conv", m=100, n=30, k=32)) == pytest.approx(102400 / 19.2e3)


def test_waits_for_issue_add_to_a_vector_operation(make_work: MakeWork) -> None:
    # 102,400 MACs are 25,600 vector operations; each waits 2/4 of a cycle more at 2.4 GHz.
    more = us(bare(wait_out_of_order=2.0), single(make_work, kind="conv", m=100, n=32, k=32))
    assert more == pytest.approx(102400 / 19.2e3 + 25600 * 0.5 / 2.4e3)


def test_a_core_that_issues_in_order_waits_for_its_loads(make_work: MakeWork) -> None:
    work = single(make_work, kind="conv", m=100, n=32, k=32)
    base = bare(loads=0.5)
    ordered = base.model_copy(update={"layout": {**base.layout, "in_order": 1}})
    # Half a vector of 16 bytes for each operation, 32 bytes a cycle: a quarter of a cycle that is not hidden.
    assert us(base, work) == pytest.approx(102400 / 19.2e3)
    assert us(ordered, work) == pytest.approx(102400 / 19.2e3 + 25600 * 0.25 / 2.4e3)


def test_winograd_takes_the_cheapest_tile(make_work: MakeWork) -> None:
    # 24x24 positions: 16 tiles of 6x6, 64 products each, of 36 x 9: 5.0625 times fewer; 25x25 needs 25 tiles of 6
    # (1,600 products) or 49 of 4 (1,764): 1,600.
    assert us(bare(), single(make_work, kind="conv", m=576, n=64, k=64, taps=9)) == pytest.approx(
        16 * 64 * 64 * 64 / 19.2e3
    )
    assert us(bare(), single(make_work, kind="conv", m=625, n=64, k=64, taps=9)) == pytest.approx(
        25 * 64 * 64 * 64 / 19.2e3
    )


def test_few_channels_and_dear_transforms_do_without_winograd(make_work: MakeWork) -> None:
    image = single(make_work, kind="conv", m=576, n=64, k=4, taps=9)
    assert us(bare(), image) == pytest.approx(576 * 9 * 64 * 4 / 19.2e3)
    plain = single(make_work, kind="conv", m=576, n=64, k=64, taps=9)
    assert us(bare(winograd=1e6), plain) == pytest.approx(576 * 9 * 64 * 64 / 19.2e3)


def test_matrix_products_outside_windows_stay_in_fp32(make_work: MakeWork) -> None:
    half = us(bare(), single(make_work, 2.0, kind="matmul", m=64, n=64, k=64, weights=1e-9))
    whole = us(bare(), single(make_work, 4.0, kind="matmul", m=64, n=64, k=64, weights=1e-9))
    assert half == pytest.approx(whole, rel=0.02)  # but for storing the result


def test_integer_products_outrun_floats_only_with_dot_products(make_work: MakeWork) -> None:
    work = single(make_work, 1.0, kind="conv", m=100, n=32, k=32)
    old, new = (core_target(core, base=bare()) for core in ("cortex-a9", "cortex-a76"))
    assert us(new, work) == pytest.approx(102400 / (new.peak["int8"] * 1e3))
    assert new.peak["int8"] / new.peak["fp32"] == 4
    assert old.peak["int8"] / old.peak["fp32"] == 2


def test_packs_of_eight_make_a_stair_in_fp16(make_work: MakeWork) -> None:
    def depthwise(channels: int, itemsize: float) -> float:
        kernel = {"kind": "depthwise", "groups": channels, "m": 100, "n": 1, "k": 1, "taps": 9}
        return us(bare(depthwise_tap=1.0, depthwise_plain=2.0), single(make_work, itemsize, **kernel))

    assert depthwise(28, 2.0) > depthwise(32, 2.0)  # packs of four fill half a register
    assert depthwise(28, 4.0) < depthwise(32, 4.0)
    assert depthwise(30, 4.0) > depthwise(32, 4.0)  # not packed at all


def test_equal_parts_wait_for_the_slowest_core(make_work: MakeWork) -> None:
    base = bare()
    layout = {**base.layout, "fast_cores": 4, "slow_percent": 30}
    work = single(make_work, kind="conv", m=100, n=128, k=32)  # 16 blocks of two packs

    def with_threads(count: int) -> float:
        return us(base.model_copy(update={"layout": layout, "threads": count}), work)

    assert with_threads(4) == pytest.approx(with_threads(1) / 4)
    assert with_threads(8) == pytest.approx(with_threads(4))  # eight slow shares of 0.3 are no more than four whole
    assert with_threads(16) == pytest.approx(with_threads(1) / 4.8)


def test_the_last_round_leaves_threads_idle(make_work: MakeWork) -> None:
    base = bare()
    four = base.model_copy(update={"threads": 4})
    plain = four.model_copy(update={"layout": {**base.layout, "pack": 1}})
    work = single(make_work, kind="conv", m=100, n=40, k=32)  # five blocks of 8 channels: two rounds of four
    assert us(four, work) == pytest.approx(us(base, work) * 2 / 5)
    assert us(plain, work) == pytest.approx(us(base, work) / 4)


def test_every_group_is_handed_to_the_threads(make_work: MakeWork) -> None:
    work = single(make_work, kind="grouped", groups=8, m=1, n=4, k=4)
    base = bare(thread_start_us=3.0).model_copy(update={"threads": 4})
    assert us(base, work) == pytest.approx(8 * 3 * 2, rel=1e-3)  # two doublings


def test_what_another_format_left_is_converted(make_work: MakeWork) -> None:
    kernels = [{"kind": "elementwise", "written": 4000}, {"kind": "conv", "m": 10, "n": 8, "k": 100, "read": 1000}]
    work = make_work(kernels, [(0, 1, 100.0)])
    narrow = replace(work, itemsize=np.array([4.0, 1.0]), bytes=np.full_like(work.bytes, 1000.0))
    same = replace(narrow, source=np.array([-1]))
    # 1,000 elements of 4 bytes are 250 vectors; an operation takes half a cycle.
    target = bare(element=1.0)
    assert us(target, narrow) - us(target, same) == pytest.approx(250 * 0.5 / 2.4e3)


@pytest.mark.parametrize("name", NAMED)
def test_named_devices_load_and_cost_something(name: str, make_work: MakeWork) -> None:
    target = load_target(name)
    model = cost_model(target)
    work = make_work([{"kind": "conv", "m": 196, "n": 64, "k": 64, "taps": 9, "read": 5e4, "written": 5e4}], [])
    assert (model.latency(work) > 0).all()
    assert (model.energy(work) > 0).all()


def test_every_core_class_makes_a_target(make_work: MakeWork) -> None:
    work = single(make_work, kind="conv", m=100, n=32, k=32)
    seconds = {core: us(core_target(core), work) for core in core_names()}
    assert min(seconds.values()) > 0
    assert seconds["cortex-a53"] > seconds["cortex-a72"] > seconds["cortex-a76"] > seconds["cortex-x4"]


def test_an_unknown_core_is_named() -> None:
    with pytest.raises(UsageError, match="no class 'cortex-a75x'; did you mean 'cortex-a75'"):
        core_target("cortex-a75x")


def test_a_missing_constant_is_named() -> None:
    base = load_target("mobile-cpu")
    constants = {key: value for key, value in base.constants.items() if key != "gather"}
    with pytest.raises(InputError, match=r"constants\.gather: missing"):
        cost_model(base.model_copy(update={"constants": constants}))


KIND = st.sampled_from(["conv", "grouped", "depthwise", "matmul", "conv_transpose"])
EXTENT = st.integers(1, 300)
WHOLE = st.integers(1, 5).map(lambda packs: packs * 64)  # packs of any register
CORES = st.sampled_from(["cortex-a53", "cortex-a76", "zen5"])


@settings(max_examples=40, deadline=None)
@given(kind=KIND, m=EXTENT, n=WHOLE, k=WHOLE, taps=st.sampled_from([1, 9, 25]), core=CORES)
def test_more_positions_and_channels_never_cost_less(kind: str, m: int, n: int, k: int, taps: int, core: str) -> None:
    model = cost_model(core_target(core))
    sizes = np.array([[m, n, k], [m + 40, n, k], [m, n + 64, k], [m, n, k + 64]], np.float64)
    ones = np.ones((4, 1))
    work = Work(
        kind=np.array([kind]), itemsize=np.array([4.0]), taps=np.array([float(taps)]), stride=np.array([1.0]),
        groups=ones * 4, m=sizes[:, :1], n=sizes[:, 1:2], k=sizes[:, 2:], read=sizes[:, :1] * sizes[:, 2:] * 4,
        written=sizes[:, :1] * sizes[:, 1:2] * 4, weights=sizes[:, 1:2] * sizes[:, 2:] * taps * 4.0,
        elements=ones * 0, source=np.zeros(0, np.int64), sink=np.zeros(0, np.int64),
        channels=np.zeros((4, 0)), bytes=np.zeros((4, 0)),
    )  # fmt: skip
    seconds = model.latency(work)[:, 0]
    assert (seconds > 0).all()
    assert (seconds[1:] >= seconds[0] * (1 - 1e-9)).all()
