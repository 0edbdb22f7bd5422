"""Plans near their budgets on narrow networks, and what is said and done where there is none."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from sketch import Sketch

import hwpass
from hwpass.command.cli import main
from hwpass.cost.prediction import METRICS, Cost
from hwpass.cost_models import load_target
from hwpass.cost_models.work import Floats
from hwpass.coupling.branches import branches
from hwpass.coupling.groups import Coupling, couple
from hwpass.model.model import Model
from hwpass.planning.allocation import Allocation, Allocator
from hwpass.planning.nearer import finer, without_branches
from hwpass.planning.overshoot import TOLD, even_loss, overshoot
from hwpass.planning.score import importance
from hwpass.planning.share_curves import loss_curves

WIDTHS = st.sampled_from([3, 5, 8, 10, 12, 16, 20, 24, 32, 40])


@cache
def target(name: str) -> Any:
    return load_target(name)


def plain(widths: list[int], inner: list[int], side: int) -> Sketch:
    s = Sketch(seed=sum(widths))
    h, before = s.input([1, 3, side, side]), 3
    for width in widths:
        h, before = s.op("Relu", s.conv(h, width, before, 3, bias=True)), width
    s.output(s.conv(h, 5, before))
    return s


def residual(widths: list[int], inner: list[int], side: int) -> Sketch:
    s = Sketch(seed=sum(inner))
    h = s.conv(s.input([1, 3, side, side]), widths[0], 3, 3)
    for width in inner:
        h = s.op("Add", h, s.conv(s.op("Relu", s.conv(h, width, widths[0])), widths[0], width))
    s.output(s.conv(h, 5, widths[0]))
    return s


def depthwise(widths: list[int], inner: list[int], side: int) -> Sketch:
    s = Sketch(seed=sum(widths))
    h, before = s.conv(s.input([1, 3, side, side]), widths[0], 3, 3), widths[0]
    for width, more in zip(widths, inner, strict=False):
        x = s.op("Relu", s.conv(h, 2 * more, before))
        x = s.conv(s.op("Relu", s.conv(x, 2 * more, 1, 3, group=2 * more)), width, 2 * more)
        h, before = s.op("Add", h, x) if width == before else x, width
    s.output(s.conv(h, 5, before))
    return s


def problem(coupling: Coupling, name: str, limits: dict[str, float]) -> tuple[Allocator, list[Floats]]:
    """As a study makes it, by norms."""
    cost = Cost(coupling, target(name))
    curves = loss_curves(coupling, importance(coupling, "l2"))
    return Allocator(
        coupling, cost, curves, {m: share * cost.base[m] for m, share in limits.items()}, align=target(name).align,
        removable=[b is not None for b in branches(coupling)], between=True,
    ), curves  # fmt: skip


@settings(max_examples=40)
@given(
    st.sampled_from([plain, residual, depthwise]),
    st.lists(WIDTHS, min_size=1, max_size=4),
    st.lists(WIDTHS, min_size=1, max_size=8),
    st.sampled_from([4, 8, 16]),
    st.sampled_from(["mobile-cpu", "server-cpu"]),
    st.sampled_from(sorted(METRICS)),
    st.floats(0.3, 0.9),
)
def test_what_is_not_near_is_said(
    make: Any, widths: list[int], inner: list[int], side: int, name: str, metric: str, share: float
) -> None:
    """A plan that meets its budget takes 0.8 of it or more, or the overshoot is spoken of; it is never slower."""
    coupling = couple(Model.load(make(widths, inner, side).model()))
    allocator, curves = problem(coupling, name, {metric: share})
    found = allocator.run()
    if not found.met:
        narrowest = np.asarray([o[0] for o in allocator.finer().options])
        assert allocator.excess(allocator.costs(narrowest[None, :]))[0] > 1
        return
    given_share = found.costs[metric] / allocator.cost.base[metric]
    assert given_share <= share * (1 + 1e-9)
    assert found.costs["latency"] <= allocator.cost.base["latency"] * (1 + 1e-9)
    beyond = overshoot(allocator.finer(), found, curves)
    assert (beyond is None) is (given_share >= TOLD * share)
    if beyond is not None:
        assert beyond.metric == metric
        assert beyond.given == pytest.approx(given_share)


def blocks(count: int, width: int = 16) -> onnx.ModelProto:
    return residual([width], [width] * count, 8).model()


@pytest.mark.parametrize(
    ("count", "metric"), [(4, "macs"), (4, "size"), (10, "macs"), (10, "size"), (10, "energy"), (10, "memory")]
)
def test_some_blocks_go_as_a_whole_where_narrower_ones_are_slower(count: int, metric: str) -> None:
    """16 channels are one block of the target's layout, so 15 are slower: whole blocks are what can go."""
    coupling = couple(Model.load(blocks(count)))
    allocator, curves = problem(coupling, "server-cpu", {metric: 0.6})
    found = allocator.run()
    assert found.met
    assert 0.8 * 0.6 <= found.costs[metric] / allocator.cost.base[metric] <= 0.6
    assert found.costs["latency"] < allocator.cost.base["latency"]
    assert 0 < np.count_nonzero(found.widths == 0) < count
    assert overshoot(allocator.finer(), found, curves) is None


def test_as_few_branches_go_as_meet_the_budget() -> None:
    coupling = couple(Model.load(blocks(6)))
    allocator, _ = problem(coupling, "server-cpu", {"macs": 0.6})
    whole = np.asarray([o[-1] for o in allocator.options])
    found = without_branches(allocator, whole)
    gone = np.flatnonzero(found == 0)
    assert allocator.excess(allocator.costs(found[None, :]))[0] <= 1
    for group in gone:
        one_more = found.copy()
        one_more[group] = whole[group]
        assert allocator.excess(allocator.costs(one_more[None, :]))[0] > 1


