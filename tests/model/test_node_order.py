"""Nodes stand behind what they read, and as near to where they stood as that allows."""

from __future__ import annotations

import random

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwpass.model.node_order import put_in_order, reads
from hwpass.proto.toposort import Circle, just_in_time


@given(st.integers(0, 40), st.randoms(use_true_random=False))
def test_every_order_is_one_to_run_and_what_is_in_order_stays(count: int, rng: random.Random) -> None:
    edges = [{p for p in range(node) if rng.random() < 0.15} for node in range(count)]
    assert just_in_time(edges) == list(range(count))
    shuffled = list(range(count))
    rng.shuffle(shuffled)
    place = {node: number for number, node in enumerate(shuffled)}
    mixed = [{place[p] for p in edges[node]} for node in shuffled]
    found = just_in_time(mixed)
    assert sorted(found) == list(range(count))
    seen: set[int] = set()
    for node in found:
        assert mixed[node] <= seen
        seen.add(node)


@given(st.integers(2, 20), st.randoms(use_true_random=False))
def test_circles_are_named(count: int, rng: random.Random) -> None:
    edges: list[set[int]] = [{p for p in range(node) if rng.random() < 0.3} for node in range(count)]
    first, last = sorted(rng.sample(range(count), 2))
    for node in range(first + 1, last + 1):
        edges[node].add(node - 1)
    edges[first].add(last)
    with pytest.raises(Circle) as caught:
        just_in_time(edges)
    producer, reader = caught.value.nodes
    assert producer in edges[reader]


def test_tables_stand_where_they_are_read() -> None:
    """A table that depends on no input is made when it is needed; one that was appended moves to its reader."""
    x = gs.Variable("x", np.float32, [1, 4])
    weight = gs.Constant("w", np.ones((1, 4), np.float32))
    a, b, t, u, y = (gs.Variable(name) for name in "abtuy")
    nodes = [
        gs.Node("Relu", "first", inputs=[x], outputs=[a]),
        gs.Node("Exp", "table", inputs=[weight], outputs=[t]),
        gs.Node("Add", "second", inputs=[a, t], outputs=[b]),
        gs.Node("Mul", "last", inputs=[b, u], outputs=[y]),
        gs.Node("Neg", "appended", inputs=[weight], outputs=[u]),
    ]
    graph = gs.Graph(nodes, [x], [y])
    put_in_order(graph)
    assert [node.name for node in graph.nodes] == ["first", "table", "second", "appended", "last"]


def test_what_a_body_reads_from_outside_goes_before_it() -> None:
    x = gs.Variable("x", np.float32, [1, 4])
    outer, inner, flag, y = gs.Variable("outer"), gs.Variable("inner"), gs.Variable("flag", bool, []), gs.Variable("y")
    body = gs.Graph([gs.Node("Neg", inputs=[outer], outputs=[inner])], [], [inner])
    choice = gs.Node("If", "choice", {"then_branch": body, "else_branch": body}, [flag], [y])
    assert reads(choice) == {"flag", "outer"}
    graph = gs.Graph([choice, gs.Node("Relu", "made", inputs=[x], outputs=[outer])], [x, flag], [y])
    put_in_order(graph)
    assert [node.name for node in graph.nodes] == ["made", "choice"]
