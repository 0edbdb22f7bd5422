"""Heads of attention whose dimensions may stand in another basis, and the weights that hold them.

Within a head q k^T depends on Wq and Wk through their product alone, and so does what the head adds to the stream on Wv
and Wo. With an invertible T, (q T) (T^-1 k^T) is the same, and so is (v T) (T^-1 Wo): as long as nothing but moves,
numbers for all channels and biases stand between weights and products. A rotary embedding or a norm of queries and
keys is such a thing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.constant_channels import plain
from hwpass.coupling.groups import Walked
from hwpass.coupling.moved_columns import Unfit, codes_behind, scalar
from hwpass.model.model import Model
from hwpass.ops import Node, traits_of
from hwpass.ops.axes import Ids
from hwpass.ops.rules.matmul import labels_of

#: Weights that are turned: products of others would round too much.
TYPES = (np.float32, np.float64)

#: Operators that multiply queries by keys, and attention by values.
PRODUCTS = ("MatMul", "Einsum")


class Weight(NamedTuple):
    """A weight whose entries along one axis are dimensions of heads."""

    node: Node
    position: int
    axis: int
    bias: tuple[gs.Node, int] | None  # what adds the same dimensions of a bias, and at which input

    @property
    def key(self) -> tuple[int, int]:
        """Which axis of which node's weight."""
        return self.node.index, self.axis

    @property
    def width(self) -> int:
        """How many entries it has along that axis."""
        return self.node.tensor(self.position).shape[self.axis]


class Shared(NamedTuple):
    """Heads of d dimensions that need one basis: where each has its dimensions in the weights, [heads, d] each."""

    makers: Ids
    readers: Ids


class Source(NamedTuple):
    """Where an operand of attention comes from: a weight, what it writes, and the steps from there to the operand."""

    weight: Weight
    start: gs.Tensor
    end: gs.Tensor
    steps: list[Node]
    columns: NDArray[np.int64]  # the column of the weight that stands at each place of the operand

    @property
    def chain(self) -> list[gs.Node]:
        """The nodes from the weight to the operand."""
        maker = self.start.inputs[0]
        first = [] if maker is self.weight.node.gs else [self.weight.node.gs]
        return [*first, maker, *(step.gs for step in self.steps)]


@dataclass(eq=False)
class Heads:
    """The heads of one product of attention: `makers` may be turned by T where `readers` are by T^-1."""

    node: Node
    makers: Weight
    readers: Weight
    shared: list[Shared]
    scores: bool  # queries and keys, not values and the weight behind them
    operands: dict[str, int]  # tensors with the dimensions of a head along an axis
    sources: list[Source]
    behind: list[gs.Node] = field(default_factory=list)  # from the product to the weight that reads it, with that

    @property
    def chain(self) -> list[gs.Node]:
        """Everything from the first weights to the last one, or to the product."""
        return [*(node for source in self.sources for node in source.chain), self.node.gs, *self.behind]

    @property
    def tensors(self) -> set[str]:
        """What is turned."""
        made = [t.name for source in self.sources for node in source.chain for t in node.outputs]
        return {*made, *(t.name for node in [self.node.gs, *self.behind][:-1] for t in node.outputs)}


def heads(coupling: Walked) -> tuple[list[Heads], list[tuple[Node, str]]]:
    """The heads that may be turned, and the products of attention whose heads may not, with the reason."""
    finder = _Finder(coupling)
    found: list[Heads] = []
    unfit: list[tuple[Node, str]] = []
    for node in coupling.nodes:
        if id(node.gs) not in finder.main or not _of_activations(node):
            continue
        reasons = []
        for attempt in (finder.scores, finder.values):
            try:
                found.append(attempt(node))
                break
            except Unfit as reason:
                reasons.append(str(reason))
        else:
            weighted = any(maker.op == "Softmax" for tensor in node.gs.inputs for maker in tensor.inputs)
            unfit.append((node, reasons[1 if weighted else 0]))
    return _alone(found, unfit), unfit


def may_attend(model: Model) -> bool:
    """Whether anything in a model may be attention, told from its operators alone: a product of two activations."""
    return any(
        node.op in PRODUCTS and len(node.inputs) == 2 and not any(isinstance(t, gs.Constant) for t in node.inputs)
        for node in model.graph.nodes
    )


