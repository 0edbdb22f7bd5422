"""Channels that are the same number whatever the input: found from the graph, with their values.

A channel is constant when nothing that varies reaches it: a row of zero weights leaves its bias, an elementwise
function of constants is one, and zero times anything is zero. What no rule says this of is taken to vary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.groups import Coupling
from hwpass.errors import InputError
from hwpass.model.model import quiet
from hwpass.ops import Node, rule_for, traits_of
from hwpass.ops.constants import Floats, Known, padded
from hwpass.ops.traits import Traits
from hwpass.runtime.sessions import open_session, run_session

#: A weight this small beside the largest of its tensor adds less than float32 resolves.
NEGLIGIBLE = 1e-10


@dataclass(frozen=True, eq=False)
class Weight:
    """The constant weight of a product, seen as a table of outputs and inputs."""

    values: NDArray[Any]
    out: int
    into: int | None

    @classmethod
    def of(cls, node: Node) -> Weight | None:
        """The weight of a node whose product is a plain constant of floating point; None for others."""
        product, form = node.product, traits_of(node.gs).form
        if product is None or form is None or not form.table:
            return None
        tensor = node.gs.inputs[product.weight]
        if not isinstance(tensor, gs.Constant) or tensor.values.dtype.kind != "f":
            return None
        return cls(tensor.values, product.weight_out, product.weight_in)

    def table(self) -> NDArray[np.bool_]:
        """Whether anything but a negligible weight stands between an output and an input, over the taps: [out, in]."""
        with np.errstate(invalid="ignore"):  # NaN is refused where scores are asked for
            least = NEGLIGIBLE * max(self.values.max(initial=0.0), -self.values.min(initial=0.0))
            sides = [self.out] if self.into is None else sorted((self.out, self.into))
            by_tap = np.moveaxis(self.values, sides, range(len(sides)))
            by_tap = by_tap.reshape(*by_tap.shape[: len(sides)], -1)
            # One tap decides almost always: the others are looked at where it does not.
            found = np.abs(by_tap[..., 0]) > least if by_tap.size else np.zeros(by_tap.shape[:-1], bool)
            if by_tap.shape[-1] > 1:
                found[~found] = (np.abs(by_tap[~found]) > least).any(axis=-1)
        if self.into is None:
            return found[:, None]
        return found.T if self.into < self.out else found

    def sums(self) -> Floats:
        """Sum over the taps per output and input: what a constant input is multiplied by, [out, in]."""
        assert self.into is not None
        taps = tuple(a for a in range(self.values.ndim) if a not in (self.out, self.into))
        with np.errstate(invalid="ignore"):
            found = self.values.sum(axis=taps, dtype=np.float64) if taps else self.values.astype(np.float64)
        return found.T if self.into < self.out else found


def constants(coupling: Coupling) -> Mapping[int, Known]:
    """The constant channels of every tensor, by the identity of the analysed tensor; those without any are absent."""
    found: dict[int, Known] = {}
    for node in coupling.nodes:
        if node.frozen or node.bodies or not node.outputs or node.outputs[0].axes is None:
            continue
        given = {p: found[id(t)] for p, t in enumerate(node.inputs) if t is not None and id(t) in found}
        known = _follow(node, given, coupling.build.model.graph)
        if known is not None and known.mask.any():
            found[id(node.outputs[0])] = known
    return found


def _follow(node: Node, given: dict[int, Known], graph: gs.Graph) -> Known | None:
    weight = Weight.of(node)
    if weight is not None:
        return _product(node, weight, given)
    if not given:
        return None
    traits = traits_of(node.gs)
    if traits.pointwise:
        return _elementwise(node, given, graph, traits)
    return rule_for(node.gs).constants(node, given)


def _product(node: Node, weight: Weight, given: dict[int, Known]) -> Known | None:
    """A row none of whose inputs vary is its bias and what the constant ones add."""
    product, form = node.product, traits_of(node.gs).form
    assert product is not None
    assert form is not None
    shift = plain_bias(node)
    if form.kind == "transposed" or shift is None:
        return None
    table = weight.table()
    known = given.get(product.data)
    usable, values = np.zeros(table.shape[1], bool), np.zeros(table.shape[1])
    depthwise = weight.into is None
    if known is not None and known.place == product.data_axis and (depthwise or len(known.mask) == len(usable)):
        usable = known.mask & ((known.values == 0) | (not padded(node)))
        values = np.where(usable, known.values, 0.0)
    elif int(node.attr("group", 1)) > 1 and not depthwise:
        return None
    if depthwise:
        if len(usable) == 1:  # nothing is known of the input
            usable, values = np.zeros(len(table), bool), np.zeros(len(table))
        else:
            usable, values = (np.repeat(v, len(table) // len(v)) for v in (usable, values))
        mask = ~table[:, 0] | usable
        taps = weight.values.sum(axis=tuple(range(1, weight.values.ndim)), dtype=np.float64)
        total = shift + taps * values
    else:
        if int(node.attr("group", 1)) > 1:
            return None
        mask = np.asarray(~table[:, ~usable].any(axis=1))
        total = shift + weight.sums() @ values if mask.any() else shift
    place = form.channel_axis % node.outputs[0].rank
    return Known(place, mask, np.where(mask, total, 0.0))


def plain_bias(node: Node) -> Floats | None:
    """The bias of a product per output, zeros where there is none; None for one that is not x W + b."""
    product, form = node.product, traits_of(node.gs).form
    assert product is not None
    assert form is not None
    if product.weight != 1 or product.data != 0:
        return None
    width = node.gs.inputs[1].values.shape[product.weight_out]
    if not plain(node.gs):
        return None
    if not form.bias or len(node.gs.inputs) < 3 or not node.gs.inputs[2].name:
        return np.zeros(width)
    bias = node.gs.inputs[2]
    if not isinstance(bias, gs.Constant) or bias.values.size != width or bias.values.shape[-1] != width:
        return None
    return np.asarray(bias.values.reshape(-1), np.float64)


def plain(node: gs.Node) -> bool:
    """Whether a use of a product computes x W + b as its weights are stored, and nothing besides."""
    rule = rule_for(node)
    return not rule.scaled(node) and not rule.turned(node)


def added_bias(tensor: gs.Tensor, width: int) -> tuple[gs.Node | None, int]:
    """The Add behind a MatMul's output that gives it its bias, and the input that holds it; None without one."""
    if len(tensor.outputs) == 1 and tensor.outputs[0].op == "Add":
        add = tensor.outputs[0]
        for position, operand in enumerate(add.inputs):
            constant = isinstance(operand, gs.Constant) and operand is not tensor
            if constant and operand.values.size == width and operand.shape[-1] == width:
                return add, position
    return None, 0


