"""What a model file says besides its graph: types, default values, notes. Passes do not see it; it is written back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorAnnotation, TensorProto, TypeProto

from hwpass.proto.canonical import listed_weights, other_values
from hwpass.proto.toposort import graphs

Note = tuple[str, tuple[tuple[str, str], ...]]
"""A doc string, and metadata by key."""


@dataclass(frozen=True)
class Kept:
    """What is restored when a model is written.

    `types` are those of the interface as they were declared, and of values that are not tensors; `defaults` the values
    of inputs that need not be fed; `listed` says that initialisers stand among the inputs as well. Notes are by
    name; those of nodes by operator and name, or first output where a name is missing or not unique.
    """

    types: dict[str, TypeProto] = field(default_factory=dict)
    defaults: dict[str, TensorProto] = field(default_factory=dict)
    listed: bool = False
    graph: Note = ("", ())
    values: dict[str, Note] = field(default_factory=dict)
    tensors: dict[str, Note] = field(default_factory=dict)
    nodes: dict[tuple[str, str], Note] = field(default_factory=dict)
    attributes: dict[str, dict[str, AttributeProto]] = field(default_factory=dict)
    quantization: tuple[TensorAnnotation, ...] = ()

    def restore(self, graph: GraphProto) -> None:
        """Put back into the main graph of a written model what belongs to what is still there, in place."""
        for value in (*graph.input, *graph.output):
            if value.name in self.types:
                value.type.CopyFrom(self.types[value.name])
        for value in (*graph.input, *graph.output, *graph.value_info):
            _annotate(value, self.values.get(value.name))
        for tensor in graph.initializer:
            _annotate(tensor, self.tensors.get(tensor.name))
        graph.initializer.extend(self.defaults.values())
        if self.listed:
            for tensor in graph.initializer:
                value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                graph.input.append(value)
                _annotate(graph.input[-1], self.values.get(tensor.name))
        _annotate(graph, ("", self.graph[1]))
        for number, scope in enumerate(graphs(graph)):
            if number:
                self._restore_body(scope)
            for node in scope.node:
                _annotate(node, self._node(node))
        made = {name for node in graph.node for name in node.output}
        made |= {named.name for named in (*graph.input, *graph.initializer)}
        for note in self.quantization:
            if note.tensor_name in made and all(e.value in made for e in note.quant_parameter_tensor_names):
                graph.quantization_annotation.append(note)

    def _restore_body(self, body: GraphProto) -> None:
        for value in (*body.input, *body.output):
            kind = self.types.get(value.name)
            if kind is not None and kind.WhichOneof("value") != "tensor_type":
                value.type.CopyFrom(kind)

    def _node(self, node: NodeProto) -> Note | None:
        first = next(iter(node.output), "")
        return self.nodes.get((node.op_type, node.name)) or self.nodes.get((node.op_type, f" {first}"))


def keep(proto: onnx.ModelProto) -> Kept:
    """Take out of a model what graphsurgeon would misread, in place where there is any, and note the rest."""
    graph = proto.graph
    listed = listed_weights(proto)
    kept = Kept(
        types={value.name: _copy(value.type) for value in (*graph.input, *graph.output)},
        listed=listed and proto.ir_version >= 4,
        graph=_note(graph),
        values=_notes((*graph.input, *graph.output, *graph.value_info)),
        tensors=_notes(graph.initializer),
        quantization=tuple(_copy(note) for note in graph.quantization_annotation),
    )
    if not listed:
        _take_defaults(graph, kept.defaults)
    names = [node.name for scope in graphs(graph) for node in scope.node]
    once = {name for name in names if name} if len(set(names)) == len(names) else _once(names)
    for scope in graphs(graph):
        for value in other_values(scope):
            kept.types[value.name] = _copy(value.type)
            value.ClearField("type")
        for node in scope.node:
            note = _note(node)
            if note != ("", ()):
                first = next(iter(node.output), "")
                kept.nodes[node.op_type, node.name if node.name in once else f" {first}"] = note
            rare = {a.name: _copy(a) for a in node.attribute if _rare(a)}
            if rare and node.output:
                kept.attributes[node.output[0]] = rare
    return kept


def _take_defaults(graph: GraphProto, defaults: dict[str, TensorProto]) -> None:
    inputs = {value.name for value in graph.input}
    if not any(tensor.name in inputs for tensor in graph.initializer):
        return
    rest = []
    for tensor in graph.initializer:
        if tensor.name in inputs:
            defaults[tensor.name] = _copy(tensor)
        else:
            rest.append(_copy(tensor))
    del graph.initializer[:]
    graph.initializer.extend(rest)


def _rare(attribute: AttributeProto) -> bool:
    """Whether graphsurgeon would lose an attribute, or the type of an empty one."""
    if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.STRINGS):
        return not (attribute.ints or attribute.floats or attribute.strings)
    return attribute.type in (
        AttributeProto.TYPE_PROTO, AttributeProto.TENSORS, AttributeProto.TYPE_PROTOS,
        AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS,
    )  # fmt: skip


def _once(names: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    again: set[str] = set()
    for name in names:
        (again if name in seen else seen).add(name)
    return seen - again - {""}


def _notes(items: Iterable[Any]) -> dict[str, Note]:
    found = ((item.name, _note(item)) for item in items)
    return {name: note for name, note in found if note != ("", ())}


def _note(item: Any) -> Note:
    return item.doc_string, tuple((e.key, e.value) for e in item.metadata_props)


def _annotate(item: Any, note: Note | None) -> None:
    if note is None:
        return
    if note[0]:
        item.doc_string = note[0]
    for key, value in note[1]:
        entry = item.metadata_props.add()
        entry.key, entry.value = key, value


def _copy(message: Any) -> Any:
    made = type(message)()
    made.CopyFrom(message)
    return made
