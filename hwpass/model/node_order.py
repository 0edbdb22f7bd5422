"""The order of a graph's nodes, and what each reads."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from hwpass.model.model import bodies
from hwpass.proto.toposort import just_in_time


def reads(node: gs.Node) -> set[str]:
    """Names of the variables that a node reads, those that its bodies capture included."""
    names = {t.name for t in node.inputs if t.name and not isinstance(t, gs.Constant)}
    for body in bodies(node):
        inner = {t.name for t in body.inputs} | {t.name for n in body.nodes for t in n.outputs}
        outer = {name for n in body.nodes for name in reads(n)} | {t.name for t in body.outputs}
        names |= {name for name in outer - inner if name}
    return names


def put_in_order(graph: gs.Graph) -> None:
    """Put the nodes of a graph behind what they read, in place, and move none that stands right."""
    place = {t.name: number for number, node in enumerate(graph.nodes) for t in node.outputs if t.name}
    sequence = just_in_time([{place[name] for name in reads(node) if name in place} for node in graph.nodes])
    nodes = list(graph.nodes)
    graph.nodes[:] = [nodes[number] for number in sequence]
