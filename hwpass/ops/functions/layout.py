"""Tensors in another shape, and parts of them: nothing is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_graphsurgeon as gs

from hwpass.ops.functions.common import (
    F,
    NoFunction,
    attribute_tensor,
    given,
    integers,
    operand,
    text,
    torch,
    torch_type,
)


def reshape(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The input in another shape; a zero keeps an extent."""
    x, shape = inputs[0], operand(node, inputs, 1, "shape") or []
    if not node.attrs.get("allowzero", 0):
        shape = [x.shape[i] if v == 0 else v for i, v in enumerate(shape)]
    return [x.reshape(shape)]


def flatten(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The input as a matrix."""
    x, axis = inputs[0], int(node.attrs.get("axis", 1))
    axis += x.dim() if axis < 0 else 0
    return [x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))]


def transpose(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The axes in another order."""
    x = inputs[0]
    return [x.permute(integers(node.attrs.get("perm") or list(reversed(range(x.dim())))))]


def squeeze(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The input without axes of one index."""
    x, axes = inputs[0], operand(node, inputs, 1, "axes")
    if axes is None:
        return [x.squeeze()]
    dropped = {a % x.dim() for a in axes}
    return [x.reshape([s for i, s in enumerate(x.shape) if i not in dropped])]


def unsqueeze(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The input with more axes of one index."""
    x, axes = inputs[0], operand(node, inputs, 1, "axes") or []
    for axis in sorted(a % (x.dim() + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return [x]


def expand(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The input, broadcast to a shape and by it."""
    x, shape = inputs[0], integers(inputs[1])
    return [x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(shape)))]


def depth_to_space(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Channels as positions of blocks of pixels."""
    x, block = inputs[0], int(node.attrs["blocksize"])
    n, c, h, w = x.shape
    if text(node, "mode", "DCR") == "DCR":
        y = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return [y.reshape(n, c // block**2, h * block, w * block)]


def space_to_depth(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Positions of blocks of pixels as channels."""
    x, block = inputs[0], int(node.attrs["blocksize"])
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // block, block, w // block, block)
    order = (0, 1, 3, 5, 2, 4) if text(node, "mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return [y.permute(order).reshape(n, c * block**2, h // block, w // block)]


def shape(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The extents of the input, or their product."""
    x = inputs[0]
    if node.op == "Size":
        return [torch.tensor(x.numel())]
    return [torch.tensor(list(x.shape)[node.attrs.get("start", 0) : node.attrs.get("end")], dtype=torch.int64)]


def constant_of_shape(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A tensor of one number."""
    value = node.attrs.get("value")
    fill = torch.zeros(()) if value is None else attribute_tensor(value).reshape(())
    return [torch.full(integers(inputs[0]), fill.item(), dtype=fill.dtype)]


def arange(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """An arithmetic sequence."""
    start, limit, delta = (t.reshape(()).item() for t in inputs)
    count = max(0, math.ceil((limit - start) / delta))
    steps = torch.arange(count, dtype=torch.float64 if isinstance(delta, float) else torch.int64)
    return [(start + steps * delta).to(inputs[0].dtype)]


def split(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Consecutive parts along an axis, of given or equal sizes."""
    x, axis = inputs[0], int(node.attrs.get("axis", 0))
    sizes = operand(node, inputs, 1, "split")
    if sizes is None:
        total, count = x.shape[axis], len(node.outputs)
        each = -(-total // count)
        sizes = [max(min(each, total - each * i), 0) for i in range(count)]
    return list(torch.split(x, sizes, axis))


def slices(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Ranges of indices of some axes."""
    x = inputs[0]
    starts, ends = operand(node, inputs, 1, "starts") or [], operand(node, inputs, 2, "ends") or []
    axes = operand(node, inputs, 3, "axes") or list(range(len(starts)))
    steps = operand(node, inputs, 4, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = axis % x.dim()
        picked = range(x.shape[place])[_ends(start, end, step, x.shape[place])]
        if step == 1:
            x = x.narrow(place, picked.start, len(picked))
        elif step > 0:
            x = x[(slice(None),) * place + (slice(picked.start, picked.stop, step),)]
        else:
            x = x.index_select(place, torch.tensor(list(picked), dtype=torch.int64))
    return [x]


def _ends(start: int, end: int, step: int, size: int) -> slice:
    """The bounds of ONNX as those of Python, where what lies before the first index has no number."""
    start += size if start < 0 else 0
    end += size if end < 0 else 0
    if step > 0:
        return slice(min(max(start, 0), size), min(max(end, 0), size), step)
    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return slice(start, None if end < 0 else end, step)


def concat(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Tensors joined along an axis."""
    return [torch.cat(list(inputs), int(node.attrs.get("axis", 1)))]


def tile(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The input, repeated along its axes."""
    if len(inputs) > 2:
        raise NoFunction(node, "a number of tiles and an axis")
    return [inputs[0].repeat(integers(inputs[1]))]


def pad(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The input with more indices at the ends of its axes: a number, or its own entries again."""
    x, mode = inputs[0], text(node, "mode", "constant")
    pads = operand(node, inputs, 1, "pads") or integers(node.attrs.get("paddings", []))
    axes = operand(node, inputs, 3, "axes") or list(range(x.dim()))
    ends = {a % x.dim(): (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}
    if mode == "constant":
        value = given(inputs, 2)
        fill = node.attrs.get("value", 0.0) if value is None else value.reshape(()).item()
        return [F.pad(x, [p for i in reversed(range(x.dim())) for p in ends.get(i, (0, 0))], value=fill)]
    for place, (before, behind) in ends.items():
        if before or behind:
            x = x.index_select(place, _beyond(node, mode, x.shape[place], before, behind))
    return [x]


def _beyond(node: gs.Node, mode: str, size: int, before: int, behind: int) -> Any:
    """The indices of an axis that its padded form shows."""
    wanted = torch.arange(-before, size + behind)
    if mode == "edge":
        return wanted.clamp(0, size - 1)
    if mode == "wrap":
        return wanted % size
    if mode != "reflect":
        raise NoFunction(node, f"the mode {mode}")
    if size == 1:
        return torch.zeros_like(wanted)
    wanted = wanted % (2 * size - 2)
    return torch.where(wanted < size, wanted, 2 * size - 2 - wanted)


def center_crop_pad(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The middle of the input, or the input in the middle of zeros."""
    x, wanted = inputs[0], integers(inputs[1])
    axes = integers(node.attrs.get("axes") or list(range(x.dim())))
    for axis, size in zip(axes, wanted, strict=True):
        place = axis % x.dim()
        gap = size - x.shape[place]
        if gap < 0:
            x = x.narrow(place, -gap // 2, size)
        elif gap > 0:
            around = [0, 0] * (x.dim() - 1 - place) + [gap // 2, gap - gap // 2]
            x = F.pad(x, around)
    return [x]


def trilu(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The upper or lower triangle of matrices."""
    k = 0 if given(inputs, 1) is None else integers(inputs[1])[0]
    return [torch.triu(inputs[0], k) if node.attrs.get("upper", 1) else torch.tril(inputs[0], k)]


def eye_like(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Ones on a diagonal."""
    x, k = inputs[0], int(node.attrs.get("k", 0))
    kind = torch_type(node, node.attrs["dtype"]) if "dtype" in node.attrs else x.dtype
    rows, columns = torch.arange(x.shape[0])[:, None], torch.arange(x.shape[1])[None]
    return [(columns - rows == k).to(kind)]
