"""What is known of channels that are the same number whatever the input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwpass.ops.node import Node

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Known:
    """Of one axis of a tensor: which indices are constant over everything else [n], and their values [n]."""

    place: int
    mask: Mask
    values: Floats  # 0 where not constant


def padded(node: Node) -> bool:
    """Whether a window may see zeros beside the image, where a constant channel is not its constant."""
    return node.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(node.attr("pads") or [])


def regrouped(node: Node, known: Known | None) -> Known | None:
    """Where the axis went is where its ids went; the other factors of its new axis repeat each value."""
    if known is None:
        return None
    axis = node.axes(0)[known.place]
    if len(axis) != 1 or axis[0].ids is None:
        return None
    ids = axis[0].ids
    for place, target in enumerate(node.outputs[0].axes or ()):
        for number, factor in enumerate(target):
            if factor.ids is not None and np.array_equal(factor.ids, ids):
                before = int(np.prod([f.size for f in target[:number]]))
                after = int(np.prod([f.size for f in target[number + 1 :]]))
                spread = np.tile(np.repeat(np.arange(len(ids)), after), before)
                return Known(place, known.mask[spread], known.values[spread])
    return None
