"""Attention, the standard's and ONNX Runtime's, and rotations of its heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import onnx_graphsurgeon as gs

from hwpass.ops.functions.common import F, NoFunction, given, torch, torch_type


def _heads(x: Any, count: int) -> Any:
    """[N, L, heads * width] as [N, heads, L, width]; what has four axes is as it is."""
    return x if x.dim() == 4 else x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def _joined(x: Any) -> Any:
    """[N, heads, L, width] as [N, L, heads * width]."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def _repeated(x: Any, heads: int) -> Any:
    """Keys or values for every head of the queries."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _causal(queries: int, keys: int, offset: int) -> Any:
    """Which keys [keys] a query [queries] may see: those up to its own position."""
    return torch.arange(keys)[None] <= torch.arange(queries)[:, None] + offset


def _biased(mask: Any, causal: Any, dtype: Any) -> Any:
    """A mask of truth or of numbers, and a causal one, as one that torch takes."""
    if causal is None:
        return mask
    if mask is None:
        return causal
    if mask.dtype == torch.bool:
        return mask & causal
    return mask.to(dtype).masked_fill(~causal, -math.inf)


def attention(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """softmax(scale Q K^T + mask) V; caches are joined, and the scores handed out where they are asked for."""
    q, k, v, mask, past_k, past_v, lengths = (given(inputs, i) for i in range(7))
    flat, dtype = q.dim() == 3, q.dtype
    q = _heads(q, int(node.attrs.get("q_num_heads", 0)))
    k, v = (_heads(t, int(node.attrs.get("kv_num_heads", 0))) for t in (k, v))
    before = 0
    if past_k is not None:
        before = past_k.shape[2]
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
    present = [k, v]
    k, v = _repeated(k, q.shape[1]), _repeated(v, q.shape[1])
    if mask is not None and mask.shape[-1] < k.shape[2]:
        fill = False if mask.dtype == torch.bool else -math.inf
        mask = F.pad(mask, [0, k.shape[2] - mask.shape[-1]], value=fill)
    causal = _seen(node, q.shape[2], k.shape[2], before, lengths)
    mask = _biased(mask, causal, dtype)
    scale, cap = node.attrs.get("scale"), float(node.attrs.get("softcap", 0.0))
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    wants = len(node.outputs) > 3 and bool(node.outputs[3].name)
    if cap or wants or node.attrs.get("softmax_precision"):
        y, scores = _explicit(node, q, k, v, mask, scale, cap)
    else:
        y, scores = F.scaled_dot_product_attention(q, k, v, mask, scale=scale), None
    return [_joined(y) if flat else y, *present, scores][: len(node.outputs)]


def _explicit(node: gs.Node, q: Any, k: Any, v: Any, mask: Any, scale: float, cap: float) -> tuple[Any, Any]:
    """Attention step by step, and the scores of the step that the node names."""
    root = math.sqrt(scale)
    scores = (q * root) @ (k * root).mT
    capped = cap * torch.tanh(scores / cap) if cap else scores
    added = capped
    if mask is not None:
        shift = (
            torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else mask
        )
        added = capped + shift
    precision = node.attrs.get("softmax_precision")
    weights = torch.softmax(added if precision is None else added.to(torch_type(node, precision)), -1).to(q.dtype)
    # A query that sees no key at all gets zeros.
    weights = weights.masked_fill((added == -math.inf).all(-1, keepdim=True), 0.0)
    mode = int(node.attrs.get("qk_matmul_output_mode", 0))
    return weights @ v, (scores, capped, added, weights)[mode]


def _seen(node: gs.Node, queries: int, keys: int, before: int, lengths: Any) -> Any:
    """Which keys each query may see by their positions: [queries, keys], of each sample where lengths differ; or None.

    Without a cache of its own, the last of `lengths` keys stands where the last query does.
    """
    causal, left, right = (int(node.attrs.get(n, d)) for n, d in
                           (("is_causal", 0), ("left_window_size", -1), ("right_window_size", -1)))  # fmt: skip
    start = before if lengths is None else (lengths.long() - queries).reshape(-1, 1, 1, 1)
    ahead = torch.arange(queries)[:, None] + start - torch.arange(keys)[None]
    bounds = []
    if causal:
        bounds.append(ahead >= 0)
    if left >= 0:
        bounds.append(ahead <= left)
    if right >= 0:
        bounds.append(-ahead <= right)
    if lengths is not None:
        bounds.append(torch.arange(keys) < lengths.long().reshape(-1, 1, 1, 1))
    return reduce(torch.logical_and, bounds) if bounds else None


def _turned(x: Any, cos: Any, sin: Any, interleaved: bool) -> Any:
    """Pairs of the last axis of [N, L, heads, width], rotated; what is beyond the tables' width is as it is."""
    width = 2 * cos.shape[-1]
    turned, rest = x[..., :width], x[..., width:]
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        made = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        made = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    return torch.cat([made, rest], -1) if rest.shape[-1] else made


