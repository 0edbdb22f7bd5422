"""The passes: before -> after, every way not to fire, and a second run that changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from before_after import applied, ops, same_outputs
from sketch import Sketch

import hwpass
from hwpass.context import Context
from hwpass.cost.prediction import Cost
from hwpass.cost_models import load_target
from hwpass.coupling.groups import couple
from hwpass.errors import BudgetError, InputError, UsageError
from hwpass.manager import PassManager, passes
from hwpass.model.model import Model
from hwpass.planning.plan import Plan
from hwpass.workflows.run import execute

FIXTURES = Path(__file__).parents[2] / "fixtures"
NETS = ("cnn", "densenet", "mobilenet", "resnet_se", "vit")


# --- fuse-bn


def normalised(op: str, form: str = "") -> Sketch:
    """A product and its batch norm, in one of the forms that decide whether it is fused."""
    s = Sketch(seed=3)
    bias = [] if "bare" in form else [s.weight(6, fan=4)]
    if op == "Gemm":
        attributes = {"transB": int("turned" in form), "alpha": 2.0 if "scaled" in form else 1.0}
        weight = s.weight(6, 5) if "turned" in form else s.weight(5, 6)
        bias = [s.weight(1, 6, fan=4)] if "wide" in form else bias
        y = s.op("Gemm", s.input(["N", 5]), weight, *bias, **attributes)
    elif op == "ConvTranspose":
        group = 2 if "grouped" in form else 1
        y = s.op(op, s.input(["N", 4, 3, 3]), s.weight(4, 6 // group, 2, 2), *bias, group=group, strides=[2, 2])
    else:
        group = 2 if "grouped" in form else 1
        y = s.op(op, s.input(["N", 4, 3, 3]), s.weight(6, 4 // group, 1, 1), *bias, group=group)
    parameters = [s.positive(6), s.weight(6, fan=1), s.weight(6, fan=1), s.positive(6)]
    if "variable" in form:
        parameters[1] = s.op("ReduceSum", s.input([1, 6]), s.const([0]), keepdims=0)
    if "training" in form:
        z = s.ops("BatchNormalization", y, *parameters, count=3, training_mode=1)[0]
    else:
        z = s.op("BatchNormalization", y, *parameters, epsilon=1e-3)
    s.output(z)
    if "read" in form:
        s.output(s.op("Relu", y))
    if "output" in form:
        s.output(y)
    return s


@pytest.mark.parametrize(
    ("op", "form"),
    [("Conv", ""), ("Conv", "bare"), ("Conv", "grouped"), ("ConvTranspose", ""), ("ConvTranspose", "bare"),
     ("Gemm", ""), ("Gemm", "bare"), ("Gemm", "turned")],
)  # fmt: skip
def test_batch_norm_is_fused(op: str, form: str) -> None:
    s = normalised(op, form)
    model, changed = applied(s, "fuse-bn")
    assert changed
    assert ops(model) == [op]
    assert len(model.nodes[0].inputs) == 3
    same_outputs(s.model(), model)


@pytest.mark.parametrize(
    ("op", "form"),
    [("Conv", "read"), ("Conv", "output"), ("Conv", "variable"), ("Conv", "training"), ("Gemm", "scaled"),
     ("Gemm", "wide"), ("ConvTranspose", "grouped"), ("Gemm", "turned scaled")],
)  # fmt: skip
def test_batch_norm_is_not_fused(op: str, form: str) -> None:
    s = normalised(op, form)
    model, changed = applied(s, "fuse-bn")
    assert not changed
    assert "BatchNormalization" in ops(model)


def test_fusing_by_hand() -> None:
    """w 2, b 1, mean 3, variance 4, scale 5, shift 6, epsilon 0: w' = 2 * 5 / 2 = 5, b' = (1 - 3) * 5 / 2 + 6 = 1."""
    s = Sketch()
    y = s.op("Conv", s.input([1, 1, 1, 1]), s.const([[[[2.0]]]]), s.const([1.0]))
    s.output(s.op("BatchNormalization", y, *(s.const([v]) for v in (5.0, 6.0, 3.0, 4.0)), epsilon=0.0))
    node = applied(s, "fuse-bn")[0].nodes[0]
    assert node.inputs[1].values.item() == pytest.approx(5)
    assert node.inputs[2].values.item() == pytest.approx(1)


def test_a_shared_weight_is_fused_for_each_product_apart() -> None:
    s = Sketch()
    x, w = s.input(["N", 4, 3, 3]), s.weight(6, 4, 1, 1)
    s.output(*(s.batch_norm(s.op("Conv", x, w), 6) for _ in range(2)))
    model, changed = applied(s, "fuse-bn")
    assert changed
    assert ops(model) == ["Conv", "Conv"]
    same_outputs(s.model(), model)


# --- prune-channels and apply-plan


def two_layers() -> Sketch:
    s = Sketch()
    s.output(s.conv(s.op("Relu", s.conv(s.input(["N", 3, 8, 8]), 32, 3, kernel=3)), 16, 32, kernel=3))
    return s


def plan_of(context: Context) -> Plan:
    assert context.findings.last is not None
    return context.findings.last.plan


def with_target() -> Context:
    return Context(target=load_target("server-cpu"))


def test_pruning_meets_its_budget() -> None:
    """One group of 32: MACs are in proportion to its width, so half of them is 16 channels."""
    context = with_target()
    model, changed = applied(two_layers(), "prune-channels{macs=0.5x}", context)
    assert changed
    assert model.nodes[0].inputs[1].shape == (16, 3, 3, 3)
    assert model.nodes[-1].inputs[1].shape == (16, 16, 3, 3)
    assert plan_of(context).widths() == {model.nodes[0].name: 16}


def test_pruning_keeps_the_channels_with_the_largest_weights() -> None:
    s = two_layers()
    context = with_target()
    applied(s, "prune-channels{macs=0.5x,score=l1}", context)
    first, second = (np.abs(t.values) for t in Model.load(s.model()).constants().values())
    own, read = first.sum(axis=(1, 2, 3)), second.sum(axis=(0, 2, 3))
    best = np.argsort(-(own / own.mean() + read / read.mean()))[:16]
    assert plan_of(context).groups[0].kept == sorted(best.tolist())


@pytest.mark.parametrize("options", ["", "{macs=1x}", "{macs=100G}"])
def test_pruning_does_not_fire_within_budget(options: str) -> None:
    assert not applied(two_layers(), f"prune-channels{options}", with_target())[1]


def test_pruning_needs_a_target() -> None:
    with pytest.raises(UsageError, match="target"):
        applied(two_layers(), "prune-channels{macs=0.5x}")


def test_a_model_whose_layers_cannot_be_sized_has_nothing_to_prune() -> None:
    s = Sketch()
    s.output(s.op("MatMul", s.input(None), s.weight(8, 8)))
    with pytest.raises(BudgetError, match="nothing in this model can be pruned"):
        applied(s, "prune-channels{macs=0.5x}", with_target())


def test_fewer_multiplications_that_take_longer_are_refused_as_such() -> None:
    """16 channels are one block of the target: every narrower layer is slower."""
    s = Sketch(seed=1)
    h = s.op("LRN", s.op("Relu", s.conv(s.input([1, 3, 16, 16]), 16, 3, 3, pads=[1, 1, 1, 1])), size=5)
    s.output(s.conv(s.op("GlobalAveragePool", s.conv(h, 16, 16, 3)), 10, 16))
    with pytest.raises(BudgetError, match="what meets it is predicted slower than the dense model"):
        applied(s, "prune-channels{macs=0.5x,align=1}", with_target())


def test_kept_layers_stay() -> None:
    with pytest.raises(BudgetError):
        applied(two_layers(), "prune-channels{macs=0.5x,keep=Conv_*}", with_target())
    with pytest.raises(UsageError, match="no layer has such a name"):
        applied(two_layers(), "prune-channels{macs=0.5x,keep=other}", with_target())


def test_a_layer_is_kept_by_the_name_that_tables_show() -> None:
    """Names without the scopes that the next scope repeats."""
    path = Path(__file__).parents[2] / "fixtures" / "resnet_se.onnx"
    asked: dict[str, Any] = {"macs": 0.7, "score": "l2", "compensate": "off"}
    name = "/1/conv1/conv1.0/Conv"
    plans = [hwpass.run(path, "mobile-cpu", keep=given, **asked).plan for given in (name, "1/conv1.0/Conv", ())]
    whole, short, free = ([group.kept for group in plan.groups] for plan in plans if plan is not None)
    assert whole == short != free
    with pytest.raises(UsageError, match="no layer has such a name"):
        hwpass.run(path, "mobile-cpu", keep="Conv", **asked)


def test_outputs_of_zeros_are_proved_tensor_by_tensor() -> None:
    s = Sketch()
    h = s.linear(s.op("Relu", s.linear(s.input(["N", 8]), 8, 64)), 64, 4)
    s.output(s.op("Relu", s.op("Sub", h, s.const(1e4))))
    report = execute(s.model(), "prune-channels{macs=0.5x},verify", target="server-cpu").report
    assert report.verdicts.exactness is not None
    assert report.verdicts.exactness.passed
    assert [w for w in report.warnings if "hardly varies with the inputs and shows nothing" in w]


def test_uniform_widths() -> None:
    model, _ = applied(two_layers(), "prune-channels{channels=0.25x,align=4}", with_target())
    assert model.nodes[0].inputs[1].shape[0] == 8


def test_weights_that_are_not_numbers() -> None:
    s = Sketch()
    h = s.op("MatMul", s.input(["N", 2]), s.const([[np.nan, 1.0], [0.0, 1.0]]))
    s.output(s.linear(h, 2, 2))
    with pytest.raises(InputError, match="NaN"):
        applied(s, "prune-channels{macs=0.5x}", with_target())


def test_a_plan_is_applied_and_one_that_keeps_everything_is_not() -> None:
    s = two_layers()
    coupling = couple(Model.load(s.model()))
    for kept, fires in ((np.arange(32), False), (np.arange(8), True)):
        context = Context(plan=Plan.of(coupling, [kept], ""))
        model, changed = applied(s, "apply-plan", context)
        assert changed == fires
        assert model.nodes[0].inputs[1].shape[0] == len(kept)
        assert not context.warnings


def test_a_plan_of_other_bytes_is_applied_with_a_warning() -> None:
    s = two_layers()
    plan = Plan.of(couple(Model.load(s.model())), [np.arange(8)], "").model_copy(update={"model_sha256": "other"})
    context = Context(plan=plan)
    assert applied(s, "apply-plan", context)[1]
    assert len(context.warnings) == 1


def test_a_plan_file_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"missing\.json: cannot be read as a plan"):
        applied(two_layers(), "apply-plan{plan=missing.json}")


# --- the whole registry


def idempotent(name: str, net: str, proto: onnx.ModelProto) -> tuple[str, Context]:
    """A pass with options that change a trained net at most once, and its context."""
    context = with_target()
    assert context.target is not None
    context.original = proto
    model = Model.load(proto)
    coupling = couple(model)
    if name == "prune-channels":
        half = 0.7 * Cost(coupling, context.target).base["macs"]
        score = "auto" if net == "cnn" else "l2"  # one network is enough for what measuring does
        return f"prune-channels{{macs={half:.0f},score={score}}}", context
    if name == "apply-plan":
        whole = [np.arange(group.width) for group in coupling.groups]
        context.plan = Plan.of(coupling, whole, "")
    # Without data compensate has nothing to make a removal good with.
    return ("fold,prune-channels,compensate", context) if name == "compensate" else (name, context)


# Training goes on where it ended, and needs torch: `tests/torch_graph` has what distill promises instead. What
# prune-vocabulary needs, tokens, is in `test_vocabulary`.
SETTLING = sorted(passes().keys() - {"distill", "prune-vocabulary"})


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", SETTLING)
def test_the_second_run_of_any_pass_changes_nothing(name: str, net: str) -> None:
    proto = onnx.load(FIXTURES / f"{net}.onnx")
    text, context = idempotent(name, net, proto)
    once = PassManager.parse(text).run(Model.load(proto), context)
    if name == "verify":
        assert context.findings.proof is not None
        assert context.findings.proof.state == "passed"
    manager = PassManager.parse(text)
    twice = manager.run(once, context)
    assert not manager.records[-1].changed
    assert twice.proto().SerializeToString(deterministic=True) == once.proto().SerializeToString(deterministic=True)
