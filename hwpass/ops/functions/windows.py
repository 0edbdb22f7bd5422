"""Windows that slide over an image: convolutions and pools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from hwpass.ops.functions.common import F, NoFunction, given, integers, root, text, torch
from hwpass.ops.functions.elementwise import activated


@dataclass(frozen=True)
class Window:
    """A window over the axes of an image: how it steps, and how far it may reach beyond the image."""

    size: list[int]
    strides: list[int]
    dilations: list[int]
    begins: list[int]  # pads before the image
    ends: list[int]  # pads behind it, those of `ceil_mode` among them
    declared: list[int]  # pads behind it as the node declares them
    extents: list[int]  # of the result

    @property
    def even(self) -> bool:
        """Whether both sides of every axis are padded alike."""
        return self.begins == self.ends

    @property
    def around(self) -> list[int]:
        """The pads in the order in which torch wants them: last axis first."""
        return [p for pair in zip(reversed(self.begins), reversed(self.ends), strict=True) for p in pair]


def window(node: gs.Node, image: Sequence[int], size: Sequence[int]) -> Window:
    """The window of a node over an image of these extents."""
    rank = len(image)
    strides = integers(node.attrs.get("strides") or [1] * rank)
    dilations = integers(node.attrs.get("dilations") or [1] * rank)
    pads, auto = integers(node.attrs.get("pads") or [0] * (2 * rank)), text(node, "auto_pad", "NOTSET")
    begins, ends, declared, extents = [], [], [], []
    for i in range(rank):
        reach = dilations[i] * (size[i] - 1) + 1
        if auto.startswith("SAME"):
            extent = -(-image[i] // strides[i])
            total = max((extent - 1) * strides[i] + reach - image[i], 0)
            before = total // 2 if auto == "SAME_UPPER" else total - total // 2
            behind = end = total - before
        else:
            before, end = (pads[i], pads[rank + i]) if auto in ("NOTSET", "") else (0, 0)
            room = image[i] + before + end - reach
            up = bool(node.attrs.get("ceil_mode", 0))
            extent = (-(-room // strides[i]) if up else room // strides[i]) + 1
            if up and (extent - 1) * strides[i] >= image[i] + before:
                extent -= 1  # a window may not start in the padding behind the image
            behind = max(end, (extent - 1) * strides[i] + reach - image[i] - before)
        begins.append(before)
        ends.append(behind)
        declared.append(end)
        extents.append(extent)
    return Window(list(size), strides, dilations, begins, ends, declared, extents)


def _by_rank(node: gs.Node, name: str, rank: int) -> Any:
    if rank not in (1, 2, 3):
        raise NoFunction(node, f"images of {rank} axes")
    return getattr(F, f"{name}{rank}d")


def convolve(node: gs.Node, x: Any, w: Any, b: Any) -> Any:
    """A convolution by the attributes of a node: x [N, C, image], w [O, C / groups, window], b [O] or None."""
    place = window(node, x.shape[2:], w.shape[2:])
    function, padding = _by_rank(node, "conv", w.dim() - 2), place.begins
    if not place.even or min(padding) < 0:
        x, padding = F.pad(x, place.around), [0] * len(padding)
    return function(x, w, b, place.strides, padding, place.dilations, int(node.attrs.get("group", 1)))


def conv(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A convolution of any rank up to three."""
    return [convolve(node, inputs[0], inputs[1], given(inputs, 2))]


