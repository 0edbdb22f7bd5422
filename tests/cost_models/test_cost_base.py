"""What all cost models share: memory levels, energy, number formats, the registry."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hwpass.cost_models import CostModel, cost_model, model_names, parse_target, register
from hwpass.cost_models.work import Floats, Work

MakeWork = Callable[..., Work]


def test_bytes_beyond_a_cache_come_from_the_next_level(plain: str) -> None:
    model = cost_model(parse_target(plain))
    mib = 2.0**20  # the cache of the target
    cost = model.per_byte(np.array([0.5, 1.0, 1.5, 2.0, 9.0]) * mib, np.array([1.0, 3.0]))
    # share found in the cache: min(1, 2 - S/C) = 1, 1, 0.5, 0, 0
    assert cost == pytest.approx([1, 1, 2, 3, 3])


def test_moving_more_bytes_never_costs_less(plain: str) -> None:
    model = cost_model(
        parse_target(plain.replace("bandwidth_gbs = 1e12\nbyte_pj = 100", "bandwidth_gbs = 5\nbyte_pj = 9"))
    )
    size = np.linspace(1, 4 * 2.0**20, 500)
    assert np.all(np.diff(model.memory_seconds(size, size)) > 0)


def test_energy_is_macs_and_bytes_and_static_power(plain: str, make_work: MakeWork) -> None:
    model = cost_model(parse_target(plain))
    # 1000 x 8 x 32 = 256,000 MACs at 3 pJ = 768 nJ; 1,000 bytes of activations and 500 of constants from the
    # cache at 1 pJ = 1.5 nJ; 256,000 MACs / 10 GMAC/s + 1 us = 26.6 us at 2 W = 53.2 uJ.
    work = make_work([{"kind": "conv", "m": 1000, "n": 32, "k": 8, "read": 600, "written": 400, "weights": 500}])
    work_energy = model.energy(work)[0, 0]
    conversion = model.latency(work)[0, 0] - 26.6e-6  # the output leaves the blocked layout
    assert work_energy == pytest.approx(768e-9 + 1.5e-9 + 2 * (26.6e-6 + conversion))


def test_constants_that_do_not_fit_are_read_from_memory(plain: str, make_work: MakeWork) -> None:
    model = cost_model(parse_target(plain))
    small = make_work([{"kind": "matmul", "m": 1, "n": 16, "k": 16, "weights": 1024}])
    large = make_work(
        [
            {"kind": "matmul", "m": 1, "n": 16, "k": 16, "weights": 1024},
            {"kind": "matmul", "m": 1, "n": 1024, "k": 1024, "weights": 4 * 2.0**20},
        ]
    )
    # 1,024 bytes at 1 pJ, or at 100 pJ once the model's 4 MiB push them out of the 1 MiB cache.
    assert model.traffic_energy(small)[0, 0] == pytest.approx(1024e-12)
    assert model.traffic_energy(large)[0, 0] == pytest.approx(102400e-12)


def test_a_missing_dtype_takes_the_next_wider_peak(plain: str, make_work: MakeWork) -> None:
    text = plain.replace("[peak]", "[peak]\nint8 = 40")
    work = make_work([{"kind": "conv", "itemsize": size} for size in (1, 2, 4, 8)])
    # int8 given; fp16 widens to fp32; fp64 has no wider one and takes the widest.
    assert cost_model(parse_target(text)).peak(work) == pytest.approx([40e9, 10e9, 10e9, 10e9])


def test_a_new_kind_of_hardware_is_one_registered_class(plain: str, make_work: MakeWork) -> None:
    @register
    class Abacus(CostModel):
        def latency(self, work: Work) -> Floats:
            return work.macs

    try:
        text = plain.split("[layout]")[0] + plain[plain.index("[energy]") :]
        text = text.replace("CachedSimdCpu", "Abacus").replace('layout = "test"\nconstants = "test"\n', "")
        assert "Abacus" in model_names()
        work = make_work([{"kind": "matmul", "m": 2, "n": 3, "k": 4}])
        assert cost_model(parse_target(text)).latency(work) == pytest.approx(24)
    finally:
        from hwpass.cost_models import base

        del base._CLASSES["Abacus"]
