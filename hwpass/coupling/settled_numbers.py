"""Numbers that a graph computes from its own widths, and from nothing that depends on the inputs.

Exporters write the scale of attention as the root of an extent that is read while the model runs: it is a property of
the model as it was trained, and stays when the extent shrinks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.groups import Walked
from hwpass.errors import InputError
from hwpass.model.model import quiet
from hwpass.ops import Node
from hwpass.runtime.sessions import open_session, run_session

#: Steps from extents to the number.
STEPS = 32


class Settled(NamedTuple):
    """An input of a node that is always the same number."""

    node: Node
    position: int
    value: NDArray[Any]


def settled_scales(coupling: Walked) -> Iterator[Settled]:
    """The computed numbers that a multiplication or a division scales a whole tensor by, where they are settled."""
    nodes = {id(node.gs): node for node in coupling.nodes}
    for node in coupling.nodes:
        if node.op not in ("Mul", "Div") or node.frozen:
            continue
        for position in (0, 1)[node.op == "Div" :]:
            operand, value = node.gs.inputs[position], node.value(position)
            if isinstance(operand, gs.Constant) or value is None or value.size != 1 or value.dtype.kind != "f":
                continue
            if node.has(1 - position) and node.value(1 - position) is None and _settled(coupling, operand, nodes):
                yield Settled(node, position, value)


def _settled(coupling: Walked, tensor: gs.Tensor, nodes: dict[int, Node]) -> bool:
    """Whether a number stays as it is where all extents change but those of channels."""
    steps: dict[int, Node] = {}
    shapes: dict[int, Node] = {}
    todo = [tensor]
    while todo:
        makers = todo.pop().inputs
        if not makers:  # an input of the model
            return False
        for maker in makers:
            node = nodes.get(id(maker))
            if node is None or node.bodies or len(steps) > STEPS:
                return False
            if node.op == "Shape":
                shapes[node.index] = node
            elif node.index not in steps:
                steps[node.index] = node
                todo += [t for t in maker.inputs if not isinstance(t, gs.Constant) and t.name]
    if not shapes:
        return False
    feeds = [{n.gs.outputs[0].name: _extents(n, step) for n in shapes.values()} for step in (0, 1, 2)]
    found = [_run(coupling, tensor, [steps[i].gs for i in sorted(steps)], feed) for feed in feeds]
    first = found[0]
    return first is not None and all(f is not None and np.array_equal(f, first) for f in found)


def _extents(node: Node, step: int) -> NDArray[np.int64]:
    """What a Shape gives when all extents grow that are not those of channels."""
    axes = node.axes(0)
    grown = [
        size + (0 if axis and all(factor.ids is not None for factor in axis) else step)
        for axis, size in zip(axes, node.tensor(0).shape, strict=True)
    ]
    return np.asarray(grown[slice(node.attr("start", 0), node.attr("end"))], np.int64)


def _run(
    coupling: Walked, tensor: gs.Tensor, steps: list[gs.Node], feed: dict[str, NDArray[np.int64]]
) -> NDArray[Any] | None:
    graph = coupling.build.model.graph
    made: dict[str, gs.Tensor] = {n: gs.Variable(n, np.int64, [len(v)]) for n, v in feed.items()}
    nodes = []
    for step in steps:
        inputs = [
            gs.Constant(t.name, t.values) if isinstance(t, gs.Constant) else made.get(t.name, gs.Variable.empty())
            for t in step.inputs
        ]
        outputs = [gs.Variable(t.name) for t in step.outputs]
        made.update({t.name: t for t in outputs})
        nodes.append(gs.Node(step.op, step.name, dict(step.attrs), inputs, outputs, step.domain))
    alone = gs.Graph(
        nodes, [made[name] for name in feed], [made[tensor.name]],
        opset=graph.opset, import_domains=graph.import_domains, ir_version=graph.ir_version,
    )  # fmt: skip
    with quiet():
        proto = gs.export_onnx(alone, do_type_check=False)
    try:
        return np.asarray(run_session(open_session(proto), dict(feed))[tensor.name])
    except InputError:
        return None
