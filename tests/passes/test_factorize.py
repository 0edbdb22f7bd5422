"""`factorize`: every form on every product, equal at full rank, chosen under budgets, and every way not to fire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import difference, feeds_of, run
from sketch import Sketch

from hwpass.context import Context
from hwpass.cost.prediction import Cost
from hwpass.cost_models import load_target
from hwpass.coupling.groups import couple
from hwpass.errors import BudgetError, UsageError
from hwpass.manager import PassManager
from hwpass.model.model import Model
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs
from hwpass.surgery.low_rank import OutputRows, factor, factorization, forms_of, full_rank, product, refusal, weights_of
from hwpass.surgery.weight_views import WeightView

FIXTURES = Path(__file__).parents[2] / "fixtures"


def single(op: str, window: dict[str, Any] | None = None) -> Sketch:
    """One product that can be factored."""
    s = Sketch(seed=7)
    if op == "Conv":
        y = s.op(op, s.input(["N", 4, 9, 8]), s.weight(6, 4, 3, 2), s.weight(6, fan=4), **(window or {}))
    elif op == "Conv1":
        y = s.op("Conv", s.input(["N", 6, 5]), s.weight(6, 6, 3), pads=[1, 1])
    elif op == "MatMul":
        y = s.op(op, s.input(["N", 3, 8]), s.weight(8, 6))
    else:
        weight = s.weight(6, 8) if op == "turned" else s.weight(8, 6)
        y = s.op("Gemm", s.input(["N", 8]), weight, s.weight(6, fan=1), transB=int(op == "turned"))
    s.output(s.op("Relu", y))
    return s


def factored(s: Sketch, form: str, rank: int | None) -> tuple[Model, WeightView]:
    """The sketch's product as a pair."""
    model = Model.load(s.model())
    node = next(n for n in couple(model).nodes if n.product is not None)
    view = WeightView.of(node)
    assert isinstance(view, WeightView)
    assert refusal(view) is None
    assert form in forms_of(view)
    found = factorization(view, form)  # type: ignore[arg-type]
    kept = full_rank(view, form) if rank is None else rank  # type: ignore[arg-type]
    weights = weights_of(found, kept)
    if rank is None:
        np.testing.assert_allclose(product(view, form, *weights), view.values, atol=1e-5)  # type: ignore[arg-type]
    target = next(n for n in model.graph.nodes if n.outputs[0].name == view.place[0])
    model.graph.nodes.insert(0, factor(target, view, form, weights))  # type: ignore[arg-type]
    model.invalidate_shapes()
    return model, view


WINDOWS = st.fixed_dictionaries({
    "strides": st.sampled_from([[1, 1], [2, 1], [1, 3]]), "dilations": st.sampled_from([[1, 1], [2, 1], [1, 2]]),
    "pads": st.sampled_from([[0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 0, 2]]),
})  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(WINDOWS, st.sampled_from(["outputs", "spatial"]))
def test_at_full_rank_a_convolution_is_the_same(window: dict[str, Any], form: str) -> None:
    s = single("Conv", window)
    model, _ = factored(s, form, None)
    assert [n.op for n in model.graph.nodes] == ["Conv", "Conv", "Relu"]
    feeds = feeds_of(s.model(), 0)
    for one, other in zip(run(s.model(), feeds), run(model.proto(), feeds), strict=True):
        assert difference(one[0], other[0]) < 1e-5


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "turned", "Conv1"])
def test_at_full_rank_other_products_are_the_same(op: str) -> None:
    s = single(op)
    model, _ = factored(s, "outputs", None)
    onnx.checker.check_model(model.proto(), full_check=True)
    feeds = feeds_of(s.model(), 0)
    for one, other in zip(run(s.model(), feeds), run(model.proto(), feeds), strict=True):
        assert difference(one[0], other[0]) < 1e-5


def test_the_loss_of_a_rank_is_what_is_left_out() -> None:
    """Without data the singular values, with data the principal axes of the output: no other pair is closer."""
    s = single("MatMul")
    weight = next(iter(Model.load(s.model()).constants().values())).values.astype(np.float64)
    x = np.random.default_rng(0).standard_normal((500, 8)) * np.geomspace(1, 0.01, 8)
    y = x @ weight
    sizes = np.linalg.svd(weight, compute_uv=False)
    node = next(n for n in couple(Model.load(s.model())).nodes if n.product is not None)
    view = WeightView.of(node)
    assert isinstance(view, WeightView)
    plain, told = factorization(view, "outputs"), factorization(view, "outputs", OutputRows(y, y))
    for rank in (1, 3, 5):
        assert plain.lost[rank] == pytest.approx(np.square(sizes[rank:]).sum() / np.square(sizes).sum())
        first, second = weights_of(told, rank)
        gap = np.square(x @ first @ second - y).sum() / np.square(y).sum()
        assert gap == pytest.approx(told.lost[rank], rel=1e-3)
        first, second = weights_of(plain, rank)
        assert gap <= np.square(x @ first @ second - y).sum() / np.square(y).sum()


