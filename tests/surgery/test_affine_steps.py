"""Scales and shifts by constants, and hard sigmoids that are written out: values stay, and fewer kernels are left."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from before_after import applied, ops, same_outputs
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from sketch import Sketch

from hwpass.context import Context
from hwpass.cost_models import load_target

STEPS = ("Mul", "Div", "Add", "Sub", "minus")


def constant(s: Sketch, shape: tuple[int, ...]) -> str:
    """Numbers of either sign, none of them near zero."""
    values = s.rng.uniform(0.5, 2.0, shape) * s.rng.choice([-1, 1], shape)
    return s.const(values.astype(np.float32))


def step(s: Sketch, op: str, x: str, shape: tuple[int, ...]) -> str:
    """One step; `minus` is a constant less x."""
    return s.op("Sub", constant(s, shape), x) if op == "minus" else s.op(op, x, constant(s, shape))


def product(s: Sketch, kind: str, x: str, bias: bool) -> str:
    """A product of eight channels to eight."""
    extra = [s.weight(8, fan=4)] if bias else []
    match kind:
        case "Conv" | "padded":
            return s.op("Conv", x, s.weight(8, 8, 3, 3), *extra, pads=[1] * 4 if kind == "padded" else [0, 0, 0, 0])
        case "grouped":
            return s.op("Conv", x, s.weight(8, 2, 1, 1), *extra, group=4)
        case "depthwise":
            return s.op("Conv", x, s.weight(8, 1, 3, 3), *extra, group=8, pads=[1] * 4)
        case "ConvTranspose":
            return s.op("ConvTranspose", x, s.weight(8, 8, 2, 2), *extra, strides=[2, 2])
        case "Gemm":
            return s.op("Gemm", x, s.weight(8, 8), *extra)
        case "turned":
            return s.op("Gemm", x, s.weight(8, 8), *extra, transB=1)
    return s.op("MatMul", x, s.weight(8, 8, fan=8))


PLANES = ("Conv", "padded", "grouped", "depthwise", "ConvTranspose")
ROWS = ("Gemm", "turned", "MatMul")


@st.composite
def chains(draw: st.DrawFn) -> Sketch:
    """Products with steps and activations between them; some tensors are read twice, or are outputs."""
    s = Sketch(seed=draw(st.integers(0, 999)))
    planes = draw(st.booleans())
    x = s.input(["N", 8, 9, 9] if planes else ["N", 8])
    shapes = [(), (1,), (8, 1, 1), (1, 8, 1, 1)] if planes else [(), (1,), (8,), (1, 8)]
    if draw(st.booleans()):
        shapes.append((1, 9, 9) if planes else (1, 1, 8))
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            x = s.op(draw(st.sampled_from(("Relu", "Sigmoid"))), x)
        for op in draw(st.lists(st.sampled_from(STEPS), max_size=3)):
            before = x
            shape = draw(st.sampled_from(shapes))
            if len(shape) == 3 and shape[1] == 9 and "Conv" in "".join(n.op_type for n in s.nodes):
                shape = ()  # images have other sizes by now
            x = step(s, op, x, shape)
            if draw(st.integers(0, 5)) == 0:
                s.output(s.op("Tanh", before))
            if draw(st.integers(0, 9)) == 0:
                s.output(x)
        x = product(s, draw(st.sampled_from(PLANES if planes else ROWS)), x, draw(st.booleans()))
    for op in draw(st.lists(st.sampled_from(STEPS), max_size=2)):
        x = step(s, op, x, draw(st.sampled_from(shapes[:4])))
    s.output(x)
    return s


@given(chains())
def test_values_stay(s: Sketch) -> None:
    try:
        onnx.checker.check_model(s.model(), full_check=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError):
        return  # a Gemm of what a step gave a third axis
    model, _ = applied(s, "fuse-affine")
    same_outputs(s.model(), model)


@pytest.mark.parametrize("kind", [*PLANES, *ROWS])
@pytest.mark.parametrize("bias", [False, True])
def test_steps_behind_a_product_go(kind: str, bias: bool) -> None:
    s = Sketch()
    x = s.input(["N", 8, 6, 6] if kind in PLANES else ["N", 8])
    channels = (8, 1, 1) if kind in PLANES else (8,)
    y = product(s, kind, x, bias)
    s.output(step(s, "Add", step(s, "Mul", step(s, "Sub", y, channels), (1,)), channels))
    model, changed = applied(s, "fuse-affine")
    assert changed
    # A MatMul has no bias: the shifts before and behind the scale stay.
    assert ops(model)[1:] == (["Sub", "Add"] if kind == "MatMul" else [])
    same_outputs(s.model(), model)


@pytest.mark.parametrize(("kind", "left"), [("Conv", []), ("grouped", []), ("turned", []), ("Gemm", []),
                                            ("padded", ["Add"]), ("depthwise", ["Add"]), ("MatMul", ["Add"]),
                                            ("ConvTranspose", ["Add"])])  # fmt: skip
def test_steps_before_a_product_go_but_for_shifts_that_it_cannot_take(kind: str, left: list[str]) -> None:
    s = Sketch()
    x = s.op("Relu", s.input(["N", 8, 6, 6] if kind in PLANES else ["N", 8]))
    channels = (8, 1, 1) if kind in PLANES else (8,)
    s.output(product(s, kind, step(s, "Add", step(s, "Mul", x, channels), (1,)), True))
    model, changed = applied(s, "fuse-affine")
    assert changed
    assert ops(model)[1:-1] == left
    same_outputs(s.model(), model)


def stays(s: Sketch, y: str) -> None:
    s.output(y)
    model, changed = applied(s, "fuse-affine")
    assert not changed
    assert "Mul" in ops(model)


def test_what_scales_an_input_stays() -> None:
    s = Sketch()
    x = s.op("Cast", s.input(["N", 8, 4, 4], dtype=TensorProto.UINT8), to=TensorProto.FLOAT)
    stays(s, product(s, "Conv", s.op("Mul", s.op("Sub", x, s.const(127.5)), s.const(1 / 127.5)), True))


def test_the_last_scale_of_a_gelu_stays() -> None:
    """Runtimes know it written out, by all of its nodes."""
    s = Sketch()
    x = s.op("Relu", s.input(["N", 8]))
    erf = s.op("Erf", s.op("Div", x, s.const(np.float32(2**0.5))))
    gelu = s.op("Mul", s.op("Mul", x, s.op("Add", erf, s.const(1.0))), s.const(0.5))
    stays(s, product(s, "MatMul", gelu, False))


def test_the_scale_of_a_norm_stays() -> None:
    s = Sketch()
    x = s.op("Relu", s.input(["N", 8]))
    centred = s.op("Sub", x, s.op("ReduceMean", x, axes=[-1]))
    spread = s.op("Sqrt", s.op("Add", s.op("ReduceMean", s.op("Mul", centred, centred), axes=[-1]), s.const(1e-5)))
    norm = s.op("Mul", s.op("Div", centred, spread), s.weight(8, fan=1))
    stays(s, product(s, "MatMul", norm, False))


def test_a_bias_of_zeros_stays() -> None:
    s = Sketch()
    s.output(s.op("Add", s.op("MatMul", s.input(["N", 8]), s.weight(8, 8)), s.const(np.zeros(8))))
    assert not applied(s, "fuse-affine")[1]


def test_shared_weights_stay() -> None:
    s = Sketch()
    x, w = s.op("Relu", s.input(["N", 8])), s.weight(8, 8)
    stays(s, s.op("MatMul", s.op("Mul", s.op("MatMul", x, w), s.const(2.0)), w))


def test_a_constant_that_widens_stays() -> None:
    s = Sketch()
    x = s.op("Relu", s.input(["N", 1, 4, 4]))
    stays(s, product(s, "Conv", s.op("Mul", x, constant(s, (8, 1, 1))), True))


def test_numbers_that_would_overflow_stay() -> None:
    s = Sketch()
    x = s.op("Conv", s.input(["N", 8, 4, 4]), s.const(np.full((8, 8, 1, 1), 1e30)))
    stays(s, s.op("Mul", x, s.const(1e30)))


@pytest.mark.parametrize("swish", [False, True])
@pytest.mark.parametrize("last", ["Div", "Mul"])
@pytest.mark.parametrize("opset", [10, 17])
def test_hard_sigmoids_are_one_operator(swish: bool, last: str, opset: int) -> None:
    s = Sketch(opset)
    x = s.op("Abs", s.input(["N", 8]))
    moved = s.op("Add", s.op("Neg", x) if not swish else x, s.const([3.0]))
    cut = s.op("Clip", moved, min=0.0, max=6.0) if opset < 11 else s.op("Clip", moved, s.const(0.0), s.const(6.0))
    y = s.op("Mul", x, cut) if swish else cut
    s.output(s.op("Tanh", s.op(last, y, s.const(6.0 if last == "Div" else 1 / 6))))
    model, changed = applied(s, "fuse-hard-sigmoid")
    assert changed
    assert ops(model) == ["Abs", *([] if swish else ["Neg"]), "HardSigmoid", *(["Mul"] if swish else []), "Tanh"]
    same_outputs(s.model(), model)


def test_slopes_and_a_bound_of_one() -> None:
    """As Keras has it: 0.2 x + 0.5 within 0 and 1."""
    s = Sketch()
    line = s.op("Add", s.op("Mul", s.input(["N", 8]), s.const(0.2)), s.const(0.5))
    s.output(s.op("Clip", line, s.const(0.0), s.const(1.0)))
    model, _ = applied(s, "fuse-hard-sigmoid")
    assert ops(model) == ["HardSigmoid"]
    same_outputs(s.model(), model)


@pytest.mark.parametrize("case", ["another bound", "another divisor", "a reader", "doubles", "channels", "an end"])
def test_other_clips_stay(case: str) -> None:
    s = Sketch()
    dtype: type = np.float64 if case == "doubles" else np.float32
    x = s.op("Cast", s.input(["N", 8]), to=TensorProto.DOUBLE) if case == "doubles" else s.input(["N", 8])
    shift = s.const(np.full((1, 1, 8) if case == "channels" else (), 3.0), dtype)
    moved = s.op("Add", x, shift)
    cut = s.op("Clip", moved, s.const(-1.0 if case == "another bound" else 0.0, dtype), s.const(6.0, dtype))
    y = s.op("Div", cut, s.const(5.0 if case == "another divisor" else 6.0, dtype))
    if case == "a reader":
        s.output(s.op("Tanh", cut))
    if case == "an end":
        s.output(moved)
    s.output(y, dtype=TensorProto.DOUBLE if case == "doubles" else TensorProto.FLOAT)
    _, changed = applied(s, "fuse-hard-sigmoid")
    assert not changed


def test_a_target_that_does_not_gain_keeps_them() -> None:
    s = Sketch()
    x = s.op("Relu", s.conv(s.input(["N", 3, 8, 8]), 8, 3))
    cut = s.op("Clip", s.op("Add", x, s.const(3.0)), s.const(0.0), s.const(6.0))
    s.output(s.op("Div", s.op("Mul", x, cut), s.const(6.0)))
    gains, loses = Context(target=load_target("server-cpu")), Context(target=load_target("server-cpu"))
    assert loses.target is not None
    for name in ("op_ns", "fused_ns"):
        getattr(loses.target, name)["HardSigmoid"] = 1e6
    assert applied(s, "fuse-hard-sigmoid", gains)[1]
    assert not applied(s, "fuse-hard-sigmoid", loses)[1]
    assert applied(s, "fuse-hard-sigmoid{always=true}", loses)[1]
