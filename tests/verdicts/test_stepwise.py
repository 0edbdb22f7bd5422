"""Exactness tensor by tensor: blind to amplified rounding, not to a wrong operator."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import hwpass
from hwpass.verdicts.proof_sides import InMemory
from hwpass.verdicts.tensorwise import in_front, stepwise


def _chain(scale: float, depth: int = 6, bump: float = 0.0) -> hwpass.Model:
    """x -> sin(scale x + bump at the third) -> ..: chaotic for a large scale."""
    nodes, name = [], "x"
    constants = [numpy_helper.from_array(np.asarray(scale, np.float32), "scale")]
    for i in range(depth):
        shift = numpy_helper.from_array(np.asarray(0.1 + (bump if i == 2 else 0.0), np.float32), f"shift{i}")
        constants.append(shift)
        nodes += [
            helper.make_node("Mul", [name, "scale"], [f"m{i}"]),
            helper.make_node("Add", [f"m{i}", f"shift{i}"], [f"a{i}"]),
            helper.make_node("Sin", [f"a{i}"], [f"s{i}"]),
        ]
        name = f"s{i}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])],
        constants,
    )
    return hwpass.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


FEED = {"x": np.asarray([0.3, -0.2, 0.7, 0.1], np.float32)}


def _side(scale: float) -> InMemory:
    return InMemory("the chain", lambda: _chain(scale), 1)


def _same(name: str, value: np.ndarray) -> np.ndarray:
    return value


def test_equal_models_agree_everywhere() -> None:
    found = stepwise(_side(30.0), _chain(30.0), FEED, _same)
    assert found.max_rel == 0
    assert len(found.compared) == 18
    assert found.passed
    assert in_front(_chain(30.0), "s5", found.varying)
    assert not in_front(_chain(30.0), "s5", set())


def test_names_the_operator_that_differs_and_no_later_one() -> None:
    found = stepwise(_side(30.0), _chain(30.0, bump=0.5), FEED, _same)
    assert found.tensor in ("a2", "s2")
    assert found.max_rel > 1e-2


def test_a_tensor_of_another_shape_is_a_problem() -> None:
    def halves(name: str, value: np.ndarray) -> np.ndarray:
        return value[:2] if name == "s1" else value

    found = stepwise(_side(2.0), _chain(2.0), FEED, halves)
    assert found.problem is not None or found.max_rel > 0
