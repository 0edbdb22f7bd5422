"""Products of very many inputs: positions of a flattened map are taken to see one covariance, like taps of a window."""

from __future__ import annotations

import numpy as np
import pytest
from sketch import Sketch

from hwpass.coupling.groups import Coupling, couple
from hwpass.model.model import Model
from hwpass.planning import consumers as module
from hwpass.planning.consumers import Consumer, by_position, consumers, weight_gram
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs

CHANNELS, SIDE, OUTPUTS = 6, 3, 5


def network(flat: bool, last: bool = False) -> Coupling:
    """A map of 6 channels, and a product of all of it: of its flattened values, of these with channels last, or as a
    convolution with a window as large as the map."""
    random = np.random.default_rng(0)
    s = Sketch()
    x = s.op("Relu", s.conv(s.input(["N", 2, SIDE, SIDE]), CHANNELS, 2))
    weight = random.standard_normal((OUTPUTS, CHANNELS, SIDE, SIDE))
    if last:
        x, weight = s.op("Transpose", x, perm=[0, 2, 3, 1]), weight.transpose(0, 2, 3, 1)
    if flat:
        flattened = s.op("Flatten", x, axis=1)
        s.output(s.op("Gemm", flattened, s.const(weight.reshape(OUTPUTS, -1)), transB=1))
    else:
        s.output(s.op("Conv", x, s.const(weight)))
    return couple(Model.load(s.model()))


def last_reader(coupling: Coupling) -> Consumer:
    """The product behind the map, measured on 40 samples."""
    specs = input_specs(coupling.build.model.interface())
    image = np.random.default_rng(1).standard_normal((40, 2, SIDE, SIDE)).astype(np.float32)
    (found,) = consumers(coupling, load_calibration({specs[0].name: image}, specs))
    assert isinstance(found, Consumer)
    return found


@pytest.mark.parametrize("last", [False, True])
def test_a_flattened_map_is_judged_as_the_window_that_reads_it(monkeypatch: pytest.MonkeyPatch, last: bool) -> None:
    window = last_reader(network(flat=False))
    whole = last_reader(network(flat=True, last=last))
    assert whole.covariance.shape == (CHANNELS * SIDE * SIDE,) * 2
    monkeypatch.setattr(module, "FLATTENED", CHANNELS * SIDE * SIDE - 1)
    folded = last_reader(network(flat=True, last=last))
    assert folded.covariance.shape == (CHANNELS, CHANNELS)
    np.testing.assert_allclose(folded.covariance, window.covariance, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(folded.gram(), window.gram(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(folded.energy, window.energy, rtol=1e-4)
    assert len(set(folded.components.tolist())) == CHANNELS


def test_indices_stay_apart_where_channels_have_different_numbers_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLATTENED", 2)
    left = np.arange(4)
    assert by_position(left, np.asarray([7, 7, 8, 9])).tolist() == [0, 1, 2, 3]
    assert by_position(left, np.asarray([7, 8, 7, 8])).tolist() == [[0, 2], [1, 3]]
    assert by_position(left[:2], np.asarray([7, 7, 8, 8])).tolist() == [0, 1]


def test_nothing_left_of_an_input_is_no_matrix() -> None:
    reader = last_reader(network(flat=True))
    nothing = np.zeros(0, np.intp)
    gram = weight_gram(reader.node, CHANNELS * SIDE * SIDE, nothing)
    assert gram is not None
    assert gram.shape == (0, 0)
