"""Tables that rows are picked from (embeddings) as integers of 8 bits: rows are picked first, and scaled then."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.formats.qdq import rounded, weight_scales
from hwpass.globs import matches
from hwpass.model.model import Model
from hwpass.model.node_order import put_in_order

#: Smaller tables are not worth a kernel of their own.
FEWEST = 4096


def tables(model: Model, keep: Iterable[str] = ()) -> list[str]:
    """The outputs of the Gathers of the main graph that pick rows of a constant float32 table which nothing else reads;
    `keep` names layers that stay in floating point."""
    keep = tuple(keep)
    found = [n for n in model.graph.nodes if _picks(n) and not any(matches(glob, n.name) for glob in keep)]
    names = {node.outputs[0].name for node in found}
    return [
        node.outputs[0].name for node in found
        if all(reader.outputs and reader.outputs[0].name in names for reader in node.inputs[0].outputs)
    ]  # fmt: skip


def _picks(node: gs.Node) -> bool:
    if node.op != "Gather" or node.domain or int(node.attrs.get("axis", 0)) != 0 or not node.outputs:
        return False
    table = node.inputs[0]
    return isinstance(table, gs.Constant) and table.dtype == np.float32 and len(table.shape) == 2 and (
        int(np.prod(table.shape)) >= FEWEST
    )  # fmt: skip


def as_integers(model: Model, picked: Iterable[str], *, per_channel: bool) -> Model:
    """A copy whose tables, named by what is picked from them, are integers, with a scale for each channel or one."""
    result = model.copy()
    wanted = set(picked)
    made: dict[int, list[gs.Constant]] = {}
    for node in [n for n in result.graph.nodes if n.outputs and n.outputs[0].name in wanted and _picks(n)]:
        table, output = node.inputs[0], node.outputs[0]
        if id(table) not in made:
            axis = 1 if per_channel else None
            scales = weight_scales(table.values, axis, 8)
            made[id(table)] = [
                gs.Constant(f"{table.name}_quantized", rounded(table.values, scales, axis, 8).astype(np.int8)),
                gs.Constant(f"{table.name}_scale", scales),
                gs.Constant(f"{table.name}_zero_point", np.zeros(scales.shape, np.int8)),
            ]
        integers, *parameters = made[id(table)]
        middle = gs.Variable(f"{output.name}_quantized", np.int8)
        node.inputs[0] = integers
        node.outputs = [middle]
        attrs = {"axis": -1} if per_channel else {}
        name = f"{output.name}_DequantizeLinear"
        result.graph.nodes.append(gs.Node("DequantizeLinear", name, attrs, [middle, *parameters], [output]))
    put_in_order(result.graph)
    result.graph.cleanup(remove_unused_node_outputs=False)
    result.invalidate_shapes()
    return result
