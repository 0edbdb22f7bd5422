"""What integers are worth before a range is known: layer by layer, and as costs that widths are chosen by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hwpass
from hwpass.context import Context
from hwpass.cost.prediction import Cost
from hwpass.cost_models import Target, load_target
from hwpass.coupling.groups import couple
from hwpass.errors import UsageError
from hwpass.formats.placement import place
from hwpass.formats.worthwhile import SLOWER, Cheapest, cost_on_integers, slower_on_integers, stand_in
from hwpass.manager import PassManager
from hwpass.model.model import Model
from hwpass.passes.prune_channels import PruneChannels
from hwpass.passes.quantize import Quantize

FIXTURES = Path(__file__).parents[2] / "fixtures"
PREPARE = "fold,fuse-bn,rotate-streams,rotate-heads,fold-redundant"
DIMS = {"batch": 1}


def prepared(name: str, target: Target) -> tuple[Model, Context]:
    model = Model.load(FIXTURES / f"{name}.onnx")
    context = Context(target=target)
    context.dims = DIMS
    context.bind(model)
    return PassManager.parse(PREPARE).run(model, context), context


def latency(model: Model, target: Target) -> float:
    return Cost(couple(model, DIMS), target).base["latency"]


@pytest.mark.parametrize(("name", "target"), [("densenet", "mobile-cpu"), ("mobilenet", "server-cpu")])
def test_what_stays_makes_the_model_no_slower(name: str, target: str) -> None:
    chosen = load_target(target)
    model, context = prepared(name, chosen)
    left = slower_on_integers(model, chosen, context)
    layers = {n for n, node in place(model, chosen.int8).nodes.items() if node.op in chosen.int8.products}
    assert left.keys() <= layers
    found = latency(stand_in(model, chosen.int8, (), left), chosen)
    for other in ({}, dict.fromkeys(layers, SLOWER)):
        assert found <= latency(stand_in(model, chosen.int8, (), other), chosen) * (1 + 1e-9)
    for layer in layers:  # and no single one would gain
        moved = {k: v for k, v in left.items() if k != layer} if layer in left else {**left, layer: SLOWER}
        assert found <= latency(stand_in(model, chosen.int8, (), moved), chosen) * 1.01


def test_products_behind_norms_that_onnx_does_not_know_are_seen() -> None:
    """What rotate-streams makes of a layer norm is an operator of ONNX Runtime's: shape inference stops there."""
    target = load_target("mobile-cpu")
    model, _ = prepared("vit", target)
    assert "SimplifiedLayerNormalization" in {n.op for n in model.graph.nodes}
    matmuls = [n for n in model.graph.nodes if n.op == "MatMul"]
    assert {n.outputs[0].name for n in matmuls} <= place(model, target.int8).nodes.keys()


def test_a_target_without_integers_runs_nothing_faster_on_them() -> None:
    target = load_target("server-cpu")
    none = target.model_copy(update={"peak": {k: v for k, v in target.peak.items() if k != "int8"}})
    model, context = prepared("cnn", none)
    layers = {n for n, node in place(model, none.int8).nodes.items() if node.op in none.int8.products}
    assert slower_on_integers(model, none, context).keys() == layers
    assert cost_on_integers(couple(model, DIMS), none, context, {}) is None


def test_widths_cost_what_the_model_costs_that_has_them() -> None:
    """At a plan's widths: the same as when the model is pruned by it, and then priced."""
    target = load_target("server-cpu")
    model, context = prepared("cnn", target)
    coupling = couple(model, DIMS)
    base = Cost(coupling, target).base
    cost = cost_on_integers(coupling, target, context, base)
    assert cost is not None
    assert cost.base["latency"] == base["latency"]  # shares are of the model as it is
    context = replace(context, force=True)
    cut = PruneChannels(channels="0.5x", score="l2").run(model, context)
    pruned = cut.pruned
    assert pruned is not None
    assert pruned.allocation is not None
    said = cost(pruned.allocation.widths[None, :].astype(float), ("latency",))["latency"][0]
    floating = slower_on_integers(model, target, context)
    assert said == pytest.approx(latency(stand_in(cut.model, target.int8, (), floating), target), rel=0.02)


def test_the_cheapest_of_several_ways_is_the_least_of_each_plan() -> None:
    target = load_target("mobile-cpu")
    model, context = prepared("densenet", target)
    coupling = couple(model, DIMS)
    floats = Cost(coupling, target)
    integers = cost_on_integers(coupling, target, context, floats.base)
    assert integers is not None
    both = Cheapest([floats, integers])
    rng = np.random.default_rng(0)
    plans = np.stack([rng.integers(1, int(w) + 1, 40) for w in floats.dense], axis=1).astype(float)
    plans = np.concatenate([plans, floats.dense[None, :], np.ones_like(floats.dense)[None, :]])
    each = [cost(plans, ("latency", "size")) for cost in (floats, integers)]
    found = both(plans, ("latency", "size"))
    first = each[0]["latency"] <= each[1]["latency"]
    assert 0 < first.sum() < len(plans)
    np.testing.assert_array_equal(found["latency"], np.minimum(each[0]["latency"], each[1]["latency"]))
    np.testing.assert_array_equal(found["size"], np.where(first, each[0]["size"], each[1]["size"]))


@pytest.mark.parametrize("name", ["densenet", "vit"])
def test_a_budget_on_integers_is_what_the_quantised_model_takes(name: str) -> None:
    result = hwpass.run(
        FIXTURES / f"{name}.onnx", "mobile-cpu", calib=FIXTURES / "calib.npz", force=True,
        pipeline=f"{PREPARE},prune-channels{{latency=0.25x,integers=true,rounds=1,samples=128}},compensate{{samples=128}},"
        "lower-norms,quantize{faster=true,ranges=minmax,max-drop=-1},verify",
    )  # fmt: skip
    assert result.report.ratio.latency is not None
    assert 0.225 < result.report.ratio.latency < 0.26


def test_quantize_leaves_what_is_no_faster_and_says_so() -> None:
    target = load_target("mobile-cpu")
    model, context = prepared("mobilenet", target)
    left = slower_on_integers(model, target, context)
    assert left
    every, some = (
        hwpass.run(FIXTURES / "mobilenet.onnx", "mobile-cpu", calib=FIXTURES / "calib.npz", dim=["batch=1"],
                   pipeline=f"{PREPARE},quantize{{ranges=minmax,samples=64,max-drop=-1{more}}},verify")
        for more in ("", ",faster=true")
    )  # fmt: skip
    said: Any = some.report.notes["quantize"]
    assert list(said["in floating point"].values()).count(SLOWER) == len(left)
    assert some.report.ratio.latency is not None
    assert every.report.ratio.latency is not None
    assert some.report.ratio.latency < every.report.ratio.latency


def test_faster_is_of_static_quantisation_alone() -> None:
    with pytest.raises(UsageError, match="option faster has no effect in mode dynamic"):
        Quantize(mode="dynamic", faster=True)


def test_integers_are_of_budgets_that_look_at_prices() -> None:
    with pytest.raises(UsageError, match="a budget of channels looks at no price"):
        PruneChannels(channels="0.5x", integers=True)
    assert PruneChannels(macs="0.9x", integers=True).integers
