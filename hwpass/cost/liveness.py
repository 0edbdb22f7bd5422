"""Which activations live at the same time: the schedule is the graph's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from scipy.sparse import csr_array

from hwpass.cost.fusion import Kernel
from hwpass.cost_models.target import Footprint
from hwpass.cost_models.work import Floats
from hwpass.ops import traits_of


@dataclass(eq=False)
class Flow:
    """Activations between kernels while they are listed: who makes and reads them, and numbers of their products."""

    producers: dict[str, list[int]]  # kernels by tensor; -1 is the outside
    size: dict[str, int]  # product of the bytes, by tensor
    width: dict[str, int]  # product of the extent of the channel axis
    last_read: dict[str, int] = field(default_factory=dict)
    sources: list[int] = field(default_factory=list)
    sinks: list[int] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    tensors: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    channels: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Liveness:
    """From when to when every activation between kernels is live, and how their buffers are rounded."""

    footprint: Footprint
    sizes: NDArray[np.int64]  #: [L], products of the bytes
    widths: NDArray[np.int64]  #: [L], products of the extents of the channel axes
    makers: NDArray[np.int64]  #: [L, most], kernels that make it, the last one repeated; -1 is the outside
    span: csr_array  #: [L, K + 1], 1 where it begins to live and -1 behind where it ends
    overlaps: NDArray[np.int64]  #: [N, 3], a kernel whose output takes the place of its input, and both of these

    @classmethod
    def of(cls, kernels: Sequence[Kernel], flow: Flow, outputs: Sequence[str], footprint: Footprint) -> Liveness:
        """Of the kernels in the order of the schedule; `outputs` of the model live to its end."""
        count = len(kernels)
        ends = dict(flow.last_read)
        ends.update(dict.fromkeys(outputs, count - 1))
        roots = _views(kernels, flow, ends)
        names = sorted(n for n in flow.producers if n in ends and n not in roots)
        starts, stops = [], []
        for name in names:
            stop = ends[name]
            # An elementwise kernel writes over an input that dies with it.
            if 0 <= stop < count and kernels[stop].kind == "elementwise" and _first_input(kernels[stop]) == name:
                stop = max(stop - 1, flow.producers[name][-1])
            starts.append(max(flow.producers[name][0], 0))
            stops.append(stop)
        makers = [flow.producers[name] for name in names]
        most = max(map(len, makers), default=1)
        rows = np.arange(len(names))
        data = np.concatenate([np.ones(len(rows)), -np.ones(len(rows))])
        columns = np.concatenate([np.asarray(starts, np.int64), np.asarray(stops, np.int64) + 1])
        return cls(
            footprint,
            np.asarray([flow.size[name] for name in names], np.int64),
            np.asarray([flow.width[name] for name in names], np.int64),
            np.asarray([m + m[-1:] * (most - len(m)) for m in makers], np.int64).reshape(-1, most),
            csr_array((data, (np.concatenate([rows, rows]), columns)), shape=(len(rows), count + 1)),
            _overlaps(kernels, names, ends, flow.sinks, footprint.in_place),
        )

    def total(self, values: Floats, runs: NDArray[np.bool_] | None = None) -> Floats:
        """Sum of the bytes of all activations, [P], without rounding; `values` and `runs` as for `held`."""
        return np.asarray((values[:, self.sizes] * self._there(runs)).sum(axis=1))

    def _there(self, runs: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        """Which activations a kernel that runs makes, or the outside, [P or 1, L]."""
        if runs is None or not len(self.sizes):
            return np.ones((1, len(self.sizes)), bool)
        return np.asarray(((self.makers < 0) | runs[:, self.makers]).any(axis=2))

    def held(self, values: Floats, runs: NDArray[np.bool_] | None = None) -> Floats:
        """Bytes of activations live while each kernel runs, rounded as the footprint says, [P, K].

        `values` are those of all products, `runs` [P, K] says which kernels a plan has.
        """
        if not len(self.sizes):
            return np.zeros((len(values), self.span.shape[1] - 1))
        held, step = values[:, self.sizes], self.footprint.channel_align
        if step > 1:
            width = np.maximum(values[:, self.widths], 1.0)
            held = held * np.ceil(width / step) * step / width
        if self.footprint.align_bytes > 1:
            held = np.ceil(held / self.footprint.align_bytes) * self.footprint.align_bytes
        if runs is not None:
            held = held * self._there(runs)
        live = np.cumsum(held @ self.span, axis=1)[:, :-1]
        kernel, before, after = self.overlaps.T
        live[:, kernel] -= np.minimum(held[:, before], held[:, after])
        return np.asarray(live)

    def peak(self, values: Floats, runs: NDArray[np.bool_] | None = None) -> Floats:
        """Largest sum of the bytes of activations live at the same time, [P]."""
        return np.asarray(self.held(values, runs).max(axis=1, initial=0.0))


def _views(kernels: Sequence[Kernel], flow: Flow, ends: dict[str, int]) -> dict[str, str]:
    """A view lives in the buffer it looks at: that of each, whose end in `ends` is moved behind the view's."""
    roots: dict[str, str] = {}
    for number, kernel in enumerate(kernels):
        if kernel.kind == "free" and kernel.nodes[0].gs.inputs and kernel.nodes[0].gs.outputs:
            before, after = kernel.nodes[0].gs.inputs[0].name, kernel.nodes[-1].gs.outputs[0].name
            if before in flow.producers and not traits_of(kernel.nodes[0].gs).blind:
                roots[after] = roots.get(before, before)
                ends[roots[after]] = max(ends.get(roots[after], number), ends.get(after, number))
    return roots


def _overlaps(
    kernels: Sequence[Kernel], names: list[str], ends: dict[str, int], sinks: list[int], kinds: Sequence[str]
) -> NDArray[np.int64]:
    """Kernels of some kinds whose output takes the place of their only input, which dies: kernel and places, [N, 3]."""
    place = {name: row for row, name in enumerate(names)}
    found = []
    for name in names:
        kernel = kernels[ends[name]] if ends[name] < len(kernels) else None
        if kernel is not None and kernel.kind in kinds and sinks.count(ends[name]) == 1:
            after = place.get(kernel.nodes[-1].gs.outputs[0].name, -1)
            if after >= 0 and name != names[after]:
                found.append((ends[name], place[name], after))
    return np.asarray(found, np.int64).reshape(-1, 3)


def _first_input(kernel: Kernel) -> str:
    for tensor in kernel.nodes[0].gs.inputs:
        if not isinstance(tensor, gs.Constant):
            return str(tensor.name)
    return ""
