"""Entries picked, ordered or written by index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.ops.functions.common import NoFunction, given, integers, text, torch

Floats = NDArray[np.float32]


def _counted(index: Any, size: int) -> Any:
    """Indices that count from the end as those from the start."""
    index = index.long()
    return torch.where(index < 0, index + size, index)


def gather(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Rows along one axis."""
    x, index = inputs
    axis = int(node.attrs.get("axis", 0)) % x.dim()
    found = x.index_select(axis, _counted(index, x.shape[axis]).reshape(-1))
    return [found.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])]


def gather_elements(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Entries along one axis, each by an index of its own."""
    x, index = inputs
    axis = int(node.attrs.get("axis", 0))
    return [torch.gather(x, axis, _counted(index, x.shape[axis]))]


def array_features(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Features of the last axis."""
    x = inputs[0].index_select(-1, inputs[1].reshape(-1).long())
    return [x if x.dim() > 1 else x[None]]


def _flat(index: Any, extents: Sequence[int]) -> Any:
    """Rows of indices as positions in an array of these extents."""
    place = torch.zeros(index.shape[:-1], dtype=torch.int64)
    for i, size in enumerate(extents):
        place = place * size + _counted(index[..., i], size)
    return place


def gather_nd(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Slices looked up by rows of indices."""
    x, index = inputs
    skip, depth = int(node.attrs.get("batch_dims", 0)), index.shape[-1]
    batches, looked, rest = x.shape[:skip], x.shape[skip : skip + depth], x.shape[skip + depth :]
    flat = x.reshape(math.prod(batches) * math.prod(looked), *rest)
    place = _flat(index, looked)
    if skip:
        start = torch.arange(math.prod(batches)) * math.prod(looked)
        place = place + start.reshape(*batches, *[1] * (place.dim() - skip))
    return [flat.index_select(0, place.reshape(-1)).reshape(*index.shape[:-1], *rest)]


_REDUCTIONS = {"mul": "prod", "max": "amax", "min": "amin"}


def scatter_nd(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Slices written at rows of indices."""
    x, index, updates = inputs
    how, depth = text(node, "reduction", "none"), index.shape[-1]
    rest = x.shape[depth:]
    flat = x.reshape(math.prod(x.shape[:depth]), *rest)
    place, new = _flat(index, x.shape[:depth]).reshape(-1), updates.reshape(-1, *rest)
    if how in ("none", "add"):
        return [flat.index_put((place,), new, accumulate=how == "add").reshape(x.shape)]
    # index_reduce has no gradient for products.
    place = place.reshape(-1, *[1] * len(rest)).expand(new.shape)
    return [flat.scatter_reduce(0, place, new, _how(node, how)).reshape(x.shape)]


def scatter_elements(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Entries written along one axis, each at an index of its own."""
    x, index, updates = inputs
    axis, how = int(node.attrs.get("axis", 0)), text(node, "reduction", "none")
    index = _counted(index, x.shape[axis])
    if how == "none":
        return [x.scatter(axis, index, updates)]
    if how == "add":
        return [x.scatter_add(axis, index, updates)]
    return [x.scatter_reduce(axis, index, updates, _how(node, how))]


def _how(node: gs.Node, how: str) -> str:
    if how not in _REDUCTIONS:
        raise NoFunction(node, f"the reduction {how}")
    return _REDUCTIONS[how]


def tensor_scatter(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """New positions written into a cache along one axis."""
    x, update, start = inputs[0], inputs[1], given(inputs, 2)
    axis, count = int(node.attrs.get("axis", -2)) % x.dim(), update.shape[int(node.attrs.get("axis", -2))]
    first = torch.zeros(x.shape[0], dtype=torch.int64) if start is None else start.long()
    place = first[:, None] + torch.arange(count)[None]
    if text(node, "mode", "linear") == "circular":
        place = place % x.shape[axis]
    index = place.reshape([x.shape[0] if i == 0 else count if i == axis else 1 for i in range(x.dim())])
    return [x.scatter(axis, index.expand(update.shape), update)]


def top_k(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The largest or smallest along one axis, in order, and where they stand; of equal ones the first come first."""
    x, axis = inputs[0], int(node.attrs.get("axis", -1))
    count = int(node.attrs["k"]) if given(inputs, 1) is None else integers(inputs[1])[0]
    order = torch.sort(x.detach(), stable=True, dim=axis, descending=bool(node.attrs.get("largest", 1))).indices
    where = order.narrow(axis, 0, count)
    return [torch.gather(x, axis, where), where]


def reverse_sequence(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The start of each sample turned around."""
    x, lengths = inputs
    time, batch = int(node.attrs.get("time_axis", 0)), int(node.attrs.get("batch_axis", 1))
    steps, ends = torch.arange(x.shape[time])[:, None], lengths.long()[None]
    index = torch.where(steps < ends, ends - 1 - steps, steps)
    index = index if time < batch else index.T
    shape = [s if i in (time, batch) else 1 for i, s in enumerate(x.shape)]
    return [torch.gather(x, time, index.reshape(shape).expand(x.shape))]


def one_hot(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A new axis that is on at the index."""
    indices, depth, values = inputs[0].long(), integers(inputs[1])[0], inputs[2]
    axis = int(node.attrs.get("axis", -1))
    axis += indices.dim() + 1 if axis < 0 else 0
    places = torch.arange(depth).reshape(-1, *[1] * (indices.dim() - axis))
    on = _counted(indices, depth).unsqueeze(axis) == places
    return [torch.where(on, values[1], values[0])]


def nonzero(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The indices of what is not zero, one row for each axis."""
    return [torch.nonzero(inputs[0]).T.contiguous()]


def compress(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The indices of an axis, or of the flat input, where a condition holds."""
    x, places = inputs[0], torch.nonzero(inputs[1]).reshape(-1)
    if "axis" not in node.attrs:
        return [x.reshape(-1).index_select(0, places)]
    return [x.index_select(int(node.attrs["axis"]), places)]


def non_max_suppression(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The best boxes of every class that overlap no better one: rows of sample, class and box."""
    boxes, scores = (t.detach().float().numpy() for t in inputs[:2])
    most, overlap, least = (given(inputs, p) for p in (2, 3, 4))
    count = 0 if most is None else integers(most)[0]
    limit = 0.0 if overlap is None else float(overlap.reshape(()))
    corners = _corners(boxes, bool(node.attrs.get("center_point_box", 0)))
    found = []
    for sample, kind in np.ndindex(scores.shape[:2]):
        values = scores[sample, kind]
        order = np.argsort(-values, kind="stable")
        if least is not None:
            order = order[values[order] > float(least.reshape(()))]
        found += [[sample, kind, box] for box in _best(corners[sample], order, count, limit)]
    return [torch.tensor(found, dtype=torch.int64).reshape(-1, 3)]


def _corners(boxes: Floats, centred: bool) -> Floats:
    """Boxes as their lower and upper corners [.., 4]."""
    one, other = boxes[..., :2], boxes[..., 2:]
    if centred:
        return np.concatenate([one - other / 2, one + other / 2], -1)
    return np.concatenate([np.minimum(one, other), np.maximum(one, other)], -1)


def _best(corners: Floats, order: NDArray[np.int64], count: int, limit: float) -> list[int]:
    """Boxes in order, without those that overlap one before them by more than the limit."""
    low, high = corners[order, :2], corners[order, 2:]
    ranks = [rank for part in _apart(low[:, 0], high[:, 0]) for rank in _kept(part, low[part], high[part], limit)]
    return [int(order[rank]) for rank in sorted(ranks)[:count]]


def _apart(low: Floats, high: Floats) -> list[NDArray[np.int64]]:
    """Intervals in groups that do not touch each other: classes are often laid out side by side."""
    by_start = np.argsort(low, kind="stable")
    ends = np.maximum.accumulate(high[by_start])
    cuts = np.flatnonzero(low[by_start][1:] >= ends[:-1]) + 1
    return [np.sort(part) for part in np.split(by_start, cuts)]


def _kept(ranks: NDArray[np.int64], low: Floats, high: Floats, limit: float) -> list[int]:
    """The ranks of boxes, in order, that overlap none before them by more than the limit."""
    chosen: list[int] = []
    areas = np.prod(high - low, -1)
    while len(ranks):
        chosen.append(int(ranks[0]))
        shared = np.minimum(high[1:], high[0]) - np.maximum(low[1:], low[0])
        common = np.prod(np.maximum(shared, 0), -1)
        left = common <= limit * (areas[1:] + areas[0] - common)
        ranks, low, high, areas = ranks[1:][left], low[1:][left], high[1:][left], areas[1:][left]
    return chosen
