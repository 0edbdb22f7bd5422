"""GPUs: tiles, waves, granules, and what a batch saves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwpass.cost_models import cost_model, load_target
from hwpass.cost_models.gpu import without_scores
from hwpass.cost_models.work import Work

MakeWork = Callable[..., Work]
GPUS = [
    "mobile-gpu",
    "mobile-gpu-tflite",
    "nvidia-gpu",
    "rtx-3090",
    "a100",
    "t4",
    "jetson-orin-nano",
    "jetson-agx-xavier",
    "jetson-nano",
]


def product(m: float, n: float, k: float, kind: str = "conv", itemsize: float = 2.0, **more: Any) -> Work:
    """One kernel of m x k by k x n, its operands read once."""
    row = {
        name: np.array([[float(value)]])
        for name, value in (("groups", more.get("groups", 1)), ("m", m), ("n", n), ("k", k))
    }
    none = np.zeros((1, 0))
    return Work(
        kind=np.array([kind]), itemsize=np.array([itemsize]), taps=np.array([float(more.get("taps", 1))]),
        stride=np.ones(1), **row,
        read=np.array([[m * k * itemsize]]), written=np.array([[m * n * itemsize]]),
        weights=np.array([[n * k * itemsize]]), elements=np.zeros((1, 1)),
        source=np.zeros(0, np.int64), sink=np.zeros(0, np.int64), channels=none, bytes=none,
    )  # fmt: skip


def seconds(name: str, work: Work, **changes: Any) -> float:
    target = load_target(name)
    constants = {**target.constants, **changes.pop("constants", {})}
    layout = {**target.layout, **changes.pop("layout", {})}
    return float(
        cost_model(target.model_copy(update={"constants": constants, "layout": layout, **changes})).latency(work)[0, 0]
    )


@pytest.mark.parametrize("name", GPUS)
def test_targets_load_and_price(name: str) -> None:
    target = load_target(name)
    work = product(3136, 64, 64)
    assert target.model == "TiledGpu"
    assert 0 < seconds(name, work) < 1
    assert cost_model(target).energy(work)[0, 0] > 0


@given(st.integers(1, 400), st.integers(1, 64), st.integers(1, 64), st.sampled_from(["mobile-gpu", "nvidia-gpu"]))
def test_more_of_whole_granules_never_costs_less(m: int, n: int, k: int, name: str) -> None:
    one = seconds(name, product(m, 16 * n, 16 * k))
    for wider in (product(2 * m, 16 * n, 16 * k), product(m, 32 * n, 16 * k), product(m, 16 * n, 32 * k)):
        assert seconds(name, wider) >= one * (1 - 1e-9)


def test_the_last_wave_is_waited_for() -> None:
    """Tiles of one size on 4 cores: 5 tiles take as long as 8, and 9 longer."""

    def of(tiles: int) -> float:
        layout = {"cores": 4, "tile": 16, "tile_floor": 16, "splits": 1}
        work = replace(product(16 * tiles, 16, 4096), read=np.zeros((1, 1)), weights=np.zeros((1, 1)))
        return seconds("nvidia-gpu", work, layout=layout, constants={"step_cycles": 0.0}, overhead_us=0.0)

    four, five, eight, nine = map(of, (4, 5, 8, 9))
    assert five == pytest.approx(2 * four, rel=0.05)
    assert five == pytest.approx(eight, rel=0.05)
    assert nine > 1.3 * eight


def test_channels_that_fill_no_granule_cost_more_than_the_next_that_do() -> None:
    """Eight elements of fp16 are a granule of tensor cores."""
    ragged, whole = (seconds("nvidia-gpu", product(20000, n, 512)) for n in (505, 512))
    assert ragged > 1.1 * whole
    assert seconds("nvidia-gpu", product(20000, 509, 512)) == pytest.approx(ragged)


def test_a_batch_is_cheaper_than_its_samples() -> None:
    assert seconds("a100", product(16 * 49, 512, 512)) < 8 * seconds("a100", product(49, 512, 512))


def test_half_precision_is_faster_than_single() -> None:
    half, single = product(50000, 512, 512), product(50000, 512, 512, itemsize=4.0)
    assert seconds("t4", half) < 0.7 * seconds("t4", single)


def test_depthwise_runs_on_the_plain_lanes() -> None:
    target = load_target("nvidia-gpu")
    work = product(1e6, 1, 1, kind="depthwise", taps=9, groups=64)
    work = replace(work, read=np.zeros((1, 1)), written=np.zeros((1, 1)))
    rate = target.peak["fp32"] * 1e9 * target.constants["depthwise"]
    assert seconds("nvidia-gpu", work, overhead_us=0.0) == pytest.approx(float(work.macs[0, 0]) / rate, rel=1e-6)
    fast = target.model_copy(update={"peak": {**target.peak, "fp16": 10 * target.peak["fp16"]}, "overhead_us": 0.0})
    assert cost_model(fast).latency(work)[0, 0] == pytest.approx(seconds("nvidia-gpu", work, overhead_us=0.0))


def test_plans_together_are_plans_one_by_one(make_work: MakeWork) -> None:
    rows = [product(196, n, 96) for n in (32, 40, 64)]
    varying = ("groups", "m", "n", "k", "read", "written", "weights", "elements", "channels", "bytes")
    joined: dict[str, Any] = {name: np.concatenate([getattr(row, name) for row in rows]) for name in varying}
    both = replace(rows[0], **joined)
    model = cost_model(load_target("mobile-gpu"))
    alone = [float(model.latency(row)[0, 0]) for row in rows]
    assert model.latency(both)[:, 0] == pytest.approx(alone)


def test_memory_bounds_what_has_no_product() -> None:
    target = load_target("mobile-gpu")
    size = 64e6
    work = replace(product(0, 0, 0, kind="movement"), read=np.array([[size]]), written=np.array([[size]]))
    least = 2 * size / (target.memory["DRAM"].bandwidth_gbs * 1e9)
    assert seconds("mobile-gpu", work) > least


def attention(rows: int) -> Work:
    """Scores of one head, scaled, their softmax, and the product with the values."""
    size = 2.0 * rows * rows
    deep = 2.0 * rows * 64
    row = {
        "groups": [1, 1, 1, 1], "m": [rows, 0, 0, rows], "n": [rows, 0, 0, 64], "k": [64, 0, 0, rows],
        "read": [2 * deep, size, size, size + deep], "written": [size, size, size, deep], "weights": [0, 0, 0, 0],
        "elements": [0, size / 2, size / 2, 0],
    }  # fmt: skip
    return Work(
        kind=np.array(["matmul", "elementwise", "softmax", "matmul"]),
        op=np.array(["MatMul", "Mul", "Softmax", "MatMul"]),
        itemsize=np.full(4, 2.0), taps=np.ones(4), stride=np.ones(4),
        **{name: np.array([values], float) for name, values in row.items()},
        source=np.array([-1, -1, 0, 1, 2, -1]), sink=np.array([0, 0, 1, 2, 3, 3]), channels=np.ones((1, 6)),
        bytes=np.array([[deep, deep, size, size, size, deep]]),
    )  # fmt: skip


def test_scores_of_attention_move_no_bytes() -> None:
    work = attention(512)
    fused = without_scores(work)
    assert list(fused.kind) == ["matmul", "free", "free", "matmul"]
    assert fused.read.tolist() == [[131072.0, 524288.0, 524288.0, 65536.0]]
    assert fused.written.tolist() == [[0.0, 524288.0, 524288.0, 65536.0]]
    assert fused.macs.tolist() == work.macs.tolist()


def test_scores_that_someone_else_reads_are_written() -> None:
    work = attention(512)
    watched = replace(
        work, source=np.append(work.source, 2), sink=np.append(work.sink, 1), channels=np.ones((1, 7)),
        bytes=np.append(work.bytes, [[1.0]], axis=1),
    )  # fmt: skip
    assert without_scores(watched) is watched
    weights = replace(
        work, source=work.source[1:], sink=work.sink[1:], bytes=work.bytes[:, 1:], channels=np.ones((1, 5))
    )
    assert without_scores(weights) is weights  # one factor of the first product is a constant


def test_attention_costs_less_where_the_runtime_has_a_kernel_for_it() -> None:
    times = []
    for fused in (0, 1):
        target = load_target("nvidia-gpu")
        model = cost_model(target.model_copy(update={"layout": {**target.layout, "attention": fused}}))
        times.append(float(model.latency(attention(2048)).sum()))
    assert times[1] < 0.6 * times[0]


def test_a_start_follows_the_clock() -> None:
    small = product(8, 8, 8)
    one = seconds("mobile-gpu", small, constants={"launch_cycles": 0.0})
    slow = seconds("mobile-gpu", small, constants={"launch_cycles": 1e6})
    assert slow - one == pytest.approx(1e6 / 0.67e9)


@pytest.mark.parametrize("name", ["a100", "rtx-3090", "jetson-orin-nano"])
def test_two_of_four_halves_the_arithmetic(name: str) -> None:
    """A product that its arithmetic decides takes half as long with 2:4 weights; t4 has no such unit."""
    target = load_target(name)
    dense = product(1 << 16, 4096, 4096, kind="matmul")
    sparse = replace(dense, zeros=np.array(["2:4"]))
    model = cost_model(target)
    start = model.latency(product(1, 8, 8, kind="matmul"))[0, 0]
    long, short = (cost_model(target).latency(work)[0, 0] for work in (dense, sparse))
    assert long / short == pytest.approx(2.0, rel=0.1)
    assert short > start
    other = load_target("t4")
    assert cost_model(other).latency(sparse) == cost_model(other).latency(dense)
    wrong = replace(dense, zeros=np.array(["1:4"]))
    assert cost_model(target).latency(wrong) == cost_model(target).latency(dense)


def test_weights_of_a_vector_are_read_packed() -> None:
    """fp16: two of four and two bits for the place of each: 0.5 + 1/16."""
    target = load_target("a100")
    dense = replace(product(1, 8192, 8192, kind="matmul"), weights=np.array([[2.0 * 8192 * 8192]]))
    sparse = replace(dense, zeros=np.array(["2:4"]))
    model: Any = cost_model(target)
    one, other = (model.transfer_seconds(work)[0, 0] for work in (dense, sparse))
    assert other / one == pytest.approx(0.5625, rel=0.02)
