"""`eliminate`: before -> after, bit by bit, every way not to fire, and random graphs with waste put into them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from oracle import feeds_of, run
from sketch import Sketch

from hwpass.context import Context
from hwpass.manager import PassManager
from hwpass.model.model import Model

FIXTURES = Path(__file__).parents[2] / "fixtures"


def eliminated(s: Sketch | onnx.ModelProto) -> tuple[list[str], bool]:
    """Operators that are left, and whether anything changed; the outputs must be the same bits."""
    proto = s.model() if isinstance(s, Sketch) else s
    manager = PassManager.parse("eliminate")
    model = manager.run(Model.load(proto))
    onnx.checker.check_model(model.proto(), full_check=True)
    feeds = feeds_of(proto, 0)
    for one, other in zip(run(proto, feeds), run(model.proto(), feeds), strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    again = manager.run(model)
    assert not manager.records[-1].changed
    assert again.proto().SerializeToString(deterministic=True) == model.proto().SerializeToString(deterministic=True)
    return [node.op for node in model.graph.nodes], bool(manager.run(Model.load(proto)) and manager.records[-1].changed)


def chain(s: Sketch, *steps: tuple[str, dict[str, Any]], shape: Sequence[int | str | None] = ("N", 3, 4)) -> Sketch:
    """Operators of one input between two Relu."""
    x = s.op("Relu", s.input(shape))
    for op, attributes in steps:
        operands = [s.const(attributes["to_shape"])] if "to_shape" in attributes else []
        x = s.op(op, x, *operands, **{k: v for k, v in attributes.items() if k != "to_shape"})
    s.output(s.op("Relu", x))
    return s


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([("Identity", {})], []),
        ([("Dropout", {})], []),
        ([("Concat", {"axis": 1})], []),
        ([("Sum", {})], []),
        ([("Cast", {"to": TensorProto.FLOAT})], []),
        ([("Transpose", {"perm": [0, 1, 2]})], []),
        ([("Transpose", {"perm": [2, 0, 1]}), ("Transpose", {"perm": [1, 2, 0]})], []),
        ([("Transpose", {}), ("Transpose", {})], []),
        ([("Transpose", {"perm": [2, 0, 1]}), ("Transpose", {"perm": [2, 0, 1]})], ["Transpose"]),
        ([("Cast", {"to": TensorProto.DOUBLE}), ("Cast", {"to": TensorProto.FLOAT})], []),
        ([("Cast", {"to": TensorProto.DOUBLE}), ("Cast", {"to": TensorProto.FLOAT16}),
          ("Cast", {"to": TensorProto.FLOAT})], ["Cast", "Cast"]),
        ([("Reshape", {"to_shape": [-1, 12]}), ("Reshape", {"to_shape": [-1, 3, 4]})], ["Reshape"]),
        ([("Reshape", {"to_shape": [-1, 12]}), ("Reshape", {"to_shape": [0, 3, 4]})], ["Reshape", "Reshape"]),
        ([("Cast", {"to": TensorProto.FLOAT16}), ("Cast", {"to": TensorProto.FLOAT})], ["Cast", "Cast"]),
        ([("Transpose", {"perm": [0, 2, 1]})], ["Transpose"]),
    ],
)  # fmt: skip
def test_what_does_nothing_goes(steps: list[tuple[str, dict[str, Any]]], left: list[str]) -> None:
    ops, changed = eliminated(chain(Sketch(opset=20), *steps))
    assert ops == ["Relu", *left, "Relu"]
    assert changed is (len(left) < len(steps))


def test_a_reshape_to_the_shape_there_is_goes() -> None:
    fixed = chain(Sketch(), ("Reshape", {"to_shape": [2, 3, 4]}), shape=(2, 3, 4))
    assert eliminated(fixed)[0] == ["Relu", "Relu"]
    other = chain(Sketch(), ("Reshape", {"to_shape": [2, 4, 3]}), shape=(2, 3, 4))
    assert eliminated(other)[0] == ["Relu", "Reshape", "Relu"]


def test_a_dropout_in_training_stays() -> None:
    s = Sketch()
    x = s.op("Relu", s.input(["N", 3]))
    s.output(s.op("Relu", s.op("Dropout", x, s.const(0.0), s.const(True))))
    assert eliminated(s)[0] == ["Relu", "Dropout", "Relu"]


def test_repeated_nodes_are_one() -> None:
    """Also where they read constants of equal bits, and where only what they read is repeated."""
    s = Sketch()
    x, w = s.input(["N", 4]), np.arange(20, dtype=np.float32).reshape(4, 5)
    branches = [s.op("Relu", s.op("MatMul", x, s.const(w))) for _ in range(3)]
    s.output(s.op("Sum", *branches))
    assert eliminated(s)[0] == ["MatMul", "Relu", "Sum"]


@pytest.mark.parametrize("differs", ["constant", "zero", "attribute", "order"])
def test_nodes_that_differ_stay(differs: str) -> None:
    s = Sketch()
    x, y = s.op("Abs", s.input([2, 2], "a")), s.op("Abs", s.input([2, 2], "b"))
    if differs == "constant":
        pair = [s.op("Add", x, s.const([1.0, v])) for v in (1.0, 2.0)]
    elif differs == "zero":
        pair = [s.op("Div", s.op("Add", x, s.const([1.0])), s.const([v])) for v in (0.0, -0.0)]
    elif differs == "attribute":
        pair = [s.op("Softmax", x, axis=axis) for axis in (0, 1)]
    else:
        pair = [s.op("Sub", x, y), s.op("Sub", y, x)]
    s.output(*(s.op("Neg", p) for p in (*pair, y)))
    before = len(s.nodes)
    assert len(eliminated(s)[0]) == before - (differs == "zero") * 1  # the equal Add before both


def test_random_numbers_are_drawn_as_often_as_before() -> None:
    s = Sketch()
    s.output(s.op("Add", *(s.op("RandomNormal", shape=[2], seed=3.0) for _ in range(2))))
    manager = PassManager.parse("eliminate")
    model = manager.run(Model.load(s.model()))
    assert [n.op for n in model.graph.nodes].count("RandomNormal") == 2


def test_outputs_and_what_bodies_read_keep_their_names() -> None:
    s = Sketch()
    x = s.input(["N", 2])
    inner = s.op("Identity", x)
    body = [
        helper.make_graph([helper.make_node(op, [inner], [f"{op}_out"])], op, [],
                          [helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, None)])
        for op in ("Relu", "Neg")
    ]  # fmt: skip
    condition = s.op("Greater", s.op("ReduceMax", x, keepdims=0), s.const(0.0))
    s.output(s.op("If", condition, then_branch=body[0], else_branch=body[1]), s.op("Identity", x), s.op("Relu", x),
             s.op("Relu", x))  # fmt: skip
    ops, changed = eliminated(s)
    assert not changed
    assert len(ops) == len(s.nodes)


def test_what_nothing_reads_goes_and_is_told() -> None:
    s = Sketch()
    x = s.input(["N", 2])
    s.op("Neg", s.op("Mul", x, s.const([2.0])))
    s.output(s.op("Relu", s.op("Identity", x)))
    context = Context()
    model = PassManager.parse("eliminate").run(Model.load(s.model()), context)
    assert [n.op for n in model.graph.nodes] == ["Relu"]
    assert context.findings.notes["eliminate"] == {"no-op": 1, "unread": 2}
    assert not model.constants()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**31))
def test_waste_in_a_random_graph_goes_without_a_trace(seed: int) -> None:
    """A graph with waste put in at random comes down to as few nodes as the graph without it."""
    rng = np.random.default_rng(seed)

    def built(wasteful: bool) -> Sketch:
        s, draw = Sketch(seed=1), np.random.default_rng(seed)
        pool = [s.op("Tanh", s.input(["N", 2, 3]))]
        for _ in range(6):
            x = pool[draw.integers(len(pool))]
            op = ["Relu", "Neg", "Sigmoid", "Add"][draw.integers(4)]
            y = s.op(op, x, *([pool[0]] if op == "Add" else []))
            if wasteful:
                for _ in range(rng.integers(3)):
                    y = waste(s, y, rng)
                if rng.integers(2):
                    s.op(op, x, *([pool[0]] if op == "Add" else []))
            pool.append(y)
        total = pool[-1]
        for other in pool[:-1]:
            total = s.op("Mul", total, other)
        s.output(total)
        return s

    plain, wasteful = eliminated(built(False))[0], eliminated(built(True))[0]
    assert plain == wasteful


def waste(s: Sketch, x: str, rng: np.random.Generator) -> str:
    kind = rng.integers(4)
    if kind == 0:
        return s.op("Identity", x)
    if kind == 1:
        return s.op("Cast", s.op("Cast", x, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
    if kind == 2:
        return s.op("Transpose", s.op("Transpose", x, perm=[1, 2, 0]), perm=[2, 0, 1])
    return s.op("Dropout", x)


@pytest.mark.parametrize("net", ["cnn", "vit"])
def test_fixtures_keep_their_bits(net: str) -> None:
    eliminated(onnx.load(FIXTURES / f"{net}.onnx"))
