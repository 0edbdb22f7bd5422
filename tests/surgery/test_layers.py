"""Compensation of layers that are neither plain convolutions nor matrix products."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from sketch import Sketch

import hwpass
from hwpass.context import Context
from hwpass.cost_models import load_target
from hwpass.data.sampled_rows import Window, transposed_rows
from hwpass.manager import PassManager
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs
from hwpass.runtime.sessions import open_session, run_session


def gains(proto: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> dict[str, tuple[float, float]]:
    """The held-out error of each layer before and after, at half of the channels; exactness is asked for."""
    model = hwpass.load(proto)
    context = Context(target=load_target("server-cpu"), original=model.proto())
    context.calibration = load_calibration(feeds, input_specs(model.interface()))
    PassManager.parse("fold,prune-channels{channels=0.5x,align=1},compensate,verify").run(model, context)
    assert context.findings.proof is not None
    assert context.findings.proof.state == "passed"
    return {name: (before, after) for name, before, after in context.findings.gains}


@pytest.mark.parametrize(
    "window",
    [
        {"strides": [2, 2], "pads": [1, 0, 0, 1]},
        {"strides": [1, 1], "dilations": [2, 1]},
        {"strides": [3, 2], "output_padding": [2, 1]},
    ],
)
def test_rows_of_a_transposed_convolution(window: dict[str, list[int]]) -> None:
    s = Sketch()
    x = s.input([None, 3, 5, 4])
    weight = s.weight(3, 6, 3, 2)
    s.output(s.op("ConvTranspose", x, weight, **window))
    model = hwpass.load(s.model())
    image = np.random.default_rng(0).standard_normal((2, 3, 5, 4)).astype(np.float32)
    y = run_session(open_session(model.proto()), {x: image})[model.graph.outputs[0].name]
    node = model.graph.nodes[0]
    where = tuple(a.reshape(-1) for a in np.indices((2, *y.shape[2:])))
    rows = transposed_rows(image, Window.of(node, image.shape[2:]), where)
    found = np.einsum("rct,cot->ro", rows, node.inputs[1].values.reshape(3, 6, -1))
    np.testing.assert_allclose(found, np.moveaxis(y, 1, -1).reshape(-1, 6), rtol=1e-4, atol=1e-5)


def test_a_transposed_convolution_is_fitted() -> None:
    s = Sketch()
    x = s.input([None, 4, 6, 6])
    h = s.op("Relu", s.conv(x, 24, 4))
    s.output(s.op("ConvTranspose", h, s.weight(24, 5, 2, 2), strides=[2, 2]))
    rng = np.random.default_rng(0)
    found = gains(s.model(), [{x: rng.standard_normal((16, 4, 6, 6)).astype(np.float32)} for _ in range(8)])
    before, after = next(v for k, v in found.items() if "ConvTranspose" in k)
    assert after < 0.6 * before


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_what_a_recurrent_layer_reads_is_fitted(op: str, gates: int) -> None:
    s = Sketch()
    x = s.input([7, None, 6])
    h = s.op("Relu", s.linear(x, 6, 24))
    weights = [s.weight(2, gates * 8, 24), s.weight(2, gates * 8, 8), s.weight(2, 2 * gates * 8)]
    s.output(s.op(op, h, *weights, hidden_size=8, direction="bidirectional"))
    rng = np.random.default_rng(0)
    found = gains(s.model(), [{x: rng.standard_normal((7, 12, 6)).astype(np.float32)} for _ in range(8)])
    before, after = next(v for k, v in found.items() if op in k)
    assert after < 0.6 * before
