"""Normalisations, softmax, cumulated sums and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import onnx_graphsurgeon as gs

from hwpass.ops.functions.common import F, Function, NoFunction, given, integers, operand, root, torch


def _epsilon(node: gs.Node, default: float = 1e-5) -> float:
    return float(node.attrs.get("epsilon", default))


def batch_norm(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Normalisation by given statistics of each channel."""
    x, scale, bias, mean, var = inputs[:5]
    if node.attrs.get("training_mode", 0) or not node.attrs.get("spatial", 1):
        raise NoFunction(node, "statistics of the batch, or of single positions")
    if opset < 7 and not node.attrs.get("is_test", 0):
        raise NoFunction(node, "statistics of the batch")
    if x.dim() > 1 and x.dtype == mean.dtype == scale.dtype:
        return [F.batch_norm(x, mean, var, scale, bias, False, 0.0, _epsilon(node))]
    shape = [1, -1, *[1] * (x.dim() - 2)] if x.dim() > 1 else [-1]
    scale, bias, mean, var = (t.reshape(shape) for t in (scale, bias, mean, var))
    return [((x - mean) * (scale / torch.sqrt(var + _epsilon(node))) + bias).to(x.dtype)]


def instance_norm(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Normalisation by the statistics of each sample's channel."""
    x, scale, bias = inputs
    n, c = x.shape[:2]
    # Torch's own refuses images of a single position.
    y = F.group_norm(x, c, scale, bias, _epsilon(node)) if n else x
    return [y]


def group_norm(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Normalisation by the statistics of groups of channels; scale and bias are per group below operator set 21."""
    x, scale, bias = inputs
    groups = int(node.attrs["num_groups"])
    if scale.numel() == groups != x.shape[1]:
        if opset >= 21:
            raise NoFunction(node, "a scale for each group")
        each = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return [F.group_norm(x, groups, scale, bias, _epsilon(node))]


def layer_norm(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Normalisation over the axes from `axis` on, and mean and inverse deviation where they are asked for."""
    x, scale, bias = inputs[0], given(inputs, 1), given(inputs, 2)
    start = int(node.attrs.get("axis", -1)) % x.dim()
    shape = list(x.shape[start:])
    whole = all(t is None or list(t.shape) == shape for t in (scale, bias))
    if whole:
        y = F.layer_norm(x, shape, scale, bias, _epsilon(node))
    else:
        y = F.layer_norm(x, shape, None, None, _epsilon(node))
        y = y if scale is None else y * scale
        y = y if bias is None else y + bias
    outputs = [y]
    if len(node.outputs) > 1:
        axes, precise = list(range(start, x.dim())), x.float() if x.dtype.itemsize < 4 else x
        variance, mean = torch.var_mean(precise, axes, correction=0, keepdim=True)
        outputs += [mean, 1 / torch.sqrt(variance + _epsilon(node))]
    return outputs[: len(node.outputs)]


def rms(x: Any, scale: Any, start: int, epsilon: float) -> tuple[Any, Any]:
    """x g / sqrt(mean(x^2) + epsilon) over the axes from `start` on, and the inverse root."""
    axes = list(range(start % x.dim(), x.dim()))
    precise = x.float() if x.dtype.itemsize < 4 else x
    inverse = torch.rsqrt(precise.square().mean(axes, keepdim=True) + epsilon)
    return (precise * inverse).to(x.dtype) * scale, inverse


def rms_norm(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Normalisation by the root of the mean square over the axes from `axis` on."""
    return list(rms(inputs[0], inputs[1], int(node.attrs.get("axis", -1)), _epsilon(node)))[: len(node.outputs)]


def skip_norm(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A sum, normalised over its last axis; the sum is the fourth output."""
    simplified = node.op == "SkipSimplifiedLayerNormalization"
    total, bias = inputs[0] + inputs[1], given(inputs, 3 if simplified else 4)
    total = total if bias is None else total + bias
    if simplified:
        y, inverse = rms(total, inputs[2], -1, _epsilon(node, 1e-5))
        mean = torch.zeros_like(inverse)
    else:
        y = F.layer_norm(total, total.shape[-1:], inputs[2], given(inputs, 3), _epsilon(node, 1e-12))
        variance, mean = torch.var_mean(total, -1, correction=0, keepdim=True)
        inverse = torch.rsqrt(variance + _epsilon(node, 1e-12))
    return [y, mean, inverse, total][: len(node.outputs)]


def embed_norm(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Rows of tables of words, positions and segments, summed and normalised."""
    ids, segments, words, positions, kinds = inputs[:5]
    mask, where = given(inputs, 7), given(inputs, 8)
    if node.attrs.get("mask_index_type", 0) not in (0, 1):
        raise NoFunction(node, "this kind of mask")
    where = torch.arange(ids.shape[1])[None] if where is None else where
    total = F.embedding(ids.long(), words) + F.embedding(where.long(), positions)
    if segments is not None and kinds is not None:
        total = total + F.embedding(segments.long(), kinds)
    y = F.layer_norm(total, total.shape[-1:], inputs[5], inputs[6], _epsilon(node, 1e-12))
    lengths = torch.zeros(ids.shape[0], dtype=torch.int32) if mask is None else mask.sum(1).to(torch.int32)
    return [y, lengths, total][: len(node.outputs)]


def contrib_group_norm(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Group normalisation, by default with channels last, and SiLU behind it; SkipGroupNorm sums first."""
    total, scale, bias = inputs[:3]
    last = bool(node.attrs.get("channels_last", 1))
    if node.op == "SkipGroupNorm":
        skip, shift = inputs[3], given(inputs, 4)
        if skip.dim() == 2:
            skip = skip[:, None, None, :] if last else skip[:, :, None, None]
        total = total + skip
        if shift is not None:
            total = total + (shift if last else shift.reshape(-1, 1, 1))
    x = total.movedim(-1, 1) if last else total
    y = F.group_norm(x, int(node.attrs["groups"]), scale, bias, _epsilon(node))
    y = F.silu(y) if node.attrs["activation"] else y
    return [y.movedim(1, -1) if last else y, total][: len(node.outputs)]


def softmax(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Softmax, its logarithm, or a one at the largest; below operator set 13 all axes from `axis` on are one."""
    x = inputs[0]
    if opset >= 13 or node.domain not in ("", "ai.onnx", None):
        return [_softmax(node, x, int(node.attrs.get("axis", -1)))]
    start = int(node.attrs.get("axis", 1))
    start += x.dim() if start < 0 else 0
    flat = x.reshape(math.prod(x.shape[:start]), -1)
    return [_softmax(node, flat, 1).reshape(x.shape)]


def _softmax(node: gs.Node, x: Any, axis: int) -> Any:
    if node.op == "Softmax":
        return torch.softmax(x, axis)
    if node.op == "LogSoftmax":
        return torch.log_softmax(x, axis)
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


def lp_norm(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """x over its p-norm along one axis; zeros stay zeros."""
    x, axis, p = inputs[0], int(node.attrs.get("axis", -1)), int(node.attrs.get("p", 2))
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return [x / torch.where(norm == 0, torch.ones_like(norm), norm)]


def lrn(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """x / (k + alpha / size * sum of squares of neighbouring channels) ** beta."""
    x, size = inputs[0], int(node.attrs["size"])
    alpha, beta, k = (float(node.attrs.get(n, d)) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    before, channels = (size - 1) // 2, x.shape[1]
    squares = F.pad(x.square().movedim(1, -1), [before, size - 1 - before]).movedim(-1, 1)
    total = sum(squares[:, i : i + channels] for i in range(size))
    return [x / (k + alpha / size * total) ** beta]


def mean_variance_norm(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """(x - mean) / deviation over some axes."""
    x, axes = inputs[0], integers(node.attrs.get("axes") or [0, 2, 3])
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return [(x - mean) / (root(variance, 2) + 1e-9)]


def cumulated(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Sums or products of everything before along one axis."""
    x, axis = inputs[0], integers(inputs[1])[0]
    product = node.op == "CumProd"
    x = x.flip(axis) if node.attrs.get("reverse", 0) else x
    y = (torch.cumprod(x, axis) if product else torch.cumsum(x, axis)).to(x.dtype)
    if node.attrs.get("exclusive", 0):
        first = torch.full_like(y.narrow(axis, 0, 1), 1 if product else 0)
        y = torch.cat([first, y.narrow(axis, 0, y.shape[axis] - 1)], axis)
    return [y.flip(axis) if node.attrs.get("reverse", 0) else y]


def _product(x: Any, axes: list[int], keep: bool) -> Any:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _sum(x: Any, axes: list[int], keep: bool) -> Any:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _mean(x: Any, axes: list[int], keep: bool) -> Any:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    return (x.double().mean(axes, keepdim=keep)).trunc().to(x.dtype)


def _least(dtype: Any) -> Any:
    if dtype == torch.bool:
        return False
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def _most(dtype: Any) -> Any:
    if dtype == torch.bool:
        return True
    return math.inf if dtype.is_floating_point else torch.iinfo(dtype).max


def _extremum(name: str, least: bool) -> Callable[[Any, list[int], bool], Any]:
    def found(x: Any, axes: list[int], keep: bool) -> Any:
        if not x.numel():
            # Of nothing: what any number is at least, or at most.
            shape = [1 if i in axes else s for i, s in enumerate(x.shape) if keep or i not in axes]
            return torch.full(shape, _least(x.dtype) if least else _most(x.dtype), dtype=x.dtype)
        return getattr(torch, name)(x, axes, keepdim=keep)

    return found


_REDUCE: dict[str, Callable[[Any, list[int], bool], Any]] = {
    "ReduceMean": _mean,
    "ReduceSum": _sum,
    "ReduceMax": _extremum("amax", True),
    "ReduceMin": _extremum("amin", False),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: _sum(x.abs(), axes, keep),
    "ReduceL2": lambda x, axes, keep: _norm(x, axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: _sum(x.square(), axes, keep),
    "ReduceLogSum": lambda x, axes, keep: _sum(x, axes, keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x if x.is_floating_point() else x.double(), axes, keep),
}


def _norm(x: Any, axes: list[int], keep: bool) -> Any:
    real = x if x.is_floating_point() else x.double()
    # Where everything is zero, torch's own has a gradient of zero and not of NaN.
    return torch.linalg.vector_norm(real, 2, axes, keep).to(x.dtype)


def reduce(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Reductions by the name of the operator, over given axes or all."""
    x, axes, keep = inputs[0], operand(node, inputs, 1, "axes"), bool(node.attrs.get("keepdims", 1))
    if not axes:
        if node.attrs.get("noop_with_empty_axes", 0):
            # Each entry by itself.
            found = _REDUCE[node.op](x[..., None], [x.dim()], False) if node.op not in _PLAIN else x
            return [found.to(x.dtype)]
        axes = list(range(x.dim()))
    axes = [a % x.dim() if x.dim() else a for a in axes]
    if not x.dim():
        return [_REDUCE[node.op](x[None], [0], False).to(x.dtype)]
    return [_REDUCE[node.op](x, axes, keep).to(x.dtype)]


_PLAIN = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"})
REDUCE: dict[str, Function] = dict.fromkeys(_REDUCE, reduce)


def arg_extremum(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Where the largest or smallest stands along an axis: the first, or with `select_last_index` the last."""
    x, axis, keep = inputs[0], int(node.attrs.get("axis", 0)), bool(node.attrs.get("keepdims", 1))
    function = torch.argmax if node.op == "ArgMax" else torch.argmin
    if node.attrs.get("select_last_index", 0):
        return [x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep)]
    return [function(x, axis, keepdim=keep)]
