"""Parts of a graph as models of their own: what a part reads from outside becomes an input, what is read of it an
output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import onnx

from hwpass.proto.shapes import inferred


class Parts:
    """Cuts parts out of the main graph of a model, by the numbers of nodes.

    Tensors where a part is cut off need a type and a rank that the model declares or that ONNX infers. Where it infers
    none (behind an operator of others), `seen` may have values of a run: all tensors then have the sizes of that run,
    those with a name included.
    """

    def __init__(self, model: onnx.ModelProto, seen: Mapping[str, np.ndarray] | None = None) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.seen = seen or {}

    @cached_property
    def _known(self) -> dict[str, onnx.ValueInfoProto]:
        graph = (inferred(self.model) or self.model).graph
        values = (*graph.value_info, *graph.input, *graph.output, *self.model.graph.input)
        return {value.name: value for value in values if value.type.WhichOneof("value")}

    @property
    def unknown(self) -> list[str]:
        """Tensors that nodes make and of which no type or rank is known."""
        made = (name for node in self.nodes for name in node.output if name)
        return [name for name in made if self._value(name) is None]

    @cached_property
    def _reads(self) -> list[set[str]]:
        return [set(reads(node)) for node in self.nodes]

    def part(self, numbers: Sequence[int]) -> onnx.ModelProto | None:
        """Some nodes, in the order of the graph, as a model; None where a tensor that becomes an input or an output has
        no type that is known, or nothing comes out."""
        graph, inside = self.model.graph, sorted(set(numbers))
        weights = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
        made = {name for number in inside for name in self.nodes[number].output if name}
        wanted = {name for number in inside for name in self._reads[number]}
        chosen = set(inside)
        outside = {name for number, read in enumerate(self._reads) if number not in chosen for name in read}
        outside |= {value.name for value in graph.output}
        inputs = [name for name in dict.fromkeys(self._in_order(inside)) if name not in made | weights]
        ends = [n for i in inside for n in self.nodes[i].output if n and (n in outside or n not in wanted)]
        found = [self._value(name) for name in (*inputs, *ends)]
        if not ends or any(value is None for value in found):
            return None
        values = [value for value in found if value is not None]
        cut = onnx.ModelProto()
        cut.CopyFrom(onnx.ModelProto(ir_version=self.model.ir_version, opset_import=self.model.opset_import))
        cut.graph.name = graph.name
        cut.graph.node.extend(self.nodes[number] for number in inside)
        cut.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in wanted)
        cut.graph.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in wanted)
        cut.graph.input.extend(values[: len(inputs)])
        cut.graph.output.extend(values[len(inputs) :])
        return cut

    def _in_order(self, numbers: Sequence[int]) -> Iterator[str]:
        """What nodes read, the inputs of the model in its own order first."""
        wanted = {name for number in numbers for name in self._reads[number]}
        yield from (value.name for value in self.model.graph.input if value.name in wanted)
        for number in numbers:
            yield from reads(self.nodes[number])

    def _value(self, name: str) -> onnx.ValueInfoProto | None:
        """What is declared of a tensor that becomes an input or an output."""
        if name in self.seen:
            kind = onnx.helper.np_dtype_to_tensor_dtype(self.seen[name].dtype)
            return onnx.helper.make_tensor_value_info(name, kind, self.seen[name].shape)
        value = self._known.get(name)
        if value is None or not value.type.HasField("tensor_type"):
            return None
        declared = value.type.tensor_type
        return value if declared.elem_type and declared.HasField("shape") else None


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors that a node reads, those of its bodies that are made outside them included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
            own |= {name for inner in body.node for name in inner.output}
            yield from (name for inner in body.node for name in reads(inner) if name not in own)
            yield from (value.name for value in body.output if value.name not in own)


def bypassed(model: onnx.ModelProto, number: int, name: str) -> onnx.ModelProto | None:
    """The model without one node: what read its first output reads `name`, one of its inputs, and weights that nobody
    reads are gone. None where the output is one of the model, or a body reads it. Whether shapes still fit is not
    looked at."""
    node = model.graph.node[number]
    gone = node.output[0] if node.output else ""
    others = [other for place, other in enumerate(model.graph.node) if place != number]
    inside = {read for other in others for read in reads(other) if read not in other.input}
    ends = {value.name for value in model.graph.output}
    if not gone or {*node.output} & (ends | inside):
        return None
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    del cut.graph.node[number]
    for other in cut.graph.node:
        for place, read in enumerate(other.input):
            if read == gone:
                other.input[place] = name
    wanted = {read for other in cut.graph.node for read in reads(other)}
    left = [tensor for tensor in cut.graph.initializer if tensor.name in wanted]
    del cut.graph.initializer[:]
    cut.graph.initializer.extend(left)
    return cut
