"""One forward walk over a graph: every rule relates the axes of its node, shapes and shape values included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TypeProto, defs, helper, numpy_helper

from hwpass.model.model import Model, bodies
from hwpass.ops import Node, Tensor, rule_for, traits_of
from hwpass.ops.axes import axis_size, opaque
from hwpass.ops.rule import Array, Derived, Freeze, Relate, Rule, Sign, WrongExtents
from hwpass.ops.signs import can_tell
from hwpass.proto import adapter
from hwpass.runtime.inputs import dimension_name

#: Values of more elements than this are never those of a shape.
SMALL = 4096

#: Floating-point steps of a shape's arithmetic (the ceiling of a quotient) are smaller still.
FLOATS = 16

#: A shared constant of at least this many elements and two axes is a tied weight.
TIED = 1024

#: A tensor of more axes has no such rank: the length of a computed shape is a stand-in.
MOST_AXES = 32


class Builder(Relate):
    """The walk and its results: abstract tensors by name, nodes, and what froze them."""

    def __init__(self, model: Model, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.model = model
        self.opset = model.opset
        self.dims = dict(dims)
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[Node] = []
        self.uses: dict[tuple[int, int], Tensor] = {}  # constants, one abstract tensor per (node, input)
        self.inconsistencies = 0
        self._tied: dict[int, Tensor] = {}
        self._domains = [helper.make_opsetid(e.domain, e.version) for e in model.graph.import_domains]
        for tensor in model.graph.inputs:
            self.tensors[tensor.name] = self._input(tensor)

    def run(self) -> Builder:
        """Walk the graph, bodies included, in the order of `Model.walk`."""
        self._visit(self.model.graph)
        self.node = -1
        several = len(self.model.graph.outputs) > 1
        mend = "; take it out of the outputs if nobody reads it" if several else ""
        self._freeze_outputs(self.model.graph, lambda name: f"the model's output {name!r}{mend}")
        return self

    def _visit(self, graph: gs.Graph) -> None:
        for gs_node in graph.nodes:
            inner = [self._enter(gs_node, body) for body in bodies(gs_node)]
            self._couple(gs_node, inner)

    def _enter(self, gs_node: gs.Node, body: gs.Graph) -> list[Tensor]:
        """Walk a body in a scope of its own; what it hands out keeps its width."""
        names = {t.name for t in body.inputs} | {t.name for n in body.nodes for t in n.outputs}
        hidden = {name: self.tensors[name] for name in names if name in self.tensors}
        for position, tensor in enumerate(body.inputs):
            self.tensors[tensor.name] = self._carried(gs_node, position)
        self._visit(body)
        self.node = len(self.nodes)
        self._freeze_outputs(body, lambda name: f"handed out of the body of {gs_node.op}")
        outputs = [self._outer(t) for t in body.outputs]
        for name in names:
            self.tensors.pop(name, None)
        self.tensors.update(hidden)
        return outputs

    def _carried(self, gs_node: gs.Node, position: int) -> Tensor:
        """The input of a body: of a Loop, the state, whose extents may change as it goes round."""
        if gs_node.op == "Loop" and position < 2:
            return Tensor((), np.dtype(np.int64) if position == 0 else np.dtype(bool))
        return Tensor(None)

    def _outer(self, tensor: gs.Tensor) -> Tensor:
        if isinstance(tensor, gs.Constant):
            return Tensor(tuple(opaque(s) for s in tensor.shape), tensor.values.dtype)
        return self.tensors.get(tensor.name, Tensor(None))

    def _freeze_outputs(self, graph: gs.Graph, reason: Callable[[str], str]) -> None:
        for tensor in graph.outputs:
            found = self.tensors.get(tensor.name)
            if found is not None and found.axes is not None:
                self.freeze(found.axes, reason(tensor.name))

    def _couple(self, gs_node: gs.Node, inner: list[list[Tensor]]) -> None:
        index = self.node = len(self.nodes)
        node = Node(index, gs_node, [self._operand(index, p, t) for p, t in enumerate(gs_node.inputs)])
        node.bodies = inner
        rule = rule_for(gs_node)
        node.kind = rule.kind
        for position in rule.parameters:
            operand = node.inputs[position] if node.has(position) else None
            if operand is not None and operand.axes is not None and not operand.constant:
                self.freeze(operand.axes, f"input {position} of {node.op} is no data")
        try:
            outputs = rule.couple(node, self)
        except Freeze as freeze:
            node.frozen = str(freeze)
            node.extent = node.product = None
            node.memo.clear()
            self.inconsistencies += isinstance(freeze, WrongExtents)
            for operand in node.inputs:
                if operand is not None and operand.axes is not None:
                    self.freeze(operand.axes, node.frozen)
            outputs = self.inferred(node)
        self._evaluate(node, outputs, rule)
        if not node.frozen:
            outputs = _derived(node, outputs, rule)
        node.outputs = outputs
        sign = rule.sign(node) if not node.frozen and can_tell(node) else Sign()
        for output in outputs:
            output.sign = sign
        for tensor, output in zip(gs_node.outputs, outputs, strict=False):
            self.tensors[tensor.name] = output
        self.nodes.append(node)

    def _input(self, tensor: gs.Variable) -> Tensor:
        if tensor.shape is None or tensor.dtype is None:
            return Tensor(None)
        axes = []
        for place, size in enumerate(tensor.shape):
            if not isinstance(size, int) or size < 1:
                size = self.dims[dimension_name(tensor.name, place, size)]
            axes.append(opaque(size, f"the model's input {tensor.name!r}"))
        dtype = tensor.dtype if not isinstance(tensor.dtype, int) else helper.tensor_dtype_to_np_dtype(tensor.dtype)
        return Tensor(tuple(axes), np.dtype(dtype))

    def _operand(self, index: int, position: int, tensor: gs.Tensor) -> Tensor | None:
        if isinstance(tensor, gs.Constant):
            values = tensor.values
            # Two uses of a weight are one weight: slicing them apart would store it twice. Small and flat arrays
            # (normalisation parameters that an exporter found equal) get ids of their own for every use.
            use = self._tied.get(id(tensor))
            if use is None:
                axes = tuple((self.fresh(s, zero=True),) if s > 1 else opaque(s) for s in values.shape)
                use = Tensor(axes, values.dtype, values, constant=True)
                if values.ndim > 1 and values.size >= TIED:
                    self._tied[id(tensor)] = use
            self.uses[index, position] = use
            return use
        if not tensor.name:
            return None
        return self.tensors.get(tensor.name, Tensor(None))

    def _evaluate(self, node: Node, outputs: list[Tensor], rule: Any) -> None:
        if not outputs or outputs[0].data is not None:
            return
        outputs[0].data = small_value(
            node,
            rule,
            [t.data if t is not None else None for t in node.inputs],
            [t.shape if t is not None and t.axes is not None else None for t in node.inputs],
        )

    def inferred(self, node: Node) -> list[Tensor]:
        """The outputs as ONNX's own shape inference sees them, opaque; unknown extents get a stand-in."""
        if "inferred" not in node.memo:
            node.memo["inferred"] = self._infer(node)
        found = node.memo["inferred"]
        assert isinstance(found, list)
        return found

    def _infer(self, node: Node) -> list[Tensor]:
        names = [t.name for t in node.gs.outputs]
        try:
            schema = defs.get_schema(node.op, self.opset, node.gs.domain or "")
            proto = adapter.node_proto(node.gs)
            types, data = {}, {}
            for tensor, operand in zip(node.gs.inputs, node.inputs, strict=True):
                if operand is None:
                    continue
                types[tensor.name] = _type(operand)
                if operand.data is not None and operand.data.size <= SMALL:
                    data[tensor.name] = numpy_helper.from_array(np.asarray(operand.data), tensor.name)
            result = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=self._domains)
        except Exception:
            # An operator that ONNX does not know, or refuses: nothing is known of its outputs.
            return [Tensor(None) for _ in names]
        return [self._from_type(result.get(name)) for name in names]

    def _from_type(self, proto: TypeProto | None) -> Tensor:
        if proto is None or not proto.HasField("tensor_type"):
            return Tensor(None)
        kind = proto.tensor_type
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else None
        if not kind.HasField("shape") or len(kind.shape.dim) > MOST_AXES:
            return Tensor(None, dtype)
        sizes = [d.dim_value if d.HasField("dim_value") else self.unknown_size() for d in kind.shape.dim]
        if min(sizes, default=0) < 0:  # a window that is larger than its image
            return Tensor(None, dtype)
        return Tensor(tuple(opaque(s) for s in sizes), dtype)


