"""Analyses are made once, and again only when a pass changed the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import hwpass
from hwpass.context import Context
from hwpass.coupling import groups
from hwpass.coupling.groups import coupled_once
from hwpass.coupling.walk import Builder, analyse
from hwpass.errors import VerdictError
from hwpass.manager import Pass, PassManager, PassResult
from hwpass.model.model import Model
from hwpass.runtime.analyses import Analyses

FIXTURES = Path(__file__).parents[2] / "fixtures"


def test_one_model_at_a_time() -> None:
    kept, one, other = Analyses(), object(), object()
    assert [kept.of(one, "a", key, lambda: len(kept.made)) for key in (1, 1, 2)] == [0, 0, 1]
    assert kept.of(other, "a", 1, lambda: "new") == "new"
    assert kept.of(one, "a", 1, lambda: "again") == "again"
    kept.of(one, "b", 1, lambda: "b")
    kept.forget(frozenset({"b"}))
    assert kept.of(one, "a", 1, lambda: "third") == "third"
    assert kept.of(one, "b", 1, lambda: "never") == "b"
    assert kept.made == {"a": 5, "b": 1}
    assert kept.used_again == {"a": 1, "b": 1}


@dataclass(frozen=True)
class Does(Pass):
    """What a test says."""

    name = "does"

    def run(self, model: Model, context: Context) -> PassResult:
        return ACTION[0](model, context)


ACTION: list[Callable[[Model, Context], PassResult]] = []


@pytest.fixture
def model() -> Model:
    return Model.load(FIXTURES / "compact" / "gru.onnx")


def told(model: Model, context: Context, modified: bool) -> PassResult:
    coupled_once(model, {}, context.analyses)
    return PassResult(model, modified)


@pytest.mark.parametrize(("modified", "times"), [(False, 1), (True, 2)])
def test_what_a_pass_leaves_as_it_was_is_known_already(model: Model, modified: bool, times: int) -> None:
    ACTION[:] = [lambda m, context: told(m, context, modified)]
    context = Context()
    PassManager([Does(), Does()]).run(model, context)
    assert context.analyses.made["coupling"] == times


def test_a_pass_that_edits_in_place_has_to_say_so(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def edit(model: Model, context: Context) -> PassResult:
        model.graph.nodes.pop()
        return PassResult(model, False)

    ACTION[:] = [edit]
    monkeypatch.setattr(Does, "in_place", False)
    with pytest.raises(VerdictError, match="pass does says that it edits no model in place, and did"):
        PassManager([Does()]).run(model)


@pytest.mark.parametrize("network", ["cnn", "densenet"])
def test_a_usual_run_solves_the_coupling_at_most_twice(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the model as it was prepared, once for what stands halfway to the budget."""
    solved = []

    def counted(*given: Any) -> Builder:
        solved.append(given)
        return analyse(*given)

    monkeypatch.setattr(groups, "analyse", counted)
    given: dict[str, Any] = {"calib": FIXTURES / "calib.npz", "effort": "quick", "distill": "off"}
    hwpass.run(FIXTURES / f"{network}.onnx", "server-cpu", latency=0.5, **given)
    assert 1 <= len(solved) <= 2