def _elementwise(node: Node, given: dict[int, Known], graph: gs.Graph, traits: Traits) -> Known | None:
    """The node itself, run on one number per channel."""
    product = traits.multiplies
    per_channel = traits.form is not None and traits.form.kind == "channels"
    rank = node.outputs[0].rank
    offsets = {known.place - node.tensor(p).rank for p, known in given.items()}
    if len(offsets) != 1:
        return None
    offset = offsets.pop()
    size = len(next(iter(given.values())).mask)
    mask, zero = np.ones(size, bool), np.zeros(size, bool)
    feed: dict[str, NDArray[Any]] = {}
    for position, tensor in enumerate(node.gs.inputs):
        if not tensor.name:
            continue
        operand = node.tensor(position)
        if isinstance(tensor, gs.Constant):
            wide = [s for a, s in enumerate(operand.shape) if a - operand.rank != offset and s != 1]
            if wide and not per_channel:
                return None
            continue
        known = given.get(position)
        values = np.zeros(size) if known is None else known.values
        mask &= np.zeros(size, bool) if known is None else known.mask
        zero |= False if known is None else known.mask & (known.values == 0)
        shape = [1] * operand.rank
        if known is None and operand.rank < -offset:
            return None
        shape[offset] = size
        dtype = operand.dtype if operand.dtype is not None else np.dtype(np.float32)
        feed[tensor.name] = values.reshape(shape).astype(dtype)
    if product:
        mask = mask | zero
    if not mask.any():
        return None
    result = _run(node.gs, feed, graph)
    if result is None or result.ndim != rank or result.size != size:
        return None
    values = result.reshape(-1).astype(np.float64)
    if product:
        values[zero] = 0.0
    mask &= np.isfinite(values)
    return Known(offset + rank, mask, np.where(mask, values, 0.0))


def _run(node: gs.Node, feed: Mapping[str, NDArray[Any]], graph: gs.Graph) -> NDArray[Any] | None:
    """The first output of one node; None where the runtime has no such kernel."""
    made: dict[str, gs.Tensor] = {n: gs.Variable(n, dtype=v.dtype, shape=list(v.shape)) for n, v in feed.items()}
    inputs = [
        gs.Constant(t.name, t.values) if isinstance(t, gs.Constant) else made.get(t.name, gs.Variable.empty())
        for t in node.inputs
    ]
    result = gs.Variable("known_value")
    copy = gs.Node(node.op, node.name, dict(node.attrs), inputs, [result], node.domain)
    alone = gs.Graph(
        [copy],
        list(made.values()),
        [result],
        opset=graph.opset,
        import_domains=graph.import_domains,
        ir_version=graph.ir_version,
    )
    with quiet():
        proto = gs.export_onnx(alone, do_type_check=False)
    try:
        return np.asarray(run_session(open_session(proto), dict(feed))[result.name])
    except InputError:
        return None
