"""What a rewrite leaves behind: sliced constants, operands of shape operators, and the twin that proves it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import check, feeds_of, random_keep, run
from sketch import Sketch

from hwpass.coupling.groups import Coupling, couple
from hwpass.model.model import Model
from hwpass.surgery.cut import Surgery, prune
from hwpass.surgery.dense_twin import dense_twin

KEPT = np.asarray([True, False, True, True, False, True])


def cut(s: Sketch, kept: NDArray[np.bool_] = KEPT) -> tuple[Coupling, Surgery]:
    """Keep the given channels of the first group."""
    coupling = couple(Model.load(s.model()))
    keep = np.ones(int(coupling.component.max()) + 1, bool)
    keep[coupling.groups[0].components] = kept
    return coupling, prune(coupling, keep)


def operands(surgery: Surgery, op: str) -> list[NDArray[np.float32]]:
    node = next(n for n in surgery.model.nodes if n.op == op)
    return [t.values for t in node.inputs if hasattr(t, "values")]


def two_layers(bias: bool = True) -> Sketch:
    s = Sketch()
    h = s.op("Relu", s.conv(s.input(["N", 3, 4, 4]), 6, 3, kernel=3, bias=bias))
    s.output(s.conv(h, 2, 6))
    return s


def test_weights_are_sliced_on_both_sides() -> None:
    s = two_layers()
    _, surgery = cut(s)
    original = Model.load(s.model()).constants()
    first, second = (n for n in surgery.model.nodes if n.op == "Conv")
    weights = [t.values for t in original.values()]
    assert np.array_equal(first.inputs[1].values, weights[0][KEPT])
    assert np.array_equal(first.inputs[2].values, weights[1][KEPT])
    assert np.array_equal(second.inputs[1].values, weights[2][:, KEPT])
    assert surgery.modified
    assert len(surgery.slices) == 3


def test_nothing_removed_is_nothing_changed() -> None:
    s = two_layers()
    coupling, surgery = cut(s, np.ones(6, bool))
    assert not surgery.modified
    assert surgery.model.proto() == coupling.build.model.proto()


def test_the_coupled_model_stays_and_shares_what_is_whole() -> None:
    s = two_layers()
    coupling = couple(Model.load(s.model()))
    before = coupling.build.model.proto().SerializeToString(deterministic=True)
    prune(coupling, random_keep(coupling, 0))
    assert coupling.build.model.proto().SerializeToString(deterministic=True) == before


def test_what_is_frozen_cannot_be_cut() -> None:
    coupling = couple(Model.load(two_layers().model()))
    keep = np.ones(int(coupling.component.max()) + 1, bool)
    keep[0] = False
    with pytest.raises(ValueError, match=r"^component 0 holds what must stay, and the choice removes it"):
        prune(coupling, keep)


def test_the_twin_has_zeros_where_channels_went() -> None:
    s = two_layers()
    coupling, surgery = cut(s)
    twin = dense_twin(coupling, surgery)
    first = twin.nodes[0].inputs[1].values
    assert first.shape == (6, 3, 3, 3)
    assert not first[~KEPT].any()
    assert np.array_equal(first[KEPT], coupling.build.model.nodes[0].inputs[1].values[KEPT])


def test_the_twin_divides_by_one() -> None:
    """A removed entry of a divisor is 1 in the twin; a removed variance too."""
    s = Sketch()
    h = s.op("Div", s.batch_norm(s.conv(s.input(["N", 3, 4, 4]), 6, 3), 6), s.positive(6, 1, 1))
    s.output(s.conv(h, 2, 6))
    coupling, surgery = cut(s)
    twin = dense_twin(coupling, surgery)
    norm, div = (next(n for n in twin.nodes if n.op == op) for op in ("BatchNormalization", "Div"))
    assert (norm.inputs[4].values[~KEPT] == 1).all()
    assert (div.inputs[1].values[~KEPT] == 1).all()
    assert not norm.inputs[1].values[~KEPT].any()


def test_the_twin_takes_the_weights_as_they_are_now() -> None:
    """A pass may change the pruned weights; the twin follows, so the proof still holds."""
    s = two_layers()
    coupling, surgery = cut(s)
    weight = surgery.model.nodes[-1].inputs[1]
    weight.values = weight.values * 2
    proto, feeds = dense_twin(coupling, surgery).proto(), feeds_of(s.model(), 0)
    for one, other in zip(run(proto, feeds), run(surgery.model.proto(), feeds), strict=True):
        assert np.allclose(one[0], other[0], rtol=1e-4, atol=1e-5)


def test_the_twin_takes_what_stands_for_a_branch_as_it_is_now() -> None:
    """Where a MatMul without a bias gave zero, training may have found something better."""
    s = Sketch()
    x = s.input(["N", 5, 4])
    y = s.linear(s.op("Relu", s.linear(x, 4, 6)), 6, 4)
    s.output(s.op("Tanh", s.op("Add", x, y)))
    coupling, surgery = cut(s, np.zeros(6, bool))
    (name,) = surgery.constants.values()
    constant = surgery.model.constants()[name]
    assert not constant.values.any()
    constant.values = constant.values + np.arange(1, 5, dtype=np.float32)
    proto, feeds = dense_twin(coupling, surgery).proto(), feeds_of(s.model(), 0)
    for one, other in zip(run(proto, feeds), run(surgery.model.proto(), feeds), strict=True):
        assert np.allclose(one[0], other[0], rtol=1e-4, atol=1e-5)


def test_reshape_targets_keep_what_they_copy_or_infer() -> None:
    """[0, -1] stays as it is; [0, 6, 4] becomes [0, 4, 4] (4 of 6 channels are kept)."""
    s = Sketch()
    h = s.conv(s.input(["N", 3, 2, 2]), 6, 3)
    apart = s.op("Reshape", h, s.const([0, 6, 4]))
    s.output(s.op("Gemm", s.op("Reshape", apart, s.const([0, -1])), s.weight(24, 3)))
    _, surgery = cut(s)
    targets = [n.inputs[1].values.tolist() for n in surgery.model.nodes if n.op == "Reshape"]
    assert targets == [[0, 4, 4], [0, -1]]


def test_computed_targets_are_scaled() -> None:
    """Behind Shape -> Gather -> Concat the target is multiplied and divided: 24 features become 16."""
    s = Sketch()
    h = s.conv(s.input(["N", 3, 2, 2]), 6, 3)
    batch = s.op("Gather", s.op("Shape", h), s.const([0]), axis=0)
    flat = s.op("Reshape", h, s.op("Concat", batch, s.const([24]), axis=0))
    s.output(s.op("Gemm", flat, s.weight(24, 3)))
    _, surgery = cut(s)
    assert [n.op for n in surgery.model.nodes].count("Mul") == 1
    for seed in range(3):
        check(s.model(), seed)


def test_splits_get_the_sizes_that_are_left() -> None:
    """6 = 3 + 3 channels, kept 2 and 2 of them (KEPT has two in either half): equal, so nothing is written down."""
    s = Sketch()
    halves = s.ops("Split", s.conv(s.input(["N", 3, 2, 2]), 6, 3), count=2, axis=1)
    s.output(s.conv(halves[0], 2, 3), s.conv(halves[1], 2, 3))
    coupling = couple(Model.load(s.model()))
    keep = np.ones(int(coupling.component.max()) + 1, bool)
    keep[coupling.groups[0].components[:2]] = False
    (node,) = (n for n in prune(coupling, keep).model.nodes if n.op == "Split")
    assert node.inputs[1].values.tolist() == [1, 3]


def test_an_uneven_slice_becomes_a_gather() -> None:
    """Channels 0, 2, 4 are sliced; 0 and 4 go by groups, what is left of a step of 2 may be uneven."""
    s = Sketch()
    h = s.conv(s.input(["N", 3, 2, 2]), 8, 3)
    every_other = s.op("Slice", h, s.const([0]), s.const([8]), s.const([1]), s.const([2]))
    s.output(s.conv(every_other, 2, 4), s.conv(h, 2, 8))
    seen = set()
    for seed in range(8):
        seen |= {n.op for n in check(s.model(), seed).surgery.model.nodes}
    assert "Gather" in seen


def test_depthwise_and_grouped_attributes_follow() -> None:
    s = Sketch()
    s.output(s.conv(s.conv(s.conv(s.input(["N", 3, 2, 2]), 6, 3), 6, 1, group=6), 2, 6))
    _, surgery = cut(s)
    assert surgery.model.nodes[1].attrs["group"] == 4


def test_names_of_sliced_constants_are_unique() -> None:
    """A bias that two layers share is cut in two ways and once left whole: three names."""
    s = Sketch()
    x, bias = s.input(["N", 3, 2, 2]), s.weight(6, fan=4)
    convs = [s.op("Conv", x, s.weight(6, 3, 1, 1), bias) for _ in range(3)]
    s.output(s.conv(convs[0], 2, 6), s.conv(convs[1], 2, 6), convs[2])
    model = check(s.model(), 3).surgery.model
    proto = model.proto()
    names = [t.name for t in proto.graph.initializer]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("seed", range(4))
def test_the_mask_of_every_slice_is_that_of_its_axes(seed: int) -> None:
    s = two_layers()
    coupling = couple(Model.load(s.model()))
    surgery = prune(coupling, random_keep(coupling, seed))
    constants = surgery.model.constants()
    for piece in surgery.slices:
        assert constants[piece.name].shape == tuple(int(m.sum()) for m in piece.kept)
