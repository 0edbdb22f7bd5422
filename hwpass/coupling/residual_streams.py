"""Residual streams that are read through layer normalisation alone, and who writes to them.

Such a stream may be centred and turned about without anybody noticing: layer normalisation subtracts the mean anyway,
and what is left of it, division by the root of the mean square, is the same in every orthonormal basis (Ashkboos et
al., SliceGPT, ICLR 2024). So what writes to the stream may write it centred, or in other coordinates, as long as
everything between is linear and treats every channel alike.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.chains import reason
from hwpass.coupling.constant_channels import plain
from hwpass.coupling.groups import Coupling
from hwpass.ops import Node, rule_for, traits_of
from hwpass.ops.axes import Axis, Ids
from hwpass.ops.constants import padded
from hwpass.ops.rule import Freeze

Floats = NDArray[np.float64]


class Use(NamedTuple):
    """A constant at an input of a node with the stream's channels along one of its axes."""

    node: Node
    position: int
    axis: int
    order: Ids  # [copies, d]: the index along the axis that holds each channel
    scale: Floats | None = None  # [d], what multiplies it on the way to the stream


@dataclass(eq=False)
class Stream:
    """A residual stream of d channels."""

    channels: Ids  # [d], components
    norms: dict[int, tuple[Node, Ids]] = field(default_factory=dict)  # by node, with the place of each channel [d]
    writes: list[Use] = field(default_factory=list)
    scales: list[Node] = field(default_factory=list)  # multiplications by a constant that the writes take over
    # Weights of products behind the norms, each with its norm; None where something else is behind a norm too.
    readers: list[tuple[Use, Node]] | None = None
    tensors: set[str] = field(default_factory=set)  # what carries it
    normalised: set[str] = field(default_factory=set)  # what stands between a norm and its products

    @property
    def width(self) -> int:
        """How many channels it has."""
        return len(self.channels)


class Unfit(Exception):
    """Not a stream that may be turned, and why."""


def streams(coupling: Coupling, norms: list[Node]) -> tuple[list[Stream], list[tuple[Node, str]]]:
    """The streams that nothing reads but these norms (of one axis, without a mean); the other norms and why not."""
    finder = _Finder(coupling, {id(node.gs) for node in norms})
    found: list[Stream] = []
    unfit: list[tuple[Node, str]] = []
    done: set[int] = set()
    for norm in norms:
        if norm.index in done:
            continue
        try:
            stream = finder.find(norm)
        except (Unfit, Freeze) as reason:  # Freeze: a tensor of unknown rank
            unfit.append((norm, str(reason)))
            continue
        found.append(stream)
        done |= set(stream.norms)
    return found, [(norm, why) for norm, why in unfit if norm.index not in done]