def fused_conv(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """act(Conv(x, W, b) + z)."""
    y = convolve(node, inputs[0], inputs[1], given(inputs, 2))
    return [activated(node, y if given(inputs, 3) is None else y + inputs[3])]


def nhwc_conv(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A convolution with channels last in data and weight."""
    x, w = inputs[0].movedim(-1, 1), inputs[1].movedim(-1, 1)
    return [activated(node, convolve(node, x, w, given(inputs, 2))).movedim(1, -1)]


def conv_transpose(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A transposed convolution: the whole of it, then cut, or extended, to the extents that the node asks for."""
    x, w, b = inputs[0], inputs[1], given(inputs, 2)
    rank = w.dim() - 2
    function, groups = _by_rank(node, "conv_transpose", rank), int(node.attrs.get("group", 1))
    strides = integers(node.attrs.get("strides") or [1] * rank)
    dilations = integers(node.attrs.get("dilations") or [1] * rank)
    extra = integers(node.attrs.get("output_padding") or [0] * rank)
    begins, extents = _transposed(node, x.shape[2:], w.shape[2:], strides, dilations, extra)
    full = [strides[i] * (x.shape[2 + i] - 1) + dilations[i] * (w.shape[2 + i] - 1) + 1 for i in range(rank)]
    tails = [extents[i] - (full[i] - 2 * begins[i]) for i in range(rank)]
    if min(begins) >= 0 and all(0 <= tails[i] < max(strides[i], dilations[i]) for i in range(rank)):
        return [function(x, w, b, strides, begins, tails, groups, dilations)]
    y = function(x, w, None, strides, 0, 0, groups, dilations)
    around = [p for i in reversed(range(rank)) for p in (-begins[i], extents[i] - full[i] + begins[i])]
    y = F.pad(y, around)
    return [y if b is None else y + b.reshape(-1, *[1] * rank)]


def _transposed(
    node: gs.Node, image: Sequence[int], size: Sequence[int], strides: list[int], dilations: list[int], extra: list[int]
) -> tuple[list[int], list[int]]:
    """What is cut off before, and the extents of the result of a transposed convolution."""
    rank, auto = len(image), text(node, "auto_pad", "NOTSET")
    pads, shape = integers(node.attrs.get("pads") or [0] * (2 * rank)), node.attrs.get("output_shape")
    wanted = integers(shape)[-rank:] if shape else None
    if wanted is None and auto.startswith("SAME"):
        wanted = [image[i] * strides[i] for i in range(rank)]
    begins, extents = [], []
    for i in range(rank):
        whole = strides[i] * (image[i] - 1) + extra[i] + dilations[i] * (size[i] - 1) + 1
        if wanted is None:
            before, behind = (0, 0) if auto == "VALID" else (pads[i], pads[rank + i])
        else:
            total = max(whole - wanted[i], 0)
            before = total // 2 if auto == "SAME_UPPER" else total - total // 2
            behind = whole - wanted[i] - before
        begins.append(before)
        extents.append(whole - before - behind)
    return begins, extents


def deform_conv(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A convolution whose taps are displaced: every tap samples the image at its own place, zeros beside it."""
    x, w, offset = inputs[:3]
    b, mask = given(inputs, 3), given(inputs, 4)
    if w.dim() != 4:
        raise NoFunction(node, f"images of {w.dim() - 2} axes")
    n, c, height, width = x.shape
    groups, parts = int(node.attrs.get("group", 1)), int(node.attrs.get("offset_group", 1))
    place = window(node, (height, width), w.shape[2:])
    rows, columns = place.extents
    taps = w.shape[2] * w.shape[3]
    offset = offset.reshape(n, parts, taps, 2, rows, columns)
    start = [
        (torch.arange(place.size[i]) * place.dilations[i] - place.begins[i])[:, None]
        + torch.arange(place.extents[i])[None] * place.strides[i]
        for i in range(2)
    ]
    y = start[0].reshape(w.shape[2], 1, rows, 1).expand(-1, w.shape[3], -1, columns).reshape(taps, rows, columns)
    z = start[1].reshape(1, w.shape[3], 1, columns).expand(w.shape[2], -1, rows, -1).reshape(taps, rows, columns)
    places = torch.stack(
        [(2 * (z + offset[:, :, :, 1]) + 1) / width - 1, (2 * (y + offset[:, :, :, 0]) + 1) / height - 1], -1
    )
    grid = places.reshape(n * parts, taps * rows, columns, 2).to(x.dtype)
    seen = F.grid_sample(x.reshape(n * parts, c // parts, height, width), grid, "bilinear", "zeros", False)
    seen = seen.reshape(n, parts, c // parts, taps, rows, columns)
    if mask is not None:
        seen = seen * mask.reshape(n, parts, 1, taps, rows, columns)
    seen = seen.reshape(n, groups, c // groups * taps, rows * columns)
    made = w.reshape(groups, w.shape[0] // groups, -1) @ seen
    made = made.reshape(n, w.shape[0], rows, columns)
    return [made if b is None else made + b.reshape(-1, 1, 1)]


def max_pool(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The largest in every window, and where it stands in the whole tensor."""
    x = inputs[0]
    place = window(node, x.shape[2:], integers(node.attrs["kernel_shape"]))
    rank = len(place.size)
    function = _by_rank(node, "max_pool", rank)
    wants = len(node.outputs) > 1
    if wants and node.attrs.get("storage_order", 0):
        raise NoFunction(node, "indices in column-major order")
    begins, data = place.begins, x if x.is_floating_point() else x.double()
    plain = (
        place.even
        and place.begins == place.declared
        and all(2 * p <= s for p, s in zip(begins, place.size, strict=True))
    )
    if not plain:
        data, begins = F.pad(data, place.around, value=-math.inf), [0] * rank
    found = function(data, place.size, place.strides, begins, place.dilations, False, wants)
    y = found[0] if wants else found
    y = y if y.dtype == x.dtype else y.to(x.dtype)
    if not wants:
        return [y]
    where = found[1]
    if not plain:
        where = _unpadded(where, list(data.shape[2:]), place.begins, list(x.shape[2:]))
    planes = torch.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * rank)
    return [y, where + planes * math.prod(x.shape[2:])]


def _unpadded(where: Any, padded: list[int], begins: list[int], image: list[int]) -> Any:
    """Flat positions in a padded image as those in the image itself."""
    found, factor = torch.zeros_like(where), 1
    for i in reversed(range(len(image))):
        found = found + (where % padded[i] - begins[i]) * factor
        where = torch.div(where, padded[i], rounding_mode="floor")
        factor *= image[i]
    return found


def _sums(node: gs.Node, x: Any, place: Window) -> Any:
    """Sums over the windows of an image that is padded already."""
    rank = len(place.size)
    flat = x.reshape(-1, 1, *x.shape[2:])
    ones = torch.ones(1, 1, *place.size, dtype=x.dtype)
    y = _by_rank(node, "conv", rank)(flat, ones, None, place.strides, 0, place.dilations)
    return y.reshape(*x.shape[:2], *y.shape[2:])


def average_pool(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The mean of every window, of the pads declared too with `count_include_pad`."""
    x = inputs[0]
    place = window(node, x.shape[2:], integers(node.attrs["kernel_shape"]))
    counted = bool(node.attrs.get("count_include_pad", 0))
    rank = len(place.size)
    plain = place.even and place.begins == place.declared and set(place.dilations) == {1}
    if plain and all(2 * p <= s for p, s in zip(place.begins, place.size, strict=True)):
        function = _by_rank(node, "avg_pool", rank)
        return [function(x, place.size, place.strides, place.begins, False, counted)]
    image = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype)
    if counted:
        pads = [p for pair in zip(reversed(place.begins), reversed(place.declared), strict=True) for p in pair]
        rest = [p for b, a in zip(reversed(place.declared), reversed(place.ends), strict=True) for p in (0, a - b)]
        image = F.pad(F.pad(image, pads, value=1.0), rest)
    else:
        image = F.pad(image, place.around)
    return [_sums(node, F.pad(x, place.around), place) / _sums(node, image, place)]


def lp_pool(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The p-norm of every window."""
    x, p = inputs[0], float(node.attrs.get("p", 2))
    place = window(node, x.shape[2:], integers(node.attrs["kernel_shape"]))
    return [root(_sums(node, F.pad(x.abs() ** p, place.around), place), p)]


def global_pool(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The mean, maximum or p-norm of every channel."""
    x = inputs[0]
    image = list(range(2, x.dim()))
    if node.op == "GlobalAveragePool":
        return [x.mean(image, keepdim=True)]
    if node.op == "GlobalMaxPool":
        return [x.amax(image, keepdim=True)]
    p = float(node.attrs.get("p", 2))
    return [torch.linalg.vector_norm(x, p, image, keepdim=True)]


def max_unpool(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Values put back to where a MaxPool found them; the rest is zero."""
    x, where = inputs[:2]
    size = integers(node.attrs["kernel_shape"])
    rank = len(size)
    strides = integers(node.attrs.get("strides") or [1] * rank)
    pads = integers(node.attrs.get("pads") or [0] * (2 * rank))
    image = [(x.shape[2 + i] - 1) * strides[i] - pads[i] - pads[rank + i] + size[i] for i in range(rank)]
    shape = [*x.shape[:2], *image]
    y = torch.zeros(math.prod(shape), dtype=x.dtype).index_put((where.reshape(-1),), x.reshape(-1)).reshape(shape)
    if given(inputs, 2) is not None:
        wanted = integers(inputs[2])
        y = F.pad(y, [p for i in reversed(range(2 + rank)) for p in (0, wanted[i] - shape[i])])
    return [y]


def col2im(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Columns of windows [N, C * window, windows] added up into an image of two axes."""
    image, block = integers(inputs[1]), integers(inputs[2])
    rank = len(image)
    pads = integers(node.attrs.get("pads") or [0] * (2 * rank))
    if rank != 2 or pads[:2] != pads[2:]:
        raise NoFunction(node, "images that are not of two axes, or pads that differ between sides")
    strides, dilations = (integers(node.attrs.get(name) or [1, 1]) for name in ("strides", "dilations"))
    return [F.fold(inputs[0], image, block, dilations, pads[:2], strides)]
