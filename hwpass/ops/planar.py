"""A use of an operator over sequences [N, C, L], written over images of one row, [N, C, 1, L]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

#: The axes of [N, C, L] that hold samples, channels and positions.
SAMPLES, CHANNELS, POSITIONS = 0, 1, 2

Array = NDArray[Any]


@dataclass(frozen=True)
class Planar:
    """What changes in a node when its inputs [N, C, L] are [N, C, 1, L]: attributes, and constants by input."""

    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[int, Array] = field(default_factory=dict)
    follows: bool = True  #: whether its outputs get the row too; otherwise they are what they were


def entrywise(node: gs.Node, ranks: Sequence[int | None]) -> Planar | None:
    """The same for an operator that computes every entry by itself, with constants broadcast to the right.

    `ranks` are those of the inputs. None where an operand would be aligned with another axis than before.
    """
    if "axis" in node.attrs and int(node.attrs["axis"]) not in (SAMPLES, CHANNELS):
        return None
    constants = {}
    for position, (tensor, rank) in enumerate(zip(node.inputs, ranks, strict=True)):
        if isinstance(tensor, gs.Constant):
            if tensor.values.ndim > 3:
                return None
            if tensor.values.ndim > 1:
                constants[position] = np.expand_dims(tensor.values, -2)
        elif tensor.name and rank not in (0, 1, 3):
            return None
    return Planar(constants=constants)


def windowed(node: gs.Node) -> dict[str, Any]:
    """The attributes of a sliding window of one row."""
    found: dict[str, Any] = {}
    for name in ("kernel_shape", "strides", "dilations"):
        if name in node.attrs:
            found[name] = [1, *node.attrs[name]]
    if "pads" in node.attrs:
        before, after = node.attrs["pads"]
        found["pads"] = [0, before, 0, after]
    return found


def moved(axis: int) -> int:
    """An axis of [N, C, L] as one of [N, C, 1, L].

    >>> [moved(axis) for axis in (0, 1, 2, -1, -2, -3)]
    [0, 1, 3, 3, 1, 0]
    """
    axis %= 3
    return 3 if axis == POSITIONS else axis
