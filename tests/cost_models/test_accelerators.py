"""Systolic arrays, block NPUs and dataflow chips: numbers derived by hand, their stairs, and what always holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwpass.cost_models import cost_model, load_target
from hwpass.cost_models.accelerator import Accelerator
from hwpass.cost_models.dataflow import DataflowArray
from hwpass.cost_models.npu import BlockNpu
from hwpass.cost_models.systolic import SystolicArray
from hwpass.cost_models.target import Target
from hwpass.cost_models.work import Work
from hwpass.errors import InputError

MakeWork = Callable[..., Work]
TARGETS = (
    "edge-tpu",
    "coral-usb",
    "tpu",
    "mobile-npu",
    "rk3588-npu",
    "hailo-8",
    "ethos-u",
    "ethos-u55-256",
    "ethos-u65",
)


def changed(name: str, **tables: dict[str, Any]) -> Target:
    """A shipped target with other figures in some of its tables."""
    target = load_target(name)
    return target.model_copy(update={key: getattr(target, key) | value for key, value in tables.items()})


def conv(c: int, n: int, m: int = 1024, taps: int = 9, itemsize: int = 1) -> dict[str, object]:
    """One convolution from c to n channels."""
    sizes = {"read": m * c * itemsize, "written": m * n * itemsize, "weights": c * n * taps * itemsize}
    return {"kind": "conv", "m": m, "n": n, "k": c, "taps": taps, "itemsize": itemsize, **sizes}


def test_an_array_computes_in_folds(make_work: MakeWork) -> None:
    layout = {"rows": 32, "columns": 32, "overlapped": 0, "vector_lanes": 0}
    model = SystolicArray(changed("edge-tpu", layout=layout))
    # 72 x 40 of depth and outputs are 3 x 2 folds of 32 (fill) + 100 + 62 (stream and drain) = 194 cycles.
    assert model.fold_cycles(make_work([conv(8, 40, m=100)]))[0, 0] == 6 * 194
    assert model.fold_cycles(make_work([conv(64, 32, m=100, taps=1)]))[0, 0] == 2 * 194
    assert model.fold_cycles(make_work([conv(64, 33, m=100, taps=1)]))[0, 0] == 4 * 194
    # With outputs in the array: ceil(100/32) x ceil(40/32) folds of 72 + 62 cycles.
    model = SystolicArray(changed("edge-tpu", layout=layout | {"output_stationary": 1}))
    assert model.fold_cycles(make_work([conv(8, 40, m=100)]))[0, 0] == 8 * 134
    # Loaded ahead: 6 folds of max(100, 32), fill and drain once.
    model = SystolicArray(changed("edge-tpu", layout=layout | {"overlapped": 1}))
    assert model.fold_cycles(make_work([conv(8, 40, m=100)]))[0, 0] == 6 * 100 + 94


def test_constants_beyond_the_chip_are_streamed(make_work: MakeWork) -> None:
    model = SystolicArray(load_target("edge-tpu"))
    kept = 7680 * 1024
    inside = make_work([{"kind": "matmul", "m": 1, "n": 1, "k": 1, "weights": kept}])
    assert model.streamed_seconds(inside)[0, 0] == 0
    # 4 MB too many at 0.4 GB/s take 10 ms, shared by bytes: three quarters of them are the first kernel's.
    beyond = kept + 4e6
    parts = [{"kind": "matmul", "m": 1, "n": 1, "k": 1, "weights": beyond * share} for share in (0.75, 0.25)]
    assert model.streamed_seconds(make_work(parts))[0] == pytest.approx([7.5e-3, 2.5e-3])


def test_a_depthwise_convolution_takes_the_faster_of_array_and_vector_unit(make_work: MakeWork) -> None:
    kernel = {"kind": "depthwise", "m": 4096, "groups": 64, "n": 1, "k": 1, "taps": 9}
    cycle = 4096 / 2000e9
    slow = SystolicArray(changed("edge-tpu", layout={"vector_lanes": 0})).product_seconds(make_work([kernel]))[0, 0]
    fast = SystolicArray(load_target("edge-tpu")).product_seconds(make_work([kernel]))[0, 0]
    assert fast == pytest.approx(4096 * 64 * 9 / 64 * cycle)  # 64 multiply-accumulates a cycle
    assert slow == pytest.approx(64 * (4096 + 190) * cycle)  # one group at a time
    assert fast < slow


def test_inputs_and_outputs_cross_to_the_host(make_work: MakeWork) -> None:
    work = make_work(
        [{"kind": "elementwise", "written": 100}, {"kind": "elementwise", "written": 50}], [(-1, 0, 3.0), (0, 1, 3.0)]
    )
    count, moved = Accelerator.crossing(work)
    assert count.tolist() == [[1, 1]]
    assert moved[0, 1] == 50
    assert moved[0, 0] == work.bytes[0, 0]


def test_ethos_takes_the_order_that_pads_less(make_work: MakeWork) -> None:
    model = BlockNpu(load_target("ethos-u"))
    positions, outputs = 1024, 64

    def depth(c: int, taps: int) -> float:
        return float(model.padded_macs(make_work([conv(c, outputs, positions, taps)]))[0, 0] / positions / outputs)

    assert depth(8, 9) == 8 * 12  # part kernel: 8 channels, 12 taps; depth first would be 32 x 9
    assert depth(9, 9) == 16 * 12
    assert depth(17, 9) == 32 * 12  # 24 x 12 equals 32 x 9: part kernel, which then reads blocks of 16
    assert depth(25, 9) == 32 * 9  # depth first
    assert depth(67, 9) == 80 * 12
    assert depth(68, 9) == 96 * 9  # equal again, and rounded the other way
    assert depth(33, 9) == 64 * 9
    assert depth(33, 1) == 64


def test_stairs_of_ethos_lie_where_the_compiler_of_arm_has_them(make_work: MakeWork) -> None:
    """Cycles of ethos-u-vela 5.2.0 for 3x3 convolutions of 32 x 32 positions from 64 channels."""
    model = BlockNpu(load_target("ethos-u"))
    simulated = {8: 39204, 9: 82120, 16: 85124, 17: 122084, 24: 122084, 25: 158948, 64: 306404, 65: 343268, 128: 601316}
    for n, cycles in simulated.items():
        work = make_work([conv(64, n)])
        seconds = float((model.unit_seconds(work) + model.busy(work))[0, 0])
        assert seconds * 0.5e9 == pytest.approx(cycles, rel=0.12)


def test_one_channel_more_is_one_brick_more(make_work: MakeWork) -> None:
    model = BlockNpu(load_target("ethos-u"))
    # 1,024 positions: 16 + 16 channels are stored, with 17 outputs 16 + 32.
    assert model.stored_bytes(make_work([conv(16, 16)]))[0, 0] == 1024 * 32
    assert model.stored_bytes(make_work([conv(16, 17)]))[0, 0] == 1024 * 48


def test_a_network_that_grows_past_the_memory_of_the_chip_changes_contexts(make_work: MakeWork) -> None:
    model = DataflowArray(changed("hailo-8", layout={"memory_kib": 1000}))
    fits = make_work([{"kind": "matmul", "m": 1, "n": 1, "k": 1, "weights": 1000 * 1024 - 64}])
    assert model.context_seconds(fits).sum() == 0
    beyond = make_work([{"kind": "matmul", "m": 1, "n": 1, "k": 1, "weights": 1000 * 1024 + 64}])
    # Two contexts at 1.27 ms, and 1 MB at 4.3 GB/s.
    assert model.context_seconds(beyond).sum() == pytest.approx(2 * 1.27e-3 + (1000 * 1024 + 64) / 4.3e9)


def test_what_waits_for_a_far_reader_takes_memory(make_work: MakeWork) -> None:
    """A shortcut over windows waits on the chip until they are done; the more of them, the more of it."""
    model = DataflowArray(load_target("hailo-8"))
    chain = [(i - 1, i, 8.0) for i in range(1, 5)]
    kernels = [conv(8, 8)] * 4 + [{"kind": "elementwise", "written": 8192}]
    without, near, far = (
        model.held_bytes(make_work(kernels, [*chain, *more])).sum() for more in ([], [(2, 4, 8.0)], [(0, 4, 8.0)])
    )
    assert without < near < far


@pytest.mark.parametrize("name", TARGETS)
def test_shipped_targets_predict_something_sensible(name: str, make_work: MakeWork) -> None:
    model = cost_model(load_target(name))
    kernels = [conv(3, 32), conv(32, 64), {"kind": "depthwise", "m": 1024, "groups": 64, "n": 1, "k": 1, "taps": 9},
               {"kind": "softmax", "read": 1000, "written": 1000}, {"kind": "free", "read": 1e6}]  # fmt: skip
    work = make_work(kernels, [(-1, 0, 3.0), (0, 1, 32.0), (1, 2, 64.0), (2, 3, 1.0), (3, 4, 1.0)])
    seconds, joules = model.latency(work), model.energy(work)
    assert seconds.shape == joules.shape == (1, 5)
    for values, busy in ((seconds, 4), (joules, 3)):
        assert np.all(np.isfinite(values))
        assert np.all(values[0, :busy] > 0)


@pytest.mark.parametrize("name", TARGETS)
@given(c=st.integers(1, 300), n=st.integers(1, 300), more=st.integers(1, 64))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_more_outputs_never_cost_less(name: str, c: int, n: int, more: int, make_work: MakeWork) -> None:
    model = cost_model(load_target(name))
    kernels = [[conv(c, outputs)] for outputs in (n, n + more)]
    less, greater = (float(model.latency(make_work(k, [(-1, 0, 3.0)])).sum()) for k in kernels)
    assert less <= greater * (1 + 1e-12)


@pytest.mark.parametrize(("name", "step"), [("mobile-npu", 32), ("rk3588-npu", 32), ("ethos-u", 8), ("tpu", 128)])
def test_arithmetic_rises_at_the_blocks_and_nowhere_else(name: str, step: int, make_work: MakeWork) -> None:
    model = cost_model(load_target(name))
    seconds = model.product_seconds  # type: ignore[attr-defined]
    widths = list(range(1, 3 * step + 1))
    values = np.array([float(seconds(make_work([conv(256, n, m=4096)]))[0, 0]) for n in widths])
    rises = [n for n, before, after in zip(widths[1:], values, values[1:], strict=False) if after > before * (1 + 1e-9)]
    # Four arrays of a TPU share the folds: one more column of them costs only when a round of four is full.
    assert all((n - 1) % step == 0 for n in rises)
    assert rises


def test_wider_formats_take_longer(make_work: MakeWork) -> None:
    model = cost_model(load_target("mobile-npu"))
    narrow, wide = (model.latency(make_work([conv(128, 128, m=1 << 18, itemsize=size)]))[0, 0] for size in (1, 2))
    assert 1.5 < wide / narrow < 5


def test_a_wrong_key_is_named() -> None:
    with pytest.raises(InputError, match=r"layout\.rows"):
        SystolicArray(changed("edge-tpu", layout={"rows": 0}))
    with pytest.raises(InputError, match=r"constants\.colour: no such key"):
        BlockNpu(changed("ethos-u", constants={"colour": 1.0}))
