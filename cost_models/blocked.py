"""Which kernels run in a blocked channel layout, and what the conversions between layouts move.

Some CPU runtimes store activations as [C/B][H][W][B] so that one SIMD register holds B channels of a pixel
(ONNX Runtime calls it NCHWc, ncnn "packing"). A kernel enters that layout only if its channel counts allow
it, and on every activation that passes from a kernel inside to one outside, or back, a conversion runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwpass.work import Floats, Work

Bools = NDArray[np.bool_]

#: Kinds of kernels of which some enter the layout.
ABLE = ("conv", "grouped", "depthwise", "pool", "movement", "normalization", "elementwise")


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

    def masks(self, work: Work) -> tuple[Bools, Bools]:
        """(reads, writes): which kernels read and write the blocked layout, both [P, K]."""
        plans, kernels = work.m.shape
        reads = np.zeros((plans, kernels), dtype=bool)
        writes = np.zeros((plans, kernels), dtype=bool)
        incoming = _incoming(work, kernels)
        for k in np.flatnonzero(np.isin(work.kind, ABLE)).tolist():
            edges = incoming[k]
            blocked = _blocked_inputs(work, edges, writes)  # [P, edges of k]
            alone, out = self._enters(work, k, edges, blocked)
            reads[:, k] = alone
            writes[:, k] = out
        return reads, writes

    def _enters(self, work: Work, k: int, edges: NDArray[np.int64], blocked: Bools) -> tuple[Bools, Bools]:
        """Whether kernel k reads, and whether it writes, the blocked layout, [P] each."""
        kind = str(work.kind[k])  # of ABLE
        never = np.zeros(work.m.shape[0], dtype=bool)
        if work.axes.size and kind in ("conv", "grouped", "depthwise", "pool") and work.axes[k] != 2:
            return never, never
        cin, cout = work.k[:, k], work.n[:, k]
        if kind == "conv":
            direct = cin < self.block
            inside = ~direct & (cin % self.entry == 0)
            exits = cout % self.exit == 0
            return inside & exits, (inside | direct) & exits & self._sum_fits(work, k, edges, blocked)
        if kind == "depthwise":
            inside = (work.groups[:, k] % self.entry == 0) & (cout == 1)
            return inside, inside
        if kind == "grouped":
            inside = (cin % self.block == 0) & (cout % self.block == 0)
            return inside, inside
        if not edges.size or (kind != "pool" and not blocked.any()):
            return never, never
        whole = np.all(work.channels[:, edges] % self.block == 0, axis=1)
        if kind == "pool":
            return whole, whole
        there = work.channels[:, edges] > 0
        follows = np.all(blocked | ~there, axis=1) & there.any(axis=1)
        op = str(work.op[k]).partition("+")[0] if work.op.size else ""
        if kind == "movement" and edges.size > 1 and op in ("", "Concat"):
            return follows & whole, follows & whole
        if kind == "normalization" and op == "BatchNormalization":
            return follows, follows
        if kind == "elementwise" and op in self.elementwise:
            sizes = work.bytes[:, edges]
            largest = sizes.max(axis=1, keepdims=True)
            same = np.ptp(np.where(there, sizes, largest), axis=1) == 0  # no broadcasting
            return follows & same, follows & same
        return never, never

    @staticmethod
    def _sum_fits(work: Work, k: int, edges: NDArray[np.int64], blocked: Bools) -> Bools:
        """A convolution that also adds a residual stays inside only if the residual is inside, [P].

        The edge that carries the data has as many channels as the convolution reads. If the residual has as
        many too, one of the two may be outside: taken for the data, which would be converted.
        """
        if edges.size < 2:
            return np.ones(blocked.shape[0], dtype=bool)
        data = work.channels[:, edges] == work.in_channels[:, [k]]
        outside = ~blocked & (work.channels[:, edges] > 0)
        return np.asarray(~np.any(outside & ~data, axis=1) & ((outside & data).sum(axis=1) <= 1))

    def padded(self, channels: Floats) -> Floats:
        """Channels rounded up to whole blocks."""
        return np.asarray(np.ceil(channels / self.block) * self.block)

    def conversions(self, work: Work, reads: Bools, writes: Bools) -> tuple[Floats, Floats]:
        """(count, bytes) of the layout conversions each kernel pays for, both [P, K].

        A tensor is converted once however many kernels want the other layout, so the first of them pays. A
        blocked tensor nobody reads is an output of the model, which leaves in the plain layout: its writer
        pays.
        """
        count = np.zeros(work.m.shape)
        moved = np.zeros(work.m.shape)
        for number, wants in _first_wanting_other(work, reads, writes):
            sink = int(work.sink[number])
            extent = np.maximum(work.channels[:, number], 1.0)
            count[:, sink] += wants
            moved[:, sink] += wants * work.bytes[:, number] * self.padded(extent) / extent
        last = np.setdiff1d(np.arange(work.m.shape[1]), work.source)
        count[:, last] += writes[:, last]
        moved[:, last] += writes[:, last] * work.written[:, last]
        return count, moved


def _incoming(work: Work, kernels: int) -> list[NDArray[np.int64]]:
    order = np.argsort(work.sink, kind="stable")
    bounds = np.searchsorted(work.sink[order], np.arange(kernels + 1))
    return [order[bounds[k] : bounds[k + 1]] for k in range(kernels)]


def _blocked_inputs(work: Work, edges: NDArray[np.int64], writes: Bools) -> Bools:
    """Whether each edge carries the blocked layout, [P, edges]; inputs of the model never do."""
    sources = work.source[edges]
    return np.asarray(writes[:, np.maximum(sources, 0)] & (sources >= 0))


def _first_wanting_other(work: Work, reads: Bools, writes: Bools) -> list[tuple[int, Bools]]:
    """Edges with the plans [P] in which that edge is the first of its tensor to ask for the other layout.

    Inputs of the model are not told apart by their edges; those of one size are taken for the same tensor.
    """
    asked: dict[object, Bools] = {}
    result = []
    for number in range(len(work.source)):
        source, sink = int(work.source[number]), int(work.sink[number])
        have = writes[:, source] if source >= 0 else np.zeros(len(writes), dtype=bool)
        wants = (have != reads[:, sink]) & (work.channels[:, number] > 0)
        if not wants.any():
            continue
        tensor = source if source >= 0 else (work.channels[:, number].max(), work.bytes[:, number].max())
        before = asked.get(tensor, np.zeros_like(wants))
        asked[tensor] = wants | before
        first = wants & ~before
        if first.any():
            result.append((number, first))
    return result
