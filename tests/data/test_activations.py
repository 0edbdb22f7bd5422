"""Stand-in sizes are bounded by the activations that they take."""

from __future__ import annotations

import numpy as np
import pytest
from sketch import Sketch

import hwpass
from hwpass.coupling.walk import analyse
from hwpass.data.proof_inputs import proof_inputs
from hwpass.data.sizes import FREE, Sizing, peak_bytes
from hwpass.model.model import Model
from hwpass.runtime.dimensions import typical_dimensions
from hwpass.runtime.inputs import input_specs


def test_the_peak_by_hand() -> None:
    """x [1, 4, 8, 8] is 1 KiB, each convolution's output of 16 channels 4: the second reads one and makes one."""
    s = Sketch()
    x = s.input([1, 4, 8, 8])
    y = s.op("Relu", s.conv(s.conv(x, 16, 4), 16, 16))
    s.output(y)
    assert peak_bytes(analyse(Model.load(s.model()))) == 1024 + 2 * 4096


def test_a_dynamic_batch_of_large_activations_stays_small() -> None:
    """One sample takes 2 x 64 channels of 400 x 400, 82 MB: a batch of two is twice that, and as far as it goes."""
    s = Sketch()
    x = s.input(["batch", 1, 400, 400])
    s.output(s.op("GlobalAveragePool", s.conv(s.op("Relu", s.conv(x, 64, 1)), 8, 64)))
    model = s.model()
    sizing = Sizing(Model.load(model))
    assert sizing.peak({"batch": 1}) > 64 * 400 * 400 * 4
    assert sizing.fits({"batch": 2})
    assert not sizing.fits({"batch": 3})
    made = proof_inputs(model, input_specs(model), model=sizing.model)
    assert {dims["batch"] for dims in made.sizes} == {1, 2}
    assert len(made.feeds) == 3


def test_volumes_are_modest() -> None:
    s = Sketch()
    x = s.input(["N", 2, "D", "H", "W"])
    s.output(s.op("Conv", x, s.weight(4, 2, 3, 3, 3)))
    model = s.model()
    assert typical_dimensions(model) == {"N": 1, "D": 32, "H": 32, "W": 32}
    assert analyse(Model.load(model)).dims == {"N": 1, "D": 32, "H": 32, "W": 32}
    made = proof_inputs(model, input_specs(model))
    assert max(int(np.prod(feed[input_specs(model)[0].name].shape)) for feed in made.feeds) * 4 * 4 < FREE


@pytest.mark.parametrize("data", [False, True])
def test_a_state_without_a_named_batch_prunes_under_default_options(data: bool) -> None:
    s = Sketch()
    x, state = s.input([None, None], name="x"), s.input([2, None, 6], name="state")
    frames = s.op("Relu", s.op("Conv", s.op("Unsqueeze", x, s.const([1])), s.weight(16, 1, 8), strides=[4]))
    steps = s.op("Transpose", s.op("Conv", frames, s.weight(5, 16, 1)), perm=[2, 0, 1])
    hidden, cell = s.ops("Split", state, s.const([1, 1]), count=2, axis=0)
    weights = [s.weight(1, 24, 5, fan=5), s.weight(1, 24, 6, fan=6)]
    out, _, _ = s.ops("LSTM", steps, *weights, "", "", hidden, cell, count=3, hidden_size=6)
    s.output(out)
    rng = np.random.default_rng(0)
    calib = {"x": rng.standard_normal((9, 64)).astype(np.float32), "state": np.zeros((2, 1, 6), np.float32)}
    result = hwpass.run(s.model(), target="server-cpu", macs=0.8, align=1, calib=calib if data else None)
    assert result.report.verdicts.exactness is not None
    assert result.report.verdicts.exactness.passed
