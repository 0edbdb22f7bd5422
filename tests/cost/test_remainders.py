"""What a plan without whole branches costs is what the model that it leaves costs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sketch import Sketch

from hwpass.cost.prediction import METRICS, Cost
from hwpass.cost_models import load_target
from hwpass.coupling.branches import branches
from hwpass.coupling.groups import Coupling, couple
from hwpass.model.model import Model
from hwpass.surgery.cut import prune

TARGETS = ["mobile-cpu", "server-cpu", "server-cpu-avx2"]


def stream(ending: str) -> Coupling:
    """Three residual blocks of 16 channels, each after a sum that keeps it from being fused into what is before."""
    s = Sketch(seed=3)
    h = s.conv(s.input(["N", 3, 8, 8]), 16, 3, 3)
    h = s.op("Add", h, s.op("Sigmoid", h))
    for _ in range(3):
        b = s.conv(s.op("Relu", s.conv(h, 24, 16)), 16, 24, 3, bias=ending != "bare")
        if ending == "norm":
            b = s.batch_norm(b, 16)
        h = s.op("Add", h, b)
        h = s.op("Relu", h) if ending == "relu" else h
    s.output(s.conv(h, 5, 16))
    return couple(Model.load(s.model()))


def gated() -> Coupling:
    """Squeeze-and-excitation: without the squeezed channels the gate is a constant."""
    s = Sketch(seed=4)
    h = s.conv(s.input(["N", 3, 8, 8]), 16, 3, 3, bias=True)
    for _ in range(2):
        squeezed = s.op("Relu", s.conv(s.op("GlobalAveragePool", h), 4, 16, bias=True))
        h = s.op("Mul", h, s.op("Sigmoid", s.conv(squeezed, 16, 4, bias=True)))
        h = s.op("Relu", s.conv(h, 16, 16, 3, bias=True))
    s.output(s.conv(h, 5, 16))
    return couple(Model.load(s.model()))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("ending", ["bare", "bias", "relu", "norm", "gate"])
def test_a_plan_without_branches_costs_what_its_model_costs(ending: str, name: str) -> None:
    """Up to what a runtime can fuse once a branch is out of the way: then the model is cheaper than predicted."""
    coupling = gated() if ending == "gate" else stream(ending)
    target = load_target(name)
    cost = Cost(coupling, target)
    free = [g for g, branch in enumerate(branches(coupling)) if branch is not None]
    assert len(free) >= 2
    for count in (1, len(free)):
        for groups in combinations(free, count):
            widths = cost.dense.copy()
            widths[list(groups)] = 0
            keep = np.ones(int(coupling.component.max()) + 1, bool)
            keep[np.concatenate([coupling.groups[g].components for g in groups])] = False
            real = Cost(couple(prune(coupling, keep).model), target).base
            found = {m: float(v[0]) for m, v in cost(widths[None, :]).items()}
            assert found["macs"] == real["macs"]
            for metric in METRICS:
                assert 0.99 * real[metric] <= found[metric] <= 1.12 * real[metric], (groups, metric)


def test_the_dense_model_costs_the_same_with_and_without_remainders() -> None:
    for ending in ("bare", "norm"):
        coupling = stream(ending)
        for name in TARGETS:
            cost = Cost(coupling, load_target(name))
            work = cost.work(cost.dense)
            assert cost.base["latency"] == pytest.approx(float(cost.model.latency(work).sum()))
            assert cost.base["energy"] == pytest.approx(float(cost.model.energy(work).sum()))
            memory = cost.kernels.live.peak(cost.kernels.values(cost.dense[None, :]))[0]
            assert cost.base["memory"] == pytest.approx(memory + cost.base["size"])
