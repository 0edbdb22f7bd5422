"""The structure of a model in other number formats is proved: every way to get it wrong is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from sketch import Sketch

from hwpass.cost_models.target import Int8
from hwpass.formats.blocks import in_blocks
from hwpass.formats.dynamic import dynamic
from hwpass.formats.placement import place
from hwpass.formats.qdq import Writer, activation_parameters
from hwpass.model.model import Model
from hwpass.verdicts.formats import OtherModel, same_but_for_formats


def network() -> Model:
    """Convolutions, a pool, a matrix product and a Gemm, of 8 channels each."""
    s = Sketch(seed=2)
    h = s.op("Relu", s.conv(s.input(["N", 4, 8, 8]), 8, 4, 3, bias=True))
    h = s.op("MaxPool", s.op("Relu", s.conv(h, 8, 8, 3, bias=True)), kernel_shape=[2, 2], strides=[2, 2])
    h = s.op("Flatten", h)
    h = s.op("Relu", s.op("MatMul", h, s.weight(128, 24)))
    s.output(s.op("Gemm", h, s.weight(16, 24), s.weight(16, fan=4), transB=1))
    return Model.load(s.model())


def quantised(model: Model) -> Model:
    placement = place(model, Int8())
    parameters = {name: activation_parameters((-3.0, 5.0), Int8()) for name in placement.leaders}
    return Writer(model, placement, parameters, Int8()).write()


def test_a_quantised_model_has_the_structure_of_the_one_before() -> None:
    model = network()
    found = same_but_for_formats(model, quantised(model))
    assert (found.weights, found.ends) == (7, 0)  # four weights, three biases
    assert found.activations == 6
    assert found.worst <= 1.001


def test_weights_in_blocks_and_dynamic_products_are_the_weights_before() -> None:
    model = network()
    layers = [n.outputs[0].name for n in model.graph.nodes if n.op in ("MatMul", "Gemm")]
    assert same_but_for_formats(model, in_blocks(model, layers, 4, 16)).weights == 1
    assert same_but_for_formats(model, in_blocks(model, layers, 8, 64)).weights == 1
    found = same_but_for_formats(model, dynamic(model, layers, 8, per_channel=True))
    assert (found.weights, found.activations) == (2, 2)


def weight(model: Model, op: str, place: int = 1) -> gs.Node:
    """The DequantizeLinear in front of an operand of the last node of an operator."""
    node = [n for n in model.graph.nodes if n.op == op][-1]
    return node.inputs[place].inputs[0]


def changed(tensor: gs.Tensor, how: Callable[[Any], Any]) -> None:
    values = np.array(tensor.values)
    tensor.values = np.ascontiguousarray(how(values)).astype(values.dtype)


def other_axis(model: Model) -> None:
    weight(model, "Conv").attrs["axis"] = 1


def other_scale(model: Model) -> None:
    changed(weight(model, "Conv").inputs[1], lambda s: s * 0.9)


def far_too_small_a_scale(model: Model) -> None:
    """All weights lie beyond the range, as if cut off."""
    node = weight(model, "Gemm")
    changed(node.inputs[0], lambda q: np.where(q >= 0, 127, -127))
    changed(node.inputs[1], lambda s: s / 1000)


def swapped_zero_point(model: Model) -> None:
    changed(weight(model, "Conv").inputs[2], lambda z: z + 3)


def another_channel(model: Model) -> None:
    changed(weight(model, "Conv").inputs[0], lambda q: q[[1, 0, *range(2, len(q))]])


def scales_of_other_channels(model: Model) -> None:
    changed(weight(model, "Gemm").inputs[1], lambda s: s[::-1])


def a_bias_of_another_channel(model: Model) -> None:
    changed(weight(model, "Conv", 2).inputs[0], lambda b: b[::-1])


def activations_of_another_scale(model: Model) -> None:
    node = weight(model, "Gemm", 0)
    scale = node.inputs[1]
    node.inputs[1] = gs.Constant("other", np.asarray(scale.values * np.float32(1.01)))


def activations_of_another_zero_point(model: Model) -> None:
    node = weight(model, "Conv", 0)
    node.inputs[2] = gs.Constant("other", np.asarray(node.inputs[2].values + np.uint8(1)))


def dropped(model: Model) -> None:
    """A product reads the integers of its activation as they are."""
    node = [n for n in model.graph.nodes if n.op == "Gemm"][-1]
    node.inputs[0] = node.inputs[0].inputs[0].inputs[0]


def another_tensor(model: Model) -> None:
    """A convolution reads what the one before it reads."""
    first, second = (n for n in model.graph.nodes if n.op == "Conv")
    second.inputs[0] = first.inputs[0]


def another_attribute(model: Model) -> None:
    next(n for n in model.graph.nodes if n.op == "Conv").attrs["strides"] = [2, 2]


def an_operator_gone(model: Model) -> None:
    relu = next(n for n in model.graph.nodes if n.op == "Relu")
    for reader in list(relu.outputs[0].outputs):
        reader.inputs[0] = relu.inputs[0]


MUTATIONS = (
    other_axis, other_scale, far_too_small_a_scale, swapped_zero_point, another_channel, scales_of_other_channels,
    a_bias_of_another_channel, activations_of_another_scale, activations_of_another_zero_point, dropped, another_tensor,
    another_attribute, an_operator_gone,
)  # fmt: skip


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda f: f.__name__)
def test_a_mutation_of_a_quantised_model_is_seen(mutate: Callable[[Model], None]) -> None:
    model = network()
    wrong = quantised(model)
    mutate(wrong)
    with pytest.raises(OtherModel):
        same_but_for_formats(model, wrong)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("place", [1, 2])
def test_a_mutation_of_blocks_is_seen(bits: int, place: int) -> None:
    model = network()
    wrong = in_blocks(model, [n.outputs[0].name for n in model.graph.nodes if n.op == "MatMul"], bits, 32)
    node = next(n for n in wrong.graph.nodes if n.op == "MatMulNBits")
    changed(node.inputs[place], lambda v: np.roll(v, 1, axis=0) if place == 1 else v * 1.2)
    with pytest.raises(OtherModel):
        same_but_for_formats(model, wrong)


@pytest.mark.parametrize("what", ["zero point of another", "scale of another", "weight"])
def test_a_mutation_of_a_dynamic_product_is_seen(what: str) -> None:
    model = network()
    wrong = dynamic(model, [n.outputs[0].name for n in model.graph.nodes if n.op in ("MatMul", "Gemm")], 8,
                    per_channel=True)  # fmt: skip
    first, second = (n for n in wrong.graph.nodes if n.op == "MatMulInteger")
    if what == "weight":
        changed(first.inputs[1], lambda q: q[::-1])
    elif what == "scale of another":
        scales = [n for n in wrong.graph.nodes if n.op == "Mul" and any(isinstance(t, gs.Constant) for t in n.inputs)]
        scales[0].inputs[0] = scales[1].inputs[0]
    else:
        first.inputs[2] = second.inputs[2]
    with pytest.raises(OtherModel):
        same_but_for_formats(model, wrong)


def test_biases_may_move_by_what_was_stated_alone() -> None:
    model = network()
    name = next(n for n in model.graph.nodes if n.op == "Conv").outputs[0].name
    shift = {name: np.linspace(-0.1, 0.1, 8)}
    placement = place(model, Int8())
    parameters = {leader: activation_parameters((-3.0, 5.0), Int8()) for leader in placement.leaders}
    moved = Writer(model, placement, parameters, Int8(), shifts=shift).write()
    assert same_but_for_formats(model, moved, shift).biases == 1
    for wrong in ({}, {name: shift[name] * 1.01}):
        with pytest.raises(OtherModel, match="weight"):
            same_but_for_formats(model, moved, wrong)


def test_casts_between_floating_point_types_are_no_difference_and_weights_are_rounded_once() -> None:
    model = network()
    half = model.copy()
    node = next(n for n in half.graph.nodes if n.op == "MatMul")
    source, weight = node.inputs
    narrow, wide = gs.Variable("narrow", np.float16), gs.Variable("wide", np.float16)
    result = node.outputs[0]
    node.inputs = [narrow, gs.Constant("w16", weight.values.astype(np.float16))]
    node.outputs = [wide]
    half.graph.nodes += [
        gs.Node("Cast", "in", {"to": 10}, [source], [narrow]), gs.Node("Cast", "out", {"to": 1}, [wide], [result])
    ]  # fmt: skip
    assert same_but_for_formats(model, half).casts == 2
    changed(node.inputs[1], lambda v: v * np.float16(1.002))
    with pytest.raises(OtherModel, match="half a step"):
        same_but_for_formats(model, half)
