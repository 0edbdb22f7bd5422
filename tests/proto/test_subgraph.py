"""Parts of a graph as models: what they compute is what the whole computes there."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphs import build, programs
from hypothesis import given, settings
from hypothesis import strategies as st
from sketch import Sketch

from hwpass.proto.subgraph import Parts, bypassed, reads
from hwpass.runtime.sessions import open_session, run_session
from hwpass.verdicts.proof_sides import AsGiven


def values(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Every tensor that ONNX Runtime hands out, on one feed."""
    rng = np.random.default_rng(0)
    session = open_session(model, level="none")
    feed = {
        v.name: rng.standard_normal([s if isinstance(s, int) else 2 for s in v.shape]).astype(np.float32)
        for v in session.get_inputs()
    }
    side = AsGiven("", model, 1)
    return {**feed, **side.tensors(side.names(), feed)}


@settings(max_examples=25)
@given(programs(), st.integers(0, 40), st.integers(1, 12))
def test_a_window_computes_what_the_whole_computes_there(program: Any, first: int, count: int) -> None:
    model = build(program)
    parts = Parts(model)
    start = first % len(parts.nodes)
    numbers = range(start, min(start + count, len(parts.nodes)))
    cut = parts.part(numbers)
    if cut is None:
        return
    assert [n.name for n in cut.graph.node] == [parts.nodes[i].name for i in numbers]
    known = values(model)
    session = open_session(cut, level="none")
    found = run_session(session, {v.name: known[v.name] for v in session.get_inputs()})
    for name, value in found.items():
        np.testing.assert_allclose(value, known[name], rtol=1e-5, atol=1e-6)


def test_what_a_body_reads_from_outside_is_an_input() -> None:
    s = Sketch()
    x = s.input([3])
    inner = Sketch()
    inner.output(inner.op("Add", x, inner.const([1.0, 1.0, 1.0])))
    body = inner.model().graph
    del body.input[:]
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    assert list(reads(node)) == ["c", x, x]


def test_a_tensor_of_no_known_type_is_no_place_to_cut() -> None:
    s = Sketch()
    y = s.op("Relu", s.op("Mystery", s.input([2])))
    s.output(y)
    graph = onnx.helper.make_graph(s.nodes, "g", s.inputs, s.outputs)
    parts = Parts(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]))
    assert parts.part([1]) is None
    assert parts.part([]) is None
    whole = parts.part([0, 1])
    assert whole is None or [v.name for v in whole.graph.output] == [y]


@pytest.mark.parametrize("numbers", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_outputs_are_what_is_read_outside_or_by_nobody(numbers: list[int]) -> None:
    s = Sketch()
    x = s.input([2])
    a = s.op("Abs", x)
    b = s.op("Neg", a)
    c = s.op("Exp", a)
    s.output(b, c)
    s.outputs[:] = [onnx.helper.make_tensor_value_info(name, 1, [2]) for name in (b, c)]
    cut = Parts(s.model()).part(numbers)
    assert cut is not None
    wanted = {(0,): [a], (1,): [b], (2,): [c], (0, 2): [a, c], (0, 1, 2): [b, c]}[tuple(numbers)]
    assert [v.name for v in cut.graph.output] == wanted
    assert [v.name for v in cut.graph.input] == ([x] if 0 in numbers else [a])


def test_a_node_that_is_bypassed_hands_on_what_it_read() -> None:
    s = Sketch()
    x = s.input([2])
    weight = s.const([1.0, 2.0])
    a = s.op("Mul", s.op("Abs", x), weight)
    s.output(s.op("Exp", a))
    model = s.model()
    cut = bypassed(model, 1, model.graph.node[1].input[0])
    assert cut is not None
    first = model.graph.node[0].output[0]
    assert [(n.op_type, list(n.input)) for n in cut.graph.node] == [("Abs", [x]), ("Exp", [first])]
    assert len(cut.graph.initializer) == 0
    assert bypassed(model, 2, a) is None  # the model's output