def _derived(node: Node, outputs: list[Tensor], rule: Rule) -> list[Tensor]:
    """A weight behind a Cast, a Reshape, a product with a constant and so on is a constant as the stored one is."""
    if len(outputs) != 1 or type(rule).value is Rule.value:
        return outputs
    made, given = outputs[0], [t for t in node.inputs if t is not None]
    if made.constant or made.axes is None or made.dtype is None or made.dtype.kind == "b" or not given:
        return outputs
    wide = made.dtype.kind in "iu" and made.dtype.itemsize > 2  # shapes and indices are followed by their values
    if wide or not all(t.constant and t.axes is not None for t in given):
        return outputs
    if made.data is not None:
        made.constant = True
        return outputs

    def compute() -> Array | None:
        values = [t.data if t is not None else None for t in node.inputs]
        shapes = [t.shape if t is not None else None for t in node.inputs]
        try:
            value = rule.value(node, values, shapes)  # type: ignore[arg-type]
        except (ValueError, IndexError, TypeError, Freeze, ZeroDivisionError):
            return None
        return value if value is None or value.shape == made.shape else None

    return [Derived(made.axes, made.dtype, compute)]


def small_value(node: Node, rule: Any, values: list[Array | None], shapes: list[Any]) -> Array | None:
    """The value of a node's first output when it is small and computable."""
    known = [v for v in values if v is not None]
    if not traits_of(node.gs).blind and (not known or any(v.size > SMALL for v in known)):
        return None
    if known and known[0].dtype.kind not in "iub" and any(v.size > FLOATS for v in known):
        return None
    try:
        value = rule.value(node, values, shapes)
    except (ValueError, IndexError, TypeError, Freeze, ZeroDivisionError):
        return None
    return value if value is not None and value.size <= SMALL else None


