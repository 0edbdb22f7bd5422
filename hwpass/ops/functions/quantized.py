"""Quantised tensors. Where a gradient flows, integers are held as whole floats, and rounding hands it straight on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_graphsurgeon as gs

from hwpass.ops.functions.common import (
    F,
    NoFunction,
    flows,
    given,
    integers,
    spread,
    straight_through,
    torch,
    torch_type,
)
from hwpass.ops.functions.products import _gemm
from hwpass.ops.functions.windows import average_pool, convolve


def _parameter(values: Any, node: gs.Node, x: Any) -> Any:
    """A scale or zero point in a form that broadcasts: per tensor, per index of an axis, or per block of it."""
    rank = x.dim()
    axis = int(node.attrs.get("axis", 1))
    axis += rank if axis < 0 else 0
    if values.dim() <= 1 or values.numel() == 1:
        return spread(values, axis, rank)
    block = int(node.attrs.get("block_size", 0)) or -(-x.shape[axis] // values.shape[axis])
    return values.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])


def _range(node: gs.Node, dtype: Any) -> tuple[int, int]:
    if dtype.is_floating_point:
        raise NoFunction(node, f"the type {dtype}")
    kind = torch.iinfo(dtype)
    return int(kind.min), int(kind.max)


def quantised(node: gs.Node, x: Any, scale: Any, point: Any, dtype: Any) -> Any:
    """round(x / scale) + zero point within the type's range; whole floats where a gradient flows."""
    low, high = _range(node, dtype)
    real = (x / scale) + (0 if point is None else point.to(x.dtype))
    exact = (torch.round((x / scale).detach()) + (0 if point is None else point.to(x.dtype))).clamp(low, high)
    if flows(x):
        # Beyond the range nothing changes.
        return straight_through(exact, real.clamp(low, high))
    return exact.to(dtype)


def real(x: Any, scale: Any, point: Any) -> Any:
    """(q - zero point) * scale."""
    found = x.to(scale.dtype)
    return (found if point is None else found - point.to(scale.dtype)) * scale


