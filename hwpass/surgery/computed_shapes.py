"""Shapes that a graph computes while it runs, though nothing but one extent of them depends on the inputs.

Exporters read an extent with Shape, pick it, and join it with others to say what Reshape or Expand should make. Each
of these operators takes about a microsecond, which in a small network is a good part of its latency.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hwpass.model.model import Model
from hwpass.ops import traits_of
from hwpass.proto.shapes import MOST_NODES, inferred

Dims = list[int | str | None]

#: What makes extents of extents, and no negative number.
EXTENTS = ("Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze")

#: What makes tensors of sizes that operands give.
MAKERS = ("ConstantOfShape", "Expand", "NonZero", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample")

#: Constants of more entries are no shapes; extents beyond are too many to list; and the ends that slices have.
LISTED, LARGEST, ENDS = 64, 1 << 16, (1 << 31) - 1

#: Steps back from an operand to the extents that it is made of.
STEPS = 24


def known_shapes(model: Model) -> dict[str, Dims]:
    """The shapes of the main graph's tensors as ONNX infers them from inputs and operators; what a file says of inner
    tensors is not believed. None stands for an extent without a name."""
    if len(model.graph.nodes) > MOST_NODES:
        return {}
    proto = model.written()
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    found = inferred(proto, values=_bounded(model))
    return {} if found is None else {
        value.name: _dims(value) for value in (*found.graph.input, *found.graph.value_info, *found.graph.output)
        if value.type.tensor_type.HasField("shape")
    }  # fmt: skip


def _bounded(model: Model) -> bool:
    """Whether values of shapes may be followed: ONNX lists every entry of a vector then, however long it is.

    So nothing may make a vector of any length, and no extent among the constants may be huge.
    """
    for node in model.walk():
        maker = node.inputs[0].inputs[0] if node.inputs and len(node.inputs[0].inputs) == 1 else None
        if node.op == "ConstantOfShape" and maker is not None and maker.op == "Shape":
            continue  # as many ones as a shape has extents
        token = node.op == "Expand" and isinstance(node.inputs[0], gs.Constant) and node.inputs[0].values.ndim > 1
        if node.op in MAKERS and not token:
            return False
        if any(isinstance(t, gs.Constant) and _huge(t.values) for t in node.inputs):
            return False
    return True


def _huge(values: np.ndarray) -> bool:
    """Whether a constant may be an extent that is too large; the ends of slices are as large as can be."""
    if values.dtype.kind != "i" or values.size > LISTED:
        return False
    size = np.abs(values)
    return bool(((size > LARGEST) & (size < ENDS)).any())


def _dims(value: onnx.ValueInfoProto) -> Dims:
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims]


def settle(graph: gs.Graph, shapes: Mapping[str, Dims]) -> bool:
    """Write constants where shapes are computed that need not be; whether there were any."""
    changed = False
    for node in graph.nodes:
        if node.op == "Reshape" and len(node.inputs) == 2 and not isinstance(node.inputs[1], gs.Constant):
            target = _target(node, shapes)
            if target is not None:
                node.inputs[1] = gs.Constant(f"{node.outputs[0].name}_target", np.asarray(target, np.int64))
                changed = True
        elif node.op == "Where":
            changed |= _bypass_replacement(graph, node)
    return changed


def _target(node: gs.Node, shapes: Mapping[str, Dims]) -> list[int] | None:
    """The target of a Reshape with at most one extent left open; others that are not known must be copied."""
    made, given = shapes.get(node.outputs[0].name), shapes.get(node.inputs[0].name, [])
    if made is None or node.attrs.get("allowzero", 0):
        return None
    target: list[int] = []
    unknown = sum(not _sized(dim) for dim in made)
    for place, dim in enumerate(made):
        if isinstance(dim, int) and dim > 0:
            target.append(dim)
        elif unknown > 1 and isinstance(dim, str) and given[place : place + 1] == [dim] and given.count(dim) == 1:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None


def _sized(dim: int | str | None) -> bool:
    return isinstance(dim, int) and dim > 0


def _bypass_replacement(graph: gs.Graph, node: gs.Node) -> bool:
    """Where(x == -1, y, x) of extents and constants x is x with another constant: how exporters write an expansion."""
    if not node.outputs or len(node.inputs) != 3 or any(node.outputs[0] is t for t in graph.outputs):
        return False
    condition, others, kept = node.inputs
    result = node.outputs[0]
    equal = _maker(condition, "Equal")
    if equal is None or not any(t is kept for t in equal.inputs):
        return False
    marks = equal.inputs[1] if equal.inputs[0] is kept else equal.inputs[0]
    if not isinstance(others, gs.Constant) or not isinstance(marks, gs.Constant) or (marks.values >= 0).any():
        return False
    joined = _maker(kept, "Concat") or _maker(getattr(_maker(kept, "Reshape"), "inputs", [kept])[0], "Concat")
    parts = None if joined is None else _replaced(joined, marks.values, others.values)
    if parts is None:
        return False
    new = [p if isinstance(p, gs.Tensor) else gs.Constant(f"{result.name}_{i}", p) for i, p in enumerate(parts)]
    node.op, node.attrs, node.inputs = "Concat", {"axis": 0}, new
    return True


def _maker(tensor: gs.Tensor, op: str) -> gs.Node | None:
    """The node that makes a tensor, where it is an `op`."""
    return tensor.inputs[0] if len(tensor.inputs) == 1 and tensor.inputs[0].op == op else None


def _replaced(joined: gs.Node, marks: np.ndarray, others: np.ndarray) -> list[gs.Tensor | np.ndarray] | None:
    """The parts of a vector, in its constants `others` instead of `marks`; None where a part may hold a mark too, or
    does not tell its length."""
    marks, others = (np.broadcast_to(v.reshape(-1), max(marks.size, others.size)) for v in (marks, others))
    found: list[gs.Tensor | np.ndarray] = []
    start = 0
    for part in joined.inputs:
        if isinstance(part, gs.Constant) and part.values.ndim == 1:
            place = slice(start, start + part.values.size)
            if part.values.shape != marks[place].shape:
                return None
            found.append(np.where(part.values == marks[place], others[place], part.values).astype(np.int64))
            start += part.values.size
        elif _maker(part, "Unsqueeze") is not None and _extents(part, STEPS):
            found.append(part)
            start += 1
        else:
            return None
    return found if start == marks.size else None


def _extents(tensor: gs.Tensor, steps: int) -> bool:
    """Whether a tensor holds extents and constants that are not negative, and nothing else."""
    if isinstance(tensor, gs.Constant):
        return tensor.values.dtype.kind == "i" and bool((tensor.values >= 0).all())
    if not steps or len(tensor.inputs) != 1:
        return False
    maker = tensor.inputs[0]
    if traits_of(maker).blind:
        return True
    data = maker.inputs if maker.op == "Concat" else maker.inputs[:1]
    return maker.op in EXTENTS and all(_extents(t, steps - 1) for t in data)
