"""Cases for ONNX Runtime's own operators, in the form of the standard's node tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from node_cases import Array, Case, computed

MICROSOFT = "com.microsoft"
RNG = np.random.default_rng(0)


def f(*shape: int) -> Array:
    """Normal numbers."""
    return RNG.standard_normal(shape).astype(np.float32)


def u8(*shape: int) -> Array:
    """Any uint8."""
    return RNG.integers(0, 256, shape).astype(np.uint8)


def i8(*shape: int) -> Array:
    """int8 of 7 bits, as processors without VNNI want them."""
    return RNG.integers(-64, 64, shape).astype(np.int8)


def s(value: float | Sequence[float]) -> Array:
    """A scale, or several."""
    return np.asarray(value, np.float32)


def z(value: int | Sequence[int], signed: bool = False) -> Array:
    """A zero point, or several."""
    return np.asarray(value, np.int8 if signed else np.uint8)


def i32(*values: int) -> Array:
    """int32 numbers."""
    return np.asarray(values, np.int32)


def _specs() -> Iterator[tuple[str, str, dict[str, Any], Sequence[Array | None], int]]:
    """Name, operator, attributes, inputs and the number of outputs."""
    yield "fused_conv", "FusedConv", {"activation": "Relu"}, [f(2, 6, 5, 5), f(8, 6, 3, 3), f(8), f(2, 8, 3, 3)], 1
    yield "fused_conv_sigmoid", "FusedConv", {"activation": "Sigmoid"}, [f(2, 6, 5, 5), f(8, 6, 1, 1), f(8)], 1
    clip = {"activation": "Clip", "activation_params": [0.0, 6.0], "group": 4}
    yield "fused_conv_clip", "FusedConv", clip, [f(2, 8, 5, 5), f(8, 2, 3, 3)], 1
    yield "fused_matmul", "FusedMatMul", {"alpha": 0.5, "transA": 1}, [f(2, 5, 3), f(2, 5, 4)], 1
    yield "fused_matmul_weight", "FusedMatMul", {"transB": 1}, [f(2, 3, 5), f(4, 5)], 1
    yield "fused_gemm", "FusedGemm", {"activation": "Relu", "transB": 1}, [f(3, 5), f(4, 5), f(4)], 1
    yield "bias_gelu", "BiasGelu", {}, [f(2, 3, 6), f(6)], 1
    yield "fast_gelu", "FastGelu", {}, [f(2, 3, 6), f(6)], 1
    yield "quick_gelu", "QuickGelu", {"alpha": 1.7}, [f(2, 3, 6)], 1
    yield "gelu", "Gelu", {}, [f(2, 3, 6)], 1
    yield "skip_norm", "SkipLayerNormalization", {}, [f(2, 3, 6), f(2, 3, 6), f(6), f(6), f(6)], 4
    yield "skip_rms", "SkipSimplifiedLayerNormalization", {}, [f(2, 3, 6), f(2, 3, 6), f(6), f(6)], 1
    rms = [f(2, 3, 6), f(2, 3, 6), f(6)]
    yield "skip_rms_bare", "SkipSimplifiedLayerNormalization", {"epsilon": 1e-3}, rms, 1
    yield "attention", "Attention", {"num_heads": 4}, [f(2, 3, 8), f(8, 24), f(24)], 1
    sizes = {"num_heads": 4, "qkv_hidden_sizes": [8, 8, 16]}
    yield "attention_sizes", "Attention", sizes, [f(2, 3, 8), f(8, 32), f(32)], 1
    bias = [f(2, 3, 8), f(8, 24), f(24), None, None, f(1, 4, 3, 3)]
    yield "attention_bias", "Attention", {"num_heads": 4}, bias, 1
    past = [f(2, 3, 8), f(8, 24), f(24), None, f(2, 2, 4, 5, 2)]
    yield "attention_past", "Attention", {"num_heads": 4, "unidirectional": 1}, past, 2
    qkv = [f(2, 3, 8), f(2, 5, 8), f(2, 5, 12)]
    yield "mha", "MultiHeadAttention", {"num_heads": 4}, qkv, 1
    yield "mha_few_heads", "MultiHeadAttention", {"num_heads": 2}, [f(2, 3, 12), f(2, 5, 12), f(2, 5, 12)], 1
    yield "mha_bias", "MultiHeadAttention", {"num_heads": 4, "scale": 0.3}, [*qkv, f(28)], 1
    cross = [*qkv[:2], f(2, 5, 8), None, None, f(1, 4, 3, 5)]
    yield "mha_mask", "MultiHeadAttention", {"num_heads": 4}, cross, 1
    cached = [f(2, 3, 8), f(2, 3, 8), f(2, 3, 8), None, None, None, f(2, 4, 5, 2), f(2, 4, 5, 2)]
    yield "mha_past", "MultiHeadAttention", {"num_heads": 4}, cached, 3
    grouped = [f(2, 3, 64), f(2, 3, 32), f(2, 3, 32), f(2, 4, 0, 8), f(2, 4, 0, 8), i32(2, 2), i32(3)]
    yield "gqa", "GroupQueryAttention", {"num_heads": 8, "kv_num_heads": 4}, grouped, 3
    wide = [f(2, 3, 128), f(2, 3, 64), f(2, 3, 64), f(2, 4, 0, 16), f(2, 4, 0, 16), i32(2, 2), i32(3)]
    rotary = {"num_heads": 8, "kv_num_heads": 4, "do_rotary": 1}
    yield "gqa_rotary", "GroupQueryAttention", rotary, [*wide, np.cos(f(6, 8)), np.sin(f(6, 8))], 3
    angles = [np.cos(f(6, 4)), np.sin(f(6, 4))]
    where = np.asarray([[0, 1, 2], [1, 2, 3]], np.int64)
    yield "rotary", "RotaryEmbedding", {"num_heads": 4}, [f(2, 3, 32), where, *angles], 1
    yield "rotary_heads", "RotaryEmbedding", {}, [f(2, 4, 3, 8), where, *angles], 1
    yield "rotary_flat", "RotaryEmbedding", {}, [f(2, 3, 32), where, *angles], 1
    yield "n_bits", "MatMulNBits", {"K": 64, "N": 6, "bits": 4, "block_size": 16}, [f(3, 64), u8(6, 4, 8), f(6, 4)], 1
    points = [f(3, 64), u8(6, 4, 8), f(6, 4), u8(6, 2)]
    yield "n_bits_points", "MatMulNBits", {"K": 64, "N": 6, "bits": 4, "block_size": 16}, points, 1
    flat = [f(3, 64), u8(6, 4, 8), f(24), None, None, f(6)]
    yield "n_bits_bias", "MatMulNBits", {"K": 64, "N": 6, "bits": 4, "block_size": 16}, flat, 1
    yield from _integers()


def _integers() -> Iterator[tuple[str, str, dict[str, Any], Sequence[Array | None], int]]:
    """Operators on quantised tensors."""
    pair = [u8(2, 6, 3), s(0.02), z(120), u8(2, 6, 3), s(0.03), z(3), s(0.05), z(100)]
    yield "q_add", "QLinearAdd", {}, pair, 1
    yield "q_mul", "QLinearMul", {}, pair, 1
    zeros = [u8(2, 6, 3), s(0.02), z(0), u8(2, 6, 3), s(0.03), z(0), s(0.05), z(0)]
    yield "q_add_zeros", "QLinearAdd", {}, zeros, 1
    one = [u8(2, 6, 3, 3), s(0.02), z(120), s(0.03), z(100)]
    yield "q_leaky", "QLinearLeakyRelu", {"alpha": 0.1}, one, 1
    yield "q_sigmoid", "QLinearSigmoid", {}, one, 1
    yield "q_softmax", "QLinearSoftmax", {"axis": 1, "opset": 17}, [*one[:3], s(1 / 256), z(0)], 1
    yield "q_global", "QLinearGlobalAveragePool", {"channels_last": 0}, one, 1
    yield "q_global_last", "QLinearGlobalAveragePool", {"channels_last": 1}, one, 1
    yield "q_pool", "QLinearAveragePool", {"kernel_shape": [2, 2]}, one, 1
    parts = [s(0.04), z(90), u8(2, 4), s(0.02), z(120), u8(2, 5), s(0.03), z(100)]
    yield "q_concat", "QLinearConcat", {"axis": 1}, parts, 1
    rows = [u8(3, 6), s(0.02), z(120), i8(6, 5), s([0.01, 0.02, 0.03, 0.01, 0.02]), z([0, 1, 2, 3, 4], True)]
    yield "q_gemm", "QGemm", {}, [*rows, i32(1, 2, 3, 4, 5), s(0.2), z(128)], 1
    turned = [*rows[:3], i8(5, 6), s(0.02), z(3, True)]
    yield "q_gemm_float", "QGemm", {"transB": 1, "alpha": 1.0}, [*turned, i32(1, 2, 3, 4, 5)], 1
    scaled = [u8(3, 6), i8(6, 5), s(0.02), s([0.01, 0.02, 0.03, 0.01, 0.02]), z(120), z([0, 1, 2, 3, 4], True)]
    yield "integer_to_float", "MatMulIntegerToFloat", {}, [*scaled, f(5)], 1
    yield "dynamic", "DynamicQuantizeMatMul", {}, [f(3, 6), *scaled[1::2][:2], z([0, 1, 2, 3, 4], True), f(5)], 1
    lstm = [f(4, 2, 5), i8(1, 5, 24), i8(1, 6, 24), f(1, 48), None, None, None, None]
    by_tensor = [s([0.01]), z([3], True), s([0.02]), z([0], True)]
    yield "dynamic_lstm", "DynamicQuantizeLSTM", {"hidden_size": 6}, [*lstm, *by_tensor], 3
    both = [f(4, 2, 5), i8(2, 5, 24), i8(2, 6, 24), None, None, f(2, 2, 6), f(2, 2, 6), None]
    by_way = [s([0.01, 0.02]), z([3, 0], True), s([0.02, 0.01]), z([0, 5], True)]
    ways = {"hidden_size": 6, "direction": "bidirectional"}
    yield "dynamic_lstm_both", "DynamicQuantizeLSTM", ways, [*both, *by_way], 1
    last = [u8(2, 5, 5, 6), s(0.02), z(120), i8(8, 6, 3, 3), s([0.01] * 8), z([0] * 8, True), s(0.5), z(128)]
    yield "q_conv_last", "QLinearConv", {"channels_last": 1}, [*last, np.arange(8, dtype=np.int32)], 1
    yield "quantise", "QuantizeLinear", {"axis": 1}, [f(2, 6, 3), s([0.02] * 6), z([3] * 6)], 1
    yield "dequantise", "DequantizeLinear", {"axis": 1}, [u8(2, 6, 3), s([0.02] * 6), z([3] * 6)], 1


@cache
def contrib_cases() -> tuple[Case, ...]:
    """Every case; outputs are what ONNX Runtime computes."""
    opsets = (("", 17), (MICROSOFT, 1))
    return tuple(
        computed(name, op, attributes, values, count, opsets) for name, op, attributes, values, count in _specs()
    )
