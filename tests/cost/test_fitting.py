"""A device is fitted from whole networks: known factors come back, unknown ones keep to the prior."""

from __future__ import annotations

import numpy as np
import pytest

from hwpass.cost.fitting import PRIORS, fit_target, scaled
from hwpass.cost_models import Target, cost_model, load_target
from hwpass.cost_models.work import Work
from hwpass.errors import InputError


def network(kind: str, m: float, n: float, k: float, count: int, size: float) -> Work:
    """`count` equal kernels that read and write `size` bytes each."""
    ones = np.ones((1, count))
    return Work(
        kind=np.array([kind] * count), itemsize=np.full(count, 4.0), taps=np.ones(count), stride=np.ones(count),
        groups=ones, m=ones * m, n=ones * n, k=ones * k, read=ones * size, written=ones * size,
        weights=ones * n * k * 4, elements=ones * 0, source=np.zeros(0, np.int64), sink=np.zeros(0, np.int64),
        channels=np.zeros((1, 0)), bytes=np.zeros((1, 0)),
    )  # fmt: skip


WORKS = [
    network("conv", 784, 256, 256, 6, 8e5),
    network("elementwise", 0, 0, 0, 10, 3e7),
    network("conv", 16, 8, 8, 200, 500),
    network("conv", 196, 512, 512, 4, 4e5),
    network("matmul", 1, 4096, 4096, 3, 2e4),
    network("conv", 49, 64, 64, 60, 1e4),
]


def measured(target: Target, works: list[Work] = WORKS) -> list[float]:
    return [float(cost_model(target).latency(work).sum()) for work in works]


@pytest.mark.parametrize("name", ["server-cpu", "mobile-cpu"])
def test_factors_come_back(name: str) -> None:
    base = load_target(name)
    truth = {"rate": 0.5, "bandwidth": 0.7, "overhead": 2.0, "products": 1.0}
    found = fit_target(base, WORKS, measured(scaled(base, truth)))
    assert found.factors["rate"].value == pytest.approx(0.5, rel=0.15)
    assert found.error < 0.08
    assert np.abs(found.errors).max() < 0.05


def test_a_scale_alone_needs_one_network() -> None:
    base = load_target("server-cpu")
    found = fit_target(base, WORKS[:1], [3 * measured(base)[0]])
    assert found.left_out.size == 0
    assert measured(found.target, WORKS[:1])[0] == pytest.approx(3 * measured(base)[0], rel=0.02)
    assert {"bandwidth", "overhead"} <= set(found.undetermined)
    assert set(found.factors) == set(PRIORS)


def test_one_bad_measurement_does_not_move_the_rest() -> None:
    base = load_target("server-cpu")
    seconds = measured(base)
    seconds[3] *= 3
    found = fit_target(base, WORKS, seconds, leave_out=False)
    rest = np.delete(np.abs(found.errors), 3)
    assert np.median(rest) < 0.1


def test_sources_say_how_the_figures_were_fitted() -> None:
    base = load_target("server-cpu")
    found = fit_target(base, WORKS, [2 * each for each in measured(base)]).target
    assert found.source("peak").startswith("fitted to 6 networks: ")
    assert "of server-cpu" in found.source("memory.L2.bandwidth_gbs")
    assert found.uncertainty["network"] > 0
    Target.model_validate(found.model_dump(exclude_unset=True, exclude_none=True))  # every figure has its source


@pytest.mark.parametrize("seconds", [[], [0.0], [float("nan")], [1.0, 2.0]])
def test_nothing_to_fit_to_is_said(seconds: list[float]) -> None:
    with pytest.raises(InputError, match=r"^fit: "):
        fit_target(load_target("server-cpu"), WORKS[:1], seconds)