def _type(tensor: Tensor) -> TypeProto:
    elem = adapter.element_type(tensor.dtype) if tensor.dtype is not None else 1
    shape = None if tensor.axes is None else [axis_size(axis) for axis in tensor.axes]
    return helper.make_tensor_type_proto(elem, shape)


def dynamic_dimensions(graph: gs.Graph) -> dict[str, tuple[gs.Variable, int]]:
    """Every dynamic dimension of the inputs, with the first place where it stands."""
    found: dict[str, tuple[gs.Variable, int]] = {}
    for tensor in graph.inputs:
        for place, size in enumerate(tensor.shape or ()):
            if not isinstance(size, int) or size < 1:  # 0 and -1 are how some exporters write a dynamic axis
                found.setdefault(dimension_name(tensor.name, place, size), (tensor, place))
    return found


def candidate_dims(graph: gs.Graph) -> Iterable[dict[str, int]]:
    """Extents to analyse a dynamic model at, likeliest first: batch 1, images of 224, volumes of 32,
    sequences of 128.

    The last are of audio samples.
    """
    dynamic = dynamic_dimensions(graph)
    for side, volume, length in (
        (224, 32, 128), (256, 64, 64), (320, 16, 16), (64, 48, 32), (48, 96, 256), (32, 8, 8), (224, 32, 1024),
        (224, 32, 16000),
    ):  # fmt: skip
        likely = {
            name: _extent(tensor, place, side if len(tensor.shape) < 5 else volume, length)
            for name, (tensor, place) in dynamic.items()
        }
        yield likely
        for name, (_, place) in dynamic.items():
            if "." in name and place:
                yield {
                    **likely,
                    name: 1,
                }  # an unnamed axis that is a batch all the same: the state of a recurrent layer
        if all(place == 0 for _, place in dynamic.values()):
            return


def _extent(tensor: gs.Variable, place: int, side: int, length: int) -> int:
    rank = len(tensor.shape)
    if place == 0:
        return 1
    if rank >= 4 and place >= 2:
        return side
    return length


def analyse(model: Model, dims: Mapping[str, int] | None = None) -> Builder:
    """Walk the graph at the first extents of its dynamic dimensions that are consistent, or at `dims`."""
    best: Builder | None = None
    for candidate in candidate_dims(model.graph):
        built = Builder(model, {**candidate, **(dims or {})}).run()
        if best is None or built.inconsistencies < best.inconsistencies:
            best = built
        if not best.inconsistencies:
            break
    assert best is not None
    return best
