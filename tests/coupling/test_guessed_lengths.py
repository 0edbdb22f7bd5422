"""Lengths that a dynamic model is analysed at fit what the graph has for them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from sketch import Sketch

from hwpass.coupling.groups import couple
from hwpass.model.model import Model


@pytest.mark.parametrize("places", [20, 64, 512])
def test_a_table_of_positions_bounds_the_length(places: int) -> None:
    """Rows are picked by a range over the length: one of 128 does not fit a table of 64."""
    s = Sketch()
    ids = s.input(["N", "T"], name="ids", dtype=TensorProto.INT64)
    length = s.op("Gather", s.op("Shape", ids), s.const(np.asarray(1)), axis=0)
    positions = s.op("Range", s.const(np.asarray(0)), length, s.const(np.asarray(1)))
    x = s.op("Add", s.op("Gather", s.weight(30, 8), ids), s.op("Gather", s.weight(places, 8), positions))
    s.output(s.op("MatMul", s.op("Relu", s.op("MatMul", x, s.weight(8, 24))), s.weight(24, 4)))
    coupling = couple(Model.load(s.model()))
    assert not any(node.frozen for node in coupling.nodes)
    assert 24 in {group.width for group in coupling.groups}