def _of_activations(node: Node) -> bool:
    """Whether a node multiplies two activations."""
    return (
        len(node.gs.inputs) == 2
        and not node.frozen
        and node.extent is not None
        and all(t is not None and not t.constant and t.axes is not None and t.rank > 1 for t in node.inputs)
        and node.op in PRODUCTS
    )


def _alone(found: list[Heads], unfit: list[tuple[Node, str]]) -> list[Heads]:
    """Those whose dimensions nothing else reads, and no other heads have too."""
    while True:
        members = {id(node) for heads in found for node in heads.chain}
        claims: dict[tuple[int, int], NDArray[np.int64]] = {}
        for heads in found:
            for weight, indices in _held(heads):
                count = claims.setdefault(weight.key, np.zeros(weight.width, np.int64))
                np.add.at(count, indices, 1)
        left = []
        for heads in found:
            outside = next((r for r in _readers(heads) if id(r) not in members), None)
            if outside is not None:
                unfit.append((heads.node, f"{outside.op} reads its heads too"))
            elif any((claims[weight.key][indices] > 1).any() for weight, indices in _held(heads)):
                unfit.append((heads.node, "its heads share dimensions"))
            else:
                left.append(heads)
        if len(left) == len(found):
            return left
        found = left


def _held(heads: Heads) -> Iterator[tuple[Weight, Ids]]:
    for shared in heads.shared:
        yield heads.makers, shared.makers.reshape(-1)
        yield heads.readers, shared.readers.reshape(-1)


def _readers(heads: Heads) -> Iterator[gs.Node]:
    """What reads the tensors that are turned, extents apart."""
    for node in heads.chain:
        for output in node.outputs:
            if output.name in heads.tensors:
                yield from (reader for reader in output.outputs if not traits_of(reader).blind)


