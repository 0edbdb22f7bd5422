"""Importance of channels, by hand, and what removing them is said to cost."""

from __future__ import annotations

import numpy as np
import pytest
from sketch import Sketch

from hwpass.coupling.groups import Coupling, couple
from hwpass.errors import UsageError
from hwpass.model.model import Model
from hwpass.planning.score import importance
from hwpass.planning.scores.activation import tapped, weighted
from hwpass.planning.share_curves import consumers, loss_curves
from hwpass.planning.totals import energy

#: x [N, 2] -> 3 hidden features -> 2: rows are inputs, columns outputs.
FIRST = np.asarray([[1.0, -2.0, 0.0], [1.0, 2.0, 1.0]])
SECOND = np.asarray([[1.0, 0.0], [2.0, 2.0], [0.0, -3.0]])


def perceptron(scale: list[float] | None = None) -> Coupling:
    s = Sketch()
    h = s.op("MatMul", s.input(["N", 2]), s.const(FIRST))
    if scale:
        h = s.op("BatchNormalization", h, s.const(scale), s.const([0.0] * 3), s.const([0.0] * 3), s.const([1.0] * 3))
    s.output(s.op("MatMul", h, s.const(SECOND)))
    return couple(Model.load(s.model()))


def test_l1_by_hand() -> None:
    """Columns of the first: 2, 4, 1, mean 7/3. Rows of the second: 1, 4, 3, mean 8/3. The mean of both shares."""
    (found,) = importance(perceptron(), "l1")
    expected = (np.asarray([2, 4, 1]) / (7 / 3) + np.asarray([1, 4, 3]) / (8 / 3)) / 2
    assert found == pytest.approx(expected)
    assert found.mean() == pytest.approx(1)


def test_l2_by_hand() -> None:
    """Squares. Columns: 2, 8, 1, mean 11/3. Rows: 1, 8, 9, mean 6."""
    (found,) = importance(perceptron(), "l2")
    assert found == pytest.approx((np.asarray([2, 8, 1]) / (11 / 3) + np.asarray([1, 8, 9]) / 6) / 2)


def test_batch_norm_scales_by_hand() -> None:
    """Squares of 1, 2, 3 over their mean 14/3."""
    (found,) = importance(perceptron([1.0, 2.0, 3.0]), "bn")
    assert found == pytest.approx(np.asarray([1, 4, 9]) / (14 / 3))


def test_bn_falls_back_to_l2() -> None:
    assert importance(perceptron(), "bn")[0] == pytest.approx(importance(perceptron(), "l2")[0])


def test_activation_by_hand() -> None:
    """E[h^2] 1, 2, 4 times the squared rows 1, 8, 9: 1, 16, 36, over their mean 53/3."""
    coupling = perceptron()
    tensor = coupling.nodes[1].gs.inputs[0].name
    assert tapped(coupling) == {coupling.nodes[0].gs.inputs[0].name: 1, tensor: 1}
    (found,) = weighted(coupling, {tensor: np.asarray([1.0, 2.0, 4.0])})
    assert found == pytest.approx(np.asarray([1, 16, 36]) / (53 / 3))


def test_activation_needs_data() -> None:
    with pytest.raises(UsageError, match="give inputs with calib"):
        importance(perceptron(), "activation")


def test_random_follows_the_seed() -> None:
    one, other, third = (importance(perceptron(), "random", seed=seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)


def test_an_unknown_score_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="l1, l2"):
        importance(perceptron(), "taylor")


def test_channels_that_are_several_rows_add_up() -> None:
    """2 channels of 2 positions: rows 0, 1 of the classifier are the first channel's."""
    s = Sketch()
    h = s.op("Conv", s.input([1, 1, 1, 2]), s.const(np.ones((2, 1, 1, 1))))
    s.output(s.op("Gemm", s.op("Flatten", h), s.const([[1.0], [1.0], [3.0], [3.0]])))
    (found,) = importance(couple(Model.load(s.model())), "l1")
    # The convolution says 1, 1; the classifier 2, 6 over their mean 4.
    assert found == pytest.approx([(1 + 0.5) / 2, (1 + 1.5) / 2])