def test_widths_between_steps() -> None:
    """Of a wide group not every one; the whole and what was offered stay; nothing is narrower than what was."""
    assert finer(np.asarray([16])).tolist() == [16]
    assert finer(np.asarray([8, 16])).tolist() == list(range(8, 17))
    wide = finer(np.asarray([0, 16, 512]))
    assert {0, 16, 512} <= set(wide.tolist())
    assert len(wide) < 70


def test_steps_that_are_asked_for_are_kept() -> None:
    """One layer of 32: in steps of 16 half of it goes for 0.7x, in the target's steps, finer where needed, less."""
    model = plain([32], [], 8).model()
    report = hwpass.run(model, "mobile-cpu", macs=0.7, score="l2", align=16).report
    assert report.groups[0].after in (8, 16)
    assert any("more is removed than was asked for: macs='0.7x' was asked" in w for w in report.warnings)
    free = hwpass.run(model, "mobile-cpu", macs=0.7, score="l2").report
    assert free.groups[0].after > 16
    assert free.ratio.macs is not None
    assert free.ratio.macs >= 0.8 * 0.7
    assert not any("more is removed" in w for w in free.warnings)


class Cliff:
    """Multiply-accumulates, and a latency above the dense model's but for the dense and for the narrowest plans."""

    def __init__(self, coupling: Coupling, narrow: int) -> None:
        from hwpass.cost.kernels import Kernels

        self.kernels = Kernels(coupling, [])
        self.narrow = narrow
        self.base = {m: float(v[0]) for m, v in self(self.kernels.dense[None, :], ("macs", "latency")).items()}

    def __call__(self, widths: Any, metrics: tuple[str, ...]) -> dict[str, Any]:
        macs = self.kernels.work(widths).macs.sum(axis=1)
        fast = (widths == self.kernels.dense).all(axis=1) | (widths <= self.narrow).all(axis=1)
        return {m: macs if m == "macs" else np.where(fast, 1.0, 2.0) for m in metrics}


def cliff(narrow: int, curves: list[Floats] | None = None) -> tuple[Allocator, Allocation, list[Floats]]:
    coupling = couple(Model.load(plain([16, 16, 16], [], 8).model()))
    cost = Cliff(coupling, narrow)
    curves = curves or loss_curves(coupling, importance(coupling, "l2"))
    allocator = Allocator(coupling, cost, curves, {"macs": 0.6 * cost.base["macs"]}, align=4, between=True)  # type: ignore[arg-type]
    return allocator, allocator.run(), curves


def test_a_plan_that_throws_the_network_away_is_refused() -> None:
    """Nothing but layers of four channels is as fast as the dense model: 0.07x is no answer to 0.6x."""
    allocator, found, curves = cliff(4)
    assert found.met
    assert found.widths.max() <= 4
    beyond = overshoot(allocator.finer(), found, curves)
    assert beyond is not None
    assert beyond.refused
    assert beyond.reason == "what is nearer is predicted slower than the dense model"


@pytest.mark.parametrize(("narrow", "spoken"), [(11, False), (9, True)])
def test_a_plan_a_stair_below_is_only_spoken_of(narrow: int, spoken: bool) -> None:
    """Costs are about squares of widths: (11 / 16)^2 is 0.8 of the 0.6 asked for, (9 / 16)^2 about half of it."""
    allocator, found, curves = cliff(narrow)
    beyond = overshoot(allocator.finer(), found, curves)
    assert found.widths.tolist() == [narrow] * 3
    assert (beyond is not None) is spoken
    if beyond is not None:
        assert not beyond.refused
        assert beyond.asked == pytest.approx(0.6)


def test_channels_that_carry_nothing_may_all_go() -> None:
    """The same cliff where twelve of 16 channels lose nothing: worth having, however far below the budget."""
    idle = [np.concatenate([np.zeros(13), np.arange(1.0, 5.0)]) for _ in range(3)]
    allocator, found, curves = cliff(4, idle)
    assert found.met
    beyond = overshoot(allocator.finer(), found, curves)
    assert beyond is not None
    assert not beyond.refused


def test_an_even_cut_is_interpolated_between_widths() -> None:
    allocator, _, _ = cliff(2)
    curves = [np.arange(17.0)] * 3
    assert even_loss(allocator, curves, 0.5) == pytest.approx(3 * 8)
    assert even_loss(allocator, curves, 0.6) == pytest.approx(3 * 0.4 * 16)


def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every overshoot is refused, and every plan one."""
    monkeypatch.setattr("hwpass.planning.overshoot.TOLD", 2.0)
    monkeypatch.setattr("hwpass.planning.overshoot.REFUSED", 2.0)
    monkeypatch.setattr("hwpass.planning.overshoot.even_loss", lambda *_: -1.0)


def test_a_refusal_ends_with_status_4_and_names_the_mends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refusing(monkeypatch)
    path = tmp_path / "m.onnx"
    onnx.save(blocks(4), path)
    arguments = ["run", str(path), "--target", "server-cpu", "--macs", "0.6x", "--score", "l2", "--align", "2",
                 "-o", str(tmp_path / "out.onnx"), "--json", str(tmp_path / "r.json")]  # fmt: skip
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 4
    assert refused.stderr.count("\n") == 1
    for part in ("--macs 0.6x cannot be met nearly: the nearest plan", "--align 1", "--min-channels 2", "--force"):
        assert part in refused.stderr
    assert not (tmp_path / "out.onnx").exists()
    forced = CliRunner().invoke(main, [*arguments, "--force"])
    assert forced.exit_code == 4
    assert (tmp_path / "out.onnx").exists()
    warnings = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["warnings"]
    assert any("cannot be met nearly" in warning for warning in warnings)
