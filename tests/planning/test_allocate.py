"""Widths under budgets: alignment by hand, optima of tiny problems, and bounds that always hold."""

from __future__ import annotations

from functools import cache
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sketch import Sketch

from hwpass.cost.prediction import Cost
from hwpass.cost_models import load_target
from hwpass.coupling.groups import Coupling, couple
from hwpass.model.model import Model
from hwpass.planning.allocation import Allocation, Allocator, choices, steps
from hwpass.planning.score import importance
from hwpass.planning.share_curves import loss_curves


@cache
def chain(*widths: int) -> Coupling:
    """3 -> widths -> 2 on 4 x 4."""
    s = Sketch(seed=sum(widths))
    h, before = s.input([1, 3, 4, 4]), 3
    for width in (*widths, 2):
        h, before = s.conv(h, width, before), width
    s.output(h)
    return couple(Model.load(s.model()))


class Macs:
    """A cost of multiply-accumulates alone; latency is the same number."""

    def __init__(self, coupling: Coupling) -> None:
        from hwpass.cost.kernels import Kernels

        self.kernels = Kernels(coupling, [])
        self.base = {m: float(v[0]) for m, v in self(self.kernels.dense[None, :], ("macs", "latency")).items()}

    def __call__(self, widths: Any, metrics: tuple[str, ...]) -> dict[str, Any]:
        total = self.kernels.work(widths).macs.sum(axis=1)
        return dict.fromkeys(metrics, total)


def problem(coupling: Coupling, share: float, align: int = 1, **more: Any) -> Allocator:
    cost = Macs(coupling)
    curves = loss_curves(coupling, importance(coupling, "l2"))
    limits = {"macs": share * cost.base["macs"]}
    return Allocator(coupling, cost, curves, limits, align=align, **more)  # type: ignore[arg-type]


def solved(coupling: Coupling, share: float, align: int = 1, **more: Any) -> tuple[Allocation, Allocator]:
    made = problem(coupling, share, align, **more)
    return made.run(), made


class Stairs(Macs):
    """As a runtime with blocks of eight: a layer of fewer channels takes as long as the whole."""

    def __call__(self, widths: Any, metrics: tuple[str, ...]) -> dict[str, Any]:
        found = super().__call__(widths, metrics)
        return {**found, "latency": np.where((widths < 8).any(axis=1), 1e12, found[metrics[0]])}


def test_widths_between_the_whole_and_the_narrowest_are_found_where_those_are_too_slow() -> None:
    coupling = chain(16, 16)
    cost = Stairs(coupling)
    curves = loss_curves(coupling, importance(coupling, "l2"))
    found = Allocator(coupling, cost, curves, {"macs": 0.5 * cost.base["macs"]}, align=1).run()  # type: ignore[arg-type]
    assert found.met
    assert found.widths.min() >= 8


def test_choices_by_hand() -> None:
    """Multiples of the step and the whole; halves of it for narrow groups; never below the least."""
    assert choices(64, 16, 1).tolist() == [16, 32, 48, 64]
    assert choices(40, 16, 1).tolist() == [8, 16, 24, 32, 40]
    assert choices(20, 16, 1).tolist() == [4, 8, 12, 16, 20]
    assert choices(5, 1, 1).tolist() == [1, 2, 3, 4, 5]
    assert choices(5, 1, 3).tolist() == [3, 4, 5]
    assert choices(3, 1, 8).tolist() == [3]


@given(st.integers(1, 300), st.sampled_from([1, 4, 8, 16]), st.integers(1, 40))
def test_choices_are_ascending_and_end_with_the_whole(width: int, step: int, least: int) -> None:
    found = choices(width, step, least)
    assert found[-1] == width
    assert (np.diff(found) > 0).all()
    assert found[0] >= min(least, width)


def test_a_channel_that_is_several_indices_takes_smaller_steps() -> None:
    """Align 8: plain channels go by 8; heads of 4 by 2; 8 groups of 3 by 8, as gcd(8, 3) = 1."""
    assert steps(chain(16), 8) == [8]
    s = Sketch()
    v = s.linear(s.input(["N", 5, 4]), 4, 32)
    heads = s.op("Transpose", s.op("Reshape", v, s.const([0, 5, 8, 4])), perm=[0, 2, 1, 3])
    back = s.op("Reshape", s.op("Transpose", heads, perm=[0, 2, 1, 3]), s.const([0, 5, 32]))
    s.output(s.linear(back, 32, 2))
    assert steps(couple(Model.load(s.model())), 8) == [2]
    s = Sketch()
    s.output(s.conv(s.conv(s.conv(s.input(["N", 3, 4, 4]), 24, 3), 24, 3, group=8), 2, 24))
    assert steps(couple(Model.load(s.model())), 8) == [8]


def test_a_loose_budget_changes_nothing() -> None:
    found, _ = solved(chain(6, 8), 1.0)
    assert found.widths.tolist() == [6, 8]
    assert found.met


def test_an_impossible_budget_takes_the_narrowest_and_says_so() -> None:
    found, made = solved(chain(6, 8), 0.01)
    assert not found.met
    assert found.widths.tolist() == [o[0] for o in made.options]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_small_problems_come_near_the_optimum(share: float) -> None:
    """Every plan of 8 x 8 widths tried: the loss is within 15 % of the best that meets the budget."""
    coupling = chain(8, 8)
    found, made = solved(coupling, share)
    every = np.asarray(list(product(range(1, 9), repeat=2)), np.int64)
    fits = made.excess(made.costs(every)) <= 1
    best = min(made.total_loss(w) for w in every[fits])
    assert found.met
    assert made.total_loss(found.widths) <= 1.15 * best + 1e-9


