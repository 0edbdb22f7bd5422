"""Patterns of zeros in the weights of a product that a sparse kernel may skip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.ops import Node, rule_for, traits_of


def zeros_of(node: Node, patterns: Sequence[str]) -> str:
    """The first of some patterns N:M that the weight of a node has along its inputs, else nothing."""
    form = traits_of(node.gs).form
    if not patterns or form is None or form.kind not in ("conv", "matrix") or len(node.gs.inputs) < 2:
        return ""
    tensor = node.gs.inputs[1]
    if not isinstance(tensor, gs.Constant) or tensor.values.ndim < 2 or tensor.values.dtype.kind != "f":
        return ""
    kept = np.moveaxis(tensor.values != 0, 1 - rule_for(node.gs).weight_out(node.gs), -1)
    for pattern in patterns:
        n, m = (int(part) for part in pattern.split(":"))
        if kept.shape[-1] % m == 0 and int(kept.reshape(*kept.shape[:-1], -1, m).sum(axis=-1).max(initial=0)) <= n:
            return pattern
    return ""
