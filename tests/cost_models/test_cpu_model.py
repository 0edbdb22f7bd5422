"""The CPU model: numbers derived by hand, the staircases, and what must hold for any constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest

from hwpass.cost_models import cost_model, load_target, parse_target
from hwpass.cost_models.work import Work

MakeWork = Callable[..., Work]
SHIPPED = ("server-cpu", "server-cpu-avx2", "mobile-cpu")
PEAK = 10e9  # of the round target, MAC/s


def with_constants(text: str, **values: float) -> str:
    for key, value in values.items():
        line = next(row for row in text.splitlines() if row.startswith(f"{key} ="))
        text = text.replace(line, f"{key} = {value}")
    return text


def kernel_us(text: str, make_work: MakeWork, **kernel: object) -> float:
    """Microseconds of one kernel without overhead and conversions."""
    model = cost_model(parse_target(with_constants(text, overhead_us=0)))
    return float(model.latency(make_work([kernel], [(-1, 0, 1.0)]))[0, 0] * 1e6)


def test_a_blocked_convolution_pads_both_channel_counts(plain: str, make_work: MakeWork) -> None:
    # m=100, 3x3; 12 input channels pad to 16, 20 output channels to 3 blocks of 8:
    # 100 x 9 x 16 x 24 = 345,600 MACs / 10 GMAC/s = 34.56 us
    assert kernel_us(plain, make_work, kind="conv", m=100, n=20, k=12, taps=9) == pytest.approx(34.56)
    assert kernel_us(plain, make_work, kind="conv", m=100, n=24, k=16, taps=9) == pytest.approx(34.56)


def test_a_pass_with_few_blocks_is_bound_by_latency(plain: str, make_work: MakeWork) -> None:
    # Passes of 4 blocks, floor 2: r blocks take (r^4 + 2^4)^(1/4), scaled by 4 / (4^4 + 2^4)^(1/4) = 0.98496.
    # 8 output channels (r=1): 17^(1/4) x 0.98496 = 2.00000 blocks; m=100, k=16: 100 x 16 x 8 x 2 MACs.
    text = with_constants(plain, set_floor=2.0)
    expected = (17**0.25 * 4 / 272**0.25) * 100 * 16 * 8 / PEAK * 1e6
    assert expected == pytest.approx(2.56, rel=1e-3)
    assert kernel_us(text, make_work, kind="conv", m=100, n=8, k=16) == pytest.approx(expected)
    # 32 channels are one full pass: 4 blocks' worth, no penalty: 100 x 16 x 32 = 51,200 MACs.
    assert kernel_us(text, make_work, kind="conv", m=100, n=32, k=16) == pytest.approx(5.12)


def test_outside_the_layout_the_tile_pads_rows_and_columns(plain: str, make_work: MakeWork) -> None:
    # 9 input channels: im2col and a matrix product. 20 rows pad to 24 (tile: 6), 100 columns to 112 (16):
    # 24 x 112 x 9 = 24,192 MACs = 2.4192 us; packing 100 x 9 elements at 1 ns = 0.9 us.
    text = with_constants(plain, pack_ns=1)
    assert kernel_us(text, make_work, kind="conv", m=100, n=20, k=9) == pytest.approx(2.4192 + 0.9)
    # 3x3 gathers too: depth 81; 900 ns x 9 packed, 0.5 ns x 8,100 gathered, 2 ns for each of 10 rows x 81.
    text = with_constants(text, im2col_ns=0.5, im2col_row_ns=2)
    expected = 24 * 112 * 81 / 1e4 + 8.1 + 4.05 + 1.62
    assert kernel_us(text, make_work, kind="conv", m=100, n=20, k=9, taps=9) == pytest.approx(expected)


def test_depthwise_is_padded_and_linear_in_its_window(plain: str, make_work: MakeWork) -> None:
    text = with_constants(plain, depthwise_mac_ns=0.1, depthwise_output_ns=0.5, depthwise_channel_ns=10)
    # 12 channels pad to 16; each 10 ns + 100 x (0.5 + 9 x 0.1) ns = 150 ns
    assert kernel_us(text, make_work, kind="depthwise", m=100, groups=12, n=1, k=1, taps=9) == pytest.approx(2.4)


def test_a_matrix_product_pads_columns_and_packs_what_is_no_constant(plain: str, make_work: MakeWork) -> None:
    text = with_constants(plain, pack_ns=1)
    # 7 x 32 (20 columns padded) x 50 = 11,200 MACs = 1.12 us; the other operand is 50 x 20 elements
    assert kernel_us(text, make_work, kind="matmul", m=7, n=20, k=50, weights=4) == pytest.approx(1.12, rel=1e-3)
    assert kernel_us(text, make_work, kind="matmul", m=7, n=20, k=50) == pytest.approx(2.12)


def test_memory_bounds_a_kernel_and_shows_through_it(plain: str, make_work: MakeWork) -> None:
    text = with_constants(plain, bandwidth_gbs=1.0)
    # 1 GB/s: 10,000 bytes take 10 us, 2.56 us of arithmetic hide behind them.
    kernel = {"kind": "conv", "m": 100, "n": 16, "k": 16, "read": 6000, "written": 4000}
    text = text.replace("conversion_ns = 0", "conversion_ns = 0")
    model = cost_model(parse_target(with_constants(text, overhead_us=0)))
    none = np.zeros((1, 1), bool)
    work = make_work([kernel])
    assert model.kernel_seconds(work, ~none, ~none)[0, 0] == pytest.approx(10e-6)  # type: ignore[attr-defined]
    model = cost_model(parse_target(with_constants(text, overhead_us=0, exposed=0.9)))
    # 2.56 + 0.9 x 10 = 11.56 us
    assert model.kernel_seconds(work, ~none, ~none)[0, 0] == pytest.approx(11.56e-6)  # type: ignore[attr-defined]


def test_winograd_is_for_dense_3x3_of_stride_1(plain: str, make_work: MakeWork) -> None:
    text = with_constants(plain, winograd=2)
    kernel = {"kind": "conv", "m": 100, "n": 32, "k": 16}
    assert kernel_us(text, make_work, **kernel, taps=9) == pytest.approx(
        kernel_us(plain, make_work, **kernel, taps=9) / 2
    )
    for other in ({"taps": 9, "stride": 4}, {"taps": 1}, {"taps": 25}):
        assert kernel_us(text, make_work, **kernel, **other) == kernel_us(plain, make_work, **kernel, **other)


def test_free_kernels_cost_nothing(plain: str, make_work: MakeWork) -> None:
    work = make_work([{"kind": "free", "read": 1e6, "written": 1e6}])
    assert cost_model(parse_target(plain)).latency(work)[0, 0] == 0


def test_operators_without_a_product_have_their_own_cost(plain: str, make_work: MakeWork) -> None:
    text = plain.replace("[energy]", "[op_ns]\nTanh = 2\ndefault = 1\n[energy]", 1).replace(
        'peak = "test"', 'peak = "test"\nop_ns = "test"'
    )
    kernels = [{"kind": "elementwise", "op": op, "written": 4000} for op in ("Tanh", "Abs")]
    seconds = cost_model(parse_target(text)).latency(make_work(kernels))[0]
    # 1,000 elements at 2 ns and at 1 ns, 1 us of overhead each, no time for memory
    assert seconds == pytest.approx([3e-6, 2e-6], rel=1e-5)


@pytest.mark.parametrize("name", ["server-cpu", "server-cpu-avx2"])
@pytest.mark.parametrize("taps", [1, 9])
def test_unaligned_channels_are_slower(name: str, taps: int, make_work: MakeWork) -> None:
    """Measured on ONNX Runtime: chains of 63 channels run slower than chains of 64, with more arithmetic."""
    model = cost_model(load_target(name))

    def chain(c: int) -> float:
        size = 28 * 28 * 4 * c
        layer = {
            "kind": "conv",
            "m": 784,
            "n": c,
            "k": c,
            "taps": taps,
            "op": "Conv+Relu",
            "read": size,
            "written": size,
        }
        inner = {**layer, "weights": 4 * taps * c * c}
        edges = [(-1, 0, 64), *((i, i + 1, c) for i in range(3))]
        work = make_work([{**inner, "k": 64}, inner, inner, {**inner, "n": 64}], edges)
        return float(model.latency(work).sum())

    assert chain(63) > chain(64)
    assert chain(62) > chain(64)
    assert chain(47) > chain(48)
    assert chain(32) < chain(48) < chain(64)
    assert chain(60) == pytest.approx(chain(64), rel=5e-3)  # stored and computed as the same blocks: no gain


@pytest.mark.parametrize("name", SHIPPED)
def test_more_aligned_channels_never_cost_less(name: str, make_work: MakeWork) -> None:
    model = cost_model(load_target(name))
    widths = [float(c) for c in range(16, 513, 16)]
    for kind in ("conv", "matmul", "depthwise"):
        counts = {"groups": widths, "n": 1, "k": 1} if kind == "depthwise" else {"n": widths, "k": widths}
        size = [400 * c for c in widths]
        kernel = {
            "kind": kind,
            "m": 100,
            "read": size,
            "written": size,
            "weights": [c * c for c in widths],
            **counts,
        }
        assert np.all(np.diff(model.latency(make_work([kernel]))[:, 0]) > 0), kind


@pytest.mark.parametrize("name", SHIPPED)
def test_plans_together_are_plans_one_by_one(name: str, make_work: MakeWork) -> None:
    model = cost_model(load_target(name))
    rng = np.random.default_rng(0)
    width = [float(c) for c in rng.integers(3, 130, 20)]
    size = [100 * c for c in width]
    layer = {"m": 100, "written": size, "read": size, "op": "Conv+Relu"}
    work = make_work(
        [
            {**layer, "kind": "conv", "n": width, "k": 3, "taps": 9},
            {**layer, "kind": "depthwise", "groups": width, "n": 1, "k": 1, "taps": 9},
            {**layer, "kind": "conv", "n": width, "k": width},
            {**layer, "kind": "elementwise", "op": "Add"},
            {**layer, "kind": "pool", "op": "MaxPool"},
            {**layer, "kind": "matmul", "n": 10, "k": width, "weights": size, "op": "Gemm"},
        ],
        [(-1, 0, 3), (0, 1, 1), (1, 2, 1), (2, 3, 1), (1, 3, 1), (3, 4, 1), (4, 5, 1)],
    )
    channels = np.repeat(np.array(width)[:, None], 7, axis=1)
    channels[:, 0] = 3
    work = replace(work, channels=channels, bytes=channels * 100)
    together = model.latency(work)
    energy = model.energy(work)
    assert together.shape == energy.shape == (20, 6)
    assert np.all(np.isfinite(together))
    assert np.all(together > 0)
    assert np.all(energy > 0)
    for plan in range(20):
        rows = {f.name: getattr(work, f.name) for f in fields(work) if f.init}
        single = Work(**{k: v[plan : plan + 1] if v.ndim == 2 else v for k, v in rows.items()})
        assert model.latency(single)[0] == pytest.approx(together[plan])
        assert model.energy(single)[0] == pytest.approx(energy[plan])


def test_rounding_errors_in_extents_do_not_leave_the_layout(plain: str, make_work: MakeWork) -> None:
    exact = kernel_us(plain, make_work, kind="conv", m=100, n=96, k=96)
    assert kernel_us(plain, make_work, kind="conv", m=100, n=96 - 1e-12, k=96 + 1e-12) == pytest.approx(exact)