class _Finder:
    def __init__(self, coupling: Walked) -> None:
        self.coupling = coupling
        graph = coupling.build.model.graph
        self.main = {id(node) for node in graph.nodes}
        self.nodes = {id(node.gs): node for node in coupling.nodes}
        self.outputs = {id(tensor) for tensor in graph.outputs}

    def scores(self, node: Node) -> Heads:
        """Both operands are columns of weights, and the product sums over them. Raises Unfit."""
        left, right, _ = labels_of(node)
        summed = [c for c in left if c in right and c not in labels_of(node)[2]]
        if len(summed) != 1:
            raise Unfit("several axes are summed over")
        one, other = (self._source(node.gs.inputs[p]) for p in (0, 1))
        places = left.index(summed[0]), right.index(summed[0])
        rows = [_rows(source.columns, place) for source, place in zip((one, other), places, strict=True)]
        shared = _paired(rows, [_without(left, summed[0]), _without(right, summed[0])])
        names = [t.name for t in node.gs.inputs]
        return Heads(
            node, one.weight, other.weight, shared, True, dict(zip(names, places, strict=True)),
            [one, other],
        )  # fmt: skip

    def values(self, node: Node) -> Heads:
        """One operand is columns of a weight, and another weight reads what the product makes of them. Raises Unfit."""
        reasons = []
        for position in (1, 0):
            try:
                return self._values(node, position)
            except Unfit as reason:
                reasons.append(str(reason))
        raise Unfit(reasons[0])

    def _values(self, node: Node, position: int) -> Heads:
        left, right, target = labels_of(node)
        own, others = (right, left) if position else (left, right)
        source = self._source(node.gs.inputs[position])
        varied = [c for c in own if c not in others and c in target]
        if len(varied) != 1:
            raise Unfit("its heads have several axes")
        place = own.index(varied[0])
        summed = tuple(own.index(c) for c in own if c not in target)
        columns = source.columns
        first = columns.take([0], axis=summed[0]) if len(summed) == 1 else columns
        if len(summed) != 1 or (columns != first).any():
            raise Unfit("it sums over more than positions")
        made = _spread(first.squeeze(summed[0]), _without(own, *(own[s] for s in summed)), target, self._shape(node))
        reader, read, behind = self._reader(node, made)
        shared = []
        for row in np.unique(_rows(columns, place).reshape(-1, columns.shape[place]), axis=0):
            places = [np.flatnonzero(read == column) for column in row]
            copies = {len(p) for p in places}
            if len(copies) != 1 or not copies.isdisjoint({0}):
                raise Unfit("not all of its dimensions are read alike")
            shared.append(Shared(row[None], np.stack(places, axis=1)))
        name, output = node.gs.inputs[position].name, node.gs.outputs[0]
        operands = {name: place, output.name: target.index(varied[0])}
        return Heads(node, source.weight, reader, shared, False, operands, [source], behind)

    def _shape(self, node: Node) -> tuple[int, ...]:
        return self.coupling.build.tensors[node.gs.outputs[0].name].shape

    def _source(self, tensor: gs.Tensor) -> Source:
        """The product that an operand's numbers come from. Raises Unfit."""
        steps: list[Node] = []
        end = tensor
        while True:
            node = self._maker(tensor)
            steps.append(node)
            weight = self._weight(node)
            if weight is not None:
                break
            operand = scalar(node)
            if operand is None and not (traits_of(node.gs).moves and not node.bodies):
                raise Unfit(f"{node.op} stands before it")
            tensor = node.gs.inputs[operand or 0]
        start = steps[-1]
        moves = steps[-2::-1]
        code = np.arange(weight.width, dtype=np.int64)
        first = start.gs.outputs[0]
        shape = self.coupling.build.tensors[first.name].shape
        place = self._column_axis(weight, len(shape))
        codes = np.broadcast_to(np.expand_dims(code, [a for a in range(len(shape)) if a != place]), shape)
        columns = codes_behind(self.coupling.build.model.graph, first, end, moves, codes)
        return Source(weight, first, end, moves, columns)

    def _maker(self, tensor: gs.Tensor) -> Node:
        if id(tensor) in self.outputs or len(tensor.inputs) != 1 or id(tensor.inputs[0]) not in self.main:
            raise Unfit("an input or an output of the model stands before it")
        node = self.nodes[id(tensor.inputs[0])]
        if node.frozen:
            raise Unfit(f"{node.op} stands before it")
        return node

    @staticmethod
    def _column_axis(weight: Weight, rank: int) -> int:
        form = traits_of(weight.node.gs).form
        assert form is not None
        return form.channel_axis % rank

    def _weight(self, node: Node) -> Weight | None:
        """The weight of a product, or of the product behind an Add of its bias; None where a node is neither."""
        if node.product is not None:
            return self._of_product(node, makes=True)
        if node.op != "Add":
            return None
        for position in (0, 1):
            constant, other = node.gs.inputs[position], node.gs.inputs[1 - position]
            if isinstance(constant, gs.Constant) and not isinstance(other, gs.Constant):
                maker = self._maker(other)
                form = traits_of(maker.gs).form
                width = constant.shape[-1] if constant.values.ndim else 0
                if form is not None and form.kind == "matrix" and constant.values.size == width > 1:
                    found = self._of_product(maker, makes=True)
                    if found.bias is None and found.width == width and len(other.outputs) == 1:
                        return found._replace(bias=(node.gs, position))
        return None

    def _of_product(self, node: Node, *, makes: bool) -> Weight:
        """The side of a product's weight that makes channels, or reads them. Raises Unfit."""
        product, form = node.product, traits_of(node.gs).form
        if product is None or form is None or form.kind not in ("matrix", "conv") or product.weight_in is None:
            raise Unfit(f"{node.op} is no weight of heads")
        if (product.data, product.weight) != (0, 1):
            raise Unfit("a weight stands on the left")
        weight = node.gs.inputs[product.weight]
        if not isinstance(weight, gs.Constant) or weight.values.dtype not in TYPES or not plain(node.gs):
            raise Unfit("a weight is no constant in single precision")
        if int(node.attr("group", 1)) != 1 or {n.op for n in weight.outputs} != {node.op}:
            raise Unfit("a weight has other uses")
        bias = None
        if product.bias is not None and node.has(product.bias):
            constant = node.gs.inputs[product.bias]
            if not isinstance(constant, gs.Constant):
                raise Unfit("a bias is computed")
            bias = (node.gs, product.bias)
        axis = product.weight_out if makes else product.weight_in
        return Weight(node, product.weight, axis, bias if makes else None)

    def _reader(self, node: Node, codes: NDArray[np.int64]) -> tuple[Weight, NDArray[np.int64], list[gs.Node]]:
        """The one weight that reads a product of attention, which column stands at each of its inputs, and the way."""
        tensor, moves = node.gs.outputs[0], []
        while True:
            readers = [r for r in tensor.outputs if not traits_of(r).blind]
            if id(tensor) in self.outputs or len(readers) != 1 or id(readers[0]) not in self.main:
                raise Unfit("its result has several readers")
            reader = self.nodes[id(readers[0])]
            if reader.product is not None and reader.gs.inputs[reader.product.data] is tensor:
                break
            if reader.frozen or not traits_of(reader.gs).moves or reader.gs.inputs[0] is not tensor:
                raise Unfit(f"{reader.op} stands behind it")
            if len(reader.gs.outputs) != 1:
                raise Unfit(f"{reader.op} stands behind it")
            moves.append(reader)
            tensor = reader.gs.outputs[0]
        weight = self._of_product(reader, makes=False)
        values = codes_behind(self.coupling.build.model.graph, node.gs.outputs[0], tensor, moves, codes)
        assert reader.product is not None
        rows = np.moveaxis(values, reader.product.data_axis, -1).reshape(-1, values.shape[reader.product.data_axis])
        if (rows != rows[0]).any() or rows.shape[1] != weight.width:
            raise Unfit("its heads do not stand side by side")
        return weight, rows[0], [*(step.gs for step in moves), reader.gs]


