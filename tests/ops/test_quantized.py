"""Quantised networks as ONNX Runtime's own tools make them: thinned, exact, and still loaded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from sketch import Sketch

import hwpass
from hwpass.model.model import Model


def convolutional() -> Sketch:
    """A stem, a depthwise block with a residual, pooling and a classifier."""
    s = Sketch(17, 1)
    h = s.op("Relu", s.conv(s.input(["N", 3, 8, 8], "x"), 16, 3, kernel=3, bias=True))
    y = s.op("Clip", s.conv(h, 24, 16, bias=True), s.const(0.0), s.const(6.0))
    y = s.op("Relu", s.conv(y, 24, 1, kernel=3, bias=True, group=24))
    y = s.op("Add", h, s.conv(y, 16, 24, bias=True))
    y = s.op("Flatten", s.op("GlobalAveragePool", y))
    s.output(s.op("Gemm", y, s.weight(10, 16), s.weight(10, fan=4), transB=1))
    return s


def attentive() -> Sketch:
    """One block of attention with four heads, and a feed-forward part."""
    s = Sketch(17, 2)
    x = s.input([2, 6, 16], "x")
    q, k, v = (
        s.op("Transpose", s.op("Reshape", s.linear(x, 16, 32), s.const([2, 6, 4, 8])), perm=[0, 2, 1, 3])
        for _ in range(3)
    )
    scores = s.op("Softmax", s.op("MatMul", q, s.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    y = s.op("Reshape", s.op("Transpose", s.op("MatMul", scores, v), perm=[0, 2, 1, 3]), s.const([2, 6, 32]))
    y = s.op("Add", x, s.linear(y, 32, 16))
    s.output(s.linear(s.op("Relu", s.linear(y, 16, 32)), 32, 4))
    return s


def quantised(sketch: Sketch, form: str, folder: Path) -> Path:
    """The sketch through `onnxruntime.quantization`."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    source, target = folder / "float.onnx", folder / "quantised.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(sketch.model()), source)
    shape = [1 if d.dim_param else d.dim_value for d in sketch.inputs[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(3)]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Any:
            return next(self.left, None)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "dynamic":
            quantize_dynamic(str(source), str(target), weight_type=QuantType.QInt8, per_channel=True)
        else:
            layout = QuantFormat.QOperator if form == "qoperator" else QuantFormat.QDQ
            kind = QuantType.QInt8 if form == "qdq" else QuantType.QUInt8
            quantize_static(
                str(source),
                str(target),
                Reader(),
                quant_format=layout,
                per_channel=True,
                activation_type=kind,
                weight_type=QuantType.QInt8,
            )
    return target


@pytest.mark.parametrize("form", ["qdq", "qdq uint8", "qoperator", "dynamic"])
@pytest.mark.parametrize("net", [convolutional, attentive])
def test_a_quantised_network_is_thinned_exactly(net: Any, form: str, tmp_path: Path) -> None:
    path = quantised(net(), form, tmp_path)
    result = hwpass.run(path, "server-cpu", macs=0.6, score="l2", align=1)
    assert result.report.ratio.macs is not None
    assert result.report.ratio.macs <= 0.6
    assert result.report.ratio.size is not None
    assert result.report.ratio.size < 1
    verdict = result.report.verdicts.exactness
    assert verdict is not None
    assert verdict.passed


def test_weights_of_four_bits_in_blocks_are_thinned() -> None:
    """Rows of W go with their scales; its columns go by whole blocks of sixteen."""
    s = Sketch(21)
    x = s.linear(s.input(["N", 4]), 4, 64)
    weight = s.const(np.arange(64 * 6).reshape(6, 64) % 16 - 8, onnx.helper.tensor_dtype_to_np_dtype(22))
    scale = s.const(s.rng.uniform(0.1, 0.2, (6, 4)))
    wide = s.op("DequantizeLinear", weight, scale, axis=1, block_size=16)
    s.output(s.linear(s.op("MatMul", x, s.op("Transpose", wide, perm=[1, 0])), 6, 3))
    proto = s.model()
    result = hwpass.run(proto, "server-cpu", channels=0.5, score="l2", align=1)
    assert result.report.verdicts.exactness is not None
    assert result.report.verdicts.exactness.passed
    pruned = {name: list(constant.shape) for name, constant in result.model.constants().items()}
    assert pruned[weight] == [3, 32]
    assert pruned[scale] == [3, 2]


def test_removed_weights_mean_zero_in_the_twin() -> None:
    """The integer of a removed weight is its zero point, one for every output channel."""
    from hwpass.coupling.groups import couple
    from hwpass.surgery.cut import prune
    from hwpass.surgery.dense_twin import dense_twin

    s = Sketch(17)
    x = s.linear(s.input(["N", 4]), 4, 6)
    weight = s.const(np.full((6, 3), 9), np.uint8)
    points = s.const([5, 6, 7], np.uint8)
    s.output(s.op("MatMul", x, s.op("DequantizeLinear", weight, s.const([1.0, 2.0, 3.0]), points, axis=1)))
    coupling = couple(Model.load(s.model()))
    keep = np.ones(int(coupling.component.max()) + 1, bool)
    keep[coupling.groups[0].components[2]] = False
    twin = dense_twin(coupling, prune(coupling, keep))
    integers = next(n for n in twin.graph.nodes if n.op == "DequantizeLinear").inputs[0].values
    assert integers[2].tolist() == [5, 6, 7]
    assert (np.delete(integers, 2, axis=0) == 9).all()
