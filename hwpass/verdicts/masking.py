"""The model before pruning with the removed channels at zero: what the cut model is compared with.

Nothing here goes through the surgery: the channels that go are read from the plan, and every constant of the model
keeps its own values but for theirs. A wrong slice, a wrong producer or a changed value therefore shows.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.groups import Coupling
from hwpass.model.model import Model
from hwpass.ops.axes import Axis
from hwpass.planning.plan import Plan
from hwpass.proto.streaming import release_pages

Mask = NDArray[np.bool_]


def removed_components(coupling: Coupling, plan: Plan) -> Mask:
    """Which components a plan removes, [components]."""
    groups = {group.name: group for group in coupling.groups}
    removed = np.zeros(int(coupling.component.max()) + 1, bool)
    for planned in plan.groups:
        components = groups[planned.name].components
        removed[np.delete(components, planned.kept)] = True
    return removed


def present(coupling: Coupling, removed: Mask, axis: Axis) -> Mask:
    """Which indices of an axis are left, [size]: those that every factor leaves."""
    parts = [
        np.ones(factor.size, bool) if factor.ids is None else ~removed[coupling.component[factor.ids]]
        for factor in axis
    ]
    return reduce(lambda whole, part: np.logical_and.outer(whole, part).reshape(-1), parts, np.ones(1, bool))


def masked(coupling: Coupling, plan: Plan) -> Model:
    """A copy of the coupled model whose constants are zero in the removed channels (one where they divide)."""
    removed = removed_components(coupling, plan)
    model = coupling.build.model.copy()
    shared: dict[tuple[int, bytes], gs.Constant] = {}
    for analysed, node in zip(coupling.nodes, list(model.walk()), strict=True):
        for position, tensor in enumerate(node.inputs):
            use = coupling.build.uses.get((analysed.index, position))
            if use is None or use.axes is None or not isinstance(tensor, gs.Constant):
                continue
            masks = [present(coupling, removed, axis) for axis in use.axes]
            if all(mask.all() for mask in masks):
                continue
            fill = np.asarray(analysed.fill.get(position, 0.0))
            # Uses of one constant share the copy, as they shared the constant: memory for one is enough.
            key = (id(tensor), fill.tobytes() + b"".join(np.packbits(mask).tobytes() for mask in masks))
            if key not in shared:
                left = reduce(np.logical_and.outer, masks)
                values = np.where(left, tensor.values, fill.astype(tensor.values.dtype))
                shared[key] = gs.Constant(f"{tensor.name}_masked_{len(shared)}", values)
                release_pages([tensor])
            node.inputs[position] = shared[key]
    model.invalidate_shapes()
    release_pages(coupling.build.model.constants().values())
    return model


def left_of(coupling: Coupling, removed: Mask, name: str, value: np.ndarray) -> np.ndarray | None:
    """The entries of a tensor of the coupled model that the pruned one still has; None where that is not known."""
    tensor = coupling.build.tensors.get(name)
    if tensor is None or tensor.axes is None or tensor.rank != value.ndim:
        return None
    for place, axis in enumerate(tensor.axes):
        mask = present(coupling, removed, axis)
        if not mask.all():
            if len(mask) != value.shape[place]:
                return None
            value = np.compress(mask, value, axis=place)
    return value
