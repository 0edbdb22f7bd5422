"""Constant arguments that ONNX Runtime looks at only when it runs a node: their ranks, and the gates of recurrences."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto, TensorProto

#: The largest rank of a constant that is a list, by operator and position of the input.
_LISTS = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "ConstantOfShape": (0,), "Slice": (1, 2, 3, 4), "Pad": (1, 3),
    "Squeeze": (1,), "Unsqueeze": (1,), "Split": (1,), "Resize": (1, 2, 3), "Upsample": (1,), "TopK": (1,),
    "ReduceSum": (1,), "ReduceMean": (1,), "ReduceMax": (1,), "ReduceMin": (1,), "ReduceProd": (1,),
    "ReduceL1": (1,), "ReduceL2": (1,), "ReduceSumSquare": (1,), "ReduceLogSum": (1,), "ReduceLogSumExp": (1,),
    "CenterCropPad": (1,), "Range": (0, 1, 2),
}  # fmt: skip

#: Gates of a recurrence: rows of its weights for each hidden unit.
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def misfit(node: NodeProto, constants: Mapping[str, TensorProto]) -> str | None:
    """What is wrong with the constant arguments of a node, in words; None when nothing is."""
    if node.domain:
        return None
    found = {place: constants[name] for place, name in enumerate(node.input) if name in constants}
    for place in _LISTS.get(node.op_type, ()):
        if place in found and len(found[place].dims) > 1:
            return f"input {place} ({found[place].name!r}) is of the shape {list(found[place].dims)}, not a list"
    if node.op_type in _GATES:
        return _recurrence(node, found)
    return None


def _recurrence(node: NodeProto, found: Mapping[int, TensorProto]) -> str | None:
    gates = _GATES[node.op_type]
    for place, rank in ((1, 3), (2, 3), (3, 2), (5, 3), (6, 3), (7, 2)):
        if place in found and len(found[place].dims) != rank:
            return f"input {place} ({found[place].name!r}) has {len(found[place].dims)} axes, not {rank}"
    units = {
        place: found[place].dims[1] / parts
        for place, parts in ((1, gates), (2, gates), (3, 2 * gates))
        if place in found
    }
    sizes = set(units.values()) | ({float(found[2].dims[2])} if 2 in found else set())
    given = next((a.i for a in node.attribute if a.name == "hidden_size"), None)
    if len(sizes | ({float(given)} if given is not None else set())) > 1:
        shapes = ", ".join(str(list(found[place].dims)) for place in sorted(units))
        return f"weights of the shapes {shapes} are not those of one number of hidden units"
    return None
