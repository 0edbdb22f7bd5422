"""The order of nodes in a protobuf: each behind what it reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import onnx

from hwpass.errors import InputError


def ordered(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with its nodes in an order to run: ONNX asks for one, and some converters append what they add.

    A model in order comes back as it is. Raises InputError when there is no such order.
    """
    if all(producer < reader for graph in graphs(proto.graph) for producer, reader in _edges(graph)):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for graph in graphs(copy.graph):
        _sort(graph, name)
    return copy


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and every body inside it."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from graphs(body)


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of an If, Loop or Scan."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g


def _edges(graph: onnx.GraphProto) -> Iterator[tuple[int, int]]:
    """Positions (producer, reader) of the nodes of one graph; a node also reads what its bodies capture."""
    place = {output: number for number, node in enumerate(graph.node) for output in node.output if output}
    for number, node in enumerate(graph.node):
        for tensor in _reads(node):
            if tensor in place:
                yield place[tensor], number


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads from its graph or from around it."""
    found = set(node.input)
    for body in bodies(node):
        own = {output for inner in body.node for output in inner.output}
        own |= {given.name for given in (*body.input, *body.initializer)}
        found |= {name for inner in body.node for name in _reads(inner)} - own
    return found


def just_in_time(producers: Sequence[Collection[int]]) -> list[int]:
    """An order of nodes in which each stands behind its producers, and right before its first reader if it came later.

    What was in order stays as it was: with all that is ready in front, as a sort by levels has it, every table that
    depends on no input would be alive at once. Raises Circle.
    """
    sequence: list[int] = []
    state = [0] * len(producers)  # 1: its producers are under way, 2: placed
    for last in range(len(producers)):
        pending = [last]
        while pending:
            node = pending[-1]
            if state[node] == 0:
                state[node] = 1
                waiting = [p for p in sorted(producers[node], reverse=True) if state[p] != 2]
                circle = next((p for p in waiting if state[p] == 1), None)
                if circle is not None:
                    raise Circle(circle, node)
                pending.extend(waiting)
                continue
            pending.pop()
            if state[node] == 1:
                state[node] = 2
                sequence.append(node)
    return sequence


class Circle(ValueError):
    """Two nodes that wait for each other's outputs."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"nodes {first} and {second} wait for each other")
        self.nodes = first, second


def _sort(graph: onnx.GraphProto, name: str) -> None:
    """Sort the nodes of one graph in place; each stays as near as can be to where it stood."""
    producers: list[set[int]] = [set() for _ in graph.node]
    for producer, reader in _edges(graph):
        producers[reader].add(producer)
    try:
        sequence = just_in_time(producers)
    except Circle as circle:
        pair = " and ".join(graph.node[n].name or graph.node[n].op_type for n in circle.nodes)
        raise InputError(f"{name}: nodes read each other's outputs in a circle: {pair}") from None
    nodes = [onnx.NodeProto.FromString(graph.node[n].SerializeToString()) for n in sequence]
    del graph.node[:]
    graph.node.extend(nodes)
