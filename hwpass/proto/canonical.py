"""One form of what ONNX lets be written in several: names, domains, sparse weights, inputs with default values.

What is undone here is put back, where the file's interface is concerned, by `hwpass.proto.kept`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto, numpy_helper

from hwpass.proto.functions import inlined
from hwpass.proto.toposort import bodies, graphs, ordered

#: The version of the IR that allows initialisers that are not listed among the inputs.
UNLISTED = 4


def canonical(proto: onnx.ModelProto, name: str, own: bool) -> onnx.ModelProto:
    """The model in the one form that passes meet. Raises InputError.

    Every tensor has a name of its own over all scopes, the standard operators are those of the domain "", functions
    are inlined, nodes stand behind what they read, and sparse weights are dense. `proto` is left as it is unless it
    is the caller's `own`.
    """
    if not own and not _plain(proto):
        whole = onnx.ModelProto()
        whole.CopyFrom(proto)
        proto = whole
    _unify_domains(proto)
    proto = ordered(inlined(proto, name), name)
    for graph in graphs(proto.graph):
        _densify(graph)
    _Names(proto.graph)
    return proto


def _plain(proto: onnx.ModelProto) -> bool:
    """Whether nothing has to be changed: then the weights need no copy."""
    if proto.functions or any(entry.domain == "ai.onnx" for entry in proto.opset_import):
        return False
    if defaulted(proto):
        return False
    names: set[str] = set()
    for graph in graphs(proto.graph):
        made = _made(graph)
        if any(True for _ in other_values(graph)):
            return False
        if graph.sparse_initializer or not names.isdisjoint(made):
            return False
        names.update(made)
        for node in graph.node:
            if node.domain == "ai.onnx" or any(a.type == AttributeProto.SPARSE_TENSOR for a in node.attribute):
                return False
    return True


def listed_weights(proto: onnx.ModelProto) -> bool:
    """Whether the inputs that are listed with a value are ordinary weights: IR 3 asks for that, and some exporters list
    all of them (`keep_initializers_as_inputs`) though nobody asks."""
    if proto.ir_version < UNLISTED:
        return True
    inputs = {value.name for value in proto.graph.input}
    listed = [t.name in inputs for t in proto.graph.initializer]
    return len(listed) > 1 and all(listed)


def other_values(graph: GraphProto) -> Iterator[ValueInfoProto]:
    """Inputs, outputs and inner values of a graph that are not tensors: sequences, maps, optionals."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.WhichOneof("value") not in (None, "tensor_type"):
            yield value


def defaulted(proto: onnx.ModelProto) -> set[str]:
    """The inputs that have a value by default, and so need not be fed."""
    if listed_weights(proto):
        return set()
    return {value.name for value in proto.graph.input} & {tensor.name for tensor in proto.graph.initializer}


def _unify_domains(proto: onnx.ModelProto) -> None:
    """Write the domain of the standard operators as "", wherever it is named."""
    for imports in (proto.opset_import, *(f.opset_import for f in proto.functions)):
        seen: dict[str, int] = {}
        for entry in imports:
            domain = "" if entry.domain == "ai.onnx" else entry.domain
            seen[domain] = max(entry.version, seen.get(domain, 0))
        if any(entry.domain == "ai.onnx" for entry in imports) or len(seen) < len(imports):
            made = [onnx.helper.make_opsetid(domain, version) for domain, version in seen.items()]
            del imports[:]
            imports.extend(made)
    for graph in graphs(proto.graph):
        _standard(graph.node)
    for function in proto.functions:
        _standard(function.node)
        for node in function.node:
            for body in bodies(node):
                for graph in graphs(body):
                    _standard(graph.node)


def _standard(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        if node.domain == "ai.onnx":
            node.domain = ""


def _densify(graph: GraphProto) -> None:
    """Sparse initialisers and constants as dense ones of the same type, as ONNX Runtime makes them."""
    for sparse in graph.sparse_initializer:
        graph.initializer.append(dense(sparse, sparse.values.name))
    del graph.sparse_initializer[:]
    for node in graph.node:
        if node.op_type == "Constant" and node.domain == "":
            for attribute in node.attribute:
                if attribute.type == AttributeProto.SPARSE_TENSOR:
                    tensor = dense(attribute.sparse_tensor, node.output[0])
                    attribute.Clear()
                    attribute.name, attribute.type = "value", AttributeProto.TENSOR
                    attribute.t.CopyFrom(tensor)


def dense(sparse: SparseTensorProto, name: str) -> TensorProto:
    """A sparse tensor as a dense one of the same type. Its indices are flat `[n]`, or one per axis `[n, rank]`."""
    values, where = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    whole = np.zeros(tuple(sparse.dims), values.dtype)
    if where.ndim == 2:
        whole[tuple(where.T)] = values
    else:
        whole.reshape(-1)[where] = values
    return numpy_helper.from_array(whole, name)


class _Names:
    """Gives a tensor of a body that has the name of another tensor one of its own, in place.

    ONNX asks for names that differ along one path of scopes; the two branches of an If may use the same ones.
    """

    def __init__(self, graph: GraphProto) -> None:
        self.taken: set[str] = set()
        # Chosen names avoid all that stand anywhere, so that no later tensor has to move.
        self.every = {name for scope in graphs(graph) for name in _made(scope)}
        if sum(len(_made(scope)) for scope in graphs(graph)) > len(self.every):
            self._scope(graph, {})

    def _scope(self, graph: GraphProto, outer: Mapping[str, str]) -> None:
        renamed = dict(outer)
        for name in _made(graph):
            renamed.pop(name, None)  # from here on the scope's own
            if name in self.taken:
                renamed[name] = self._fresh(name)
            self.taken.add(renamed.get(name, name))
        if renamed:
            _rename(graph, renamed)
        for node in graph.node:
            for body in bodies(node):
                self._scope(body, renamed)

    def _fresh(self, name: str) -> str:
        number = 1
        while (made := f"{name}_{number}") in self.every:
            number += 1
        self.every.add(made)
        return made


def _made(graph: GraphProto) -> list[str]:
    """The names that a scope gives, each once, in order."""
    names = [value.name for value in graph.input] + [tensor.name for tensor in graph.initializer]
    names += [output for node in graph.node for output in node.output if output]
    return list(dict.fromkeys(names))


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    for named in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        if named.name in names:
            named.name = names[named.name]
    for node in graph.node:
        _replace(node, "input", names)
        _replace(node, "output", names)
    for note in graph.quantization_annotation:
        note.tensor_name = names.get(note.tensor_name, note.tensor_name)
        for entry in note.quant_parameter_tensor_names:
            entry.value = names.get(entry.value, entry.value)


def _replace(node: NodeProto, side: str, names: Mapping[str, str]) -> None:
    tensors = getattr(node, side)
    for position, name in enumerate(tensors):
        if name in names:
            tensors[position] = names[name]
