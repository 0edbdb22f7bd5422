"""Whether a model is sound: what it says of itself holds together, and ONNX Runtime takes the file as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto, defs, helper

from hwpass.errors import InputError
from hwpass.proto.arguments import misfit
from hwpass.proto.external import NARROW_BITS, Home, data_bytes, external
from hwpass.proto.toposort import graphs

#: Bodies inside bodies. A protobuf file cannot have more than about thirty.
DEEPEST = 60

#: Bytes of one input of a fixed shape, and of a sparse weight made dense; networks stay far below.
LARGEST = 1 << 32

_TYPES = frozenset(helper.get_all_tensor_dtypes()) - {TensorProto.UNDEFINED}

#: Where an attribute of each type keeps its value.
_FIELDS = {
    AttributeProto.FLOAT: "f", AttributeProto.INT: "i", AttributeProto.STRING: "s", AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g", AttributeProto.SPARSE_TENSOR: "sparse_tensor", AttributeProto.TYPE_PROTO: "tp",
    AttributeProto.FLOATS: "floats", AttributeProto.INTS: "ints", AttributeProto.STRINGS: "strings",
    AttributeProto.TENSORS: "tensors", AttributeProto.TYPE_PROTOS: "type_protos",
    AttributeProto.SPARSE_TENSORS: "sparse_tensors",
}  # fmt: skip
_KINDS = {number: kind for kind, number in AttributeProto.AttributeType.items()}
_DATA = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def require_sound(proto: onnx.ModelProto, home: Home, name: str) -> None:
    """Raise InputError, in one line that names the node or the tensor, unless the model's parts fit each other.

    Names are text and defined once, everything read is made somewhere, every tensor has the data that its dims ask
    for, in the file or beside it. `name` is the model's, for the message.
    """
    try:
        _Checks(home, name).model(proto)
    except RecursionError:
        raise InputError(f"{name}: bodies lie more than {DEEPEST} deep in each other; export it flatter") from None


class _Checks:
    def __init__(self, home: Home, name: str) -> None:
        self.home, self.name = home, name

    def fail(self, text: str) -> InputError:
        # Names may be of any length.
        short = text if len(text) <= 600 else f"{text[:300]}…{text[-300:]}"
        return InputError(f"{self.name}: {short}")

    def model(self, proto: onnx.ModelProto) -> None:
        versions: dict[str, int] = {}
        for entry in proto.opset_import:
            self.text("opset_import", [entry.domain])
            domain = "" if entry.domain == "ai.onnx" else entry.domain
            if versions.setdefault(domain, entry.version) != entry.version:
                raise self.fail(f"two versions of the operator set {domain or 'ai.onnx'!r} are imported; keep one")
        if "" not in versions:
            raise self.fail("no opset_import for the standard ONNX operators; not a usable model")
        if versions[""] < 1:
            raise self.fail(f"opset_import names version {versions['']} of the standard operators; export it again")
        self.text("the model", [proto.producer_name, proto.producer_version, proto.domain, proto.doc_string])
        self.text("metadata_props", [t for e in proto.metadata_props for t in (e.key, e.value)])
        self.graph(proto.graph, set(), 0)
        for graph in graphs(proto.graph):
            self.arguments(graph)
        for value in proto.graph.input:
            self.interface(value)

    def arguments(self, graph: GraphProto) -> None:
        constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            for attribute in node.attribute if node.op_type == "Constant" and node.output else ():
                if attribute.name == "value":
                    constants[node.output[0]] = attribute.t
            problem = misfit(node, constants)
            if problem is not None:
                raise self.fail(f"{_called(node)}: {problem}; export the model again")

    def graph(self, graph: GraphProto, outer: set[str], depth: int) -> None:
        if depth > DEEPEST:
            raise self.fail(f"bodies lie more than {DEEPEST} deep in each other; export it flatter")
        place = "the graph" if depth == 0 else f"body {graph.name!r}"
        own = self.given(graph, place)
        seen = outer | own | self.made(graph, own)
        for node in graph.node:
            for given in node.input:
                if given and given not in seen:
                    raise self.fail(f"{_called(node)} reads {given!r}, which nothing makes; export the model again")
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    self.graph(attribute.g, seen, depth + 1)
        for value in graph.output:
            if value.name not in seen or not value.name:
                raise self.fail(f"output {value.name!r} of {place} is made by no node; export the model again")

    def given(self, graph: GraphProto, place: str) -> set[str]:
        """The inputs and initializers of a graph, each looked at."""
        self.text(place, [graph.name, graph.doc_string])
        for value in (*graph.input, *graph.output, *graph.value_info):
            self.value(value)
        inputs, weights = [v.name for v in graph.input], [t.name for t in graph.initializer]
        weights += [t.values.name for t in graph.sparse_initializer]
        if not all(inputs) or not all(weights):
            raise self.fail(f"{place} has an input or initializer without a name; give it one")
        self.once(inputs, "input")
        self.once(weights, "initializer")
        for tensor in graph.initializer:
            self.tensor(tensor, f"initializer {tensor.name!r}")
        for sparse in graph.sparse_initializer:
            self.sparse(sparse, f"sparse initializer {sparse.values.name!r}")
        return {*inputs, *weights}

    def made(self, graph: GraphProto, own: set[str]) -> set[str]:
        """The tensors that nodes make, each node looked at, each tensor made once."""
        found: dict[str, NodeProto] = {}
        for node in graph.node:
            self.node(node)
            for output in node.output:
                if output and (output in found or output in own):
                    first = _called(found[output]) if output in found else "an input or initializer"
                    raise self.fail(f"tensor {output!r} is made twice: by {first} and by {_called(node)}; rename one")
                found[output] = node
        return set(found)

    def text(self, place: str, texts: Iterable[Any]) -> None:
        # Protobuf hands out bytes where they are not UTF-8.
        for text in texts:
            if not isinstance(text, str):
                raise self.fail(f"{place}: {text!r} is not UTF-8 text; export the model again")

    def once(self, names: Sequence[str], kind: str) -> None:
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise self.fail(f"two {kind}s are called {twice!r}; rename one")

    def node(self, node: NodeProto) -> None:
        place = _called(node)
        self.text(place, [node.name, node.op_type, node.domain, node.doc_string, *node.input, *node.output])
        if not node.op_type:
            raise self.fail(f"{place} has no operator; export the model again")
        names = [a.name for a in node.attribute]
        self.text(place, names)
        if len(set(names)) < len(names):
            raise self.fail(f"{place}: an attribute is given twice; export the model again")
        for attribute in node.attribute:
            self.attribute(attribute, f"{place}, attribute {attribute.name!r}")

    def attribute(self, attribute: AttributeProto, place: str) -> None:
        if attribute.ref_attr_name:
            raise self.fail(f"{place} refers to an attribute of a function, outside of one; export the model again")
        if attribute.type not in _FIELDS:
            kind = _KINDS.get(attribute.type, str(attribute.type))
            raise self.fail(f"{place} is of type {kind}, which cannot be kept; export the model again")
        chosen = _FIELDS[attribute.type]
        for field, _ in attribute.ListFields():
            if field.name not in (chosen, "name", "type", "doc_string"):
                raise self.fail(f"{place} is of type {_KINDS[attribute.type]} but has a value in {field.name!r}")
        if chosen in ("t", "g", "sparse_tensor", "tp") and not attribute.HasField(chosen):
            raise self.fail(f"{place} has no value; export the model again")
        if attribute.type == AttributeProto.STRING:
            self.bytes([attribute.s], place)
        elif attribute.type == AttributeProto.STRINGS:
            self.bytes(attribute.strings, place)
        for tensor in [attribute.t] if chosen == "t" else attribute.tensors:
            self.tensor(tensor, place)
        for sparse in [attribute.sparse_tensor] if chosen == "sparse_tensor" else attribute.sparse_tensors:
            self.sparse(sparse, place)

    def bytes(self, values: Iterable[bytes], place: str) -> None:
        for value in values:
            try:
                value.decode()
            except UnicodeDecodeError:
                raise self.fail(f"{place}: {value[:40]!r} is not UTF-8 text; export the model again") from None

    def value(self, value: ValueInfoProto) -> None:
        self.text("an input, output or inner tensor", [value.name, value.doc_string])
        if value.type.WhichOneof("value") == "tensor_type":
            kind = value.type.tensor_type
            self.text(f"tensor {value.name!r}", [d.dim_param for d in kind.shape.dim])
            if kind.elem_type not in _TYPES | {TensorProto.UNDEFINED}:
                raise self.fail(f"tensor {value.name!r} is of the unknown type {kind.elem_type}; export it again")

    def interface(self, value: ValueInfoProto) -> None:
        if value.type.WhichOneof("value") is None:
            raise self.fail(f"input {value.name!r} has no type; give it one")
        kind = value.type.tensor_type
        sizes = [d.dim_value for d in kind.shape.dim if d.dim_value > 0]
        if prod(sizes) > LARGEST:
            shape = [d.dim_value or d.dim_param or "?" for d in kind.shape.dim]
            raise self.fail(f"input {value.name!r} is of the shape {shape}: no machine holds it; correct its dims")

    def tensor(self, tensor: TensorProto, place: str) -> None:
        self.text(place, [tensor.name, tensor.doc_string])
        if tensor.data_type not in _TYPES:
            raise self.fail(f"{place} is of the unknown type {tensor.data_type}; export the model again")
        dims = list(tensor.dims)
        if any(d < 0 for d in dims):
            raise self.fail(f"{place} has a negative dim: {dims}; export the model again")
        if tensor.HasField("segment"):
            raise self.fail(f"{place} is stored in segments, which no runtime reads; export the model again")
        used = [field for field in _DATA if len(getattr(tensor, field))]
        if external(tensor):
            if used or tensor.HasField("raw_data"):
                raise self.fail(f"{place} has data both in the file and beside it; export the model again")
            if tensor.data_type == TensorProto.STRING:
                raise self.fail(f"{place} is text in a file of its own, which ONNX does not allow")
            self.home.find(tensor, place, self.name)
            return
        raw = len(tensor.raw_data)
        if raw:
            if used or tensor.data_type == TensorProto.STRING:
                raise self.fail(f"{place} has data in two fields, or text as raw data; export the model again")
            given, needed, unit = raw, data_bytes(tensor), "bytes"
        else:
            field = helper.tensor_dtype_to_field(tensor.data_type)
            if [f for f in used if f != field]:
                raise self.fail(f"{place} has its data in {used[0]!r}, where its type belongs in {field!r}")
            given, needed, unit = len(getattr(tensor, field)), _entries(tensor.data_type, prod(dims)), "values"
        if given != needed:
            raise self.fail(f"{place} has {given} {unit} of data, its dims {dims} ask for {needed}; export it again")
        self.bytes(tensor.string_data, place)

    def sparse(self, sparse: SparseTensorProto, place: str) -> None:
        values, where, dims = sparse.values, sparse.indices, list(sparse.dims)
        for tensor in (values, where):
            self.tensor(tensor, place)
            if external(tensor):
                raise self.fail(f"{place} has its data in another file, which is not supported for sparse weights")
        if any(d < 0 for d in dims) or prod(dims) * 8 > LARGEST:
            raise self.fail(f"{place} would be of the shape {dims} when dense; export it dense")
        number = list(values.dims)[:1]
        if where.data_type != TensorProto.INT64 or list(where.dims) not in (number, [*number, len(dims)]):
            raise self.fail(f"{place}: indices of the shape {list(where.dims)} do not fit {number} values")
        found = onnx.numpy_helper.to_array(where)
        limits = np.asarray(dims if found.ndim == 2 else [prod(dims)])
        if found.size and (np.any(found < 0) or np.any(found >= limits)):
            raise self.fail(f"{place}: an index lies outside of its shape {dims}; export the model again")


def _called(node: NodeProto) -> str:
    return f"node {node.name!r} ({node.op_type})" if node.name else f"the {node.op_type} that makes {_first(node)!r}"


def _first(node: NodeProto) -> str:
    return next((output for output in node.output if output), "")


def _entries(kind: int, count: int) -> int:
    """Entries of the typed field that hold `count` elements."""
    if kind in NARROW_BITS:
        return (count * NARROW_BITS[kind] + 7) // 8
    return 2 * count if kind in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else count


#: Models by digest that ONNX Runtime took: a run may read its original more than once.
_TAKEN: set[str] = set()


def require_runnable(given: bytes | Path, proto: onnx.ModelProto, name: str, digest: str) -> None:
    """Raise InputError, in one line, unless ONNX Runtime takes the model, from its own bytes and without optimising.

    `proto` is `given`, read, and `digest` the SHA-256 of its bytes. A valid model of standard operators that ONNX
    Runtime has no code for here is let through: it can still be described.
    """
    from hwpass.runtime.sessions import load_problem, one_line

    if digest in _TAKEN:
        return
    problem = load_problem(given)
    if problem is None:
        _TAKEN.add(digest)
        return
    if _without_code(problem):
        try:
            onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
            return
        except Exception as error:  # types of pybind11, without a common base of their own
            problem = str(error)
    raise InputError(f"{name}: ONNX Runtime cannot load it: {one_line(problem)}; correct the model or export it again")


def _without_code(problem: str) -> bool:
    """Whether ONNX Runtime says that it lacks code (or a locale) for what it has nothing against."""
    unknown = re.search(r"([\w.]*):(\w+)\(-?\d+\) is not a registered function", problem)
    if unknown is not None:
        return bool(defs.has(unknown[2], "" if unknown[1] == "ai.onnx" else unknown[1]))
    said = ("NOT_IMPLEMENTED", "Could not find an implementation", "not supported", "Failed to construct locale")
    return any(text in problem for text in said)
