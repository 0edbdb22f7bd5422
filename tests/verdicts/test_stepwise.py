"""Exactness tensor by tensor: blind to amplified rounding, not to a wrong operator."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from sketch import Sketch

import hwpass
from hwpass.data.proof_inputs import proof_feeds
from hwpass.manager import PassManager
from hwpass.runtime.inputs import input_specs
from hwpass.verdicts import proof_sides
from hwpass.verdicts.proof import _unless_renewed
from hwpass.verdicts.proof_sides import AsGiven, InMemory
from hwpass.verdicts.tensorwise import in_front, stepwise
from hwpass.workflows.steps import PREPARE


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


def test_tensors_that_a_pass_renewed_are_not_taken_for_those_of_the_file() -> None:
    """A turned stream has other values under the names of the file; all that it is read by is the same."""
    path = Path(__file__).parents[2] / "fixtures" / "vit.onnx"
    loaded = hwpass.load(path)
    prepared = PassManager(PREPARE).run(loaded)
    assert prepared.renewed
    assert prepared.copy().renewed == prepared.renewed
    given = AsGiven("the file", path, 1)
    (feed,) = proof_feeds(path, input_specs(loaded.interface()), draws=1)
    naive = stepwise(given, prepared, feed, lambda name, value: value)
    assert not naive.passed
    assert naive.tensor in prepared.renewed
    found = stepwise(given, prepared, feed, partial(_unless_renewed, prepared.renewed))
    assert found.passed, found.where
    assert not found.compared & prepared.renewed
    assert len(found.compared) > 20  # heads are turned too, and what carries them


@pytest.mark.parametrize("given", ["path", "bytes"])
def test_inner_tensors_come_from_weights_that_were_put_aside_once(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parents[2] / "fixtures" / "cnn.onnx"
    model = path if given == "path" else path.read_bytes()
    (feed,) = proof_feeds(path, input_specs(hwpass.load(path).interface()), draws=1)
    inside = AsGiven("the file", model, 1)
    names = inside.names()
    wanted = [inside.tensors(part, feed) for part in (names[:3], names[3:])]
    monkeypatch.setattr(proof_sides, "IN_MEMORY_BYTES", 0)
    apart = AsGiven("the file", model, 1)
    first = apart.tensors(names[:3], feed)
    assert apart._apart is not None
    folder = apart._apart.path.parent
    monkeypatch.setattr(proof_sides, "_proto", lambda model: pytest.fail("read again"))
    found = [first, apart.tensors(names[3:], feed)]
    for left, right in zip(wanted, found, strict=True):
        assert list(left) == list(right)
        for name, value in left.items():
            np.testing.assert_array_equal(right[name], value)
    del apart
    assert not folder.exists()


def _with_branch(whole: bool, shift: float = 1.5) -> hwpass.Model:
    """x + (0 relu(x) + shift + 0.5): as it is, or with what the branch comes down to, a constant of fewer extents."""
    s = Sketch()
    x = s.input([2, 3, 4], "x")
    constant = s.const(np.full((1, 1, 4), shift), stem="branch")
    inner = s.op("Add", s.op("Mul", s.op("Relu", x), s.const(0.0)), constant) if whole else constant
    s._names = 20
    s.output(s.op("Relu", s.op("Add", x, s.op("Add", inner, s.const([0.5])))))
    return hwpass.load(s.model())


def test_a_branch_that_is_a_constant_may_have_fewer_extents() -> None:
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    side = InMemory("with the branch", lambda: _with_branch(True), 1)
    found = stepwise(side, _with_branch(False), feed, _same)
    assert found.passed
    assert len(found.compared) == 2
    wrong = stepwise(side, _with_branch(False, shift=1.6), feed, _same)
    assert not wrong.passed
