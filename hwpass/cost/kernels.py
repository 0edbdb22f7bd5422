"""Fused kernels of a model, and their work as a closed form of the widths of its groups."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from scipy.sparse import csr_array

from hwpass.cost.formats import Formats
from hwpass.cost.fusion import DEQUANTISE, QUANTISE, Kernel, constant_only, fused
from hwpass.cost.liveness import Flow, Liveness
from hwpass.cost.zeros import zeros_of
from hwpass.cost_models.target import Footprint, Int8
from hwpass.cost_models.work import Floats, Work, small
from hwpass.coupling.groups import Coupling
from hwpass.ops import Node, Tensor
from hwpass.ops.axes import Factor
from hwpass.proto.sparse import sparse_bytes


@dataclass(eq=False)
class _Products:
    """Many products of extents, each a constant times extents that depend on the widths."""

    constants: list[float] = field(default_factory=list)
    rows: list[tuple[int, ...]] = field(default_factory=list)
    _numbers: dict[tuple[float, tuple[int, ...]], int] = field(default_factory=dict)

    def add(self, constant: float, rows: list[int]) -> int:
        """Enter a product; returns its number. Equal ones are computed once."""
        key = (constant, tuple(sorted(rows)))
        if key not in self._numbers:
            self._numbers[key] = len(self.rows)
            self.constants.append(constant)
            self.rows.append(key[1])
        return self._numbers[key]

    def freeze(self, unit: int) -> tuple[Floats, NDArray[np.int64]]:
        """The constants [N] and row numbers [N, longest], padded by the row of ones."""
        longest = max((len(r) for r in self.rows), default=0) or 1
        padded = np.full((len(self.rows), longest), unit, np.int64)
        for number, row in enumerate(self.rows):
            padded[number, : len(row)] = row
        return np.asarray(self.constants, np.float64), padded


class Kernels:
    """The kernels of a coupled model under a target's fusion rules.

    Every extent is affine in the group widths w [P, G]: extent = base + coefficients @ w. Work is products of
    extents, so thousands of plans are evaluated without touching the graph.
    """

    def __init__(
        self,
        coupling: Coupling,
        fusion: Sequence[Sequence[str]],
        kernels: list[Kernel] | None = None,
        formats: Formats | None = None,
        footprint: Footprint | None = None,
        patterns: Sequence[str] = (),
        int8: Int8 | None = None,
    ) -> None:
        """`kernels` are those of `fused`, or these and what they come down to without whole branches.

        `formats` says how many bytes elements take (the model's own by default), `footprint` how buffers are rounded;
        `patterns` are those of zeros in weights that are looked for, `int8` which operators have kernels on integers.
        """
        self.coupling = coupling
        self._formats = formats or Formats()
        self._footprint = footprint or Footprint()
        self._patterns = tuple(patterns)
        self.model = coupling.build.model
        self.kernels = fused(coupling, fusion, int8) if kernels is None else kernels
        self.dense = np.asarray([g.width for g in coupling.groups], np.float64)
        self._extents: dict[int, int] = {}
        self._ids: list[NDArray[np.int64]] = []
        self._products = _Products()
        self._sparse = self.model.constants() if self.model.sparse else {}
        self._build()

    def _row(self, factor: Factor) -> int | None:
        """The row of a factor whose extent may change, None for a constant extent."""
        if factor.ids is None:
            return None
        key = id(factor.ids)
        if key not in self._extents:
            self._extents[key] = len(self._ids)
            self._ids.append(factor.ids)
        return self._extents[key]

    def _product(self, factors: Sequence[Factor], scale: float = 1.0) -> int:
        constant, rows = scale, []
        for factor in factors:
            row = self._row(factor)
            if row is None:
                constant *= factor.size
            else:
                rows.append(row)
        return self._products.add(constant, rows)

    def _bytes(self, tensor: Tensor | None) -> int:
        if tensor is None or tensor.axes is None:
            return self._products.add(0.0, [])
        return self._product([f for axis in tensor.axes for f in axis], self._formats(tensor.dtype))

    def _build(self) -> None:
        count = len(self.kernels)
        # Numbers of products: one per kernel for the extents of its GEMM, a list to be summed for its bytes.
        self._groups: list[int] = []
        self._m: list[int] = []
        self._n: list[int] = []
        self._k: list[int] = []
        self._written: list[list[int]] = [[] for _ in range(count)]
        self._weights: list[list[int]] = [[] for _ in range(count)]
        self._elements: list[list[int]] = [[] for _ in range(count)]
        self.kind = np.asarray([k.kind for k in self.kernels])
        self.op = np.asarray([k.ops for k in self.kernels])
        self.axes = np.asarray([_spatial_axes(k.nodes[0]) for k in self.kernels], np.int64)
        self.zeros = np.asarray([zeros_of(k.nodes[0], self._patterns) for k in self.kernels])
        self.taps, self.stride, self.itemsize = np.ones(count), np.ones(count), np.full(count, 4.0)
        self._constants: dict[str, tuple[int, float]] = {}
        self._users: dict[str, list[int]] = {}
        inputs = [t.name for t in self.model.graph.inputs]
        flow = Flow(
            {name: [-1] for name in inputs},
            {name: self._bytes(self.coupling.build.tensors[name]) for name in inputs},
            {name: self._channels(self.coupling.build.tensors[name]) for name in inputs},
        )
        computed = _computed(self.coupling.nodes)
        for number, kernel in enumerate(self.kernels):
            if not kernel.partial:
                self._reads(number, kernel, flow, computed)
            self._extent(number, kernel)
            if not kernel.partial:
                self._writes(number, kernel, flow)
            elif kernel.piece:
                self._step(number, kernel)
        self.source, self.sink = np.asarray(flow.sources, np.int64), np.asarray(flow.sinks, np.int64)
        self.tensor = np.asarray(flow.tensors, np.int64)
        self._edge_bytes, self._edge_channels = flow.bytes, flow.channels
        self._memo: dict[Any, Any] = {}
        edges = len(flow.sinks)
        self._edges_of = small(csr_array((np.ones(edges), (np.arange(edges), self.sink)), shape=(edges, count)))
        self.live = Liveness.of(self.kernels, flow, [t.name for t in self.model.graph.outputs], self._footprint)
        self._finish()

    def _reads(
        self, number: int, kernel: Kernel, flow: Flow, computed: dict[str, list[tuple[str, Tensor | None]]]
    ) -> None:
        """What a kernel reads: constants, and each activation once."""
        seen = {t.name for node in (*kernel.nodes, *kernel.feeding) for t in node.gs.outputs}
        for place, node in enumerate((*kernel.nodes, *kernel.feeding)):
            for tensor, operand in zip(node.gs.inputs, node.inputs, strict=False):
                if isinstance(tensor, gs.Constant) or tensor.name in computed:
                    for name, own in computed.get(tensor.name) or [(tensor.name, operand)]:
                        self._weight(number, node.index, name, own)
                elif tensor.name and tensor.name not in seen:
                    seen.add(tensor.name)
                    flow.last_read[tensor.name] = number
                    for source in flow.producers.get(tensor.name, ()):
                        flow.sources.append(source)
                        flow.sinks.append(number)
                        flow.tensors.append(flow.names.setdefault(tensor.name, len(flow.names)))
                        flow.bytes.append(flow.size[tensor.name])
                        flow.channels.append(self._channels(operand))
            output = node.outputs[0] if node.outputs else None
            free = kernel.integer and place and node.op in (QUANTISE, DEQUANTISE)
            if (place or node.extent is None) and not free and output is not None and output.axes is not None:
                self._elements[number].append(self._product([f for axis in output.axes for f in axis]))

    def _step(self, number: int, kernel: Kernel) -> None:
        """The work of one step of a norm that is spelled out; behind the mean there is one element for each row."""
        output = kernel.nodes[0].outputs[0]
        axes = list(output.axes or ())
        taken = [f for axis in (axes[:-1] if kernel.piece in ("Add", "Sqrt") else axes) for f in axis]
        left = [f for axis in (axes if kernel.piece in ("Pow", "Div") else axes[:-1]) for f in axis]
        self._elements[number].append(self._product(taken))
        self._written[number].append(self._product(left, self._formats(output.dtype)))

    def _weight(self, number: int, node: int, name: str, own: Tensor | None) -> None:
        product = self._bytes(own)
        self._weights[number].append(product)
        if own is not None and own.dtype is not None:
            stored = own.dtype.itemsize / self._formats(own.dtype) * self._share_stored(name)
            self._constants.setdefault(name, (product, stored))
            self._users.setdefault(name, []).append(node)

    def _share_stored(self, name: str) -> float:
        """The bytes of a constant in the file over those of all its elements."""
        if name not in self.model.sparse or name not in self._sparse:
            return 1.0
        values = self._sparse[name].values
        return sparse_bytes(values) / max(int(values.nbytes), 1)

    def _writes(self, number: int, kernel: Kernel, flow: Flow) -> None:
        """What a kernel leaves for others; what its own nodes hand to each other is never written."""
        links = {node.gs.outputs[0].name for node in kernel.nodes[:-1]}
        for node in kernel.nodes:
            for tensor, abstract in zip(node.gs.outputs, node.outputs, strict=False):
                if tensor.name not in links:
                    flow.producers.setdefault(tensor.name, []).append(number)
                    flow.size[tensor.name] = self._bytes(abstract)
                    flow.width[tensor.name] = self._channels(abstract)
        for tensor in kernel.nodes[-1].gs.outputs:
            self._written[number].append(flow.size.get(tensor.name, self._products.add(0.0, [])))

    def _channels(self, tensor: Tensor | None) -> int:
        if tensor is None or tensor.axes is None or len(tensor.axes) < 2:
            return self._products.add(1.0, [])
        return self._product(tensor.axes[1])

    def _extent(self, number: int, kernel: Kernel) -> None:
        node, extent = kernel.nodes[0], kernel.extent
        zero = self._products.add(0.0, [])
        if extent is None:
            for column in (self._groups, self._m, self._n, self._k):
                column.append(zero)
            self._groups[-1] = self._products.add(1.0, [])
        else:
            self._groups.append(self._product(extent.groups))
            self._m.append(self._product(extent.m))
            self._n.append(self._product(extent.n))
            self._k.append(self._product(extent.k))
            self.taps[number], self.stride[number] = extent.taps, extent.stride
        if node.outputs and node.outputs[0].dtype is not None:
            self.itemsize[number] = self._formats(node.outputs[0].dtype)
        if kernel.integer:
            self.itemsize[number] = 1.0

    def _finish(self) -> None:
        component, groups = self.coupling.component, self.coupling.groups
        owner = np.full(int(component.max()) + 1, -1, np.int64)
        for number, group in enumerate(groups):
            owner[group.components] = number
        rows = len(self._ids)
        lengths = [len(ids) for ids in self._ids]
        where = np.repeat(np.arange(rows), lengths)
        found = owner[component[np.concatenate(self._ids)]] if rows else np.zeros(0, np.int64)
        inside = found >= 0
        # One more row, the constant 1, pads products of fewer extents.
        self._base = np.append(np.bincount(where[~inside], minlength=rows).astype(np.float64), 1.0)
        weights = 1.0 / self.dense[found[inside]]
        self._slope = csr_array((weights, (where[inside], found[inside])), shape=(rows + 1, max(len(groups), 1)))
        self._slope.sum_duplicates()
        self._constant, self._padded = self._products.freeze(rows)
        users = [(node, place) for place, name in enumerate(self._constants) for node in self._users[name]]
        readers, places = np.asarray(users, np.int64).reshape(-1, 2).T
        shape = (len(self.coupling.nodes), len(self._constants))
        self._reading = csr_array((np.ones(len(readers)), (readers, places)), shape=shape)
        sums = map(self._sums, (self._written, self._weights, self._elements))
        self._written_of, self._weights_of, self._elements_of = sums

    def _sums(self, lists: list[list[int]]) -> Floats | csr_array:
        """What makes sums per kernel of products, as their values [P, products] times it."""
        flat = np.asarray([i for part in lists for i in part], np.int64)
        where = np.repeat(np.arange(len(lists)), [len(part) for part in lists])
        return small(csr_array((np.ones(len(flat)), (flat, where)), shape=(len(self._constant), len(lists))))

    @property
    def products(self) -> int:
        """How many products one plan has."""
        return len(self._constant)

    def values(self, widths: Floats) -> Floats:
        """All products at widths [P, G]."""
        if len(self.coupling.groups):
            # Whole numbers by construction; rounded so that no staircase sees 95.9999.
            extents = np.rint(self._base[None, :] + (self._slope @ widths.T).T)
        else:
            extents = np.repeat(self._base[None, :], len(widths), axis=0)
        result = np.repeat(self._constant[None, :], len(widths), axis=0)
        for column in range(self._padded.shape[1]):
            result *= extents[:, self._padded[:, column]]
        return result

    def work(self, widths: Floats) -> Work:
        """The work of every kernel at widths [P, G]."""
        return self.work_of(self.values(widths))

    def work_of(self, values: Floats, runs: NDArray[np.bool_] | None = None) -> Work:
        """The work, from the products that `values` gives; `runs` [P, K] says which kernels a plan has.

        What only kernels that do not run would hand on or read counts as nothing.
        """
        channels, moved = values[:, self._edge_channels], values[:, self._edge_bytes]
        if runs is not None:
            there = ((self.source < 0) | runs[:, self.source]) & runs[:, self.sink]
            channels, moved = channels * there, moved * there
        return Work(
            kind=self.kind,
            itemsize=self.itemsize,
            taps=self.taps,
            stride=self.stride,
            groups=values[:, self._groups],
            m=values[:, self._m],
            n=values[:, self._n],
            k=values[:, self._k],
            read=np.asarray(moved @ self._edges_of),
            written=np.asarray(values @ self._written_of),
            weights=np.asarray(values @ self._weights_of),
            elements=np.asarray(values @ self._elements_of),
            source=self.source,
            sink=self.sink,
            channels=channels,
            bytes=moved,
            op=self.op,
            axes=self.axes,
            tensor=self.tensor,
            zeros=self.zeros,
        ).of_same_kernels(self._memo)

    def narrowed(self, these: NDArray[np.int64], there: NDArray[np.bool_]) -> Kernels:
        """The work of some kernels alone. What others that are `there` [K] hand to them comes from outside."""
        found = copy.copy(self)
        for name in ("kind", "op", "axes", "taps", "stride", "itemsize", "zeros"):
            setattr(found, name, getattr(self, name)[these])
        for name in ("_groups", "_m", "_n", "_k"):
            setattr(found, name, np.asarray(getattr(self, name), np.int64)[these])
        for name in ("_written_of", "_weights_of", "_elements_of"):
            setattr(found, name, small(csr_array(getattr(self, name))[:, these]))
        place = np.full(len(self.kind) + 1, -1, np.int64)  # the last: what is outside already
        place[these] = np.arange(len(these))
        edges = np.flatnonzero((place[self.sink] >= 0) & ((self.source < 0) | there[self.source]))
        found.source, found.sink = place[self.source[edges]], place[self.sink[edges]]
        found.tensor = self.tensor[edges]
        found._edge_bytes = [self._edge_bytes[e] for e in edges]
        found._edge_channels = [self._edge_channels[e] for e in edges]
        shape = (len(edges), len(these))
        found._edges_of = small(csr_array((np.ones(len(edges)), (np.arange(len(edges)), found.sink)), shape=shape))
        found._memo = {}
        return found

    def size(self, values: Floats, there: NDArray[np.bool_] | None = None) -> Floats:
        """Bytes of all constants in the model's file, [P]; `there` [P, nodes] says which nodes a plan has left."""
        ratios = np.asarray([ratio for _, ratio in self._constants.values()], np.float64)
        return np.asarray((self._stored(values, there) * ratios).sum(axis=1))

    def deployed(self, values: Floats, there: NDArray[np.bool_] | None = None) -> Floats:
        """Bytes of all constants in the target's format, [P]; `there` as for `size`."""
        return np.asarray(self._stored(values, there).sum(axis=1))

    def _stored(self, values: Floats, there: NDArray[np.bool_] | None) -> Floats:
        """Bytes of each constant in the target's format, [P, constants]."""
        found = values[:, [number for number, _ in self._constants.values()]]
        return found if there is None else found * ((there @ self._reading) > 0)


def _spatial_axes(node: Node) -> int:
    """How many axes stand behind the batch and channel axes of the node's first input."""
    first = next((t for t in node.inputs if t is not None and t.axes is not None), None)
    return max(0, first.rank - 2) if first is not None else 0


def _computed(nodes: Sequence[Node]) -> dict[str, list[tuple[str, Tensor | None]]]:
    """What is stored of each tensor that follows from constants alone (a dequantised weight): names and tensors."""
    found: dict[str, list[tuple[str, Tensor | None]]] = {}
    for node in nodes:
        if not constant_only(node):
            continue
        stored: list[tuple[str, Tensor | None]] = []
        for tensor, operand in zip(node.gs.inputs, node.inputs, strict=False):
            stored += found.get(tensor.name, [(tensor.name, operand)] if isinstance(tensor, gs.Constant) else [])
        for output in node.gs.outputs:
            found[output.name] = stored
    return found
