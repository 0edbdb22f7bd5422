"""Means that quantisation moves, put right in biases.

A layer on integers gives W' x' where W x was meant; the mean of the difference, per channel, goes into its bias (M.
Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019, by data instead of batch
normalisations). Every layer is compared on the inputs of the floating-point model, so that all are measured in one run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.cost_models.target import Int8
from hwpass.data.taps import tapped_session
from hwpass.formats.placement import Placement, channel_axis, weights_of
from hwpass.formats.qdq import Parameters, bias_place, rounded, weight_scales
from hwpass.formats.ranges import BATCH
from hwpass.model.model import Model
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import StoredModel, run_session

Floats = NDArray[np.float64]


def bias_shifts(
    model: Model,
    placement: Placement,
    parameters: Mapping[str, Parameters],
    rules: Int8,
    data: Calibration,
    limit: int,
    threads: int,
    *,
    per_channel: bool = True,
    scales: Mapping[str, NDArray[np.float32]] | None = None,
) -> dict[str, Floats]:
    """What to add to the bias of each layer on integers that has one, [channels] by its output (or that of its Add).

    `scales` are those of weights by the layer's output, their largest magnitudes where it has none.
    """
    twins = model.copy()
    nodes = {node.outputs[0].name: node for node in twins.graph.nodes if node.outputs}
    wanted: dict[str, tuple[str, str]] = {}  # by the output of the bias: of the product, and of its twin
    for name in placement.nodes:
        biased = _biased(nodes[name]) if nodes[name].op in rules.products else None
        if biased is not None and weights_of(nodes[name]) == [1]:
            source = parameters[placement.tensors[nodes[name].inputs[0].name]]
            wanted[biased] = (
                name,
                _twin(twins.graph, nodes[name], source, rules, per_channel, (scales or {}).get(name)),
            )
    sums: dict[str, Floats] = {}
    count = 0
    names = [name for pair in wanted.values() for name in pair]
    try:
        with StoredModel(twins.proto()) as stored:
            session, there = tapped_session(stored, names, threads)
            for feed in data.batches(BATCH, limit=limit) if session is not None else ():
                values = run_session(session, feed)
                count += 1
                for biased, (own, twin) in wanted.items():
                    if own in there and twin in there:
                        gap = values[own].astype(np.float64) - values[twin]
                        axis = 1 if gap.ndim == 4 or nodes[own].op == "Conv" else gap.ndim - 1
                        sums[biased] = sums.get(biased, 0.0) + gap.mean(
                            axis=tuple(a for a in range(gap.ndim) if a != axis)
                        )
            del session
    finally:
        release_memory()
    return {name: total / count for name, total in sums.items()}


def _biased(node: gs.Node) -> str | None:
    """The output of the node that holds the bias of a product: its own, or that of the Add behind it."""
    if bias_place(node) is not None:
        return str(node.outputs[0].name)
    after = node.outputs[0].outputs
    if node.op != "MatMul" or len(after) != 1 or after[0].op != "Add":
        return None
    place = bias_place(after[0])
    width = node.inputs[1].values.shape[-1] if isinstance(node.inputs[1], gs.Constant) else -1
    if place is None or after[0].inputs[place].values.size != width:
        return None
    return str(after[0].outputs[0].name)


def _twin(
    graph: gs.Graph, node: gs.Node, source: Parameters, rules: Int8, per_channel: bool, own: NDArray[np.float32] | None
) -> str:
    """The product on rounded inputs and weights, beside the product itself; the name of its output."""
    name = node.outputs[0].name
    values = node.inputs[1].values
    axis = channel_axis(node, 1) if per_channel and not (node.op == "MatMul" and values.ndim > 2) else None
    scales = weight_scales(values, axis, rules.weight_bits) if own is None or axis is None else own
    steps = scales if axis is None else scales.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    weight = gs.Constant(
        f"{name}@weight", (rounded(values, scales, axis, rules.weight_bits) * steps).astype(np.float32)
    )
    scale, point = gs.Constant(f"{name}@scale", np.asarray(source.scale)), gs.Constant(f"{name}@point", source.point)
    middle, rough = gs.Variable(f"{name}@q", source.point.dtype), gs.Variable(f"{name}@x", np.float32)
    result = gs.Variable(f"{name}@twin", np.float32)
    graph.nodes += [
        gs.Node("QuantizeLinear", f"{name}@Q", {}, [node.inputs[0], scale, point], [middle]),
        gs.Node("DequantizeLinear", f"{name}@DQ", {}, [middle, scale, point], [rough]),
        gs.Node(node.op, f"{name}@twin", dict(node.attrs), [rough, weight, *node.inputs[2:]], [result]),
    ]
    # Where the twin stands matters to writers that keep the order of nodes.
    last = graph.nodes[-3:]
    del graph.nodes[-3:]
    place = next(i for i, n in enumerate(graph.nodes) if n is node)
    graph.nodes[place:place] = list(last)
    return f"{name}@twin"
