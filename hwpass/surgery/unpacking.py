"""One product that makes queries, keys and values, taken apart into one for each."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.attention_heads import Heads, Source
from hwpass.coupling.moved_columns import Unfit, codes_behind, scalar
from hwpass.model.model import Model
from hwpass.model.node_order import put_in_order

Array = NDArray[np.int64]


class _Layout(NamedTuple):
    """An operand [first, second, heads, d] or [first, second * heads, d], its axes permuted."""

    columns: Array  # [heads, d]: of the weight
    extents: tuple[int, ...]  # what its columns [first, second, heads * d] are seen as before
    order: tuple[int, ...]


def unpack(model: Model, found: Iterable[Heads]) -> bool:
    """Give operands that one MatMul makes products of their own; whether there were any.

    The MatMul writes [first, second, columns], and every operand is that cut into heads, its axes permuted.
    """
    apart: dict[int, list[Source]] = {}
    for heads in found:
        for source in heads.sources:
            apart.setdefault(source.weight.node.index, []).append(source)
    changed = False
    for sources in apart.values():
        layouts = [_layout(model, source) for source in sources] if len(sources) > 1 else [None]
        for source, layout in zip(sources, layouts, strict=True):
            if layout is not None and None not in layouts:
                _apart(model, source, layout)
                changed = True
    if changed:
        model.graph.cleanup(remove_unused_node_outputs=False)
        put_in_order(model.graph)
        model.invalidate_shapes()
    return changed


def _layout(model: Model, source: Source) -> _Layout | None:
    """How an operand lies, None where it is no such view of what the MatMul writes."""
    weight, end = source.weight, source.columns
    data = weight.node.tensor(0)
    if weight.node.op != "MatMul" or data.rank != 3 or end.ndim not in (3, 4):
        return None
    first, second = data.shape[:2]
    codes = np.arange(first * second * weight.width).reshape(first, second, weight.width)
    try:
        moved = codes_behind(model.graph, source.start, source.end, source.steps, codes)
    except Unfit:
        return None
    for order in permutations(range(end.ndim)):  # where the operand's axes come from; as they are, most likely
        back = moved.transpose(np.argsort(order))
        d = back.shape[-1]
        if back.shape[0] == first and (back.ndim == 3 or back.shape[1] == second):
            by_heads = back.reshape(first, second, -1, d)
            columns = by_heads[0, 0] % weight.width
            if np.array_equal(codes[..., columns], by_heads):
                return _Layout(columns, (0, -1, d) if back.ndim == 3 else (0, 0, len(columns), d), order)
    return None


def _apart(model: Model, source: Source, layout: _Layout) -> None:
    """A product for one operand: MatMul, Add of its part of the bias, Reshape, Transpose."""
    node, operand, columns = source.weight.node.gs, source.end, layout.columns.reshape(-1)
    factor = 1.0
    for step in source.steps:
        data = scalar(step)
        if data is not None:
            number = float(step.gs.inputs[1 - data].values.reshape(-1)[0])
            factor = factor / number if step.op == "Div" else factor * number

    def part(tensor: gs.Constant, name: str) -> gs.Constant:
        value = tensor.values.take(columns, axis=-1)
        return gs.Constant(f"{operand.name}_{name}", (value * value.dtype.type(factor)).astype(value.dtype))

    def step_to(op: str, name: str, *inputs: gs.Tensor, **attributes: object) -> gs.Variable:
        output = gs.Variable(f"{operand.name}_{name}")
        model.graph.nodes.append(gs.Node(op, output.name, attributes, list(inputs), [output]))
        return output

    value = step_to("MatMul", "columns", node.inputs[0], part(node.inputs[1], "weight"))
    if source.weight.bias is not None:
        holder, position = source.weight.bias
        value = step_to("Add", "biased", value, part(holder.inputs[position], "bias"))
    shape = gs.Constant(f"{operand.name}_extents", np.asarray(layout.extents, np.int64))
    value = step_to("Reshape", "by_heads", value, shape)
    old = operand.inputs[0]
    old.outputs[next(i for i, t in enumerate(old.outputs) if t is operand)] = gs.Variable(f"{operand.name}_packed")
    model.graph.nodes.append(
        gs.Node("Transpose", f"{operand.name}_apart", {"perm": list(layout.order)}, [value], [operand])
    )
