"""A graph as a protobuf. The same graph gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, defs, helper, numpy_helper

from hwpass.proto import adapter

#: Constants of at least this many bytes are worth writing apart.
LARGE = 1024

#: Types whose bytes in memory are those in a file; others share bytes there, or are text.
WHOLE = frozenset("biufc")


def exported(
    graph: gs.Graph, domains: Iterable[onnx.OperatorSetIdProto], rare: Mapping[str, Mapping[str, AttributeProto]],
    hollow: bool = False,
) -> onnx.ModelProto:  # fmt: skip
    """A graph and its bodies as a model. `rare` are attributes that a graph cannot hold, by first output and name.

    With `hollow` the large constants of the main graph have their names, types and dims, but no data.
    """
    return Exporter(graph, rare, hollow).model(domains)


def large(tensor: gs.Constant) -> bool:
    """Whether a constant may be written apart from the graph, byte by byte, and is worth it."""
    values = tensor.values
    return bool(values.nbytes >= LARGE and bitwise(values.dtype) and not _converted(tensor))


def _converted(tensor: gs.Constant) -> bool:
    """Whether the values stand for a type that this version of onnx has no array for. (A copy notes its own type.)"""
    return isinstance(tensor._export_dtype, int)


def bitwise(dtype: np.dtype) -> bool:
    """Whether the bytes of an array are those of a TensorProto."""
    if dtype.kind in WHOLE:
        return True
    # Of ml_dtypes, those of 8 and 16 bits.
    return dtype.kind == "V" and dtype.name.startswith(("bfloat16", "float8"))


class Exporter:
    """Makes protobufs of the parts of a graph."""

    def __init__(self, graph: gs.Graph, rare: Mapping[str, Mapping[str, AttributeProto]], hollow: bool = False) -> None:
        self.graph, self.rare, self.hollow = graph, rare, hollow
        self.versions: dict[str, int] = {}
        self.shared = self._shared()

    def model(self, domains: Iterable[onnx.OperatorSetIdProto]) -> onnx.ModelProto:
        self.versions = {entry.domain: entry.version for entry in domains}
        for scope in (self.graph, *self.graph.subgraphs(recursive=True)):
            for node in scope.nodes:
                self.versions.setdefault(node.domain or "", 1)
        model = onnx.ModelProto()
        model.graph.CopyFrom(self.scope(self.graph, True))
        model.opset_import.extend(helper.make_opsetid(*entry) for entry in self.versions.items())
        model.producer_name = self.graph.producer_name or ""
        model.producer_version = self.graph.producer_version or ""
        # Below 4, every initialiser has to be listed among the inputs.
        model.ir_version = max(self.graph.ir_version or onnx.IR_VERSION, 4)
        return model

    def _shared(self) -> dict[int, gs.Constant]:
        """Constants that several scopes read: they are stored once, in the main graph."""
        homes: dict[int, int] = {}
        found: dict[int, gs.Constant] = {}
        for scope in self.graph.subgraphs(recursive=True):
            for node in scope.nodes:
                for tensor in node.inputs:
                    if isinstance(tensor, gs.Constant) and homes.setdefault(id(tensor), id(scope)) != id(scope):
                        found[id(tensor)] = tensor
        for node in self.graph.nodes:
            for tensor in node.inputs:
                if id(tensor) in homes:
                    found[id(tensor)] = tensor
        return found

    def scope(self, graph: gs.Graph, main: bool = False) -> GraphProto:
        made = GraphProto(name=graph.name or None, doc_string=graph.doc_string or None)
        made.input.extend(map(value_info, graph.inputs))
        made.output.extend(map(value_info, graph.outputs))
        read = [t for node in graph.nodes for t in node.inputs] + list(graph.outputs)
        constants = {t.name: t for t in read if isinstance(t, gs.Constant)}
        if main:
            constants |= {t.name: t for t in self.shared.values()}
        for tensor in constants.values():
            if main or id(tensor) not in self.shared:
                made.initializer.append(tensor_proto(tensor, self.hollow and main))
        ends = {t.name for t in (*graph.inputs, *graph.outputs)}
        for node in graph.nodes:
            made.node.append(self.node(node))
            for tensor in node.outputs:
                if isinstance(tensor, gs.Variable) and tensor.dtype is not None and tensor.name not in ends | {""}:
                    made.value_info.append(value_info(tensor))
        return made

    def node(self, node: gs.Node) -> NodeProto:
        made = NodeProto(op_type=node.op, name=node.name or None, domain=node.domain or None)
        made.input.extend(t.name for t in node.inputs)
        made.output.extend(t.name for t in node.outputs)
        rare = self.rare.get(node.outputs[0].name, {}) if node.outputs else {}
        for name, value in node.attrs.items():
            if name in rare and not value:
                continue
            made.attribute.append(self.attribute(node, name, value))
        made.attribute.extend(rare[name] for name in rare if rare[name].type not in _LISTS or name in node.attrs)
        return made

    def attribute(self, node: gs.Node, name: str, value: Any) -> AttributeProto:
        if isinstance(value, gs.Graph):
            return AttributeProto(name=name, type=AttributeProto.GRAPH, g=self.scope(value))
        if isinstance(value, gs.Tensor):
            value = tensor_proto(value)
        elif isinstance(value, type | np.dtype):
            value = helper.np_dtype_to_tensor_dtype(np.dtype(value))
        if isinstance(value, list | tuple | np.ndarray) and not len(value):
            made = AttributeProto(name=name)
            made.type = self._declared(node, name)
            return made
        return helper.make_attribute(name, value)

    def _declared(self, node: gs.Node, name: str) -> Any:
        """The type of an empty list, which does not tell."""
        try:
            schema = defs.get_schema(node.op, self.versions.get(node.domain or "", 1), node.domain or "")
        except defs.SchemaError:
            return AttributeProto.INTS
        kind: Any = schema.attributes[name].type if name in schema.attributes else None
        return AttributeProto.INTS if kind is None else kind.value


_LISTS = (AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.STRINGS)


def value_info(tensor: gs.Tensor) -> ValueInfoProto:
    """The name, type and shape of a tensor, as far as they are known."""
    if tensor.dtype is None:
        return ValueInfoProto(name=tensor.name)
    kind = tensor.dtype if isinstance(tensor.dtype, int) else helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    shape = None if tensor.shape is None else [None if d is None else d if isinstance(d, str) else int(d)
                                               for d in tensor.shape]  # fmt: skip
    return helper.make_tensor_value_info(tensor.name, kind, shape)


def tensor_proto(tensor: gs.Constant, hollow: bool = False) -> TensorProto:
    """A constant as a protobuf; with `hollow` a large one without its data."""
    values = tensor.values
    if _converted(tensor):
        held = adapter.constant_proto(tensor)
        return held
    if hollow and large(tensor):
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        return TensorProto(name=tensor.name, dims=values.shape, data_type=kind)
    return numpy_helper.from_array(np.asarray(values, order="C"), tensor.name)
