"""Channels of small nets, derived by hand; and the groups of the trained fixtures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from oracle import check
from sketch import Sketch

from hwpass.cost.prediction import Cost
from hwpass.cost_models import load_target
from hwpass.coupling.chains import chain, frozen_layers
from hwpass.coupling.groups import Coupling, couple
from hwpass.errors import InputError
from hwpass.model.model import Model

FIXTURES = Path(__file__).parents[2] / "fixtures"


def coupled(s: Sketch) -> Coupling:
    return couple(Model.load(s.model()))


def widths(s: Sketch) -> list[int]:
    return [group.width for group in coupled(s).groups]


def test_a_chain_has_one_group_per_hidden_layer() -> None:
    """3 -> 8 -> 6 -> 2: the input's 3 and the output's 2 are frozen."""
    s = Sketch()
    s.output(s.conv(s.conv(s.conv(s.input(["N", 3, 4, 4]), 8, 3), 6, 8), 2, 6))
    assert widths(s) == [8, 6]


def test_a_residual_ties_what_it_adds() -> None:
    """stem 8, branch hidden 6, branch output 8: the sum makes one group of stem and branch output."""
    s = Sketch()
    stem = s.conv(s.input(["N", 3, 4, 4]), 8, 3)
    branch = s.conv(s.op("Relu", s.conv(stem, 6, 8)), 8, 6)
    s.output(s.conv(s.op("Add", stem, branch), 2, 8))
    groups = coupled(s).groups
    assert [g.width for g in groups] == [8, 6]
    assert len(groups[0].layers) == 4
    assert len(groups[1].layers) == 2


def test_a_sum_with_the_input_freezes() -> None:
    s = Sketch()
    x = s.input(["N", 3, 4, 4])
    s.output(s.conv(s.op("Add", x, s.conv(x, 3, 3)), 2, 3))
    found = coupled(s)
    assert found.groups == []
    assert len(frozen_layers(found)) == 2
    assert any("joins its operands" in reason for _, reason in frozen_layers(found))


def test_concatenated_layers_keep_groups_of_their_own() -> None:
    s = Sketch()
    x = s.input(["N", 3, 4, 4])
    s.output(s.conv(s.op("Concat", s.conv(x, 4, 3), s.conv(x, 5, 3), axis=1), 2, 9))
    assert widths(s) == [4, 5]


def test_parts_of_different_ranks_are_refused() -> None:
    """No model: ONNX Runtime does not load it, and names the node."""
    s = Sketch()
    x = s.input(["N", 3, 4, 4])
    s.output(s.conv(s.op("Concat", s.conv(x, 4, 3), s.op("Flatten", s.conv(x, 5, 3)), axis=1), 2, 9))
    with pytest.raises(InputError, match="Concat_concat7"):
        coupled(s)


def test_a_split_makes_groups_by_footprint() -> None:
    """9 channels split 5 + 4: the parts go to different layers, so they are two groups of one layer."""
    s = Sketch()
    one, other = s.ops("Split", s.conv(s.input(["N", 3, 4, 4]), 9, 3), s.const([5, 4]), count=2, axis=1)
    s.output(s.conv(one, 2, 5), s.conv(other, 2, 4))
    assert widths(s) == [5, 4]


def test_depthwise_layers_share_the_channel() -> None:
    s = Sketch()
    s.output(s.conv(s.conv(s.conv(s.input(["N", 3, 4, 4]), 8, 3), 8, 1, kernel=3, group=8), 2, 8))
    groups = coupled(s).groups
    assert [g.width for g in groups] == [8]
    assert len(groups[0].layers) == 3


def test_whole_groups_of_a_grouped_convolution_go() -> None:
    """12 channels in 4 groups: 4 units of 3 channels, before and behind."""
    s = Sketch()
    s.output(s.conv(s.conv(s.conv(s.input(["N", 3, 4, 4]), 12, 3), 12, 3, group=4), 2, 12))
    assert widths(s) == [4]


def test_channels_behind_flatten_are_repeated() -> None:
    """6 channels of 2 x 2 positions are 24 features: still 6 channels."""
    s = Sketch()
    flat = s.op("Flatten", s.conv(s.input(["N", 3, 2, 2]), 6, 3))
    s.output(s.op("Gemm", flat, s.weight(24, 3)))
    assert widths(s) == [6]


@pytest.mark.parametrize(("heads", "width", "expected"), [(4, 2, 4), (8, 4, 8), (2, 6, 6)])
def test_heads_go_before_their_width_unless_they_are_few(heads: int, width: int, expected: int) -> None:
    """Value projections: 4 heads of 2 go by head; with 2 heads of 6 the 6 positions inside a head go."""
    s = Sketch()
    value = s.linear(s.input(["N", 5, 4]), 4, heads * width)
    apart = s.op("Transpose", s.op("Reshape", value, s.const([0, 5, heads, width])), perm=[0, 2, 1, 3])
    together = s.op("Reshape", s.op("Transpose", apart, perm=[0, 2, 1, 3]), s.const([0, 5, heads * width]))
    s.output(s.linear(together, heads * width, 3))
    assert widths(s) == [expected]


def test_normalised_channels_are_frozen_with_the_reason() -> None:
    s = Sketch()
    h = s.linear(s.input(["N", 5, 4]), 4, 6)
    s.output(s.linear(s.op("LayerNormalization", h, s.weight(6)), 6, 3))
    found = coupled(s)
    assert found.groups == []
    assert frozen_layers(found)[0][1] == "LayerNormalization mixes all of its channels"


def test_what_freezes_both_factors_of_a_product_is_its_reason() -> None:
    """32 channels are 4 heads of 8, which a norm mixes once the heads are joined again."""
    s = Sketch()
    heads = s.op("Reshape", s.linear(s.input(["N", 5, 4]), 4, 32), s.const([0, 5, 4, 8]))
    again = s.op("Transpose", s.op("Relu", heads), perm=[0, 2, 1, 3])
    joined = s.op("Reshape", s.op("Transpose", again, perm=[0, 2, 1, 3]), s.const([0, 5, 32]))
    normed = s.op("LayerNormalization", joined, s.positive(32), s.weight(32, fan=1))
    s.output(s.linear(normed, 32, 3))
    found = coupled(s)
    assert not found.groups
    assert frozen_layers(found)[0][1] == "LayerNormalization mixes all of its channels"


def test_an_operator_without_a_rule_freezes_and_says_so() -> None:
    s = Sketch()
    h = s.linear(s.input(["N", 5, 4]), 4, 6)
    s.output(s.op("Binarizer", h, domain="ai.onnx.ml"))
    reasons = dict(frozen_layers(coupled(s)))
    assert "no rule describes Binarizer" in reasons.values()


def test_a_chain_of_equalities_ends_at_what_froze_it() -> None:
    s = Sketch()
    h = s.linear(s.input(["N", 5, 4]), 4, 6)
    s.output(s.op("Relu", h))
    found = coupled(s)
    axis = found.nodes[0].axes(1)[1]
    assert axis[0].ids is not None
    assert chain(found, int(axis[0].ids[0]))[-1][1].startswith("the model's output")


def test_a_reason_names_the_state_that_keeps_a_recurrent_layer() -> None:
    """Its gates always stay, which is no reason; a state that is an output is one, and it can be taken away."""
    s = Sketch()
    weights = [s.const(np.ones(shape)) for shape in ((1, 24, 4), (1, 24, 8))]
    sequence, state = s.ops("GRU", s.input([5, 2, 4]), *weights, count=2, hidden_size=8)
    s.output(s.linear(s.op("Squeeze", sequence, s.const([1])), 8, 3))
    free = [reason for name, reason in frozen_layers(coupled(s)) if "GRU" in name]
    s.output(state)
    (held,) = [reason for name, reason in frozen_layers(coupled(s)) if "GRU" in name]
    assert free == []
    assert held == f"the model's output {state!r}; take it out of the outputs if nobody reads it"


def test_a_reason_names_the_input_that_a_cell_is_joined_with() -> None:
    s = Sketch()
    state = s.input([2, 8])
    joined = s.op("Mul", s.op("Sigmoid", s.linear(s.input([2, 4]), 4, 8)), state)
    s.output(s.linear(joined, 8, 3))
    reasons = [reason for _, reason in frozen_layers(coupled(s))]
    assert f"Mul joins its operands, one of which is the model's input {state!r}" in reasons


def test_shared_small_constants_do_not_tie_layers() -> None:
    """One bias used by two layers of equal width: sliced for each of them apart."""
    s = Sketch()
    x, bias = s.input(["N", 3, 4, 4]), s.weight(6, fan=4)
    one, other = (s.op("Conv", x, s.weight(6, 3, 1, 1), bias) for _ in range(2))
    s.output(s.conv(one, 2, 6), s.conv(other, 2, 6))
    assert widths(s) == [6, 6]
    for seed in range(4):
        check(s.model(), seed)


@pytest.mark.parametrize("op", ["Identity", "Constant"])
def test_weights_that_come_out_of_nodes(op: str) -> None:
    s = Sketch()
    x, w = s.input(["N", 4]), s.weight(4, 6)
    weight = s.op("Constant", value=s.initialisers.pop()) if op == "Constant" else s.op("Identity", w)
    s.output(s.linear(s.op("MatMul", x, weight), 6, 2))
    for seed in range(4):
        check(s.model(), seed)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cnn", [64, 128, 128, 256]), ("mobilenet", [48, 96, 192, 96, 384, 384]), ("vit", [8, 384, 8, 384, 8, 384])],
)
def test_the_groups_of_trained_nets(name: str, expected: list[int]) -> None:
    """Widths of the layers as they were trained; of the transformer 8 heads and the hidden layer of each block."""
    path = FIXTURES / f"{name}.onnx"
    found = couple(Model.load(path))
    assert [g.width for g in found.groups][: len(expected)] == expected


@pytest.mark.parametrize("name", ["cnn", "densenet", "mobilenet", "resnet_se", "vit"])
def test_trained_nets_are_pruned_exactly(name: str) -> None:
    outcome = check(onnx.load(FIXTURES / f"{name}.onnx"), 1, sizes=(2,))
    assert outcome.surgery.modified
    assert outcome.removed > 10


def test_groups_are_named_after_their_first_layer_and_once() -> None:
    s = Sketch()
    one, other = s.ops("Split", s.conv(s.input(["N", 3, 4, 4]), 9, 3), s.const([5, 4]), count=2, axis=1)
    s.output(s.conv(one, 2, 5), s.conv(other, 2, 4))
    names = [g.name for g in coupled(s).groups]
    assert names[1] == names[0] + "#2"


def test_the_order_of_a_groups_components_is_that_of_the_first_layer() -> None:
    s = Sketch()
    h = s.op("Gather", s.conv(s.input(["N", 3, 4, 4]), 6, 3), s.const([5, 3, 1, 0, 2, 4]), axis=1)
    s.output(s.conv(h, 2, 6))
    found = coupled(s)
    axis = found.nodes[0].axes(1)[0]
    assert np.array_equal(found.components_of(axis), found.groups[0].components)


def test_a_computed_shape_of_unknown_length_gives_no_rank() -> None:
    """Extents that only the data decides have stand-ins; as the length of a shape one would be a rank of a hundred."""
    s = Sketch()
    x = s.input(["N", 8])
    shape = s.op("Reshape", s.op("NonZero", x), s.const([-1]))
    zeros = s.op("ReduceSum", s.op("ConstantOfShape", shape), keepdims=0)
    s.output(s.op("Add", s.linear(s.op("Relu", s.linear(x, 8, 32)), 32, 4), zeros))
    coupling = couple(Model.load(s.model()))
    made = next(node for node in coupling.nodes if node.op == "ConstantOfShape")
    assert made.outputs[0].axes is None
    assert all(np.isfinite(value) for value in Cost(coupling, load_target("server-cpu")).base.values())


def test_an_equation_of_other_ranks_freezes_and_says_so() -> None:
    """ONNX Runtime loads a model whose Einsum has no equation."""
    s = Sketch()
    h = s.conv(s.input(["N", 3, 4, 4]), 4, 3)
    s.output(s.op("Einsum", h, s.weight(4, 5), equation=""))
    found = coupled(s)
    assert found.groups == []
    assert any("terms for 2 inputs" in reason for _, reason in frozen_layers(found))


@pytest.mark.parametrize("equation", ["nc,ck->nk", "nchw,ck->nkz"])
def test_an_equation_that_cannot_be_is_refused_with_its_model(equation: str) -> None:
    """A term of too few labels, and a label of the result that no input has."""
    s = Sketch()
    h = s.conv(s.input(["N", 3, 4, 4]), 4, 3)
    s.output(s.op("Einsum", h, s.weight(4, 5), equation=equation))
    with pytest.raises(InputError, match="Einsum"):
        coupled(s)


def test_a_window_beyond_its_image_gives_no_extent() -> None:
    """The window of 6 on an image of 1 with a pad of 1: inference says -2 rows, of which there is no cost."""
    s = Sketch()
    h = s.op("Conv", s.input(["N", 3, 1, 4]), s.weight(3, 3, 6, 3), pads=[1, 1, 1, 1])
    s.output(s.op("ConvTranspose", h, s.weight(3, 5, 2, 2), strides=[2, 2]))
    found = coupled(s)
    assert found.groups == []
    cost = Cost(found, load_target("mobile-cpu"))
    assert all(np.isfinite(value) and value >= 0 for value in cost.base.values())


def test_a_tile_of_the_first_operator_set_freezes() -> None:
    """It repeats one axis, whose number is an input of its own."""
    s = Sketch(opset=5)
    x = s.conv(s.input([1, 3, 4, 4]), 3, 4)
    s.output(s.op("Tile", x, s.const(np.asarray(2, np.float32)), s.const(np.asarray(3, np.float32))))
    assert any(reason == "one axis is repeated by its number" for _, reason in frozen_layers(coupled(s)))
