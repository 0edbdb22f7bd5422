"""Shapes that a graph computes: constants where they need not be, and the same outputs at every size."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import feeds_of, run
from sketch import Sketch

from hwpass.context import Context
from hwpass.manager import PassManager
from hwpass.model.model import Model


def folded(proto: onnx.ModelProto) -> Model:
    """The model behind fold; its outputs are what they were, bit by bit."""
    model = PassManager.parse("fold").run(Model.load(proto), Context())
    feeds = feeds_of(proto, 0, sizes=(1, 2, 5))
    for one, other in zip(run(proto, feeds), run(model.proto(), feeds), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    return model


def ops(model: Model) -> list[str]:
    return [node.op for node in model.nodes]


def extent(s: Sketch, x: str, place: int) -> str:
    """One extent of a tensor, as a vector of one."""
    return s.op("Unsqueeze", s.op("Gather", s.op("Shape", x), s.const(place), axis=0), s.const([0]))


def target(model: Model) -> list[int]:
    (node,) = (node for node in model.nodes if node.op == "Reshape")
    return [int(v) for v in node.inputs[1].values]


def test_one_extent_may_stay_open() -> None:
    s = Sketch()
    x = s.op("Relu", s.input(["N", 4, 6], "x"))
    s.output(s.op("Relu", s.op("Reshape", x, s.op("Concat", extent(s, x, 0), s.const([3, 8]), axis=0))))
    model = folded(s.model())
    assert ops(model) == ["Relu", "Reshape", "Relu"]
    assert target(model) == [-1, 3, 8]


def test_of_two_open_extents_those_at_their_place_are_copied() -> None:
    s = Sketch()
    x = s.op("Relu", s.input(["N", "T", 6], "x"))
    y = s.op("Reshape", x, s.op("Concat", extent(s, x, 0), extent(s, x, 1), s.const([2, 3]), axis=0))
    s.output(s.op("Relu", y))
    assert target(folded(s.model())) == [0, 0, 2, 3]


@pytest.mark.parametrize("names", [("N", "T"), ("N", "N")])
def test_two_open_extents_elsewhere_stay_computed(names: tuple[str, str]) -> None:
    """[T, N] of [N, T]; a name for both says nothing of which is which."""
    s = Sketch()
    x = s.op("Relu", s.input([*names, 6], "x"))
    s.output(s.op("Relu", s.op("Reshape", x, s.op("Concat", extent(s, x, 1), extent(s, x, 0), s.const([6]), axis=0))))
    assert "Concat" in ops(folded(s.model()))


def test_what_a_file_says_of_inner_tensors_is_not_believed() -> None:
    """A batch that was recorded as 2, while the input's is open."""
    s = Sketch()
    x = s.op("Relu", s.input(["N", 4, 6], "x"))
    s.output(s.op("Relu", s.op("Reshape", x, s.op("Concat", extent(s, x, 0), s.const([24]), axis=0))))
    proto = s.model()
    for name, shape in ((x, [2, 4, 6]), (proto.graph.node[-2].output[0], [2, 24])):
        proto.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    model = PassManager.parse("fold").run(Model.load(proto), Context())
    (found,) = run(model.proto(), [{"x": np.ones((3, 4, 6), np.float32)}])
    assert found[0].shape == (3, 24)


def expanded(s: Sketch, x: str, rest: list[int]) -> str:
    """A row for every sample, as exporters expand: -1 stands for one."""
    size = s.op("Concat", extent(s, x, 0), s.const(rest), axis=0)
    size = s.op("Reshape", size, s.const([-1]))
    ones = s.op("ConstantOfShape", s.op("Shape", size), value=onnx.numpy_helper.from_array(np.ones(1, np.int64)))
    size = s.op("Where", s.op("Equal", size, s.op("Mul", ones, s.const(-1))), ones, size)
    return s.op("Expand", s.weight(1, 1, 6), size)


@pytest.mark.parametrize("rest", [[-1, -1], [1, 6], [-1, 6]])
def test_an_expansion_needs_no_comparison(rest: list[int]) -> None:
    s = Sketch()
    x = s.op("Relu", s.input(["N", 4, 6], "x"))
    s.output(s.op("Concat", expanded(s, x, rest), x, axis=1))
    assert not {"Where", "Equal", "ConstantOfShape", "Mul"} & {*ops(folded(s.model()))}


def test_a_comparison_of_other_numbers_stays() -> None:
    """What the input holds may be -1."""
    s = Sketch()
    ids = s.input(["N"], "ids", dtype=onnx.TensorProto.INT64)
    one = s.const(np.ones(1, np.int64))
    s.output(s.op("Where", s.op("Equal", ids, s.const([-1])), one, ids), dtype=onnx.TensorProto.INT64)
    model = PassManager.parse("fold").run(Model.load(s.model()), Context())
    assert "Where" in ops(model)


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_any_chain_of_views_stays_what_it_was(seed: int) -> None:
    """Reshapes to [extents in any order], flattened and split, of an input with one or two open extents."""
    r = random.Random(seed)
    s = Sketch(opset=r.choice([13, 17, 20]))
    second: list[int | str] = ["T", 4, "N"]
    third: list[int | str] = [6, "C"]
    sizes = ["N", r.choice(second), r.choice(third)]
    x = s.op("Relu", s.input(sizes, "x"))
    for _ in range(r.randint(1, 3)):
        parts = [extent(s, x, place) for place in range(3)]
        r.shuffle(parts)
        if r.random() < 0.4:
            parts[r.randrange(3)] = s.const([-1])
        y = s.op("Reshape", x, s.op("Concat", *parts, axis=0))
        if r.random() < 0.5:
            y = s.op("Transpose", y, perm=r.sample(range(3), 3))
        x = s.op("Relu", y)
    s.output(x)
    folded(s.model())