def fixture(net: str, text: str, target: str = "server-cpu", **more: Any) -> tuple[Model, Context, Model]:
    """A fixture behind a pipeline."""
    proto = onnx.load(FIXTURES / f"{net}.onnx")
    with np.load(FIXTURES / "calib.npz") as data:
        calibration = load_calibration({"image": data["image"][:192]}, input_specs(proto))
    context = Context(original=proto, calibration=calibration, target=load_target(target), **more)
    before = PassManager.parse("fold,fuse-bn").run(Model.load(proto), context)
    return PassManager.parse(text).run(Model.load(proto), context), context, before


def test_a_budget_of_latency_is_met_on_the_targets_steps() -> None:
    model, context, before = fixture("cnn", "fold,fuse-bn,factorize{latency=0.6x},verify")
    assert context.target is not None
    dense, after = (Cost(couple(m), context.target).base for m in (before, model))
    assert after["latency"] <= 0.6 * dense["latency"] * 1.001
    proof = context.findings.proof
    assert proof is not None
    assert proof.state == "passed"
    assert [leg.name for leg in proof.legs] == ["preparation", "factors", "factoring"]
    declared = context.findings.stages[-1].declared
    assert declared is not None
    for first in (n for n in model.graph.nodes if n.outputs[0].name.endswith("_rank")):
        assert first.inputs[1].shape[0] % context.target.align == 0
    told = context.findings.notes["factorize"]
    assert float(str(told["predicted latency"]).removesuffix("x")) == pytest.approx(
        after["latency"] / dense["latency"], abs=1e-3
    )


@pytest.mark.parametrize("share", [0.8, 0.6, 0.45])
def test_the_whole_meets_the_budget_and_not_the_sum_of_its_layers(share: float) -> None:
    """Weights that no longer fit into a cache make the layers beside them dearer: prices of pairs do not add up."""
    s = Sketch()
    x, channels = s.input([1, 3, 28, 28]), 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 0, 512, 512, 512, 512):
        if width:
            x, channels = s.op("Relu", s.conv(x, width, channels, kernel=3, pads=[1] * 4)), width
        else:
            x = s.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    s.output(x)
    model = Model.load(s.model())
    context = Context(target=load_target("server-cpu"))
    assert context.target is not None
    found = PassManager.parse(f"factorize{{latency={share}x}}").run(model, context)
    dense, after = (Cost(couple(m), context.target).base["latency"] for m in (model, found))
    assert 0.93 * share <= after / dense <= share * (1 + 1e-9)


def test_a_budget_of_size_is_met() -> None:
    model, context, before = fixture("cnn", "fold,fuse-bn,factorize{size=0.5x}")
    assert model.size_bytes() <= 0.5 * before.size_bytes() * 1.001
    assert context.findings.notes["factorize"]


def test_an_error_alone_gives_the_fastest_within_it() -> None:
    losses = {}
    for error in (0.001, 0.02):
        model, context, before = fixture("cnn", f"fold,fuse-bn,factorize{{error={error},refit=false}}")
        assert context.target is not None
        told: Any = context.findings.notes["factorize"]
        assert all(layer["lost"] <= error for layer in told["layers"].values() if "lost" in layer)
        losses[error] = Cost(couple(model), context.target).base["latency"]
        assert losses[error] < Cost(couple(before), context.target).base["latency"]
    assert losses[0.02] < losses[0.001]


def test_a_refit_comes_closer() -> None:
    errors = []
    with np.load(FIXTURES / "test.npz") as data:
        images = data["image"][:200]
    for refit in ("true", "false"):
        model, _, before = fixture("cnn", f"fold,fuse-bn,factorize{{latency=0.5x,refit={refit}}}")
        one, other = (run(m.proto(), [{"image": images}])[0][0] for m in (before, model))
        errors.append(float(np.square(one - other).mean()))
    assert errors[0] < errors[1]


def test_what_cannot_be_met_is_refused_or_said() -> None:
    with pytest.raises(
        BudgetError, match=r"no choice of ranks meets latency.*the least that they come to is 0\.\d+x of latency"
    ):
        fixture("cnn", "fold,fuse-bn,factorize{latency=0.01x}")
    model, context, _ = fixture("cnn", "fold,fuse-bn,factorize{latency=0.01x}", force=True)
    assert context.findings.unmet is not None
    assert not any(n.outputs[0].name.endswith("_rank") for n in model.graph.nodes)


def test_it_does_not_fire() -> None:
    """Without a budget; where the budget is met; where a target gains nothing by a pair; on layers that cannot."""
    s = single("MatMul")
    for text, words in (
        ("factorize", None), ("factorize{latency=1000ms}", "meets the budget already"),
        ("factorize{error=0.5}", "gains nothing"),
    ):  # fmt: skip
        context = Context(target=load_target("server-cpu"))
        manager = PassManager.parse(text)
        manager.run(Model.load(s.model()), context)
        assert not manager.records[-1].changed
        assert words is None or any(words in line for line in context.warnings)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("factorize{error=1}", "give a share of at least 0, less than 1"),
        ("factorize{latency=fast}", "not a budget"),
        ("factorize{samples=0}", "give 1 or more"),
    ],
)
def test_options_that_make_no_sense(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        PassManager.parse(text)


def test_it_goes_before_masks() -> None:
    with pytest.raises(UsageError, match="factorize goes before prune-weights"):
        fixture("cnn", "fold,fuse-bn,prune-weights{zeros=magnitude,refit=false},factorize{latency=0.6x}")
