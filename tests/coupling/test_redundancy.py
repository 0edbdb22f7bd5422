"""Channels that carry nothing of their own: found, folded, and gone without a trace in the outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphs import build, programs
from hypothesis import given, settings
from oracle import ROUNDING, TOLERANCE, _sensitivity, difference, feeds_of, run
from programs import sample
from sketch import Sketch

from hwpass.coupling.groups import couple
from hwpass.coupling.redundant_channels import redundancy, unread
from hwpass.manager import PassManager
from hwpass.model.model import Model
from hwpass.planning.score import importance
from hwpass.planning.share_curves import loss_curves
from hwpass.surgery.cut import prune


def folded(source: Sketch | onnx.ModelProto, limit: float = 1e-5) -> tuple[Model, bool, int]:
    """The model behind fold-redundant, whether it fired, and how many channels went afterwards.

    Every channel that nobody reads is removed, one of each group excepted; the outputs must stay those of the model
    that was given.
    """
    proto = source.model() if isinstance(source, Sketch) else source
    manager = PassManager.parse("fold-redundant,fold-redundant")
    model = manager.run(Model.load(proto))
    assert not manager.records[1].changed
    coupling = couple(model)
    keep = ~unread(coupling)
    for group in coupling.groups:
        if not keep[group.components].any():
            keep[group.components[0]] = True
    feeds = feeds_of(proto, 0)
    wanted = run(proto, feeds)
    for candidate in (model, prune(coupling, keep).model):
        for feed, one, other in zip(feeds, wanted, run(candidate.proto(), feeds), strict=True):
            for place, (a, b) in enumerate(zip(one, other, strict=True)):
                error = difference(a, b)
                assert error <= limit or error <= ROUNDING * _sensitivity(proto, feed, place)
    return model, manager.records[0].changed, int((~keep).sum())


class Net(Sketch):
    """A sketch whose weights can be written over before the model is made."""

    def plant(self, name: str, where: Any, value: Any) -> None:
        """Set entries of an initialiser; an integer as the value copies that index of the first axis."""
        for tensor in self.initialisers:
            if tensor.name == name:
                array = onnx.numpy_helper.to_array(tensor).copy()
                array[where] = array[value] if isinstance(value, int) else value
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))


def two_layers(middle: str = "Relu", pads: int = 0, bias: float = 0.7) -> tuple[Net, str, str]:
    """x -> Conv of 6 channels with a bias -> `middle` -> Conv of 3; the names of the two weights."""
    s = Net()
    first, second = s.weight(6, 3, 3, 3), s.weight(3, 6, 3, 3)
    y = s.op("Conv", s.input(["N", 3, 6, 6]), first, s.const([bias] * 6), pads=[1] * 4)
    if middle:
        y = s.op(middle, y, axis=1) if middle == "Softmax" else s.op(middle, y)
    s.output(s.op("Conv", y, second, pads=[pads] * 4))
    return s, first, second


def test_negligible_weights_are_dead() -> None:
    s, _, second = two_layers()
    s.plant(second, (slice(None), 4), np.float32(1e-20))
    assert folded(s)[1:] == (True, 1)


def test_what_nobody_reads_already_changes_nothing() -> None:
    s, _, second = two_layers()
    s.plant(second, (slice(None), 4), np.float32(0))
    assert folded(s)[1:] == (False, 1)


def test_a_constant_goes_into_the_next_bias() -> None:
    """relu(0.7) times the sum of the taps, by hand."""
    s, first, second = two_layers()
    s.plant(first, 2, np.float32(0))
    model, changed, gone = folded(s)
    assert (changed, gone) == (True, 1)
    taps = next(onnx.numpy_helper.to_array(t) for t in s.initialisers if t.name == second)[:, 2].sum(axis=(1, 2))
    np.testing.assert_allclose(model.nodes[-1].inputs[2].values, 0.7 * taps, rtol=1e-5)
    assert not model.nodes[-1].inputs[1].values[:, 2].any()
    assert model.nodes[0].inputs[1].values.shape == (6, 3, 3, 3)


def test_a_constant_beside_zero_padding_stays() -> None:
    s, first, _ = two_layers(pads=1)
    s.plant(first, 2, np.float32(0))
    assert folded(s)[1:] == (False, 0)


def test_a_constant_of_zero_may_meet_padding() -> None:
    """relu(-0.7) is zero."""
    s, first, _ = two_layers(pads=1, bias=-0.7)
    s.plant(first, 2, np.float32(0))
    assert folded(s)[1:] == (True, 1)


@pytest.mark.parametrize("middle", ["", "Relu", "Sigmoid", "HardSwish", "Neg", "Exp"])
def test_duplicates_are_read_once(middle: str) -> None:
    s, first, _ = two_layers(middle, pads=1)
    s.plant(first, 3, 1)
    s.plant(first, 5, 1)
    assert folded(s)[1:] == (True, 2)


@pytest.mark.parametrize("planted", ["constant", "duplicate"])
def test_softmax_keeps_its_channels(planted: str) -> None:
    s, first, _ = two_layers("Softmax")
    s.plant(first, 3, 1 if planted == "duplicate" else np.float32(0))
    assert folded(s)[1:] == (False, 0)


def test_channels_of_an_output_stay() -> None:
    s = Net()
    first = s.weight(6, 3, 1, 1)
    s.output(s.op("Conv", s.input(["N", 3, 4, 4]), first))
    s.plant(first, 3, 1)
    assert folded(s)[1:] == (False, 0)


def test_a_product_without_a_bias_takes_no_constant() -> None:
    """A MatMul with an Add of one number per output behind it does."""
    for biased in (False, True):
        s = Net()
        first, shift = s.weight(4, 6, fan=4), s.const(np.arange(6.0))
        y = s.linear(s.op("Add", s.op("MatMul", s.input(["N", 5, 4]), first), shift), 6, 3)
        s.output(s.op("Add", y, s.weight(3, fan=4)) if biased else y)
        s.plant(first, (slice(None), 2), np.float32(0))
        assert folded(s)[1:] == (biased, int(biased))


def depthwise(s: Net, x: str, width: int, equal: bool) -> str:
    """A padded depthwise convolution and a batch norm; the parameters of channels 1 and 3 agree if `equal`."""
    names = [s.weight(width, 1, 3, 3), *(s.weight(width, fan=1) for _ in range(3)), s.positive(width)]
    for name in names if equal else names[1:]:
        s.plant(name, 3, 1)
    return s.op("BatchNormalization", s.op("Conv", x, names[0], group=width, pads=[1] * 4), *names[1:])


@pytest.mark.parametrize("equal", [True, False])
def test_duplicates_through_depthwise_and_batch_norm(equal: bool) -> None:
    s = Net()
    first = s.weight(6, 3, 1, 1)
    y = depthwise(s, s.op("Relu", s.op("Conv", s.input(["N", 3, 5, 5]), first)), 6, equal)
    s.output(s.conv(y, 2, 6))
    s.plant(first, 3, 1)
    assert folded(s)[1:] == (equal, int(equal))


@pytest.mark.parametrize("branches", [1, 2])
def test_a_residual_stream_is_duplicate_only_in_all_its_branches(branches: int) -> None:
    s = Net()
    stem, inner = s.weight(6, 3, 1, 1), s.weight(6, 6, 3, 3)
    x = s.op("Conv", s.input(["N", 3, 5, 5]), stem)
    y = s.op("Relu", s.op("Add", x, s.op("Conv", s.op("Relu", x), inner, pads=[1] * 4)))
    s.output(s.op("Gemm", s.op("Flatten", s.op("GlobalAveragePool", y)), s.weight(4, 6), transB=1))
    for name in (stem, inner)[:branches]:
        s.plant(name, 3, 1)
    assert folded(s)[1:] == (branches == 2, int(branches == 2))


def test_both_sides_of_a_concatenation() -> None:
    """A constant of the first part, a duplicate in the second, read by one padless layer."""
    s = Net()
    x = s.input(["N", 3, 5, 5])
    one, two = s.weight(4, 3, 1, 1), s.weight(5, 3, 1, 1)
    parts = [s.op("Conv", x, one, s.const([0.5] * 4)), s.op("Conv", x, two)]
    s.output(s.conv(s.op("Relu", s.op("Concat", *parts, axis=1)), 2, 9))
    s.plant(one, 0, np.float32(0))
    s.plant(two, 4, 2)
    assert folded(s)[1:] == (True, 2)


def test_a_gate_on_zero_is_zero() -> None:
    """Squeeze and excitation: the gate of a channel that is zero varies, and does not matter."""
    s = Net()
    first = s.weight(6, 3, 3, 3)
    y = s.op("Relu", s.op("Conv", s.input(["N", 3, 5, 5]), first, pads=[1] * 4))
    squeezed = s.op("Relu", s.conv(s.op("GlobalAveragePool", y), 4, 6))
    y = s.op("Mul", y, s.op("Sigmoid", s.conv(squeezed, 6, 4, bias=True)))
    s.output(s.conv(y, 2, 6, kernel=3))
    s.plant(first, 2, np.float32(0))
    assert folded(s)[1:] == (True, 1)


def test_constants_through_a_flattened_classifier() -> None:
    """One channel is nine inputs of the classifier."""
    s = Net()
    first = s.weight(4, 2, 1, 1)
    y = s.op("Flatten", s.op("Sigmoid", s.op("Conv", s.input(["N", 2, 3, 3]), first)))
    s.output(s.op("Gemm", y, s.weight(36, 5, fan=36), s.weight(5, fan=1)))
    s.plant(first, 1, np.float32(0))
    assert folded(s)[1:] == (True, 1)


def test_a_value_of_attention_that_nobody_reads() -> None:
    """Dimension 2 of both heads; queries and keys meet in a product of activations."""
    s = Net()
    x, out = s.input(["N", 5, 8]), s.weight(8, 3, fan=8)
    heads = [s.op("Transpose", s.op("Reshape", s.linear(x, 8, 8), s.const([0, 5, 2, 4])), perm=p)
             for p in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])]  # fmt: skip
    mixed = s.op("MatMul", s.op("Softmax", s.op("MatMul", heads[0], heads[1]), axis=-1), heads[2])
    y = s.op("Reshape", s.op("Transpose", mixed, perm=[0, 2, 1, 3]), s.const([0, 5, 8]))
    s.output(s.op("MatMul", y, out))
    s.plant(out, slice(2, 8, 4), np.float32(1e-20))
    assert folded(s)[1:] == (True, 1)


def test_tied_weights_are_told_apart() -> None:
    """One weight, read behind a constant and behind something that varies: only the first use is folded."""
    s = Net()
    x = s.input(["N", 4])
    first, shared = s.weight(4, 6, fan=4), s.weight(6, 3, fan=6)
    outputs = [s.op("Gemm", s.op("Gemm", x, w, s.const([0.3] * 6)), shared) for w in (first, s.weight(4, 6, fan=4))]
    s.output(*outputs)
    s.plant(first, (slice(None), 2), np.float32(0))
    assert folded(s)[1:] == (True, 1)


def test_the_kinds_are_told_apart() -> None:
    s, first, second = two_layers()
    s.plant(first, 2, np.float32(0))
    s.plant(second, (slice(None), 4), np.float32(0))
    s.plant(first, 5, 1)
    coupling = couple(Model.load(s.model()))
    found = redundancy(coupling)
    (group,) = coupling.groups
    assert found.constant.tolist() == sorted(group.components[[2, 4]].tolist())
    assert dict(found.merged) == {int(group.components[5]): int(group.components[1])}


@pytest.mark.parametrize("score", ["l1", "l2", "bn", "random"])
def test_what_nobody_reads_has_no_importance_and_no_price(score: str) -> None:
    s, _, second = two_layers()
    s.plant(second, (slice(None), slice(3, 5)), np.float32(0))
    coupling = couple(Model.load(s.model()))
    found = importance(coupling, score)
    assert np.flatnonzero(found[0] == 0).tolist() == [3, 4]
    (curve,) = loss_curves(coupling, found)
    assert curve[:3] == pytest.approx([0, 0, 0], abs=1e-6)
    assert curve[3] > 0.01


def planted(proto: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The model with rows and columns of its weights emptied or made equal, at indices that layers have in common."""
    rng = np.random.default_rng(seed)
    for tensor in proto.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor).copy()
        if value.dtype != np.float32 or value.ndim == 0:
            continue
        for axis in range(min(value.ndim, 2)):
            view = np.moveaxis(value, axis, 0)
            if len(view) > 3:
                if rng.random() < 0.7:
                    view[1] = view[0]
                if value.ndim > 1 and rng.random() < 0.4:
                    view[2] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return proto


@settings(max_examples=100)
@given(programs())
def test_any_planted_graph_keeps_its_outputs(program: tuple[Any, ...]) -> None:
    folded(planted(build(program), program[2]), TOLERANCE)


def test_planted_graphs_lose_channels() -> None:
    """The property above is not empty: of forty graphs a good share loses something, of each kind."""

    gone, merged, constant = 0, 0, 0
    for program in sample(40, 77):
        proto = planted(build(program), program[2])
        gone += folded(proto, TOLERANCE)[2] > 0
        found = redundancy(couple(Model.load(proto)))
        merged, constant = merged + len(found.merged), constant + len(found.constant)
    assert gone >= 12
    assert merged >= 5
    assert constant >= 20
