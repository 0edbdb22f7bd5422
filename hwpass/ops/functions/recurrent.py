"""Recurrent layers: torch's own kernels where these compute the same, a loop over the steps elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_graphsurgeon as gs

from hwpass.ops.functions.common import F, NoFunction, given, text, torch

_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
#: Where torch's gates stand among those of ONNX.
_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}

#: Activations by name in lower case: a function of x, alpha and beta, and the defaults of these.
_ACTIVATIONS: dict[str, tuple[Callable[[Any, float, float], Any], float | None, float | None]] = {
    "relu": (lambda x, a, b: torch.relu(x), None, None),
    "tanh": (lambda x, a, b: torch.tanh(x), None, None),
    "sigmoid": (lambda x, a, b: torch.sigmoid(x), None, None),
    "softsign": (lambda x, a, b: F.softsign(x), None, None),
    "softplus": (lambda x, a, b: F.softplus(x), None, None),
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a, b: F.leaky_relu(x, a), 0.01, None),
    "thresholdedrelu": (lambda x, a, b: torch.where(x > a, x, torch.zeros_like(x)), 1.0, None),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), 1.0, 1.0),
    "hardsigmoid": (lambda x, a, b: (a * x + b).clamp(0, 1), 0.2, 0.5),
    "elu": (lambda x, a, b: F.elu(x, a), 1.0, None),
}


def recurrent(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """LSTM, GRU and RNN: Y [steps, directions, samples, hidden], and the last states."""
    x, w, r, b, lengths, *states = (given(inputs, i) for i in range(7))
    peepholes = given(inputs, 7)
    first = bool(node.attrs.get("layout", 0))
    if first:
        x, states = x.transpose(0, 1), [None if s is None else s.transpose(0, 1) for s in states]
    if lengths is not None and bool((lengths == x.shape[0]).all()):
        lengths = None
    start = [x.new_zeros(w.shape[0], x.shape[1], r.shape[-1]) if s is None else s for s in states]
    if lengths is None and peepholes is None and _usual(node):
        y, last = _kernel(node, x, w, r, b, start)
    else:
        ways = [_way(node, d, x, w[d], r[d], b, lengths, start, peepholes) for d in range(w.shape[0])]
        y = torch.stack([way[0] for way in ways], 1)
        last = [torch.stack([way[1][i] for way in ways]) for i in range(len(ways[0][1]))]
    if first:
        y, last = y.permute(2, 0, 1, 3), [s.transpose(0, 1) for s in last]
    return [y, *last][: len(node.outputs)]


def _usual(node: gs.Node) -> bool:
    """Whether torch has a kernel that computes the same."""
    names = [str(n) for n in node.attrs.get("activations") or []]
    usual, ways = _DEFAULTS[node.op], 2 if text(node, "direction", "forward") == "bidirectional" else 1
    plain = not names or names == usual * ways or (node.op == "RNN" and set(names) == {"Relu"})
    other = node.attrs.get("clip") or node.attrs.get("input_forget", 0)
    return plain and not other and not (node.op == "GRU" and not node.attrs.get("linear_before_reset", 0))


def _kernel(node: gs.Node, x: Any, w: Any, r: Any, b: Any, start: list[Any]) -> tuple[Any, list[Any]]:
    """Through torch's kernels, whose gates stand in another order."""
    direction, hidden = text(node, "direction", "forward"), r.shape[-1]
    order = _ORDER[node.op]
    weights = []
    for way in range(w.shape[0]):
        parts = [w[way], r[way]]
        if b is not None:
            parts += list(b[way].reshape(2, -1))
        weights += [torch.cat([part.narrow(0, gate * hidden, hidden) for gate in order]) for part in parts]
    x = x.flip(0) if direction == "reverse" else x
    both = direction == "bidirectional"
    names = {str(n) for n in node.attrs.get("activations") or []}
    name = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_relu" if names == {"Relu"} else "rnn_tanh"}[node.op]
    states = tuple(start[:2]) if node.op == "LSTM" else start[0]
    y, *last = getattr(torch._VF, name)(x, states, weights, b is not None, 1, 0.0, False, both, False)
    y = y.reshape(*x.shape[:2], w.shape[0], hidden).transpose(1, 2)
    return (y.flip(0) if direction == "reverse" else y), last