def test_energies_per_side() -> None:
    weight = np.arange(6.0).reshape(2, 3)
    out, into = energy(weight, 0, 1, 1)
    assert out.tolist() == [0 + 1 + 2, 3 + 4 + 5]
    assert into is not None
    assert into.tolist() == [3, 5, 7]
    out, into = energy(weight, 1, 0, 2)
    assert out.tolist() == [9, 17, 29]
    assert into is not None
    assert into.tolist() == [5, 50]
    assert energy(weight, 0, None, 1)[1] is None


def test_loss_curves_start_at_nothing_and_only_grow() -> None:
    coupling = perceptron()
    (curve,) = loss_curves(coupling, [np.asarray([1.0, 2.0, 1.0])])
    assert len(curve) == 4
    assert curve[0] == pytest.approx(0)
    assert (np.diff(curve) > 0).all()


def test_a_loss_by_hand() -> None:
    """Sorted 1, 1, 2. Without one: 3/4 of the score and 2/3 of the channels are left, so 1 / (17/24) - 1 = 7/17."""
    (curve,) = loss_curves(perceptron(), [np.asarray([1.0, 2.0, 1.0])])
    assert curve[1] == pytest.approx(7 / 17, rel=1e-6)


def test_consumers_count_shares_of_inputs() -> None:
    """Of a concat of 4 and 6 channels the first group is 0.4 of one layer, the second 0.6; a lone leaf counts 1/4."""
    s = Sketch()
    x = s.input(["N", 3, 4, 4])
    s.output(s.conv(s.op("Concat", s.conv(x, 4, 3), s.conv(x, 6, 3), axis=1), 2, 10))
    coupling = couple(Model.load(s.model()))
    assert consumers(coupling) == pytest.approx([0.4, 0.6])


@pytest.mark.parametrize("form", ["Cast", "DequantizeLinear", "Mul", "Transpose", "Reshape", "chain", "Identity"])
@pytest.mark.parametrize("score", ["l1", "l2"])
def test_weights_behind_other_operators_are_seen(form: str, score: str) -> None:
    """As the weight that comes out of them, whatever is stored: halves, whole numbers, another layout or scale."""
    s = Sketch()
    if form == "Cast":
        first = s.op("Cast", s.const(FIRST, np.float16), to=1)
    elif form == "DequantizeLinear":
        first = s.op("DequantizeLinear", s.const(FIRST * 2, np.int8), s.const(0.5), s.const(0, np.int8))
    elif form == "Mul":
        first = s.op("Mul", s.const(FIRST / [[1, 2, 4]]), s.const([[1.0, 2.0, 4.0]]))
    elif form == "Transpose":
        first = s.op("Transpose", s.const(FIRST.T))
    elif form == "Reshape":
        first = s.op("Reshape", s.const(FIRST.reshape(-1)), s.const([2, 3]))
    elif form == "Identity":
        first = s.op("Identity", s.const(FIRST))
    else:
        first = s.op("Squeeze", s.op("Mul", s.op("Cast", s.const(FIRST[None] * 2, np.float16), to=1), s.const(0.5)))
    h = s.op("MatMul", s.input(["N", 2]), first)
    s.output(s.op("MatMul", h, s.const(SECOND)))
    (found,) = importance(couple(Model.load(s.model())), score)
    (expected,) = importance(perceptron(), score)
    assert found == pytest.approx(expected, rel=1e-6)


def test_batch_norm_scales_behind_a_cast_are_seen() -> None:
    s = Sketch()
    h = s.op("MatMul", s.input(["N", 2]), s.const(FIRST))
    scale = s.op("Cast", s.const([1.0, 2.0, 3.0], np.float16), to=1)
    h = s.op("BatchNormalization", h, scale, s.const([0.0] * 3), s.const([0.0] * 3), s.const([1.0] * 3))
    s.output(s.op("MatMul", h, s.const(SECOND)))
    (found,) = importance(couple(Model.load(s.model())), "bn")
    assert found == pytest.approx(np.asarray([1, 4, 9]) / (14 / 3))
