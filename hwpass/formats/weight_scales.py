"""Scales of weights, by what rounding and cutting off do to the layer's output.

The error of an output channel is the sum of its weights' squared errors, each times the mean square of the input that
it meets (the Gram matrix's diagonal): a large weight on an input that is next to nothing may be cut off, and the others
get finer steps. Without data every input counts the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.data.activation_statistics import mean_squares
from hwpass.formats.placement import channel_axis
from hwpass.formats.qdq import weight_scales
from hwpass.model.model import Model
from hwpass.runtime.calibration import Calibration
from hwpass.verdicts.stored_values import MOST_CUT

#: Shares of the largest magnitude that are tried as the end of the range.
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)

Floats = NDArray[np.float64]


def best_scales(
    model: Model, nodes: Iterable[gs.Node], bits: int, data: Calibration, threads: int
) -> dict[str, NDArray[np.float32]]:
    """The scale of each output channel of products with a constant second operand, by the product's output."""
    wanted = {node.outputs[0].name: node for node in nodes if isinstance(node.inputs[1], gs.Constant)}
    taps = {n.inputs[0].name: 1 if n.op == "Conv" else -1 for n in wanted.values()}
    powers = mean_squares(model, taps, data, threads=threads)
    return {name: _scales(node, powers, bits) for name, node in wanted.items() if _plain(node)}


def _plain(node: gs.Node) -> bool:
    """Whether a product takes a scale for each channel of its weight."""
    return bool(node.op != "MatMul" or node.inputs[1].values.ndim == 2)


def _scales(node: gs.Node, powers: Mapping[str, Floats], bits: int) -> NDArray[np.float32]:
    values = node.inputs[1].values
    axis = channel_axis(node, 1)
    plain = weight_scales(values, axis, bits)
    power = powers.get(node.inputs[0].name)
    rows = np.moveaxis(values, axis, 0)  # [n, k, ...]
    count = len(rows)
    if power is None or count == 0:
        return plain
    shape = rows.shape[1:]
    grouped = int(node.attrs.get("group", 1)) if node.op == "Conv" else 1
    weights = np.asarray(power, np.float64).reshape(grouped, -1)  # each group meets inputs of its own
    if weights.shape[1] != shape[0] or count % grouped:
        return plain
    each = np.repeat(weights, count // grouped, axis=0)[(...,) + (None,) * (len(shape) - 1)]
    flat = rows.reshape(count, -1).astype(np.float32)
    metric = np.broadcast_to(each, rows.shape).reshape(count, -1).astype(np.float32)
    best, scales = np.full(count, np.inf), plain.copy()
    most = 2 ** (bits - 1) - 1
    for share in SHARES:
        tried = (plain * np.float32(share)).astype(np.float32)
        q = np.clip(np.round(flat / tried[:, None]), -most, most)
        error = (metric * np.square(flat - q * tried[:, None])).sum(axis=1, dtype=np.float64)
        cut = (np.abs(flat) > (most + 0.5) * tried[:, None]).mean(axis=1)
        better = (error < best * (1 - 1e-6)) & (cut <= MOST_CUT)
        best[better], scales[better] = error[better], tried[better]
    return scales
