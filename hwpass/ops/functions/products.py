"""Products of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_graphsurgeon as gs

from hwpass.ops.functions.common import F, NoFunction, given, text, torch
from hwpass.ops.functions.elementwise import activated


def matmul(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A product of matrices, stacked or not."""
    return [torch.matmul(inputs[0], inputs[1])]


def _gemm(node: gs.Node, a: Any, b: Any, c: Any) -> Any:
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    a = a.T if node.attrs.get("transA", 0) else a
    b = b.T if node.attrs.get("transB", 0) else b
    if not a.is_floating_point():
        alpha, beta = int(alpha), int(beta)
    if c is None:
        y = a @ b
        return y if alpha == 1 else alpha * y
    if c.dim() < 2 or c.shape == (a.shape[0], b.shape[1]):
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)
    return alpha * (a @ b) + beta * c


def gemm(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """alpha A B + beta C, either side transposed, and an activation where the operator is a fused one."""
    y = _gemm(node, inputs[0], inputs[1], given(inputs, 2))
    return [activated(node, y) if node.op == "FusedGemm" else y]


def einsum(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Any contraction written with labels."""
    return [torch.einsum(text(node, "equation", "").replace(" ", ""), *inputs)]


def fused_matmul(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """alpha A B with either side transposed."""
    a, b = inputs
    if node.attrs.get("transBatchA", 0) or node.attrs.get("transBatchB", 0):
        raise NoFunction(node, "transposed batches")
    a = a.mT if node.attrs.get("transA", 0) and a.dim() > 1 else a
    b = b.mT if node.attrs.get("transB", 0) and b.dim() > 1 else b
    y, alpha = torch.matmul(a, b), float(node.attrs.get("alpha", 1.0))
    return [y if alpha == 1 else alpha * y]


def gemm_fast_gelu(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """gelu(X W + b), approximated by tanh."""
    y = torch.matmul(inputs[0], inputs[1])
    return [F.gelu(y if given(inputs, 2) is None else y + inputs[2], approximate="tanh")]


def determinant(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The determinants of stacked matrices."""
    return [torch.linalg.det(inputs[0])]


def matmul_nbits(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """x W with W [N, blocks, block] in a few bits; each block has a scale and a zero point."""
    x, packed, scales, points, order, bias = (given(inputs, i) for i in range(6))
    bits, block = int(node.attrs.get("bits", 4)), int(node.attrs["block_size"])
    rows, width = int(node.attrs["N"]), int(node.attrs["K"])
    if order is not None or bits not in (4, 8):
        raise NoFunction(node, "reordered columns, or other than 4 or 8 bits")
    blocks = -(-width // block)
    numbers = _unpacked(packed.reshape(rows, blocks, -1), bits).to(x.dtype)
    if points is None:
        numbers = numbers - float(1 << (bits - 1))
    elif points.is_floating_point():
        numbers = numbers - points.reshape(rows, blocks, 1)
    else:
        numbers = numbers - _unpacked(points.reshape(rows, -1), bits)[:, :blocks, None]
    weight = (numbers * scales.reshape(rows, blocks, 1)).reshape(rows, -1)[:, :width]
    return [F.linear(x, weight.to(x.dtype), bias)]


def _unpacked(packed: Any, bits: int) -> Any:
    if bits == 8:
        return packed
    return torch.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1)
