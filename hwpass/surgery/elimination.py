"""Nodes that do nothing, nodes that repeat others, and what nothing reads.

Numbers stay as they are, bit by bit: nothing is computed here, readers are turned to another tensor of equal value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from hwpass.model.model import Model, bodies
from hwpass.ops import traits_of
from hwpass.proto.gc_pause import collection_paused
from hwpass.proto.shapes import MOST_NODES, inferred

#: Operators that give their only input, whatever their attributes.
_OF_ONE = frozenset({"Concat", "Sum", "Max", "Min", "Mean"})

Known = tuple[int, list[int | str | None] | None]


def eliminate(model: Model) -> Counter[str]:
    """Take out of a model, in place, what does nothing; how many nodes of which kind went.

    Kinds: `no-op` (an Identity, a Cast to the same type, a Transpose that keeps the order, ...), `undone` (a Transpose,
    Reshape or Cast of one that it undoes or takes in), `duplicate` (same operator, same inputs) and `unread`.
    """
    found: Counter[str] = Counter()
    known = _known(model)
    with collection_paused():
        fixed = _fixed(model)
        for scope in model.scopes():
            ends = fixed | {id(t) for t in scope.outputs}
            constants = _Constants()
            while True:
                # Each may give the others something to do.
                here = _skip(scope, ends, known) + _merge(scope, ends, constants)
                found += here
                if not here:
                    break
        before = sum(1 for _ in model.walk())
        model.graph.cleanup(remove_unused_node_outputs=False)
        found["unread"] += before - sum(1 for _ in model.walk())
    return +found


def _known(model: Model) -> dict[str, Known]:
    """The element type and the shape of the main graph's tensors as ONNX infers them; what a file says of inner ones is
    not believed."""
    if len(model.graph.nodes) > MOST_NODES:
        return {}
    proto = model.written()
    del proto.graph.value_info[:]
    found = inferred(proto, values=False)
    values = [] if found is None else [*found.graph.input, *found.graph.value_info]
    return {value.name: _told(value.type.tensor_type) for value in values if value.type.HasField("tensor_type")}


def _told(kind: Any) -> Known:
    dims = kind.shape.dim if kind.HasField("shape") else None
    shape = None if dims is None else [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims]
    return kind.elem_type, shape


def _fixed(model: Model) -> set[int]:
    """Tensors that bodies read from outside: they name them, so their names have to stay."""
    found = set()
    for node in model.walk():
        for body in bodies(node):
            made = {id(t) for inner in body.nodes for t in inner.outputs}
            read = [t for inner in body.nodes for t in inner.inputs] + list(body.outputs)
            found |= {id(t) for t in read if id(t) not in made}
    return found


def _skip(scope: gs.Graph, ends: set[int], known: dict[str, Known]) -> Counter[str]:
    """Turn readers of a node that does nothing to what it reads, and shorten pairs."""
    found: Counter[str] = Counter()
    for node in list(scope.nodes):
        if not node.outputs or not node.inputs or node.domain or any(t.outputs for t in node.outputs[1:]):
            continue
        result = node.outputs[0]
        shortened = _shorten(node, known)
        found["undone"] += shortened
        if id(result) in ends or any(id(t) in ends for t in node.outputs[1:]):
            continue
        if _idle(node, known):
            _redirect(result, node.inputs[0])
            node.outputs.clear()
            node.inputs.clear()
            found["no-op"] += not shortened
    scope.nodes[:] = [node for node in scope.nodes if node.outputs or node.inputs]
    return +found


def _idle(node: gs.Node, known: dict[str, Known]) -> bool:
    """Whether a node's first output is its first input, bit by bit."""
    source = node.inputs[0]
    kind, shape = known.get(source.name, (0, None))
    if isinstance(source, gs.Constant) or not source.name:
        return False
    if node.op == "Identity" or (node.op in _OF_ONE and len(node.inputs) == 1):
        return True
    if node.op == "Dropout":
        return _at_rest(node)
    if node.op == "Cast":
        return bool(kind) and _type(node.attrs["to"]) == kind
    if node.op == "Transpose":
        perm = _perm(node, shape)
        return perm is not None and perm == sorted(perm)
    if node.op in ("Reshape", "Flatten", "Expand"):
        made = known.get(node.outputs[0].name, (0, None))[1]
        return shape is not None and made == shape and all(isinstance(d, int) for d in shape)
    return False