def _activations(node: gs.Node, way: int) -> list[Callable[[Any], Any]]:
    """The activations of one direction; their parameters are handed out in turn to those that take some."""
    names = [str(n) for n in node.attrs.get("activations") or []]
    count = len(_DEFAULTS[node.op])
    names = names or _DEFAULTS[node.op] * 2
    values = [list(node.attrs.get(key) or []) for key in ("activation_alpha", "activation_beta")]
    found: list[Callable[[Any], Any]] = []
    limit = node.attrs.get("clip")
    for place, name in enumerate(names[: (way + 1) * count]):
        if name.lower() not in _ACTIVATIONS:
            raise NoFunction(node, f"the activation {name}")
        function, *defaults = _ACTIVATIONS[name.lower()]
        a, b = (
            0.0 if default is None else float(queue.pop(0)) if queue else default
            for default, queue in zip(defaults, values, strict=True)
        )
        # ONNX Runtime clips what enters the gates; the cell it hands on as it is.
        open_ended = limit is None or place % count == 2
        found.append(_bounded(function, a, b, None if open_ended else float(limit)))
    return found[way * count :]


def _bounded(
    function: Callable[[Any, float, float], Any], a: float, b: float, limit: float | None
) -> Callable[[Any], Any]:
    if limit is None:
        return lambda x: function(x, a, b)
    return lambda x: function(x.clamp(-limit, limit), a, b)


def _way(
    node: gs.Node, way: int, x: Any, w: Any, r: Any, b: Any, lengths: Any, start: list[Any], peepholes: Any
) -> tuple[Any, list[Any]]:
    """One direction, step by step."""
    steps, samples = x.shape[:2]
    backward = text(node, "direction", "forward") == "reverse" or way == 1
    ends = torch.full((samples,), steps) if lengths is None else lengths.long()
    index = torch.arange(steps)[:, None].expand(steps, samples)
    if backward:
        index = torch.where(index < ends, ends - 1 - index, index)
        x = torch.gather(x, 0, index[..., None].expand(x.shape))
    step = _STEPS[node.op](node, w, r, None if b is None else b[way], None if peepholes is None else peepholes[way],
                           _activations(node, way))  # fmt: skip
    state = [s[way] for s in start[: 2 if node.op == "LSTM" else 1]]
    inner, outputs = x @ w.T, []
    for t in range(steps):
        new = step(inner[t], state)
        if lengths is not None:
            live = (t < ends)[:, None]
            state = [torch.where(live, a, o) for a, o in zip(new, state, strict=True)]
            outputs.append(torch.where(live, new[0], torch.zeros_like(new[0])))
        else:
            state = new
            outputs.append(new[0])
    y = torch.stack(outputs)
    if backward:
        y = torch.gather(y, 0, index[..., None].expand(y.shape))
    return y, state


Step = Callable[[Any, list[Any]], list[Any]]


def _lstm(node: gs.Node, w: Any, r: Any, b: Any, peepholes: Any, functions: list[Callable[[Any], Any]]) -> Step:
    f, g, h = functions
    hidden = r.shape[-1]
    p = [0.0] * 3 if peepholes is None else list(peepholes.reshape(3, hidden))
    bias = 0.0 if b is None else b.reshape(2, -1).sum(0)
    coupled = bool(node.attrs.get("input_forget", 0))

    def step(inner: Any, state: list[Any]) -> list[Any]:
        last, cell = state
        i, o, forget, c = (inner + last @ r.T + bias).split(hidden, -1)
        i = f(i + p[0] * cell)
        forget = 1 - i if coupled else f(forget + p[2] * cell)
        cell = forget * cell + i * g(c)
        return [f(o + p[1] * cell) * h(cell), cell]

    return step


def _gru(node: gs.Node, w: Any, r: Any, b: Any, peepholes: Any, functions: list[Callable[[Any], Any]]) -> Step:
    f, g = functions
    hidden = r.shape[-1]
    own, recurrent_bias = (torch.zeros(3 * hidden, dtype=r.dtype),) * 2 if b is None else b.reshape(2, -1)
    linear = bool(node.attrs.get("linear_before_reset", 0))

    def step(inner: Any, state: list[Any]) -> list[Any]:
        last = state[0]
        inner = inner + own
        gates = inner[:, : 2 * hidden] + last @ r[: 2 * hidden].T + recurrent_bias[: 2 * hidden]
        z, reset = f(gates).split(hidden, -1)
        weight, shift = r[2 * hidden :].T, recurrent_bias[2 * hidden :]
        new = reset * (last @ weight + shift) if linear else (reset * last) @ weight + shift
        return [(1 - z) * g(inner[:, 2 * hidden :] + new) + z * last]

    return step


def _rnn(node: gs.Node, w: Any, r: Any, b: Any, peepholes: Any, functions: list[Callable[[Any], Any]]) -> Step:
    bias = 0.0 if b is None else b.reshape(2, -1).sum(0)
    return lambda inner, state: [functions[0](inner + state[0] @ r.T + bias)]


_STEPS = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