class _Finder:
    """Walks from a norm to everything that is connected with what it reads."""

    def __init__(self, coupling: Coupling, norms: set[int]) -> None:
        self.coupling = coupling
        self.norms = norms
        self.nodes = {id(node.gs): node for node in coupling.nodes}
        self.outputs = {id(t) for scope in coupling.build.model.scopes() for t in scope.outputs}

    def find(self, norm: Node) -> Stream:
        """The stream that a norm reads. Raises Unfit."""
        axis = self.coupling.components_of(norm.axes(0)[-1])
        if not axis.all():
            raise Unfit(reason(self.coupling, norm.axes(0)[-1]))
        _, first = np.unique(axis, return_index=True)
        stream = Stream(axis[np.sort(first)])
        todo: deque[tuple[gs.Tensor, Floats | None]] = deque([(norm.gs.inputs[0], None)])
        seen: dict[int, Floats | None] = {}
        tensors = self.coupling.build.tensors
        while todo:
            tensor, scale = todo.popleft()
            if id(tensor) in seen:
                if seen[id(tensor)] is not scale:
                    raise Unfit("it is scaled for some of its readers")
                continue
            seen[id(tensor)] = scale
            stream.tensors.add(tensor.name)
            axes = tensors[tensor.name].axes if tensor.name in tensors else None
            if axes is None or self.order(stream, axes) is None:
                raise Unfit("an operator mixes its channels")
            for reader in tensor.outputs:
                todo.extend(self._read(stream, tensor, reader, scale))
            todo.extend(self._made(stream, tensor, scale))
        stream.readers = self._readers(stream)
        return stream

    def order(self, stream: Stream, axes: tuple[Axis, ...]) -> tuple[int, Ids] | None:
        """The one axis that holds the channels, and where along it; None where no axis does. Raises Unfit."""
        found = None
        ranked = np.argsort(stream.channels)
        for place, axis in enumerate(axes):
            components = self.coupling.components_of(axis)
            if not np.isin(components, stream.channels).any():
                continue
            width = stream.width
            rows = components.reshape(-1, width) if len(components) % width == 0 else components[:0].reshape(0, width)
            held = np.sort(rows, axis=1) == stream.channels[ranked] if len(rows) else np.zeros((1, 1), bool)
            if found is not None or not held.all():
                raise Unfit("its channels do not stand side by side everywhere")
            order = np.empty_like(rows)
            order[:, ranked] = np.argsort(rows, axis=1, kind="stable")
            found = place, order + width * np.arange(len(rows))[:, None]
        return found

    def _read(
        self, stream: Stream, tensor: gs.Tensor, reader: gs.Node, scale: Floats | None
    ) -> list[tuple[gs.Tensor, Floats | None]]:
        """What follows from a node that reads a tensor of the stream."""
        node = self.nodes.get(id(reader))
        if node is None:
            raise Unfit("it is read from inside a body")
        if id(reader) in self.norms and reader.inputs[0] is tensor and scale is None:
            found = self.order(stream, node.axes(0))
            if found is None or found[0] != node.tensor(0).rank - 1:
                raise Unfit("a norm reads something else of it")
            if len(found[1]) > 1:
                raise Unfit("a norm takes the mean of several positions at once")
            stream.norms[node.index] = (node, found[1][0])
            return []
        if traits_of(reader).blind:
            return []
        if scale is not None:
            if len(tensor.outputs) != 1:
                raise Unfit("what scales it is not the only reader")
            return []  # where the walk came from
        self._linear(node, [p for p, t in enumerate(reader.inputs) if t is tensor])
        return [(output, None) for output in reader.outputs]

    def _made(self, stream: Stream, tensor: gs.Tensor, scale: Floats | None) -> list[tuple[gs.Tensor, Floats | None]]:
        """What follows from the node that makes a tensor of the stream."""
        if id(tensor) in self.outputs or len(tensor.inputs) != 1:
            raise Unfit("it is an input or an output of the model")
        node = self.nodes.get(id(tensor.inputs[0]))
        if node is None or node.frozen or node.bodies:
            raise Unfit(f"{tensor.inputs[0].op} writes to it")
        if _is_product(node) and node.product is not None:
            self._written(stream, node, scale)
            return []
        positions = rule_for(node.gs).linear_in(node)
        self._linear(node, list(positions))
        found: list[tuple[gs.Tensor, Floats | None]] = []
        operands = [p for p in positions if node.has(p)]
        inside = {p: self.order(stream, node.axes(p)) for p in operands}
        others = [t.axes for p, t in enumerate(node.inputs) if t is not None and p not in operands]
        if any(axes is not None and self.order(stream, axes) is not None for axes in others):
            raise Unfit(f"{node.op} treats its channels differently")
        if traits_of(node.gs).multiplies:
            held = [p for p in operands if inside[p] is not None]
            if len(held) == 2:
                return [self._scaled(stream, node, scale)]
            operands = held
        for position in operands:
            place = inside[position]
            operand = node.gs.inputs[position]
            if place is None:
                if not (isinstance(operand, gs.Constant) and not np.any(operand.values)):
                    raise Unfit(f"{node.op} adds the same to all of its channels")
            elif isinstance(operand, gs.Constant):
                stream.writes.append(self._use(node, position, place, scale))
            else:
                found.append((operand, scale))
        return found

    def _scaled(self, stream: Stream, node: Node, scale: Floats | None) -> tuple[gs.Tensor, Floats | None]:
        """A multiplication by a constant per channel, which what comes before it can do as well."""
        for position in (0, 1):
            constant, other = node.gs.inputs[position], node.gs.inputs[1 - position]
            if isinstance(constant, gs.Constant) and not isinstance(other, gs.Constant) and len(other.outputs) == 1:
                values = constant.values.reshape(-1)
                place = self.order(stream, node.axes(position))
                if place is not None and values.shape == (stream.width,) and len(place[1]) == 1:
                    factor: Floats = np.asarray(values[place[1][0]], np.float64)
                    stream.scales.append(node)
                    return other, factor if scale is None else factor * scale
        raise Unfit("Mul multiplies its channels by each other's")

    def _written(self, stream: Stream, node: Node, scale: Floats | None) -> None:
        """A product that writes to the stream: its weight and its bias."""
        product = node.product
        assert product is not None
        if int(node.attr("group", 1)) != 1 or node.product is None:
            raise Unfit(f"{node.op} in groups writes to it")
        positions = [product.weight] if product.bias is None or not node.has(product.bias) else [
            product.weight, product.bias
        ]  # fmt: skip
        for position in positions:
            place = self.order(stream, node.axes(position))
            if place is None or (position == product.weight and place[0] != product.weight_out):
                raise Unfit(f"{node.op} reads it without a norm" if place else f"{node.op} writes to it otherwise")
            stream.writes.append(self._use(node, position, place, scale))

    def _use(self, node: Node, position: int, place: tuple[int, Ids], scale: Floats | None) -> Use:
        tensor = node.gs.inputs[position]
        if not isinstance(tensor, gs.Constant) or tensor.values.dtype not in (np.float32, np.float64):
            raise Unfit("what is written to it is no constant in single precision")
        others = {self.nodes[id(n)].op if id(n) in self.nodes else "" for n in tensor.outputs}
        if tensor.values.ndim > 1 and others != {node.op}:
            raise Unfit("a weight that writes to it has other uses")
        return Use(node, position, place[0], place[1], scale)

    @staticmethod
    def _linear(node: Node, positions: list[int]) -> None:
        """Raise Unfit when a node is not linear in these inputs."""
        data = rule_for(node.gs).linear_in(node)
        if not data or not set(positions) <= set(data):
            raise Unfit(f"{node.op} reads it or writes to it")

    def _readers(self, stream: Stream) -> list[tuple[Use, Node]] | None:
        """The weights of the products behind the norms; None where anything else is behind one."""
        found: list[tuple[Use, Node]] = []
        for norm, _ in stream.norms.values():
            todo = [norm.gs.outputs[0]]
            while todo:
                tensor = todo.pop()
                stream.normalised.add(tensor.name)
                if id(tensor) in self.outputs:
                    return None
                for reader in tensor.outputs:
                    node = self.nodes.get(id(reader))
                    if node is None:
                        return None
                    if traits_of(reader).blind:
                        continue
                    if self._shift_of(norm, node):
                        todo.append(reader.outputs[0])
                    elif traits_of(reader).moves and reader.inputs[0] is tensor and not node.frozen:
                        todo.extend(reader.outputs)
                    elif (use := self._weight(stream, node, tensor)) is not None:
                        found.append((use, norm))
                    else:
                        return None
        return found

    @staticmethod
    def _shift_of(norm: Node, node: Node) -> bool:
        """Whether a node adds the bias that the layer normalisation had."""
        return (
            node.op == "Add" and node.gs.inputs[0] is norm.gs.outputs[0] and isinstance(node.gs.inputs[1], gs.Constant)
        )

    def _weight(self, stream: Stream, node: Node, tensor: gs.Tensor) -> Use | None:
        """The weight of a product of the stream's channels, where its input side and its bias can be changed."""
        product = node.product
        if product is None or not _is_product(node) or product.weight_in is None or int(node.attr("group", 1)) != 1:
            return None
        if node.gs.inputs[product.data] is not tensor or product.data != 0 or padded(node):
            return None
        if not plain(node.gs):
            return None
        weight = node.gs.inputs[product.weight]
        if not isinstance(weight, gs.Constant) or weight.values.dtype not in (np.float32, np.float64):
            return None
        try:
            place = self.order(stream, node.axes(product.weight))
        except Unfit:
            return None  # it writes back to the same channels
        if place is None or place[0] != product.weight_in or len(place[1]) > 1:
            return None
        if (
            product.bias is not None
            and node.has(product.bias)
            and not isinstance(node.gs.inputs[product.bias], gs.Constant)
        ):
            return None
        return Use(node, product.weight, place[0], place[1])


def _is_product(node: Node) -> bool:
    """Whether a node may write to a stream, or read from it, by its weight."""
    form = traits_of(node.gs).form
    return form is not None and form.kind in ("matrix", "conv")
