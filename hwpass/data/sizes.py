"""What sizes of dynamic axes mean for a model: the values that its inputs may hold there, and the memory it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import onnx_graphsurgeon as gs

from hwpass.coupling.walk import Builder, candidate_dims, dynamic_dimensions
from hwpass.data.domains import Domain, domains, shapes_of
from hwpass.model.model import Model
from hwpass.ops import Node, Tensor
from hwpass.ops.axes import axis_size
from hwpass.runtime.inputs import evaluate

#: Sizes that take no more than this are never too large.
FREE = 96 << 20

#: Otherwise they may take so many times what one inference at batch 1 does.
TIMES = 2.0


class Sizing:
    """Walks a model at sizes of its dynamic axes, each of them once."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.dynamic = dynamic_dimensions(model.graph)
        self._walked: dict[tuple[tuple[str, int], ...], Builder] = {}
        self._domains, self._computed = domains(model.graph)

    def domains(self, dims: Mapping[str, int]) -> dict[str, Domain]:
        """What the graph says of the inputs at sizes of the dynamic axes: some tables are made by the model itself."""
        if not self._computed:
            return self._domains
        return domains(self.model.graph, shapes_of(self._walk(dims).nodes))[0]

    def peak(self, dims: Mapping[str, int]) -> float:
        """Bytes of the activations that are alive at the same time, at their most."""
        return peak_bytes(self._walk(dims))

    @cached_property
    def limit(self) -> float:
        """Bytes of activations that stand-in sizes may take."""
        likely = next(iter(candidate_dims(self.model.graph)))
        return max(FREE, TIMES * peak_bytes(Builder(self.model, likely).run()))

    def fits(self, dims: Mapping[str, int]) -> bool:
        """Whether sizes take no more memory than a few inferences of batch 1 at the sizes of a deployment."""
        return not self.dynamic or self.peak(dims) <= self.limit

    def _walk(self, dims: Mapping[str, int]) -> Builder:
        wanted = {name: evaluate(name, dims) for name in self.dynamic}
        known = {name: size for name, size in wanted.items() if size is not None}
        key = tuple(sorted(known.items()))
        if key not in self._walked:
            likely = next(iter(candidate_dims(self.model.graph)))
            self._walked.clear()  # a walk of a large model is large itself
            self._walked[key] = Builder(self.model, {**likely, **known}).run()
        return self._walked[key]


def peak_bytes(build: Builder) -> float:
    """Bytes of the activations of the main graph that live at the same time, at their most, in the graph's order."""
    kept = {id(t) for t in (*build.model.graph.inputs, *build.model.graph.outputs)}
    last: dict[int, int] = {}
    for number, node in enumerate(build.nodes):
        for tensor in node.gs.inputs:
            last[id(tensor)] = number
    alive: dict[int, float] = {}
    for tensor in build.model.graph.inputs:
        alive[id(tensor)] = _bytes(build.tensors.get(tensor.name))
    total = peak = sum(alive.values())
    for number, node in enumerate(build.nodes):
        for tensor, size in _made(node):
            total += size - alive.get(id(tensor), 0.0)
            alive[id(tensor)] = size
        peak = max(peak, total)
        done = [t for t in (*node.gs.inputs, *node.gs.outputs) if last.get(id(t), number) <= number]
        for tensor in done:
            if id(tensor) not in kept:
                total -= alive.pop(id(tensor), 0.0)
    return peak


def written_bytes(build: Builder) -> float:
    """Bytes of all activations that the main graph writes."""
    return sum(size for node in build.nodes for _, size in _made(node))


def _made(node: Node) -> Sequence[tuple[gs.Tensor, float]]:
    if node.outputs and all(t is None or t.constant for t in node.inputs) and node.inputs:
        return ()
    return [(tensor, _bytes(made)) for tensor, made in zip(node.gs.outputs, node.outputs, strict=False)]


def _bytes(tensor: Tensor | None) -> float:
    if tensor is None or tensor.axes is None:
        return 0.0
    size = 1.0
    for axis in tensor.axes:
        size *= axis_size(axis)
    return size * (tensor.dtype.itemsize if tensor.dtype is not None else 4)
