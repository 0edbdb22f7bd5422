"""Proofs tensor by tensor of what detectors and recurrent cells are written with: resizes, and branches never taken."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx.parser
import pytest
from sketch import Sketch

import hwpass
from hwpass.model.model import Model
from hwpass.verdicts.proof_sides import InMemory, nudged
from hwpass.verdicts.tensorwise import stepwise

#: torch.nn.LSTM on rows: one state is squeezed where the batch is 1, which is decided when the model runs.
CELL = """<ir_version: 8, opset_import: ["" : 17]>
cell (float[n, 4] x) => (float[] y) <int64[1] axis = {0}, int64 zero = {0}, int64 one = {1}> {
    h = Relu (x)
    s = Shape (h)
    batch = Gather (s, zero)
    single = Equal (batch, one)
    z = If (single) <
        then_branch = taken () => (float[] q) { q = Squeeze (h, axis) },
        else_branch = other () => (float[] r) { r = Identity (h) }
    >
    y = Sigmoid (z)
}"""


@pytest.mark.parametrize("batch", [1, 3])
def test_a_branch_that_is_not_taken_need_not_go_with_the_values(batch: int) -> None:
    model = Model.load(onnx.parser.parse_model(CELL))
    feed = {"x": np.random.default_rng(0).standard_normal((batch, 4)).astype(np.float32)}
    found = stepwise(InMemory("the cell", lambda: model, 1), model, feed, lambda name, value: value)
    assert found.passed
    assert {"h", "z", "y"} <= found.compared


@pytest.mark.parametrize("op", ["Resize", "Upsample"])
def test_rounding_does_not_move_what_settles_extents(op: str) -> None:
    """0.9999 times as large is a pixel less."""
    s = Sketch(opset=9 if op == "Upsample" else 17)
    h = s.conv(s.input(["N", 3, 8, 8]), 6, 3, kernel=3)
    scales = s.const(np.asarray([1, 1, 2, 2], np.float32))
    h = s.op("Upsample", h, scales) if op == "Upsample" else s.op("Resize", h, "", scales)
    s.output(s.conv(h, 4, 6, kernel=3))
    model = hwpass.load(s.model())
    before = {name: tensor.values for name, tensor in model.constants().items()}
    for seed in range(3):
        moved = nudged(model, seed)
        (resize,) = [node for node in moved.graph.nodes if node.op == op]
        np.testing.assert_array_equal(resize.inputs[-1].values, [1, 1, 2, 2])
        # Everything else did move.
        weights = [t.values for n in moved.graph.nodes for t in n.inputs[1:2] if n.op == "Conv"]
        assert all(not any(np.array_equal(w, b) for b in before.values()) for w in weights)
        feed = {moved.graph.inputs[0].name: np.ones((1, 3, 8, 8), np.float32)}
        (found,) = InMemory("", partial(Model.copy, moved), 1).outputs([feed])[0].values()
        assert found.shape[2:] == (16, 16)
