"""What constants stand for, whatever format they are stored in, and how near they can be to what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

#: The largest share of the values of one scale that may be cut off at the ends of the range.
MOST_CUT = 1 / 16


@dataclass(frozen=True)
class Stored:
    """The numbers that a constant stands for; half a step of its format, and where values are at an end of its range:
    -1 at the lowest, 1 at the highest (both None where it is stored as it is)."""

    values: NDArray[Any]
    half: NDArray[np.float64] | None = None
    ends: NDArray[np.int8] | None = None


def stored(tensor: gs.Constant) -> Stored:
    """A constant that is read as it is."""
    values = np.asarray(tensor.values)
    if values.dtype == np.float16:
        # A step of 16 bits: 2^-10 of the power of two below, 2^-24 below the smallest normal one.
        wide = values.astype(np.float64)
        with np.errstate(divide="ignore"):
            exponent = np.floor(np.log2(np.maximum(np.abs(wide), 2.0**-14)))
        return Stored(wide, 2.0 ** (exponent - 11))
    return Stored(values.astype(np.float64) if values.dtype.kind == "f" else values)


def quantised_weight(
    tensor: gs.Tensor | None,
    integers: gs.Tensor | None = None,
    scale: gs.Tensor | None = None,
    point: Sequence[gs.Tensor] = (),
    axis: int = 1,
) -> Stored | None:
    """What integers with a scale and a zero point stand for: (q - z) s. None for what is not constant.

    Given by their DequantizeLinear's output, or by themselves.
    """
    block = 0
    if tensor is not None:
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or node.op != "DequantizeLinear":
            return None
        integers, scale, point = node.inputs[0], node.inputs[1], node.inputs[2:3]
        axis, block = int(node.attrs.get("axis", 1)), int(node.attrs.get("block_size", 0))
    if not isinstance(integers, gs.Constant) or not isinstance(scale, gs.Constant):
        return None
    if any(not isinstance(item, gs.Constant) for item in point if item.name):
        return None
    q = np.asarray(integers.values)
    zero = next((np.asarray(item.values) for item in point if item.name), np.zeros((), q.dtype))
    steps = _spread(np.asarray(scale.values, np.float64), axis, q.shape, block)
    if steps is None or not (np.isfinite(steps).all() and (steps > 0).all()):
        return None
    zeros = _spread(zero.astype(np.float64), axis, q.shape, block)
    if zeros is None:
        return None
    lowest, highest = _limits(q.dtype)
    # Symmetric weights leave the lowest integer out, and those of 7 bits more: their own extremes are the ends.
    if not zero.any():
        highest = max(int(np.abs(q.astype(np.int16)).max(initial=1)), 1) if q.dtype.itemsize == 1 else highest
        lowest = -highest
    ends = (q >= highest).astype(np.int8) - (q <= lowest).astype(np.int8)
    return Stored((q.astype(np.float64) - zeros) * steps, np.broadcast_to(steps / 2, q.shape), ends)


def nbits_weight(node: gs.Node) -> Stored | None:
    """The weight [K, N] of ONNX Runtime's MatMulNBits: blocks of `block_size` along K, integers packed from the low
    bits up, zero point 2^(bits - 1) where none is given. None for a form that is not known here."""
    bits, size = int(node.attrs.get("bits", 4)), int(node.attrs["block_size"])
    rows, columns = int(node.attrs["K"]), int(node.attrs["N"])
    if bits not in (4, 8) or any(not isinstance(t, gs.Constant) for t in node.inputs[1:] if t.name):
        return None
    blocks = -(-rows // size)
    packed = np.asarray(node.inputs[1].values).reshape(columns, blocks, -1)
    q = _unpacked(packed, bits)[:, :, :size].astype(np.float64)
    scales = np.asarray(node.inputs[2].values, np.float64).reshape(columns, blocks, 1)
    zeros: NDArray[np.float64] = np.full((columns, blocks, 1), 2.0 ** (bits - 1))
    if len(node.inputs) > 3 and node.inputs[3].name:
        given = np.asarray(node.inputs[3].values)
        if given.dtype != np.uint8:
            return None
        zeros = _unpacked(given.reshape(columns, -1), bits)[:, :blocks].astype(np.float64)[:, :, None]
    values = ((q - zeros) * scales).reshape(columns, -1)[:, :rows].T
    half = np.broadcast_to(np.abs(scales) / 2, q.shape).reshape(columns, -1)[:, :rows].T
    signs = np.where(scales < 0, -1, 1)
    ends = ((q == 2**bits - 1).astype(np.int8) - (q == 0).astype(np.int8)) * signs
    ends = ends.astype(np.int8).reshape(columns, -1)[:, :rows].T
    return Stored(values, half, ends)


def _unpacked(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Bytes as integers of so many bits along the last axis, low ones first."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    named = {"int4": (-8, 7), "uint4": (0, 15)}
    if dtype.name in named:
        return named[dtype.name]
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def _spread(values: NDArray[np.float64], axis: int, shape: tuple[int, ...], block: int) -> NDArray[np.float64] | None:
    """Parameters in a form that broadcasts over a tensor; None for a form that fits none."""
    if values.size == 1:
        return values.reshape((1,) * len(shape))
    axis %= len(shape)
    if block and values.ndim == len(shape):
        return np.repeat(values, block, axis)[tuple(slice(0, extent) for extent in shape)]
    if values.ndim != 1 or values.size != shape[axis]:
        return None
    return values.reshape([-1 if place == axis else 1 for place in range(len(shape))])
