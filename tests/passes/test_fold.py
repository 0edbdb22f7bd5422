"""fold: before -> after, every way not to fire, and shapes that become constants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from before_after import applied, ops, same_outputs
from onnx import TensorProto, helper
from oracle import difference, feeds_of, run
from sketch import Sketch

from hwpass.manager import PassManager
from hwpass.model.model import Model


def test_constants_are_folded_and_identities_bypassed() -> None:
    s = Sketch()
    table = s.op("Mul", s.op("Add", s.const([1.0, 2.0]), s.const([3.0, 4.0])), s.const([2.0]))
    h = s.op("Identity", s.op("Add", s.op("Identity", s.input(["N", 2])), table))
    s.output(s.op("Relu", h))
    model, changed = applied(s, "fold")
    assert changed
    assert ops(model) == ["Add", "Relu"]
    assert model.nodes[0].inputs[1].values.tolist() == [8.0, 12.0]
    same_outputs(s.model(), model)


def test_what_nothing_reads_goes() -> None:
    s = Sketch()
    x = s.input(["N", 2])
    s.op("Sigmoid", s.op("Mul", x, s.const([2.0])))
    s.output(s.op("Relu", x))
    model, changed = applied(s, "fold")
    assert changed
    assert ops(model) == ["Relu"]


def test_an_identity_that_makes_an_output_stays() -> None:
    s = Sketch()
    s.output(s.op("Identity", s.input(["N", 2])))
    model, changed = applied(s, "fold")
    assert not changed
    assert ops(model) == ["Identity"]


def conditional() -> Sketch:
    """An If whose condition is a constant false: the second branch, a Sigmoid."""
    s = Sketch()
    x = s.input(["N", 2])
    bodies = []
    for op in ("Relu", "Sigmoid"):
        node = helper.make_node(op, [x], [f"{op}_out"])
        entry = helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, None)
        bodies.append(helper.make_graph([node], op, [], [entry]))
    s.output(s.op("Abs", s.op("If", s.const(np.asarray(False)), then_branch=bodies[0], else_branch=bodies[1])))
    return s


def test_a_conditional_of_a_constant_is_its_branch() -> None:
    s = conditional()
    model, _ = applied(s, "fold")
    assert ops(model) == ["Sigmoid", "Abs"]
    same_outputs(s.model(), model)


def test_a_flattened_conditional_is_a_change() -> None:
    assert applied(conditional(), "fold")[1]


def _table(s: Sketch) -> str:
    """[1, 64] + [64, 1]: 16 KiB out of 512 bytes."""
    return s.op("Add", s.input([64, 64]), s.op("Add", s.weight(1, 64), s.weight(64, 1)))


def _dequantised(s: Sketch) -> str:
    weight = s.const(np.arange(12).reshape(3, 4), np.int8)
    return s.op("MatMul", s.input(["N", 3]), s.op("DequantizeLinear", weight, s.const(0.1), s.const(0, np.int8)))


def _random(s: Sketch) -> str:
    return s.op("Add", s.input([2, 3]), s.op("RandomNormal", shape=[2, 3], seed=1.0))


@pytest.mark.parametrize(("make", "text"), [(_table, "fold{limit=4096}"), (_dequantised, "fold"), (_random, "fold")])
def test_fold_does_not_fire(make: Callable[[Sketch], str], text: str) -> None:
    s = Sketch()
    s.output(make(s))
    _, changed = applied(s, text)
    assert not changed


def test_fold_fires_within_its_limit() -> None:
    s = Sketch()
    s.output(_table(s))
    model, changed = applied(s, "fold{limit=65536}")
    assert changed
    assert ops(model) == ["Add"]


def test_fold_keeps_the_ends_of_a_shape() -> None:
    """Extents from `start` to `end`, of an input whose extents are known."""
    s = Sketch(opset=18)
    x = s.input([3, 4, 5])
    extents = s.op("Concat", s.op("Shape", x, start=1, end=-1), s.const([5]), axis=0)
    token = s.op("Expand", s.const(np.ones((1, 5))), extents)
    s.output(s.op("Add", x, token))
    folded = PassManager.parse("fold").run(Model.load(s.model()))
    feeds = feeds_of(s.model(), 0)
    for one, other in zip(run(s.model(), feeds), run(folded.proto(), feeds), strict=True):
        assert difference(one[0], other[0]) == 0


def test_folding_goes_on_where_its_constants_make_shapes_known() -> None:
    """Half of the channels, by an extent that is computed: once their end is a constant the slice has a shape, and then
    the batch in the target of the reshape is its own. A second run finds nothing that the first one left."""
    s = Sketch()
    x = s.input(["N", 4, 6, 6])
    end = s.op("Div", s.op("Add", s.op("Gather", s.op("Shape", x), s.const([1])), s.const([1])), s.const([2]))
    half = s.op("Slice", x, s.const([0]), end, s.const([1]))
    batch = s.op("Gather", s.op("Shape", x), s.const([0]))
    s.output(s.op("Reshape", half, s.op("Concat", batch, s.const([-1]), s.const([3]), s.const([12]), axis=0)))
    model, changed = applied(s, "fold")
    assert changed
    assert ops(model) == ["Slice", "Reshape"]
    same_outputs(s.model(), model)
    manager = PassManager.parse("fold")
    assert manager.run(model).proto() == model.proto()
    assert not manager.records[-1].changed