@settings(max_examples=25)
@given(st.lists(st.integers(2, 24), min_size=1, max_size=4), st.floats(0.15, 0.95), st.sampled_from([1, 4]))
def test_what_is_met_is_met(widths: list[int], share: float, align: int) -> None:
    coupling = chain(*widths)
    found, made = solved(coupling, share, align)
    cost = Macs(coupling)
    real = cost(found.widths[None, :].astype(float), ("macs",))["macs"][0]
    assert found.met == bool(real <= share * cost.base["macs"] * (1 + 1e-9))
    assert all(w in o for w, o in zip(found.widths, made.options, strict=True))
    narrowest = np.asarray([o[0] for o in made.options], np.int64)
    if made.excess(made.costs(narrowest[None, :]))[0] <= 1:
        assert found.met


@settings(max_examples=120)
@given(st.lists(st.sampled_from([16, 24, 48]), min_size=1, max_size=4), st.floats(0.1, 1.2))
def test_one_share_for_all_and_what_search_makes_of_it(widths: list[int], share: float) -> None:
    """No wider plan of one share meets the budget; local search keeps to it and loses nothing."""
    allocator = problem(chain(*widths), share)
    uniform = allocator.uniform()
    assert uniform.met
    whole = np.asarray([options[-1] for options in allocator.options])
    assert np.ptp(uniform.widths / whole) <= 1 / min(widths)
    wider = np.minimum(uniform.widths - -whole // 19, whole)
    assert (wider == uniform.widths).all() or allocator.excess(allocator.costs(wider[None]))[0] > 1
    improved = allocator.improved(uniform)
    assert improved.met
    assert allocator.total_loss(improved.widths) <= allocator.total_loss(uniform.widths)


def test_fixed_groups_stay_and_the_least_is_respected() -> None:
    found, _ = solved(chain(12, 12, 12), 0.5, fixed=[True, False, False], least=5)
    assert found.widths[0] == 12
    assert found.widths.min() >= 5
    assert found.met


def test_a_plan_is_never_predicted_slower() -> None:
    """A latency that rises as channels go: the dense model is the fastest, whatever the MACs budget wants."""
    coupling = chain(6, 6)

    class Backwards(Macs):
        def __call__(self, widths: Any, metrics: tuple[str, ...]) -> dict[str, Any]:
            return {m: super(Backwards, self).__call__(widths, (m,))[m] if m != "latency" else 1e6 - widths.sum(axis=1)
                    for m in metrics}  # fmt: skip

    cost = Backwards(coupling)
    curves = loss_curves(coupling, importance(coupling, "l2"))
    found = Allocator(coupling, cost, curves, {"macs": 0.5 * cost.base["macs"]}, align=1).run()  # type: ignore[arg-type]
    assert not found.met


def test_a_real_target() -> None:
    """Latency and size together, on the target's own alignment."""
    coupling = chain(64, 64, 64)
    target = load_target("server-cpu")
    cost = Cost(coupling, target)
    curves = loss_curves(coupling, importance(coupling, "l2"))
    limits = {"size": 0.6 * cost.base["size"], "latency": cost.base["latency"]}
    found = Allocator(coupling, cost, curves, limits, align=target.align).run()
    assert found.met
    assert found.costs["size"] <= limits["size"]
    assert all(w % 4 == 0 for w in found.widths)


def test_the_loss_of_a_width_is_read_from_the_curves_end() -> None:
    fake = SimpleNamespace(curves=[np.asarray([0.0, 1.0, 5.0])])
    assert [Allocator.loss(fake, 0, w) for w in (2, 1, 0)] == [0.0, 1.0, 5.0]  # type: ignore[arg-type]


def test_no_group_grows_beyond_what_is_left_of_it() -> None:
    coupling = chain(64, 64)
    cost = Macs(coupling)
    curves = [np.zeros(g.width + 1) for g in coupling.groups]
    widest = [48, 16]
    found = Allocator(coupling, cost, curves, {"macs": 0.9 * cost.base["macs"]}, align=16, widest=widest).run()  # type: ignore[arg-type]
    assert found.met
    assert found.widths.tolist() == widest


class Cliff(Macs):
    """A kernel that is slow unless both of the first layers are whole: single steps see no way across."""

    def __call__(self, widths: Any, metrics: tuple[str, ...]) -> dict[str, Any]:
        found = super().__call__(widths, metrics)
        slow = (widths[:, :2] < self.kernels.dense[:2]).any(axis=1) & (widths[:, 2] > 8)
        return {metric: value * np.where(slow, 1.6, 1.0) for metric, value in found.items()}


def test_the_best_of_several_starts_comes_first_and_the_others_meet_the_budget() -> None:
    coupling = chain(12, 12, 12)
    curves = loss_curves(coupling, importance(coupling, "l2"))
    cost = Cliff(coupling)
    for share in (0.3, 0.5, 0.7):
        made = Allocator(coupling, cost, curves, {"macs": share * cost.base["macs"]}, align=1)  # type: ignore[arg-type]
        best, *others = made.optima()
        assert best.met
        assert all(other.met for other in others)
        assert made.run().widths.tolist() == best.widths.tolist()
        losses = [made.total_loss(other.widths) for other in others]
        assert made.total_loss(best.widths) <= min(losses, default=np.inf) * (1 + 1e-9) or made.haste


@given(st.lists(st.integers(2, 6), min_size=2, max_size=3), st.floats(0.3, 0.9))
@settings(max_examples=25, deadline=None)
def test_kicks_never_make_a_plan_worse(widths: list[int], share: float) -> None:
    made = problem(chain(*widths), share)
    start = made._search(made.uniform().widths)
    assert made._rank(made._kicked(start)) <= made._rank(start)
