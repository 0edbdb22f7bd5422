"""Convolutions over sequences, written over images of one row: the values stay, and every one of them goes over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import difference, feeds_of, run
from sketch import Sketch

from hwpass.context import Context
from hwpass.cost.prediction import Cost
from hwpass.cost_models import load_target
from hwpass.coupling.groups import couple
from hwpass.manager import PassManager, preparation
from hwpass.model.model import Model
from hwpass.surgery.one_row import in_one_row, sequences
from hwpass.workflows.run import execute

WORDS = Path(__file__).parents[2] / "fixtures" / "compact" / "words.onnx"

WIDTH, LENGTH = 6, 9


def conv(s: Sketch, x: str, draw: st.DrawFn) -> str:
    groups, window = draw(st.sampled_from((1, 2, WIDTH))), draw(st.integers(1, 3))
    padding = {"auto_pad": "SAME_UPPER"} if draw(st.booleans()) else {"pads": [window // 2, (window - 1) // 2]}
    dilation = {} if "auto_pad" in padding or window != 1 else {"dilations": [draw(st.integers(1, 2))]}
    weight = s.weight(WIDTH, WIDTH // groups, window)
    return s.op("Conv", x, weight, *([s.weight(WIDTH)] if draw(st.booleans()) else []), group=groups,
                **padding, **dilation)  # fmt: skip


def pad(s: Sketch, x: str, draw: st.DrawFn) -> str:
    padded = s.op("Pad", x, s.const([0, 0, 1, 0, 0, 2]), s.const(0.5))
    return s.op("Conv", padded, s.weight(WIDTH, WIDTH, 4))


def pool(s: Sketch, x: str, draw: st.DrawFn) -> str:
    op = draw(st.sampled_from(("MaxPool", "AveragePool")))
    return s.op(op, x, kernel_shape=[3], pads=[1, 1], strides=[1])


def entries(s: Sketch, x: str, draw: st.DrawFn) -> str:
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return s.op("Add", x, s.const(np.linspace(-1, 1, WIDTH, dtype=np.float32)[:, None]))
    if kind == 1:
        return s.op("Mul", s.const(np.linspace(0, 1, LENGTH, dtype=np.float32)), x)
    if kind == 2:
        return s.op("PRelu", x, s.const(np.linspace(0, 1, WIDTH, dtype=np.float32)[:, None]))
    if kind == 3:
        return s.op("BatchNormalization", x, *(s.const(np.full(WIDTH, v, np.float32)) for v in (0.5, 1, 2, 3)))
    if kind == 4:
        return s.op("Where", s.op("Greater", x, s.const(0.0)), x, s.const(np.zeros((1, WIDTH, 1), np.float32)))
    return s.op(("Relu", "Sigmoid")[kind - 5], x)


def joined(s: Sketch, x: str, draw: st.DrawFn) -> str:
    axis = draw(st.sampled_from((1, 2, -1, -2)))
    other = s.const(np.full((3, WIDTH, LENGTH), 0.25, np.float32)) if draw(st.booleans()) else s.op("Tanh", x)
    both = s.op("Concat", x, other, axis=axis)
    return s.ops("Split", both, count=2, axis=axis, **({"num_outputs": 2} if s.opset >= 18 else {}))[1]


def residual(s: Sketch, x: str, draw: st.DrawFn) -> str:
    return s.op("Add", x, conv(s, x, draw))


def turned(s: Sketch, x: str, draw: st.DrawFn) -> str:
    """What has to be left and entered again."""
    back = s.op("Softmax", s.op("Transpose", x, perm=[0, 2, 1]), axis=-1)
    return s.op("Transpose", back, perm=[0, 2, 1])


def reduced(s: Sketch, op: str, x: str, axes: list[int], keepdims: int) -> str:
    return s.axes_op(op, x, axes, since=13 if op == "ReduceSum" else 18, keepdims=keepdims)


def gated(s: Sketch, x: str, draw: st.DrawFn) -> str:
    op = draw(st.sampled_from(("ReduceMean", "ReduceMax", "ReduceSum")))
    return s.op("Mul", x, s.op("Sigmoid", reduced(s, op, x, draw(st.sampled_from(([2], [-1], [1], [1, 2]))), 1)))


STEPS = (conv, conv, pad, pool, entries, entries, joined, residual, turned, gated)


def ended(s: Sketch, x: str, draw: st.DrawFn) -> str:
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return x
    if kind == 1:
        return reduced(s, draw(st.sampled_from(("ReduceMean", "ReduceMax", "ReduceL2"))), x, [2], 0)
    if kind == 2:
        return reduced(s, "ReduceSum", x, draw(st.sampled_from(([1], [0, 2], [1, 2]))), 0)
    if kind == 3:
        return s.op("Flatten", x, axis=draw(st.sampled_from((0, 1, 2, 3, -1, -2))))
    if kind == 4:
        return s.op("Reshape", x, s.const(draw(st.sampled_from(([0, -1], [0, 0, -1], [0, 0, 0], [-1, LENGTH])))))
    if kind == 5:
        return s.op("Flatten", s.op("GlobalAveragePool", x))
    return s.op("Cast", s.op("ArgMax", x, axis=2, keepdims=0), to=onnx.TensorProto.FLOAT)


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    s = Sketch(seed=draw(st.integers(0, 99)), opset=draw(st.sampled_from((17, 18, 21))))
    first = s.input([3, WIDTH, LENGTH])
    x = conv(s, first, draw)
    kept = [x] if draw(st.booleans()) else []
    for step in draw(st.lists(st.sampled_from(STEPS), max_size=6)):
        x = step(s, x, draw)
    s.output(ended(s, x, draw), *kept)
    return s.model()


@given(models())
def test_values_stay_and_no_sequence_is_left(proto: onnx.ModelProto) -> None:
    model = Model.load(proto)
    assert in_one_row(model)
    assert not sequences(model)
    now = model.proto()
    onnx.checker.check_model(now, full_check=True)
    assert [(t.name, t.type) for t in now.graph.output] == [(t.name, t.type) for t in proto.graph.output]
    feeds = feeds_of(proto, 0)
    for one, other in zip(run(proto, feeds), run(now, feeds), strict=True):
        assert max(difference(a, b) for a, b in zip(one, other, strict=True)) < 1e-5
    assert not in_one_row(model)


@pytest.mark.parametrize(
    "target", [[0, -1], [0, 0, -1], [0, 0, 0], [-1, LENGTH], [3, WIDTH * LENGTH], [-1, 0, 1, LENGTH]]
)
def test_what_a_reshape_copies(target: list[int]) -> None:
    """A zero in a target's third place copies the positions, which are at the fourth then."""
    s = Sketch()
    x = s.op("Conv", s.input([3, WIDTH, LENGTH]), s.weight(WIDTH, WIDTH, 1))
    s.output(s.op("Reshape", x, s.const(target)))
    proto = s.model()
    model = Model.load(proto)
    assert in_one_row(model)
    feeds = feeds_of(proto, 0)
    for one, other in zip(run(proto, feeds), run(model.proto(), feeds), strict=True):
        assert max(difference(a, b) for a, b in zip(one, other, strict=True)) < 1e-6


