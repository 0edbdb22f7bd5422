"""Which values an input may hold, read from the graph: the rows of the tables it picks from, masks, lengths, extents.

Integers are followed from the inputs through casts, reshapes and sums with constants, into bodies too, to the
operators that say what they mean. What nothing is said of keeps the default of random small integers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.model.model import bodies
from hwpass.ops import rule_for, traits_of
from hwpass.ops.traits import Shape
from hwpass.runtime.inputs import MAX_TOKEN

Kind = Literal["index", "mask", "length", "extent", "choice"]
Shapes = Callable[[gs.Tensor], Shape | None]
"""The extents of a tensor of the graph, None where they are not known."""

#: Extents, trip counts and the like that an input gives: small, or what they size is not.
EXTENTS = (1, 4)

#: A product with numbers of this magnitude turns a mask into what is added to attention scores.
BIAS = 1e3

#: Tensors carry at most so many inputs each: longer lists are sums of everything.
MOST = 16


@dataclass(frozen=True)
class Domain:
    """The values of an input: `low` to `high` (both included) of an index or extent, or one of `choices`."""

    kind: Kind
    low: int = 0
    high: int = 1
    choices: tuple[float, ...] = ()


class Flow(NamedTuple):
    """A tensor whose values are scale * x + [least, most] of an input x, or (`truth`) say something about x."""

    name: str
    scale: float = 1.0
    least: float = 0.0
    most: float = 0.0
    truth: bool = False


@dataclass
class _Seen:
    """What the graph says of one input."""

    low: float = -np.inf
    high: float = np.inf
    table: bool = False
    uses: set[str] = field(default_factory=set)
    compared: set[float] = field(default_factory=set)


def domains(graph: gs.Graph, shapes: Shapes | None = None) -> tuple[dict[str, Domain], bool]:
    """The domain of every input of which the graph says something; whether `shapes` of computed tensors matter for it.

    Without `shapes` only tables that are constants bound an index.
    """
    walk = _Walk(shapes)
    flows = {id(t): [Flow(t.name)] for t in graph.inputs}
    walk.graph(graph, flows)
    found = {}
    for tensor in graph.inputs:
        domain = _domain(tensor, walk.seen.get(tensor.name, _Seen()))
        if domain is not None:
            found[tensor.name] = domain
    return found, walk.computed


def named_mask(name: str) -> bool:
    """Whether an input is called a mask."""
    return "mask" in name.lower()


def named_length(name: str) -> bool:
    """Whether an input is called a length."""
    return re.search(r"len(gth)?s?$", name.lower()) is not None


def _domain(tensor: gs.Variable, seen: _Seen) -> Domain | None:
    dtype = None if isinstance(tensor.dtype, int) else tensor.dtype
    rank = len(tensor.shape) if tensor.shape is not None else None
    whole = dtype is not None and np.dtype(dtype).kind in "iu"
    if seen.table:
        low = max(int(np.ceil(seen.low)), 0)
        return Domain("index", low, max(int(np.floor(seen.high)), low))
    if named_mask(tensor.name):
        return Domain("mask")
    if (whole and "length" in seen.uses) or (named_length(tensor.name) and whole and rank is not None and rank <= 1):
        return Domain("length")
    if whole and "extent" in seen.uses:
        return Domain("extent", *EXTENTS)
    compared = tuple(sorted(v for v in seen.compared if np.isfinite(v)))
    if whole and compared and (rank == 0 or tensor.shape == [1]):  # such as a sample rate
        return Domain("choice", choices=tuple(dict.fromkeys((*compared, compared[-1] + 1))))
    truth = dtype is not None and np.dtype(dtype) == np.dtype(bool)
    if (truth or (whole and set(compared) <= {0.0, 1.0})) and "mask" in seen.uses and rank:
        return Domain("mask")
    if whole and compared and compared[-1] >= MAX_TOKEN:
        return Domain("index", max(int(compared[0]) - 1, 0), int(compared[-1]) + 1)
    return None


class _Walk:
    """Carries flows over a graph and its bodies."""

    def __init__(self, shapes: Shapes | None) -> None:
        self.shapes = shapes
        self.seen: dict[str, _Seen] = {}
        self.computed = False  # an index reaches a tensor that is no constant

    def graph(self, graph: gs.Graph, flows: dict[int, list[Flow]]) -> None:
        """Follow what flows through the nodes in order."""
        for node in graph.nodes:
            given = [flows.get(id(t), []) for t in node.inputs]
            for body in bodies(node):
                self._body(node, body, given, flows)
            if not any(given):
                continue
            self._tables(node, given)
            self._roles(node, given)
            out = _moved(node, given)
            for flow in out:
                self._hints(node, flow)
            for tensor in node.outputs if out else ():
                flows.setdefault(id(tensor), []).extend(out)

    def _body(self, node: gs.Node, body: gs.Graph, given: list[list[Flow]], flows: dict[int, list[Flow]]) -> None:
        if node.op in ("Loop", "Scan"):
            for tensor, found in zip(body.inputs, given, strict=False):
                flows[id(tensor)] = list(found)
        self.graph(body, flows)
        results = body.outputs[1:] if node.op == "Loop" else body.outputs
        for tensor, inner in zip(node.outputs, results, strict=False):
            flows.setdefault(id(tensor), []).extend(flows.get(id(inner), [])[:MOST])

    def _tables(self, node: gs.Node, given: list[list[Flow]]) -> None:
        for position, extents, rows in rule_for(node).picks(node, lambda place: self._shape(node, place)):
            self._index(given, position, extents, rows)

    def _shape(self, node: gs.Node, position: int) -> Shape | None:
        if position >= len(node.inputs):
            return None
        tensor = node.inputs[position]
        if isinstance(tensor, gs.Constant):
            return tuple(tensor.shape)
        return None if self.shapes is None else self.shapes(tensor)

    def _index(self, given: list[list[Flow]], position: int, shape: Shape | None, rows: Callable[[Shape], int]) -> None:
        flows = given[position] if position < len(given) else []
        flows = [f for f in flows if not f.truth and f.scale]
        if not flows:
            return
        if shape is None:
            self.computed = True
            return
        try:
            count = rows(shape)
        except (IndexError, ValueError):
            return
        for flow in flows:
            ends = sorted(((0 - flow.least) / flow.scale, (count - 1 - flow.most) / flow.scale))
            seen = self.seen.setdefault(flow.name, _Seen())
            seen.table = True
            seen.low, seen.high = max(seen.low, ends[0]), min(seen.high, ends[1])

    def _roles(self, node: gs.Node, given: list[list[Flow]]) -> None:
        traits = traits_of(node)
        for use, places in (("mask", traits.masks), ("length", traits.lengths), ("extent", traits.extents)):
            for position in places:
                for flow in given[position] if position < len(given) else ():
                    self.seen.setdefault(flow.name, _Seen()).uses.add(use)
        if node.op == "Mul":
            bias = any(isinstance(t, gs.Constant) and _largest(t) >= BIAS for t in node.inputs)
            for flow in (f for flows in given for f in flows if bias):
                self.seen.setdefault(flow.name, _Seen()).uses.add("mask")

    def _hints(self, node: gs.Node, flow: Flow) -> None:
        """Constants that an input is compared with, and the modulus it is taken by."""
        if not traits_of(node).compares and node.op != "Mod":
            return
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant) and tensor.values.size <= MOST and tensor.values.dtype.kind in "iuf":
                seen = self.seen.setdefault(flow.name, _Seen())
                values = tensor.values.reshape(-1).astype(np.float64)
                if node.op == "Mod":
                    seen.high = min(seen.high, float(values.max(initial=1)) - 1)
                else:
                    seen.compared.update(values.tolist())


def _moved(node: gs.Node, given: list[list[Flow]]) -> list[Flow]:
    """What the outputs carry of what the inputs do."""
    traits = traits_of(node)
    carries = range(len(given)) if traits.carries is None else traits.carries
    if carries:
        return [f for place in carries if place < len(given) for f in given[place]][:MOST]
    if traits.truth:
        return [f._replace(truth=True) for part in given for f in part][:MOST]
    if node.op in ("Add", "Sub", "Mul", "Div", "Mod", "Neg"):
        return _arithmetic(node, given)
    return []


def _arithmetic(node: gs.Node, given: list[list[Flow]]) -> list[Flow]:
    if node.op == "Neg":
        return [Flow(f.name, -f.scale, -f.most, -f.least, f.truth) for f in given[0]]
    constants = [_range(t) for t in node.inputs]
    found: list[Flow] = []
    for place, part in enumerate(given):
        other = constants[1 - place] if len(constants) == 2 else None
        for flow in part:
            moved = _shifted(node.op, flow, other, place == 0)
            if moved is not None:
                found.append(moved)
    return found[:MOST]


def _shifted(op: str, flow: Flow, other: tuple[float, float] | None, first: bool) -> Flow | None:
    """A flow and a constant between two numbers; beside something computed it is taken as it is."""
    name, scale, least, most, truth = flow
    if other is None:
        return flow if (op in ("Add", "Sub", "Mul") and first) or op == "Add" else None
    low, high = other
    if op == "Add":
        return Flow(name, scale, least + low, most + high, truth)
    if op == "Sub":
        return Flow(name, scale, least - high, most - low, truth) if first else \
            Flow(name, -scale, low - most, high - least, truth)  # fmt: skip
    if op == "Mod":
        return flow if first else None
    if low != high or not np.isfinite(low) or low == 0:
        return flow._replace(truth=True)
    factor = low if op == "Mul" else 1 / low if first else 0.0
    ends = sorted((least * factor, most * factor))
    return Flow(name, scale * factor, ends[0], ends[1], truth) if factor else None


def _range(tensor: gs.Tensor) -> tuple[float, float] | None:
    if not isinstance(tensor, gs.Constant) or tensor.values.dtype.kind not in "iufb" or not tensor.values.size:
        return None
    values = tensor.values.astype(np.float64)
    return float(values.min()), float(values.max())


def _largest(tensor: gs.Constant) -> float:
    found = _range(tensor) if tensor.values.size <= MOST else None
    return 0.0 if found is None else max(abs(found[0]), abs(found[1]))


def shapes_of(nodes: Iterable[Any]) -> Shapes:
    """The extents of tensors as a walk of the analysis found them; its nodes hold graph nodes and abstract tensors."""
    known: Mapping[int, Shape] = {
        id(tensor): abstract.shape
        for node in nodes
        for tensor, abstract in (
            *zip(node.gs.inputs, node.inputs, strict=False),
            *zip(node.gs.outputs, node.outputs, strict=False),
        )
        if abstract is not None and abstract.axes is not None
    }
    return lambda tensor: known.get(id(tensor))
