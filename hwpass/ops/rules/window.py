"""The image that a sliding window makes of another: extents of convolutions and pools."""

from __future__ import annotations

from collections.abc import Sequence

from hwpass.ops.axes import Axis, axis_size, opaque
from hwpass.ops.rule import Node, WrongExtents


def extents(node: Node, image: Sequence[Axis], window: Sequence[int]) -> tuple[Axis, ...]:
    """Extents after strides, dilations, pads, auto_pad and ceil_mode, as opaque axes."""
    rank = len(image)
    strides, dilations = node.attr("strides") or [1] * rank, node.attr("dilations") or [1] * rank
    pads, auto = node.attr("pads") or [0] * (2 * rank), str(node.attr("auto_pad") or "NOTSET")
    found = []
    for i in range(rank):
        size, reach = axis_size(image[i]), dilations[i] * (window[i] - 1) + 1
        if auto.startswith("SAME"):
            extent = -(-size // strides[i])
        else:
            before, after = (pads[i], pads[rank + i]) if auto == "NOTSET" else (0, 0)
            room = size + before + after - reach
            up = bool(node.attr("ceil_mode", 0))
            extent = (-(-room // strides[i]) if up else room // strides[i]) + 1
            if up and (extent - 1) * strides[i] >= size + before:
                extent -= 1  # a window may not start in the padding behind the image
        if extent < 1:
            raise WrongExtents("the image is smaller than the window")
        found.append(opaque(extent))
    return tuple(found)