def test_old_operator_sets() -> None:
    """Axes are attributes before 13."""
    s = Sketch(opset=11)
    x = s.op("Relu", s.op("Conv", s.input([2, 4, 8]), s.weight(5, 4, 3)))
    s.output(s.op("ReduceMax", x, axes=[2], keepdims=0), s.op("Softmax", x, axis=2))
    proto = s.model()
    model = Model.load(proto)
    assert in_one_row(model)
    assert not sequences(model)
    feeds = feeds_of(proto, 0)
    for one, other in zip(run(proto, feeds), run(model.proto(), feeds), strict=True):
        assert max(difference(a, b) for a, b in zip(one, other, strict=True)) < 1e-6


def test_weights_that_are_tied_stay_tied() -> None:
    s = Sketch()
    weight = s.weight(6, 6, 3)
    x = s.op("Conv", s.input([1, 6, 9]), weight, pads=[1, 1])
    s.output(s.op("Conv", s.op("Relu", x), weight, pads=[1, 1]))
    model = Model.load(s.model())
    before = model.parameter_count()
    assert in_one_row(model)
    assert model.parameter_count() == before


def test_computed_weights_stay() -> None:
    s = Sketch()
    weight = s.op("Abs", s.input([6, 6, 3]))
    s.output(s.op("Conv", s.input([1, 6, 9]), weight))
    model = Model.load(s.model())
    assert not in_one_row(model)


def test_a_body_that_reads_a_sequence_is_handed_one() -> None:
    s = Sketch()
    x = s.op("Conv", s.input([1, 6, 9]), s.weight(6, 6, 3), pads=[1, 1])
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", [x], ["inner"])], "body", [],
        [onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, [1, 6, 9])],
    )  # fmt: skip
    s.output(s.op("If", s.const(np.asarray(True)), then_branch=inner, else_branch=inner))
    proto = s.model()
    model = Model.load(proto)
    assert in_one_row(model)
    feeds = feeds_of(proto, 0)
    assert difference(run(proto, feeds)[0][0], run(model.proto(), feeds)[0][0]) < 1e-6


def test_it_fires_where_the_target_gains() -> None:
    """ONNX Runtime on x86 has blocked kernels for images alone; a SIMD core from its specifications has none."""
    texts = {}
    for target in ("server-cpu", "mobile-cpu", None):
        context = Context(target=None if target is None else load_target(target))
        manager = PassManager.parse("fold,conv1d-to-2d")
        manager.run(Model.load(WORDS), context)
        texts[target] = manager.records[-1].changed, list(context.findings.preparation)
    assert texts["server-cpu"] == (True, ["fold", "conv1d-to-2d{always=true}"])
    assert texts["mobile-cpu"] == texts[None] == (False, ["fold"])


def test_a_budget_is_a_share_of_the_model_as_it_was_given() -> None:
    target = load_target("server-cpu")
    given_cost = Cost(couple(PassManager.parse("fold").run(Model.load(WORDS))), target).base["latency"]
    found = execute(
        Model.load(WORDS), "fold,conv1d-to-2d,prune-channels{latency=0.5x,score=l2},verify", target="server-cpu"
    )
    before, after = found.report.before.latency_ms, found.report.after.latency_ms
    assert before is not None
    assert after is not None
    assert found.plan is not None
    assert before == pytest.approx(given_cost * 1e3)
    assert after <= 0.5 * before * (1 + 1e-9)
    assert "conv1d-to-2d{always=true}" in found.plan.prepare
    again = PassManager(preparation(found.plan)).run(Model.load(WORDS))
    assert not sequences(again)
