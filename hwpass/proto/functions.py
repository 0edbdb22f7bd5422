"""Local functions written out: each call becomes the nodes of its function, attributes and operator sets included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, inliner

from hwpass.errors import InputError
from hwpass.proto.toposort import graphs

#: Calls inside calls; more is a circle, or as good as one.
DEEPEST = 60

Key = tuple[str, str, str]


def inlined(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with its local functions inlined; it may be changed on the way. Raises InputError.

    ONNX's inliner forgets the default values of attributes. So every call first gets a function of its own in which
    attributes are bound, a default where the call gives none, and one without either is left out.
    """
    if not proto.functions:
        return proto
    bound = _Bound(proto, name)
    bound.resolve(proto.graph.node, {})
    functions = list(bound.made.values())
    converted = _converted(proto, functions)
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    for function in functions:
        for entry in function.opset_import:
            entry.version = versions.get(entry.domain, entry.version)
    del proto.functions[:]
    proto.functions.extend(functions)
    try:
        whole: onnx.ModelProto = inliner.inline_local_functions(proto)
    except Exception as error:  # types of pybind11, without a common base of their own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{name}: its local functions cannot be inlined: {reason}; export it without functions"
        ) from None
    if converted is not None and converted != _operators(whole):
        raise InputError(
            f"{name}: a local function is of another operator set than the model, where its operators mean something"
            " else, and ONNX Runtime does not mind the difference; export the model in one operator set"
        )
    nodes = (node for graph in graphs(whole.graph) for node in graph.node)
    left = next((f"{n.domain}.{n.op_type}" for n in nodes if (n.domain, n.op_type) in bound.calls), None)
    if left is not None:
        raise InputError(f"{name}: its local function {left} cannot be inlined; export it without functions")
    return whole


def _converted(proto: onnx.ModelProto, functions: Sequence[FunctionProto]) -> list[str] | None:
    """The operators of the model with functions of other operator sets converted, as the standard has it. None where
    there are none of those, or they cannot be converted.

    ONNX Runtime takes the operators of a function to be those of the model's set.
    """
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    if all(versions.get(e.domain, e.version) == e.version for f in functions for e in f.opset_import):
        return None
    trial = onnx.ModelProto()
    trial.CopyFrom(proto)
    del trial.functions[:]
    trial.functions.extend(functions)
    try:
        # The conversion asks for the types of what a function is given.
        return _operators(inliner.inline_local_functions(onnx.shape_inference.infer_shapes(trial), True))
    except Exception:  # types of pybind11, without a common base of their own
        return None


def _operators(proto: onnx.ModelProto) -> list[str]:
    """Each node's operator, number of inputs and attributes, in order."""
    found = []
    for graph in graphs(proto.graph):
        for node in graph.node:
            values = sorted((a.name, a.SerializeToString()) for a in node.attribute if a.type != AttributeProto.GRAPH)
            found.append(f"{node.domain}.{node.op_type} {len(node.input)} {values}")
    return found


class _Bound:
    """Functions with their attributes bound, made as calls ask for them."""

    def __init__(self, proto: onnx.ModelProto, name: str) -> None:
        self.name = name
        self.known: dict[Key, FunctionProto] = {
            (f.domain, f.name, getattr(f, "overload", "")): f for f in proto.functions
        }
        self.made: dict[tuple[Key, bytes], FunctionProto] = {}
        self.calls: set[tuple[str, str]] = set()
        self.depth = 0

    def resolve(self, nodes: Iterable[NodeProto], values: Mapping[str, AttributeProto]) -> None:
        """Replace references to attributes by `values`, in place, and calls by calls of bound functions."""
        for node in nodes:
            self._bind(node, values)
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    self.resolve(attribute.g.node, values)
            key = (node.domain, node.op_type, getattr(node, "overload", ""))
            if key in self.known:
                node.op_type = self._function(key, {a.name: a for a in node.attribute})
                del node.attribute[:]
                if key[2]:
                    node.ClearField("overload")
                self.calls.add((node.domain, node.op_type))

    @staticmethod
    def _bind(node: NodeProto, values: Mapping[str, AttributeProto]) -> None:
        if not any(a.ref_attr_name for a in node.attribute):
            return
        kept = []
        for attribute in node.attribute:
            if attribute.ref_attr_name and attribute.ref_attr_name not in values:
                continue
            value = AttributeProto()
            value.CopyFrom(values[attribute.ref_attr_name] if attribute.ref_attr_name else attribute)
            value.name = attribute.name
            kept.append(value)
        del node.attribute[:]
        node.attribute.extend(kept)

    def _function(self, key: Key, given: Mapping[str, AttributeProto]) -> str:
        """The name of the function with these attributes."""
        source = self.known[key]
        values = {default.name: default for default in source.attribute_proto} | dict(given)
        text = b"".join(values[n].SerializeToString(deterministic=True) for n in sorted(values))
        found = self.made.get((key, text))
        if found is not None:
            return found.name
        if self.depth == DEEPEST:
            raise InputError(f"{self.name}: function {key[1]} calls itself, or {DEEPEST} functions each other in a row")
        made = FunctionProto()
        made.CopyFrom(source)
        made.name = f"{key[1]}_{len(self.made)}_bound"
        if key[2]:
            made.ClearField("overload")
        del made.attribute[:], made.attribute_proto[:]
        self.made[key, text] = made
        self.depth += 1
        self.resolve(made.node, values)
        self.depth -= 1
        return made.name