def quantize(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """round(x / scale) + zero point, saturated."""
    x, scale, point = inputs[0], inputs[1], given(inputs, 2)
    if point is not None:
        dtype = point.dtype
    else:
        dtype = torch_type(node, node.attrs["output_dtype"]) if node.attrs.get("output_dtype") else torch.uint8
    if node.attrs.get("precision"):
        raise NoFunction(node, "a precision of its own")
    point = None if point is None else _parameter(point, node, x)
    x = x if x.is_floating_point() else x.to(scale.dtype)
    return [quantised(node, x, _parameter(scale, node, x).to(x.dtype), point, dtype)]


def dequantize(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """(q - zero point) * scale."""
    x, scale, point = inputs[0], inputs[1], given(inputs, 2)
    y = real(x, _parameter(scale, node, x), None if point is None else _parameter(point, node, x))
    return [y.to(torch_type(node, node.attrs["output_dtype"])) if node.attrs.get("output_dtype") else y]


def dynamic_quantize(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Integers of 8 bits, scale and zero point of a tensor, from its range."""
    x = inputs[0]
    high, low = x.detach().amax().clamp(min=0), x.detach().amin().clamp(max=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    point = torch.round((-low / scale).clamp(0, 255))
    return [quantised(node, x, scale, point, torch.uint8), scale, point.to(torch.uint8)]


def _exact(x: Any, point: Any, axis: int | None = None) -> Any:
    """Integers minus their zero point in a type in which their products' sums are whole."""
    found = x if x.requires_grad else x.double()
    if point is None:
        return found
    return found - (spread(point, axis % x.dim(), x.dim()) if axis is not None else point).to(found.dtype)


def _whole(y: Any) -> Any:
    return y if flows(y) else y.round().to(torch.int32)


def conv_integer(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A convolution of integers into int32."""
    x, w = _exact(inputs[0], given(inputs, 2)), _exact(inputs[1], given(inputs, 3), 0)
    return [_whole(convolve(node, x, w.to(x.dtype), None))]


def matmul_integer(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A product of integers into int32; zero points per row of the left or per column of the right operand."""
    a, b = inputs[:2]
    left, right = given(inputs, 2), given(inputs, 3)
    a = _exact(a, left, -2 if left is not None and left.dim() == 1 else None)
    b = _exact(b, right, -1 if right is not None and right.dim() == 1 else None)
    return [_whole(torch.matmul(a, b.to(a.dtype)))]


def _side(inputs: list[Any], first: int, axis: int) -> Any:
    """A quantised operand, from input `first` on, as numbers; scale and zero point may be vectors along an axis."""
    x, scale, point = inputs[first : first + 3]
    place = axis % max(x.dim(), 1)
    scale, point = (t if t is None or t.dim() > 1 else spread(t, place, x.dim()) for t in (scale, point))
    return real(x, scale, point)


def qlinear_matmul(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A product of quantised matrices, quantised."""
    a, b = _side(inputs, 0, -2), _side(inputs, 3, -1)
    return [quantised(node, torch.matmul(a, b), inputs[6].to(a.dtype), inputs[7], inputs[7].dtype)]


def qlinear_conv(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A convolution of quantised tensors with an int32 bias, quantised."""
    last, x = bool(node.attrs.get("channels_last", 0)), inputs[0]
    x = x.movedim(-1, 1) if last else x
    data, weight, bias = real(x, inputs[1], inputs[2]), _side(inputs, 3, 0), given(inputs, 8)
    shift = None if bias is None else bias.to(data.dtype) * (inputs[1] * inputs[4]).reshape(-1)
    y = quantised(node, convolve(node, data, weight, shift), inputs[6], inputs[7], inputs[7].dtype)
    return [y.movedim(1, -1) if last else y]


def qgemm(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A Gemm of integers with an int32 bias; floats where no scale of the result is given."""
    a = real(*inputs[:3])
    b = _side(inputs, 3, 0 if node.attrs.get("transB", 0) else 1)
    bias, scale, point = given(inputs, 6), given(inputs, 7), given(inputs, 8)
    y = _gemm(node, a, b, None)
    if bias is not None:
        # The bias counts in units of both scales, and of alpha.
        y = y + bias.to(y.dtype) * (inputs[1] * inputs[4]) * float(node.attrs.get("alpha", 1.0))
    return [y if scale is None else quantised(node, y, scale, point, torch.uint8 if point is None else point.dtype)]


def matmul_to_float(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A product of integers, scaled into floats, plus a bias."""
    a, b, a_scale, b_scale, a_point, b_point, bias = (given(inputs, i) for i in range(7))
    y = torch.matmul(_side([a, a_scale, a_point], 0, -2), _side([b, b_scale, b_point], 0, -1))
    return [y if bias is None else y + bias]


def dynamic_matmul(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A product of floats, quantised on the way by their range, with an integer weight, plus a bias."""
    x, b, scale, point, bias = (given(inputs, i) for i in range(5))
    a = real(*dynamic_quantize(node, [x], opset))
    y = torch.matmul(a, _side([b, scale, point], 0, -1))
    return [y if bias is None else y + bias]


def _result(node: gs.Node, y: Any, inputs: list[Any], position: int, dtype: Any) -> Sequence[Any]:
    return [quantised(node, y, inputs[position], given(inputs, position + 1), dtype)]


def binary(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The sum or product of two quantised tensors."""
    a, b = real(*inputs[:3]), real(*inputs[3:6])
    return _result(node, a + b if node.op == "QLinearAdd" else a * b, inputs, 6, _kind(node, inputs, 7, 0))


def _kind(node: gs.Node, inputs: list[Any], point: int, data: int) -> Any:
    """The integer type of a result: that of its zero point, or of an operand."""
    found = given(inputs, point)
    dtype = inputs[data].dtype if found is None else found.dtype
    if dtype.is_floating_point:
        raise NoFunction(node, "a type that nothing tells")
    return dtype


def where(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """One of two quantised tensors, entry by entry."""
    y = torch.where(inputs[0], real(*inputs[1:4]), real(*inputs[4:7]))
    return _result(node, y, inputs, 7, _kind(node, inputs, 8, 1))


def _unary(function: Callable[[gs.Node, Any], Any]) -> Callable[[gs.Node, list[Any], int], Sequence[Any]]:
    def found(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
        y = function(node, real(*inputs[:3]))
        return _result(node, y, inputs, 3, _kind(node, inputs, 4, 0))

    return found


def _pooled(node: gs.Node, x: Any) -> Any:
    last = bool(node.attrs.get("channels_last", 0))
    x = x.movedim(-1, 1) if last else x
    if node.op == "QLinearAveragePool":
        y = average_pool(node, [x], 17)[0]
    else:
        y = x.mean(list(range(2, x.dim())), keepdim=True)
    return y.movedim(1, -1) if last else y


def _mean(node: gs.Node, x: Any) -> Any:
    axes = integers(node.attrs.get("axes") or list(range(x.dim())))
    return x.mean(axes, keepdim=bool(node.attrs.get("keepdims", 1)))


def _softmax(node: gs.Node, x: Any) -> Any:
    axis = int(node.attrs.get("axis", -1))
    if int(node.attrs.get("opset", 13)) >= 13:
        return torch.softmax(x, axis)
    return torch.softmax(x.flatten(axis % x.dim()), -1).reshape(x.shape)


leaky_relu = _unary(lambda node, x: F.leaky_relu(x, float(node.attrs.get("alpha", 0.01))))
sigmoid = _unary(lambda node, x: torch.sigmoid(x))
softmax = _unary(_softmax)
reduce_mean = _unary(_mean)
pool = _unary(_pooled)


def concat(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Quantised tensors joined along one axis."""
    parts = [real(*inputs[p : p + 3]) for p in range(2, len(inputs), 3)]
    y = torch.cat(parts, int(node.attrs.get("axis", 1)))
    return [quantised(node, y, inputs[0], inputs[1], _kind(node, inputs, 1, 2))]
