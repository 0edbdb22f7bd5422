"""Which kernels run in a blocked channel layout, and what the conversions between layouts move.

Some CPU runtimes store activations as [C/B][H][W][B] so that one SIMD register holds B channels of a pixel
(ONNX Runtime calls it NCHWc, ncnn "packing"). A kernel enters that layout only if its channel counts allow
it, and on every activation that passes from a kernel inside to one outside, or back, a conversion runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from hwpass.cost_models.work import Floats, Work, small

Bools = NDArray[np.bool_]
Ids = NDArray[np.int64]

#: Kinds of kernels without a product of which some take the layout of their inputs.
FOLLOWING = ("movement", "normalization", "elementwise")


@dataclass(frozen=True)
class BlockedLayout:
    """The rules of one runtime.

    `block` channels lie together. A dense or depthwise convolution needs its input channels to be a multiple
    of `entry` and its output channels of `exit`; it pads both up to the block. A dense convolution with fewer
    than `block` input channels reads the plain layout and writes the blocked one. Grouped convolutions need
    whole blocks per group, pools and concatenations whole blocks altogether; elementwise kernels follow their
    inputs. An edge without channels, as behind a branch that is gone, is none.

    For ONNX Runtime 1.32 (`entry` 4, `exit` 1) these rules were read off the graphs that its optimizer writes
    for chains of convolutions, depthwise and grouped convolutions, residual additions, pools, concatenations
    and activations with 4 to 64 channels; a test compares them with the installed version.
    """

    block: int
    entry: int
    exit: int
    #: elementwise operators that exist in the blocked layout
    elementwise: frozenset[str] = frozenset({"Relu", "Sigmoid", "Tanh", "Add", "Mul", "Sum"})

    def layers(self, work: Work) -> _Layers:
        """What follows from the kernels alone."""
        return work.kept("blocked layers", lambda: _Layers.of(work, self.elementwise), self.elementwise)

    def idle(self, work: Work) -> Bools:
        """Kernels that do nothing and convert nothing at any width, [K]."""
        fed = np.zeros(len(work.kind), bool)
        fed[work.sink[self.layers(work).may[np.maximum(work.source, 0)] & (work.source >= 0)]] = True
        return np.asarray((work.kind == "free") & ~fed)

    def masks(self, work: Work) -> tuple[Bools, Bools]:
        """(reads, writes): which kernels read and write the blocked layout, both [P, K]."""
        reads = np.zeros(work.m.shape, dtype=bool)
        writes = np.zeros(work.m.shape, dtype=bool)
        layers = self.layers(work)
        block, entry = self.block, self.entry
        if len(layers.conv):
            cin = work.k[:, layers.conv]
            direct, exits = cin < block, work.n[:, layers.conv] % self.exit == 0
            inside = ~direct & (cin % entry == 0) & exits
            reads[:, layers.conv] = inside
            writes[:, layers.conv] = inside | (direct & exits)
        if len(layers.depthwise):
            ours = (work.groups[:, layers.depthwise] % entry == 0) & (work.n[:, layers.depthwise] == 1)
            reads[:, layers.depthwise] = writes[:, layers.depthwise] = ours
        if len(layers.grouped):
            ours = (work.k[:, layers.grouped] % block == 0) & (work.n[:, layers.grouped] % block == 0)
            reads[:, layers.grouped] = writes[:, layers.grouped] = ours
        if len(layers.following):
            self._follow(work, layers, reads, writes)
        return reads, writes

    def _follow(self, work: Work, layers: _Layers, reads: Bools, writes: Bools) -> None:
        """Fill in the kernels whose layout depends on that of their inputs, in place.

        Taken for blocked at first, they leave the layout until nothing changes: a kernel that follows its inputs can
        only leave with them, and the graph has no cycle, so what is left is the one answer.
        """
        these, adding = layers.following, layers.adding
        channels = work.channels[:, layers.inputs]
        there = (channels > 0) & layers.real  # [P, following, inputs]
        may = self._may_follow(work, layers, channels, there)
        may[:, adding] = writes[:, these[adding]]
        # The edge that carries the data has as many channels as the convolution reads. If the residual has as many
        # too, one of the two may be outside: taken for the data, which would be converted.
        data = there[:, adding] & (channels[:, adding] == work.in_channels[:, these[adding]][:, :, None])
        writes[:, these] = now = may
        while True:
            outside = there & ~(writes[:, layers.sources] & layers.inner)
            left = may & ~outside.any(axis=2)
            if len(adding):
                own = outside[:, adding]
                spare = own & data
                left[:, adding] = may[:, adding] & (spare == own).all(axis=2) & (spare.sum(axis=2) <= 1)
            if len(layers.pools):
                left[:, layers.pools] = may[:, layers.pools]
            if (left == now).all():
                break
            writes[:, these] = now = left
        follow = layers.others
        reads[:, follow] = writes[:, follow]

    def _may_follow(self, work: Work, layers: _Layers, channels: Floats, there: Bools) -> Bools:
        """Whether kernels without a product take the layout if all their inputs have it, [P, following]."""
        whole = ((channels % self.block == 0) | ~layers.real).all(axis=2)
        sizes = work.bytes[:, layers.inputs]
        largest = np.where(there, sizes, 0.0).max(axis=2, keepdims=True)
        same = (~there | (sizes == largest)).all(axis=2)  # no broadcasting
        any_ = there.any(axis=2)
        found = ((layers.joins & whole) | layers.norms | (layers.sums & same)) & any_
        if len(layers.pools):
            found[:, layers.pools] = whole[:, layers.pools]
        return np.asarray(found)

    def padded(self, channels: Floats) -> Floats:
        """Channels rounded up to whole blocks."""
        return np.asarray(np.ceil(channels / self.block) * self.block)

    def conversions(self, work: Work, reads: Bools, writes: Bools) -> tuple[Floats, Floats]:
        """(count, bytes) of the layout conversions each kernel pays for, both [P, K].

        A tensor is converted once however many kernels want the other layout, so the first of them pays. A
        blocked tensor nobody reads is an output of the model, which leaves in the plain layout: its writer
        pays.
        """
        layers = self.layers(work)
        edges, source = layers.edges, work.source[layers.edges]
        have = writes[:, np.maximum(source, 0)] & (source >= 0)
        channels = work.channels[:, edges]
        wants = (have != reads[:, work.sink[edges]]) & (channels > 0)
        if wants.any():
            again = layers.again if layers.again is not None else _Again.of(_tensors(work)[edges])
            wants = again.first(wants)
        extent = np.maximum(channels, 1.0)
        bytes_ = wants * work.bytes[:, edges] * self.padded(extent) / extent
        last = layers.last
        count = np.asarray(wants @ layers.to_sink)
        moved = np.asarray(bytes_ @ layers.to_sink)
        count[:, last] += writes[:, last]
        moved[:, last] += writes[:, last] * work.written[:, last]
        return count, moved


@dataclass(frozen=True)
class _Layers:
    """What of the rules follows from the kernels alone, whatever their widths."""

    conv: Ids
    depthwise: Ids
    grouped: Ids
    may: Bools  #: [K], kernels that some width lets write the blocked layout
    following: Ids  #: kernels whose layout depends on that of their inputs
    inputs: Ids  #: [following, inputs], the edges that lead to them
    real: Bools  #: [following, inputs], the others fill up
    sources: Ids  #: [following, inputs], what writes these edges
    inner: Bools  #: [following, inputs], edges that are no input of the model
    adding: Ids  #: those of `following` that are convolutions which also add a residual
    pools: Ids  #: those of `following` that are pools
    others: Ids  #: kernels of `following` that are no such convolutions
    joins: Bools  #: concatenations of several tensors
    norms: Bools
    sums: Bools  #: elementwise operators that exist in the blocked layout
    edges: Ids  #: those on which a conversion may be
    again: _Again | None  #: None where tensors are not told apart
    to_sink: NDArray[np.float64] | csr_array  #: [edges, K]
    last: Ids  #: kernels whose output no kernel reads

    @classmethod
    def of(cls, work: Work, elementwise: frozenset[str]) -> _Layers:
        kernels = len(work.kind)
        flat = np.ones(kernels, bool) if not work.axes.size else work.axes == 2
        flat = flat & (work.itemsize > 1)  # integers lie channel by channel
        windows = {name: np.flatnonzero((work.kind == name) & flat) for name in ("conv", "depthwise", "grouped")}
        may = np.zeros(kernels, bool)
        for places in windows.values():
            may[places] = True
        following, lists = [], []
        for k, edges in enumerate(_incoming(work, kernels)):
            kind = str(work.kind[k])
            sources = work.source[edges]
            fed = bool((may[np.maximum(sources, 0)] & (sources >= 0)).any())
            adds = kind == "conv" and flat[k] and edges.size > 1
            if adds or (
                edges.size and ((kind == "pool" and flat[k]) or (kind in FOLLOWING and fed and work.itemsize[k] > 1))
            ):
                following.append(k)
                lists.append(edges)
                may[k] = True
        these = np.asarray(following, np.int64)
        most = max((len(edges) for edges in lists), default=0)
        inputs, real = np.zeros((len(these), most), np.int64), np.zeros((len(these), most), bool)
        for row, own in enumerate(lists):
            inputs[row, : len(own)], real[row, : len(own)] = own, True
        sources = work.source[inputs] if len(work.source) else inputs
        kinds = work.kind[these] if len(these) else np.zeros(0, "<U1")
        ops = np.array([str(work.op[k]).partition("+")[0] if work.op.size else "" for k in these], dtype="<U64")
        edges = np.flatnonzero((may[np.maximum(work.source, 0)] & (work.source >= 0)) | may[work.sink])
        rows = np.arange(len(edges))
        return cls(
            **windows,
            may=may,
            following=these,
            inputs=inputs,
            real=real,
            sources=np.maximum(sources, 0),
            inner=real & (sources >= 0),
            adding=np.flatnonzero(kinds == "conv"),
            pools=np.flatnonzero(kinds == "pool"),
            others=these[kinds != "conv"],
            joins=(kinds == "movement") & np.isin(ops, ("", "Concat")) & (real.sum(axis=1) > 1),
            norms=(kinds == "normalization") & (ops == "BatchNormalization"),
            sums=(kinds == "elementwise") & np.isin(ops, sorted(elementwise)),
            edges=edges,
            again=_Again.of(work.tensor[edges]) if work.tensor.size else None,
            to_sink=small(csr_array((np.ones(len(edges)), (rows, work.sink[edges])), shape=(len(edges), kernels))),
            last=np.setdiff1d(np.arange(kernels), work.source),
        )


def _incoming(work: Work, kernels: int) -> list[Ids]:
    order = np.argsort(work.sink, kind="stable")
    bounds = np.searchsorted(work.sink[order], np.arange(kernels + 1))
    return [order[bounds[k] : bounds[k + 1]] for k in range(kernels)]


def _tensors(work: Work) -> NDArray[np.int64]:
    """A number for the tensor of each edge, [E]. Inputs of the model are not told apart by their edges; those of one
    size are taken for the same tensor."""
    found = work.source.copy()
    sizes: dict[tuple[float, float], int] = {}
    for edge in np.flatnonzero(work.source < 0):
        size = (float(work.channels[:, edge].max()), float(work.bytes[:, edge].max()))
        found[edge] = -1 - sizes.setdefault(size, len(sizes))
    return found


@dataclass(frozen=True)
class _Again:
    """Edges that carry a tensor once more, and those that carried it before."""

    places: Ids  #: [A]
    before: Ids  #: [A, most]
    real: Bools  #: [A, most], the others fill up

    @classmethod
    def of(cls, tensors: Ids) -> _Again:
        """Of the numbers of the edges' tensors, in order."""
        seen: dict[int, list[int]] = {}
        places, lists = [], []
        for place, tensor in enumerate(map(int, tensors)):
            if tensor in seen:
                places.append(place)
                lists.append(list(seen[tensor]))
            seen.setdefault(tensor, []).append(place)
        most = max(map(len, lists), default=0)
        before, real = np.zeros((len(places), most), np.int64), np.zeros((len(places), most), bool)
        for row, own in enumerate(lists):
            before[row, : len(own)], real[row, : len(own)] = own, True
        return cls(np.asarray(places, np.int64), before, real)

    def first(self, wants: Bools) -> Bools:
        """Where an edge is the first of its tensor to ask for the other layout, [P, edges]."""
        if not len(self.places):
            return wants
        found = wants.copy()
        found[:, self.places] &= ~(wants[:, self.before] & self.real).any(axis=2)
        return found
