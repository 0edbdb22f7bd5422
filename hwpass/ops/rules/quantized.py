"""Quantised tensors: q = round(x / scale) + zero point. The integer that means zero is the zero point."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np

from hwpass.ops.axes import Axis, Mismatch, axis_size, with_zero
from hwpass.ops.functions import quantized as functions
from hwpass.ops.functions.common import Function
from hwpass.ops.rule import Array, Derived, Node, Real, Relate, Rule, Tensor, Traits, register


def numbers(values: Array, scale: Array, point: Array) -> Array:
    """(q - zero point) * scale in float32."""
    found = values.astype(np.float32)
    found -= point.astype(np.float32)
    found *= scale.astype(np.float32)
    return found


def zero_point(node: Node, position: int) -> Array | None:
    """A zero point's value; zero where the input is absent, None where it is computed."""
    if not node.has(position):
        return np.zeros((), np.int32)
    value = node.value(position)
    return None if value is None else value.astype(np.int32)


def spread(values: Array, axis: int, shape: tuple[int, ...]) -> Array:
    """Parameters in a form that broadcasts over a tensor: one, one per index of an axis, or one per block of it."""
    if values.size == 1:
        return values.reshape(())
    if values.ndim == 1:
        return values.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.repeat(values, -(-shape[axis] // values.shape[axis]), axis)[
        tuple(slice(0, shape[axis]) if i == axis else slice(None) for i in range(values.ndim))
    ]


def real_axes(node: Node, build: Relate, position: int, point: int, axis: int = 0) -> tuple[Axis, ...]:
    """The axes of a quantised input, with flags that speak of the numbers that it stands for.

    A constant's removed entries are filled with the zero point in the twin, and so mean zero.
    """
    tensor, axes = node.tensor(position), node.axes(position)
    value = zero_point(node, point)
    if value is None:
        return not_zero(axes)
    if (node.index, position) in build.uses:
        if np.any(value):
            node.fill[position] = spread(value, axis, tensor.shape)
        return axes
    if tensor.real is not None and np.array_equal(tensor.real.zero_point.reshape(-1), value.reshape(-1)):
        return tensor.real.axes
    return axes if not np.any(value) else not_zero(axes)


def not_zero(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """The axes of a tensor of which nothing is known where channels are removed."""
    return tuple(with_zero(axis, False) for axis in axes)


def quantised(axes: tuple[Axis, ...], node: Node, point: int, dtype: np.dtype[Any] | None) -> Tensor:
    """The quantised form of a real tensor: where that is zero it is the zero point."""
    value = zero_point(node, point)
    if value is None:
        return Tensor(not_zero(axes), dtype)
    return Tensor(axes if not np.any(value) else not_zero(axes), dtype, real=Real(axes, value))


def dequantised(node: Node, position: int, scale: int, point: int, axis: int = 0) -> None:
    """Let a constant integer input be known by the numbers it stands for: what importance is measured on."""
    tensor, scales, value = node.tensor(position), node.value(scale), zero_point(node, point)
    if tensor.constant and tensor.data is not None and scales is not None and value is not None:
        shape = tensor.shape
        compute = partial(numbers, tensor.data, spread(scales, axis, shape), spread(value, axis, shape))
        node.inputs[position] = Derived(node.axes(position), tensor.dtype, compute)


def parameters(
    node: Node, build: Relate, axes: tuple[Axis, ...], scale: int, point: int, axis: int, block: int = 0
) -> tuple[Axis, ...]:
    """Tie scale and zero point (input numbers) to the tensor that they scale: per tensor, per index, or per block.

    In the twin a removed scale or zero point is what it was: runtimes fuse a bias only when its scale is the product
    of those of input and weight. Returns the axes, refined.
    """
    result = list(axes)
    for position in (scale, point):
        if not node.has(position):
            continue
        own = node.axes(position)
        if not any(own):
            continue
        if len(own) == 1:
            result[axis], _ = build.unify(result[axis], own[0], "one scale per channel")
        else:
            _blocks(node, build, result, own, axis, block)
        fill = node.value(position)
        if (node.index, position) in build.uses and fill is not None:
            node.fill[position] = fill
        elif position == scale:
            build.freeze(own, "scales are computed, and a removed one would be zero")
    return tuple(with_zero(a, all(f.zero for f in b if f.ids is not None)) for a, b in zip(result, axes, strict=True))


def _blocks(node: Node, build: Relate, result: list[Axis], own: tuple[Axis, ...], axis: int, block: int) -> None:
    """One scale per block of consecutive indices along an axis: whole blocks may go."""
    size = axis_size(result[axis])
    for place, scales in enumerate(own):
        if not scales:
            continue
        if place != axis:
            result[place], _ = build.unify(result[place], scales, "one scale per channel")
            continue
        try:
            if not block or size % block:
                raise Mismatch
            blocks, inner = build.regroup(result[axis], [size // block, block])
        except Mismatch:
            build.freeze([result[axis], scales], "blocks of one scale cut across channels")
            continue
        build.freeze([inner], "positions inside a block of one scale")
        blocks, _ = build.unify(blocks, scales, "one scale per block")
        result[axis] = (*blocks, *inner)


def _axis(node: Node, rank: int) -> int:
    return int(node.attr("axis", 1)) % rank if rank else 0


def _named_type(node: Node, attribute: str) -> np.dtype[Any] | None:
    from onnx import helper

    code = node.attr(attribute)
    if not code:
        return None
    return code if isinstance(code, np.dtype) else np.dtype(helper.tensor_dtype_to_np_dtype(int(code)))


@register
class QuantizeLinear(Rule):
    """q = round(x / scale) + zero point; scale and zero point per tensor, per channel or per block."""

    ops = ("QuantizeLinear",)
    kind = "elementwise"
    traits = Traits(foldable=False)
    functions: ClassVar[dict[str, Function]] = {"QuantizeLinear": functions.quantize}
    fixed = (1, 2)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        axes = node.axes(0)
        axes = parameters(node, build, axes, 1, 2, _axis(node, len(axes)), int(node.attr("block_size", 0)))
        given = node.tensor(2).dtype if node.has(2) else None
        return [quantised(axes, node, 2, given or _named_type(node, "output_dtype") or np.dtype(np.uint8))]


@register
class ContribQuantizeLinear(QuantizeLinear):
    """ONNX Runtime's QuantizeLinear: the standard one for more types."""

    domain = "com.microsoft"


@register
class DequantizeLinear(Rule):
    """x = (q - zero point) * scale. Of a weight, the integers of removed channels are the zero point in the twin."""

    ops = ("DequantizeLinear",)
    kind = "elementwise"
    traits = Traits(foldable=False)
    functions: ClassVar[dict[str, Function]] = {"DequantizeLinear": functions.dequantize}
    fixed = (1, 2)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        source, rank = node.tensor(0), len(node.axes(0))
        axis = _axis(node, rank)
        axes = real_axes(node, build, 0, 2, axis)
        axes = parameters(node, build, axes, 1, 2, axis, int(node.attr("block_size", 0)))
        dtype = _named_type(node, "output_dtype") or node.tensor(1).dtype
        scale, value = node.value(1), zero_point(node, 2)
        if source.constant and source.data is not None and scale is not None and value is not None:
            shape = source.shape
            compute = partial(numbers, source.data, spread(scale, axis, shape), spread(value, axis, shape))
            return [Derived(axes, dtype, compute)]
        return [Tensor(axes, dtype)]


@register
class ContribDequantizeLinear(DequantizeLinear):
    """ONNX Runtime's DequantizeLinear: the standard one for more types."""

    domain = "com.microsoft"


@register
class DynamicQuantizeLinear(Rule):
    """q, scale and zero point of a whole tensor, from its range; that holds zero, so channels of zeros leave it be."""

    ops = ("DynamicQuantizeLinear",)
    kind = "elementwise"
    traits = Traits(foldable=False)
    functions: ClassVar[dict[str, Function]] = {"DynamicQuantizeLinear": functions.dynamic_quantize}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        axes = node.axes(0)
        build.freeze(
            [a for a in axes if not all(f.zero for f in a if f.ids is not None)],
            "the range of the tensor sees every channel",
        )
        scale, point = Tensor((), np.dtype(np.float32)), Tensor((), np.dtype(np.uint8))
        return [Tensor(not_zero(axes), np.dtype(np.uint8)), scale, point]