def _without(labels: list[str], *gone: str) -> list[str]:
    return [c for c in labels if c not in gone]


def _rows(columns: NDArray[np.int64], place: int) -> NDArray[np.int64]:
    """The dimensions of a head last."""
    return np.moveaxis(columns, place, -1)


def _spread(
    values: NDArray[np.int64], labels: list[str], target: list[str], shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Values over some labels, seen over all labels of a target."""
    order = sorted(range(len(labels)), key=lambda place: target.index(labels[place]))
    missing = [place for place, label in enumerate(target) if label not in labels]
    return np.broadcast_to(np.expand_dims(values.transpose(order), missing), shape)


def _paired(rows: list[NDArray[np.int64]], labels: list[list[str]]) -> list[Shared]:
    """Heads that meet in a product, gathered until no two of different bases do. Raises Unfit."""
    tables, numbers = [], []
    for table in rows:
        unique, inverse = np.unique(table.reshape(-1, table.shape[-1]), axis=0, return_inverse=True)
        tables.append(unique)
        numbers.append(inverse.reshape(table.shape[:-1]))
    both = [c for c in labels[0] if c in labels[1]]
    met = [_over(n, own, both) for n, own in zip(numbers, labels, strict=True)]
    wide = [np.broadcast_shapes(*(m.shape[:-1] for m in met)) for _ in met]
    flat = [np.broadcast_to(m, (*w, m.shape[-1])).reshape(-1, m.shape[-1]) for m, w in zip(met, wide, strict=True)]
    if not len(flat[0]):
        raise Unfit("it is empty")
    pairs = {(int(a), int(b)) for x, y in zip(*flat, strict=True) for a in np.unique(x) for b in np.unique(y)}
    merged: list[tuple[set[int], set[int]]] = []
    for a, b in sorted(pairs):
        touching = [m for m in merged if a in m[0] or b in m[1]]
        ours = {a}.union(*(m[0] for m in touching)), {b}.union(*(m[1] for m in touching))
        merged = [m for m in merged if m not in touching] + [ours]
    return [Shared(tables[0][sorted(a)], tables[1][sorted(b)]) for a, b in merged]


def _over(numbers: NDArray[np.int64], own: list[str], both: list[str]) -> NDArray[np.int64]:
    """Numbers of heads with the labels of both operands first, and those of its own as one axis, without repetition."""
    order = [own.index(c) for c in both] + [i for i, c in enumerate(own) if c not in both]
    moved = numbers.transpose(order)
    alone = moved.reshape(*moved.shape[: len(both)], -1)
    columns = np.unique(alone.reshape(-1, alone.shape[-1]), axis=1)
    return columns.reshape(*alone.shape[:-1], columns.shape[-1])
