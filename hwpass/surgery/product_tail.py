"""What stands behind a product's output: what a fit of its weights has to look at besides the output itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.ops import rule_for


@dataclass(frozen=True)
class Tail:
    """What a product's output meets before it is read: a constant, the other side of a residual sum, a clip."""

    constant: NDArray[Any] | None = None
    other: str | None = None
    low: float = -np.inf
    high: float = np.inf


def follow(node: gs.Node) -> Tail:
    """The chain of sole readers behind a product: Add of a constant, Add of another tensor, and what clips."""
    tensor, tail = node.outputs[0], Tail()
    for _ in range(3):
        if len(tensor.outputs) != 1:
            return tail
        reader = tensor.outputs[0]
        bounds = rule_for(reader).clips(reader)
        if bounds is not None:
            return replace(tail, low=bounds[0], high=bounds[1])
        if reader.op != "Add":
            return tail
        second = reader.inputs[1] if reader.inputs[0] is tensor else reader.inputs[0]
        if isinstance(second, gs.Constant):
            if tail.constant is not None or second.values.size != np.prod(second.shape[-1:] or [1]):
                return tail
            tail = replace(tail, constant=second.values.reshape(-1))
        elif tail.other is None:
            tail = replace(tail, other=str(second.name))
        else:
            return tail
        tensor = reader.outputs[0]
    return tail
