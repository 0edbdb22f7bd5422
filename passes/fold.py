"""Constant folding and removal of what nothing reads."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from hwpass.ir import Model
from hwpass.manager import Context, Pass, PassResult, register


@register
@dataclass(frozen=True)
class Fold(Pass):
    """Nodes of constants -> constants; Identity of x -> x; nodes and constants that nothing reads -> nothing.

    Does not fire when the result would be larger than `limit` bytes (a table that is cheap to compute and dear to
    store), on dequantised weights, on random generators, or inside subgraphs.
    """

    name = "fold"
    limit: int = field(default=1 << 20, metadata={"help": "largest folded tensor that is larger than its inputs, in bytes"})

    def run(self, model: Model, context: Context) -> PassResult:
        before = _signature(model)
        severity = G_LOGGER.severity
        G_LOGGER.severity = G_LOGGER.CRITICAL
        try:
            model.graph.fold_constants(size_threshold=self.limit, should_exclude_node=_kept, recurse_subgraphs=False)
        finally:
            G_LOGGER.severity = severity
        _bypass_identities(model.graph)
        model.graph.cleanup(remove_unused_node_outputs=False)
        return PassResult(model, _signature(model) != before)


def _kept(node: gs.Node) -> bool:
    return node.op in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


def _bypass_identities(graph: gs.Graph) -> None:
    kept = {id(t) for t in graph.outputs}
    for body in graph.subgraphs(recursive=True):
        # Bodies may name an outer tensor: leave those alone.
        kept |= {id(t) for node in body.nodes for t in node.inputs} | {id(t) for t in body.outputs}
    for node in graph.nodes:
        if node.op != "Identity" or not node.outputs or id(node.outputs[0]) in kept:
            continue
        source, result = node.inputs[0], node.outputs[0]
        for reader in list(result.outputs):
            for position, tensor in enumerate(reader.inputs):
                if tensor is result:
                    reader.inputs[position] = source
        node.outputs.clear()


def _signature(model: Model) -> tuple[int, int]:
    return len(model.graph.nodes), sum(len(node.inputs) for node in model.graph.nodes)
