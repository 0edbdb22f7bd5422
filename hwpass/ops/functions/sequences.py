"""Lists of tensors, and what may be absent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_graphsurgeon as gs

from hwpass.ops.functions.common import Function, given, integers, torch


def construct(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A list of the inputs."""
    return [list(inputs)]


def empty(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A list of nothing."""
    return [[]]


def at(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """One tensor of a list."""
    return [inputs[0][integers(inputs[1])[0]]]


def insert(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The list with one tensor more, at the end where no place is given."""
    made = list(inputs[0])
    made.insert(len(made) if given(inputs, 2) is None else integers(inputs[2])[0], inputs[1])
    return [made]


def erase(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The list without one tensor, the last where no place is given."""
    made = list(inputs[0])
    made.pop(-1 if given(inputs, 1) is None else integers(inputs[1])[0])
    return [made]


def length(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """How many tensors a list has."""
    return [torch.tensor(len(inputs[0]))]


def split(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A list of parts of a tensor along an axis."""
    x, axis = inputs[0], int(node.attrs.get("axis", 0))
    if given(inputs, 1) is None:
        parts = list(x.split(1, axis))
        return [parts if node.attrs.get("keepdims", 1) else [p.squeeze(axis) for p in parts]]
    sizes = integers(inputs[1])
    return [list(x.split(sizes if inputs[1].dim() else sizes[0], axis))]


def concat(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The tensors of a list joined along an axis, a new one with `new_axis`."""
    join = torch.stack if node.attrs.get("new_axis", 0) else torch.cat
    return [join(inputs[0], int(node.attrs["axis"]))]


SEQUENCES: dict[str, Function] = {
    "SequenceConstruct": construct,
    "SequenceEmpty": empty,
    "SequenceAt": at,
    "SequenceInsert": insert,
    "SequenceErase": erase,
    "SequenceLength": length,
    "SplitToSequence": split,
    "ConcatFromSequence": concat,
}
