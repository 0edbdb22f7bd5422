"""Small models of attention, of ONNX Runtime's own operators, and of quantised networks."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper
from sketch import Sketch
from small_models import MICROSOFT, out, rows, subject

# --- attention


def projections(s: Sketch, widths: tuple[int, ...]) -> list[str]:
    x = s.input(["N", 5, 4])
    return [s.op("Add", s.linear(x, 4, w), s.weight(w, fan=4)) for w in widths]


@subject(opset=23)
def attention(s: Sketch) -> None:
    y = s.op("Attention", *projections(s, (16, 8, 12)), q_num_heads=8, kv_num_heads=4)
    out(s, y, 24, 3)


@subject(opset=23)
def narrow_attention(s: Sketch) -> None:
    """Two heads, so that positions inside a head go, and the scale stays what it was."""
    y = s.op("Attention", *projections(s, (12, 12, 12)), q_num_heads=2, kv_num_heads=2)
    out(s, y, 12, 3)


@subject(opset=23)
def rotary(s: Sketch) -> None:
    angles = s.rng.standard_normal((8, 2))
    tables = [s.const(np.cos(angles)), s.const(np.sin(angles))]
    x = s.linear(s.input([2, 5, 4]), 4, 16)
    where = s.const([[0, 1, 2, 3, 4]] * 2, np.int64)
    x = s.op("RotaryEmbedding", x, *tables, where, num_heads=4)
    out(s, x, 16, 3)


@subject(opset=23)
def rotary_two(s: Sketch) -> None:
    """Two rotated heads, which are too few to choose from."""
    angles = s.rng.standard_normal((8, 4))
    where = s.const([[0, 1, 2, 3, 4]] * 2, np.int64)
    x = s.linear(s.op("Relu", s.linear(s.input([2, 5, 4]), 4, 6)), 6, 16)
    x = s.op("RotaryEmbedding", x, s.const(np.cos(angles)), s.const(np.sin(angles)), where, num_heads=2)
    out(s, x, 16, 3)


@subject()
def fused_attention(s: Sketch) -> None:
    x = s.op("Attention", rows(s, 8), s.weight(8, 24, fan=8), s.weight(24, fan=4), num_heads=4, domain=MICROSOFT)
    out(s, x, 8, 3)


@subject()
def heads_of_microsoft(s: Sketch) -> None:
    x = s.input(["N", 5, 4])
    q, k, v = (s.linear(x, 4, w) for w in (8, 8, 12))
    y = s.op("MultiHeadAttention", q, k, v, s.weight(28, fan=4), num_heads=4, domain=MICROSOFT)
    out(s, y, 12, 3)


@subject()
def grouped_queries(s: Sketch) -> None:
    q, k, v = (s.linear(s.inputs[0].name if s.inputs else s.input([2, 3, 4]), 4, w) for w in (64, 32, 32))
    cache = [s.const(np.zeros((2, 4, 0, 8), np.float32)) for _ in range(2)]
    lengths = [s.const([2, 2], np.int32), s.const(3, np.int32)]
    y = s.ops("GroupQueryAttention", q, k, v, *cache, *lengths, count=3, num_heads=8, kv_num_heads=4, domain=MICROSOFT)
    out(s, y[0], 64, 3)


# --- ONNX Runtime's own


@subject()
def fusions(s: Sketch) -> None:
    x = s.op("FusedConv", s.input(["N", 3, 4, 4]), s.weight(8, 3, 3, 3), s.weight(8, fan=4), activation="Sigmoid",
             pads=[1] * 4, domain=MICROSOFT)  # fmt: skip
    x = s.op("FusedConv", x, s.weight(8, 2, 1, 1), s.weight(8, fan=4), activation="Relu", group=4, domain=MICROSOFT)
    x = s.op("Flatten", s.op("GlobalAveragePool", x))
    x = s.op("FusedGemm", x, s.weight(6, 8), s.weight(6, fan=4), activation="Sigmoid", transB=1, domain=MICROSOFT)
    total = s.axes_op("ReduceSum", x, [1])
    s.outputs.append(helper.make_tensor_value_info(total, TensorProto.FLOAT, [None] * 2))
    y = s.op("FusedMatMul", s.linear(x, 6, 6), s.weight(7, 6), transB=1, alpha=0.5, domain=MICROSOFT)
    y = s.op("BiasGelu", y, s.weight(7, fan=4), domain=MICROSOFT)
    out(s, y, 7, 2)


@subject()
def fused_square(s: Sketch) -> None:
    x = s.op("FusedMatMul", s.op("Relu", rows(s)), s.weight(6, 6), transB=1, domain=MICROSOFT)
    out(s, s.op("QuickGelu", x, domain=MICROSOFT), 6, 3)


@subject()
def skipping(s: Sketch) -> None:
    x, y = rows(s, 8), s.linear(s.inputs[0].name, 4, 8)
    z, _, _, total = s.ops("SkipSimplifiedLayerNormalization", x, y, s.positive(8), s.weight(8, fan=4), count=4,
                           epsilon=0.1, domain=MICROSOFT)  # fmt: skip
    s.nodes[-1].output[1] = s.nodes[-1].output[2] = ""
    out(s, s.op("Add", s.op("Relu", z), total), 8, 3)


# --- quantised


def _steps(s: Sketch, count: int) -> str:
    return s.const(s.rng.uniform(0.01, 0.03, count))


@subject()
def qdq(s: Sketch) -> None:
    """Integer weights, scales by channel, behind DequantizeLinear; activations quantised on the way."""
    x = s.input(["N", 3, 4, 4])
    for outputs, inputs in ((6, 3), (8, 6)):
        w = s.const(s.rng.integers(-90, 90, (outputs, inputs, 3, 3)), np.int8)
        w = s.op("DequantizeLinear", w, _steps(s, outputs), s.const([0] * outputs, np.int8), axis=0)
        x = s.op("Relu", s.op("Conv", x, w, s.weight(outputs, fan=4), pads=[1] * 4))
        scale = [s.const(0.05 * outputs), s.const(3, np.uint8)]
        x = s.op("DequantizeLinear", s.op("QuantizeLinear", x, *scale), *scale)
    s.output(s.conv(x, 3, 8))


@subject()
def qdq_square(s: Sketch) -> None:
    """As many scales as there are outputs, and as many inputs; zero points that are not zero."""
    w = s.const(s.rng.integers(-90, 90, (6, 6)), np.int8)
    w = s.op("DequantizeLinear", w, _steps(s, 6), s.const([0] * 6, np.int8), axis=1)
    out(s, s.op("Relu", s.op("MatMul", s.op("Relu", rows(s)), w)), 6, 3)


@subject()
def points(s: Sketch) -> None:
    """Integer weights whose zero is another number."""
    w = s.const(s.rng.integers(0, 255, (6, 7)), np.uint8)
    w = s.op("DequantizeLinear", w, s.const(0.02), s.const(120, np.uint8))
    y = s.op("Add", s.op("MatMul", s.op("Relu", rows(s)), w), s.op("Sigmoid", s.weight(7)))
    z = s.axes_op("ReduceSum", s.op("MatMul", s.op("Relu", s.linear(s.inputs[0].name, 4, 6)), w), [2])
    out(s, s.op("Relu", y), 7, 3)
    s.outputs.append(helper.make_tensor_value_info(z, TensorProto.FLOAT, [None] * 3))


@subject()
def integers_square(s: Sketch) -> None:
    scale = [s.const(0.05), s.const(120, np.uint8)]
    x = s.op("QuantizeLinear", s.op("Relu", s.linear(s.input(["N", 4]), 4, 6)), *scale)
    w = s.const(s.rng.integers(-60, 60, (6, 6)), np.int8)
    x = s.op("QGemm", x, *scale, w, s.const(0.02), s.const(0, np.int8),
             s.const(s.rng.integers(-500, 500, 6), np.int32), transB=1, alpha=1.0, domain=MICROSOFT)  # fmt: skip
    out(s, s.op("Relu", x), 6, 2)


@subject(opset=21)
def blocks_of_scales(s: Sketch) -> None:
    """A weight quantised in blocks along its inputs."""
    x = s.op("Relu", rows(s, 16))
    w = s.const(s.rng.integers(-90, 90, (16, 6)), np.int8)
    scales = s.const(s.rng.uniform(0.01, 0.03, (4, 6)))
    w = s.op("DequantizeLinear", w, scales, s.const(np.full((4, 6), 5), np.int8), axis=0, block_size=4)
    out(s, s.op("Relu", s.op("MatMul", x, w)), 6, 3)


@subject()
def integers(s: Sketch) -> None:
    """Convolution and product of integers."""
    x = s.op("QuantizeLinear", s.input(["N", 3, 4, 4]), s.const(0.03), s.const(120, np.uint8))
    first = [s.const(0.03), s.const(120, np.uint8)]
    w = s.const(s.rng.integers(-60, 60, (6, 3, 3, 3)), np.int8)
    mid = [s.const(0.2), s.const(100, np.uint8)]
    bias = s.const(s.rng.integers(-500, 500, 6), np.int32)
    x = s.op("QLinearConv", x, *first, w, _steps(s, 6), s.const([0] * 6, np.int8), *mid, bias, pads=[1] * 4)
    y = s.op("QLinearConv", x, *mid, s.const(s.rng.integers(-60, 60, (6, 6, 1, 1)), np.int8), s.const(0.02),
             s.const(0, np.int8), *mid)  # fmt: skip
    x = s.op("QLinearAdd", x, *mid, y, *mid, *mid, domain=MICROSOFT)
    x = s.op("QLinearGlobalAveragePool", x, *mid, *mid, domain=MICROSOFT)
    x = s.op("Flatten", x)
    v = s.const(s.rng.integers(-60, 60, (6, 5)), np.int8)
    last = [s.const(0.4), s.const(128, np.uint8)]
    x = s.op("QLinearMatMul", x, *mid, v, s.const(0.02), s.const(0, np.int8), *last)
    z = s.op("MatMulInteger", x, s.const(s.rng.integers(-60, 60, (5, 3)), np.int8), last[1])
    s.outputs.append(helper.make_tensor_value_info(z, TensorProto.INT32, [None] * 2))


@subject()
def integers_of_microsoft(s: Sketch) -> None:
    x = s.input(["N", 6])
    w = s.const(s.rng.integers(-60, 60, (6, 8)), np.int8)
    x = s.op("DynamicQuantizeMatMul", x, w, _steps(s, 8), s.const([0] * 8, np.int8), s.weight(8, fan=4),
             domain=MICROSOFT)  # fmt: skip
    scale = [s.const(0.05), s.const(120, np.uint8)]
    x = s.op("QuantizeLinear", s.op("Relu", x), *scale)
    w = s.const(s.rng.integers(-60, 60, (5, 8)), np.int8)
    x = s.op("QGemm", x, *scale, w, s.const(0.02), s.const(0, np.int8),
             s.const(s.rng.integers(-500, 500, 5), np.int32), transB=1, alpha=1.0, domain=MICROSOFT)  # fmt: skip
    out(s, x, 5, 2)


@subject()
def few_bits(s: Sketch) -> None:
    x = s.op("Relu", rows(s, 64))
    packed = s.const(s.rng.integers(0, 256, (6, 4, 8)), np.uint8)
    scales = s.const(s.rng.uniform(0.02, 0.06, (6, 4)))
    x = s.op("MatMulNBits", x, packed, scales, K=64, N=6, bits=4, block_size=16, domain=MICROSOFT)
    out(s, s.op("Relu", x), 6, 3)
