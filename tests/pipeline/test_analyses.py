"""Analyses of a run are computed once, found again while they are true, and computed anew when they are not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from graphs import build, programs
from hypothesis import given
from sketch import Sketch

import hwpass
from hwpass.context import Context
from hwpass.cost_models import load_target
from hwpass.coupling import groups
from hwpass.coupling.factors import decide
from hwpass.coupling.groups import couple
from hwpass.coupling.walk import Builder
from hwpass.manager import Pass, PassManager, PassResult
from hwpass.model.model import Model
from hwpass.ops.axes import Ids
from hwpass.planning.analyses import base_cost, coupled, walked
from hwpass.reporting.schema_of_passes import TimedPart

FIXTURES = Path(__file__).parents[2] / "fixtures"


def small() -> Model:
    s = Sketch()
    x = s.op("Relu", s.op("Conv", s.input(["N", 3, 6, 6]), s.weight(4, 3, 3, 3)))
    s.output(s.op("Conv", x, s.weight(5, 4, 1, 1)))
    return Model.load(s.model())


def same(one: groups.Coupling, other: groups.Coupling) -> bool:
    return np.array_equal(one.component, other.component) and [
        (g.name, g.layers, g.components.tolist()) for g in one.groups
    ] == [(g.name, g.layers, g.components.tolist()) for g in other.groups]


def test_a_coupling_is_found_again_until_the_graph_changes() -> None:
    model, context = small(), Context()
    first = coupled(model, context)
    assert coupled(model, context) is coupled(model.copy(), context) is first
    assert walked(model, context) is first
    assert context.analyses.computed == {"coupling": 1, "shapes": 1}
    model.graph.nodes[1].op, model.graph.nodes[1].attrs = "Softmax", {"axis": 1}
    second = coupled(model, context)
    assert second is not first
    assert same(second, couple(model))
    assert not same(second, first)


def test_one_whose_graph_was_edited_since_serves_no_copy() -> None:
    model, context = small(), Context()
    copy = model.copy()
    first = coupled(model, context)
    model.graph.nodes[1].op = "Softmax"
    assert coupled(copy, context) is not first


def test_one_that_is_to_be_edited_by_is_of_that_very_graph() -> None:
    model, context = small(), Context()
    first = coupled(model, context)
    copy = model.copy()
    second = coupled(copy, context, own=True)
    assert second is not first
    assert [node.gs for node in second.nodes] == list(copy.walk())
    assert same(first, second)
    assert context.analyses.computed == {"coupling": 1, "shapes": 2}, "it is walked again, and not solved"


def test_other_weights_have_the_same_relations() -> None:
    model, context = small(), Context()
    first = coupled(model, context)
    node = model.graph.nodes[0]
    node.inputs[1] = gs.Constant(node.inputs[1].name, 2 * node.inputs[1].values)
    second = coupled(model, context)
    assert second is not first
    value = second.nodes[0].value(1)
    assert value is not None
    assert np.array_equal(value, node.inputs[1].values)
    assert same(second, couple(model))
    assert context.analyses.computed["coupling"] == 1


@given(programs())
def test_a_solution_that_serves_again_is_what_solving_gives(program: Any) -> None:
    model, context = Model.load(build(program)), Context()
    first = coupled(model, context)
    second = coupled(model.copy(), context, own=True)
    third = couple(model.copy())
    assert context.analyses.computed["coupling"] == 1
    assert same(first, second)
    assert same(second, third)
    for one, other in ((second.build.left, third.build.left), (second.build.right, third.build.right)):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert second.build.origin == third.build.origin


@dataclass(frozen=True)
class Tune(Pass):
    """Doubles the first weights."""

    name = "tune-for-a-test"
    effect = "any"

    def run(self, model: Model, context: Context) -> PassResult:
        node = model.graph.nodes[0]
        node.inputs[1] = gs.Constant(node.inputs[1].name, 2 * node.inputs[1].values)
        return PassResult(model, True)


class Keeps(Tune):
    preserves = ("shapes", "coupling", "cost")


def test_costs_go_over_to_a_model_where_a_pass_preserves_them() -> None:
    target = load_target("mobile-cpu")
    for cls, computed in ((Tune, 2), (Keeps, 1)):
        context = Context(target=target)
        model = small()
        context.bind(model)
        before = base_cost(model, target, context)
        after = base_cost(PassManager([cls()]).run(model, context, further=True), target, context)
        assert before == after
        assert context.analyses.computed["cost"] == computed


def test_a_coupling_that_is_preserved_has_the_new_weights() -> None:
    context, model = Context(), small()
    context.bind(model)
    coupled(model, context)
    result = PassManager([Keeps()]).run(model, context, further=True)
    value = coupled(result, context).nodes[0].value(1)
    assert value is not None
    assert np.array_equal(value, result.graph.nodes[0].inputs[1].values)
    assert context.analyses.computed["coupling"] == 1


def parts(found: list[TimedPart]) -> Counter[str]:
    """How often each part of a run was done, at any depth."""
    total: Counter[str] = Counter()
    for part in found:
        total[part.name] += part.count
        total += parts(part.parts)
    return total


@pytest.mark.parametrize("name", ["cnn", "densenet", "mobilenet", "resnet_se", "vit"])
def test_a_run_with_data_solves_the_coupling_at_most_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[int] = []

    def counted(build: Builder, inner: Ids) -> Ids:
        solved.append(1)
        return decide(build, inner)

    monkeypatch.setattr(groups, "decide", counted)
    result = hwpass.run(
        FIXTURES / f"{name}.onnx", "mobile-cpu", macs=0.7, calib=FIXTURES / "calib.npz", effort="quick", score="l2"
    )
    assert 1 <= len(solved) <= 2
    timed = sum((parts(record.parts) for record in result.report.passes), Counter[str]())
    assert timed["coupling"] == len(solved)
    assert timed["coupling, kept from before"] >= 1