def _shorten(node: gs.Node, known: dict[str, Known]) -> bool:
    """Let a node of a pair read what the first one reads, where both together are one such node."""
    inner = node.inputs[0].inputs[0] if len(node.inputs[0].inputs) == 1 else None
    if (
        inner is None
        or inner.op != node.op
        or inner.domain
        or not inner.inputs
        or inner.outputs[0] is not node.inputs[0]
    ):
        return False
    source = inner.inputs[0]
    if isinstance(source, gs.Constant):
        return False
    kind, shape = known.get(source.name, (0, None))
    if node.op == "Transpose":
        first, second = _perm(inner, shape), _perm(node, shape)
        if first is None or second is None:
            return False
        node.attrs["perm"] = [first[axis] for axis in second]
    elif node.op == "Reshape":
        # A zero takes an extent of what is read, unless the attribute gives it its own meaning.
        target = node.inputs[1]
        if not isinstance(target, gs.Constant) or (target.values == 0).any():
            return False
    elif node.op != "Cast" or not _holds(kind, _type(inner.attrs["to"])):
        return False
    node.inputs[0] = source
    return True


def _perm(node: gs.Node, shape: Sequence[Any] | None) -> list[int] | None:
    """The order of axes of a Transpose; without one it turns them round, however many there are."""
    if "perm" in node.attrs:
        return [int(axis) for axis in node.attrs["perm"]]
    return None if shape is None else list(range(len(shape)))[::-1]


def _type(to: Any) -> int:
    """The number of an element type, which an attribute holds as one or as NumPy's."""
    return int(to) if isinstance(to, int | np.integer) else int(helper.np_dtype_to_tensor_dtype(np.dtype(to)))


def _holds(kind: int, wider: int) -> bool:
    """Whether each value of one type is one of another, so that a cast there loses nothing."""
    try:
        given, made = (np.dtype(helper.tensor_dtype_to_np_dtype(k)) for k in (kind, wider))
    except (KeyError, ValueError, TypeError):
        return False
    plain = given.kind in "biuf" and made.kind in "iuf" and TensorProto.STRING not in (kind, wider)
    return plain and np.can_cast(given, made, "safe")


def _at_rest(node: gs.Node) -> bool:
    """Whether a Dropout hands its input on: it is not in training, as far as the model itself says."""
    if "is_test" in node.attrs:
        return bool(node.attrs["is_test"])
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return True
    training = node.inputs[2]
    return isinstance(training, gs.Constant) and not training.values.any()


def _redirect(old: gs.Tensor, new: gs.Tensor) -> None:
    for reader in list(old.outputs):
        for position, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[position] = new


class _Constants:
    """Numbers of constants: equal ones have the same."""

    def __init__(self) -> None:
        self._alike: dict[tuple[Any, ...], list[gs.Constant]] = {}
        self._numbers: dict[int, int] = {}
        self._held: list[gs.Constant] = []

    def __call__(self, tensor: gs.Constant) -> int:
        if id(tensor) not in self._numbers:
            values = tensor.values
            flat = values.reshape(-1)
            key = (values.shape, values.dtype.str, flat[:8].tobytes(), flat[-8:].tobytes())
            alike = self._alike.setdefault(key, [])
            first = next((t for t in alike if _same(t.values, values)), tensor)
            if first is tensor:
                alike.append(tensor)
            self._held.append(tensor)
            self._numbers[id(tensor)] = id(first)
        return self._numbers[id(tensor)]


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays hold the same bits: 0 and -0 differ, and a NaN is like itself."""
    if one.dtype.hasobject or other.dtype.hasobject:
        return bool(np.array_equal(one, other))
    return np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()


def _merge(scope: gs.Graph, ends: set[int], constants: _Constants) -> Counter[str]:
    """Let readers of a node that another one repeats read the other's outputs."""
    first: dict[tuple[Any, ...], gs.Node] = {}
    count = 0
    for node in scope.nodes:
        if not node.outputs or not traits_of(node).foldable or bodies(node):
            continue  # a random generator draws anew each time
        key = (node.op, node.domain or "", tuple(_attributes(node)), tuple(_inputs(node, constants)),
               tuple(bool(t.name) for t in node.outputs))  # fmt: skip
        other = first.setdefault(key, node)
        if other is node or any(id(t) in ends for t in node.outputs):
            continue
        for old, new in zip(node.outputs, other.outputs, strict=True):
            _redirect(old, new)
        node.outputs.clear()
        node.inputs.clear()
        count += 1
    scope.nodes[:] = [node for node in scope.nodes if node.outputs or node.inputs]
    return +Counter(duplicate=count)


def _inputs(node: gs.Node, constants: _Constants) -> Iterator[int]:
    for tensor in node.inputs:
        if isinstance(tensor, gs.Constant):
            yield constants(tensor)
        else:
            yield id(tensor) if tensor.name else 0


def _attributes(node: gs.Node) -> Iterator[tuple[Any, ...]]:
    for name, value in sorted(node.attrs.items()):
        if isinstance(value, gs.Tensor):
            value = value.values
        if isinstance(value, np.ndarray):
            yield name, value.shape, value.dtype.str, value.tobytes()
        else:
            yield name, repr(value)