def rotary(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Pairs inside every head, rotated by the angles of their position."""
    x, cos, sin, where = (given(inputs, i) for i in range(4))
    width, flat = int(node.attrs.get("rotary_embedding_dim", 0)), x.dim() == 3
    heads = int(node.attrs.get("num_heads", 0))
    if flat and not heads:
        raise NoFunction(node, "heads of which nobody says how many there are")
    y = x.reshape(*x.shape[:2], heads, -1) if flat else x.transpose(1, 2)
    if where is not None:
        cos, sin = cos[where.long()], sin[where.long()]
    half = (width or y.shape[-1]) // 2
    y = _turned(y, cos[..., :half], sin[..., :half], bool(node.attrs.get("interleaved", 0)))
    return [y.reshape(x.shape) if flat else y.transpose(1, 2)]


def contrib_rotary(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The same with the positions before the tables; a single position is the first one."""
    x, where, cos, sin = inputs[:4]
    heads, flat = int(node.attrs.get("num_heads", 0)), x.dim() == 3
    if node.attrs.get("is_packed_batching", 0) or node.attrs.get("scale", 1.0) != 1.0:
        raise NoFunction(node, "packed batches, or a scale")
    y = x.reshape(*x.shape[:2], heads or x.shape[-1] // (2 * cos.shape[-1]), -1) if flat else x.transpose(1, 2)
    if where.numel() == 1:
        where = where.reshape(1, 1) + torch.arange(y.shape[1])[None]
    where = where.long()
    y = _turned(y, cos[where], sin[where], bool(node.attrs.get("interleaved", 0)))
    return [y.reshape(x.shape) if flat else y.transpose(1, 2)]


def contrib_attention(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Attention with its own projection: [Q | K | V] = x W + b."""
    x, w, b, mask, past, bias, length = (given(inputs, i) for i in range(7))
    if w.dim() != 2 or length is not None or node.attrs.get("do_rotary", 0):
        raise NoFunction(node, "a weight in several parts, a shared cache, or rotated heads")
    sizes = [int(v) for v in node.attrs.get("qkv_hidden_sizes") or [w.shape[1] // 3] * 3]
    made = x @ w if b is None else x @ w + b
    q, k, v = (_heads(part, int(node.attrs["num_heads"])) for part in made.split(sizes, -1))
    before = 0
    if past is not None:
        before = past.shape[3]
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    hides = _hidden(node, mask, k.shape[2])
    if node.attrs.get("unidirectional", 0):
        seen = _causal(q.shape[2], k.shape[2], before)
        hides = seen if hides is None else hides & seen
    y = _hiding(node, q, k, v, hides, bias)
    return [_joined(y), torch.stack([k, v]) if k.shape == v.shape else None][: len(node.outputs)]


def _hidden(node: gs.Node, mask: Any, keys: int) -> Any:
    """Which keys are seen, from a mask of ONNX Runtime: [N, keys] or [N, queries, keys], or the lengths [N]."""
    if mask is None:
        return None
    if mask.dim() == 2 and mask.shape[1] == keys:
        return (mask > 0)[:, None, None]
    if mask.dim() == 3 and mask.shape[2] == keys:
        return (mask > 0)[:, None]
    raise NoFunction(node, "this form of mask")


def _hiding(node: gs.Node, q: Any, k: Any, v: Any, seen: Any, bias: Any) -> Any:
    """Attention with a bias on the scores, and keys that are all but hidden."""
    scale = float(node.attrs.get("scale", 0.0)) or 1 / math.sqrt(q.shape[-1])
    fill = float(node.attrs.get("mask_filter_value", -10000.0))
    mask = bias
    if seen is not None:
        shift = torch.zeros(seen.shape, dtype=q.dtype).masked_fill(~seen, fill)
        mask = shift if mask is None else mask + shift
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)


def multi_head(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Attention over projected queries, keys and values, with one bias for all of them."""
    q, k, v, b, mask, bias, past_k, past_v = (given(inputs, i) for i in range(8))
    if k is None or v is None or q.dim() != 3 or any(t is not None for t in inputs[8:]):
        raise NoFunction(node, "packed queries, keys and values, or a shared cache")
    count, parts = int(node.attrs["num_heads"]), [q, k, v]
    if b is not None:
        if any(t.dim() != 3 for t in parts):
            raise NoFunction(node, "a bias on heads that are apart already")
        shifts = b.split([t.shape[-1] for t in parts])
        parts = [t + shift for t, shift in zip(parts, shifts, strict=True)]
    q, k, v = (_heads(t, count) for t in parts)
    before = 0
    if past_k is not None:
        before = past_k.shape[2]
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
    hides = _hidden(node, mask, k.shape[2])
    if node.attrs.get("unidirectional", 0):
        seen = _causal(q.shape[2], k.shape[2], before)
        hides = seen if hides is None else hides & seen
    if len(node.outputs) > 3:
        raise NoFunction(node, "scores that are handed out")
    return [_joined(_hiding(node, q, k, v, hides, bias)), k, v][: len(node.outputs)]


def group_query(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Causal attention in which several heads of queries share one of keys and values."""
    q, k, v, past_k, past_v, lengths, _, cos, sin, where, bias, sink = (given(inputs, i) for i in range(12))
    window = int(node.attrs.get("local_window_size", -1))
    if k is None or v is None or sink is not None or window != -1 or node.attrs.get("smooth_softmax", 0):
        raise NoFunction(node, "packed queries, keys and values, a window, or sinks")
    before = 0 if past_k is None else past_k.shape[2]
    if bool((lengths.long() + 1 != before + q.shape[1]).any()):
        raise NoFunction(node, "samples of several lengths, or a cache that is not full")
    if float(node.attrs.get("softcap", 0.0)) or "qk_output" in node.attrs:
        raise NoFunction(node, "capped scores")
    q, k, v = (_heads(t, int(node.attrs[n])) for t, n in ((q, "num_heads"), (k, "kv_num_heads"), (v, "kv_num_heads")))
    if node.attrs.get("do_rotary", 0):
        place = where.long() if where is not None else (before + torch.arange(q.shape[2]))[None]
        turn = bool(node.attrs.get("rotary_interleaved", 0))
        q, k = (_turned(t.transpose(1, 2), cos[place], sin[place], turn).transpose(1, 2) for t in (q, k))
    if before:
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
    mask = _biased(bias, _causal(q.shape[2], k.shape[2], before), q.dtype)
    scale = float(node.attrs.get("scale", 0.0)) or 1 / math.sqrt(q.shape[-1])
    y = F.scaled_dot_product_attention(q, _repeated(k, q.shape[1]), _repeated(v, q.shape[1]), mask, scale=scale)
    return [_joined(y), k, v][: len(node.outputs)]
