"""A budget met by several means together: the mix that loses least is kept, and every part is one of the mixes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hwpass
from hwpass.errors import BudgetError, UsageError
from hwpass.workflows.job import Result
from hwpass.workflows.mixes import chosen_means

FIXTURES = Path(__file__).parents[2] / "fixtures"


def mixed(latency: float, also: Any, **more: Any) -> Result:
    return hwpass.run(
        FIXTURES / "cnn.onnx", "server-cpu", latency=latency, also=also, calib=FIXTURES / "calib.npz", distill="off",
        effort="quick", **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def together() -> Result:
    return mixed(0.4, ["factorize"])


def test_the_budget_is_met_and_every_set_of_means_was_tried(together: Result) -> None:
    tried: Any = together.report.notes["allocation"]
    assert {frozenset(word for word in name.split() if word.isalpha()) for name in tried} == {
        frozenset({"prune"}), frozenset({"factorize"}), frozenset({"prune", "factorize"}),
    }  # fmt: skip
    assert together.report.ratio.latency is not None
    assert together.report.ratio.latency <= 0.4 * (1 + 1e-9)


def test_what_loses_least_within_the_budget_is_chosen(together: Result) -> None:
    tried: Any = together.report.notes["allocation"]
    chosen = [own for own in tried.values() if own["chosen"]]
    assert len(chosen) == 1
    met = [own for own in tried.values() if own["of the budget"] <= 1]
    lost = min((own["relative L2 error"], own["predicted drop"]) for own in met)
    assert (chosen[0]["relative L2 error"], chosen[0]["predicted drop"]) == lost


def test_it_is_proved(together: Result) -> None:
    exactness = together.report.verdicts.exactness
    assert exactness is not None
    assert exactness.passed


def test_a_budget_that_no_mix_meets() -> None:
    with pytest.raises(BudgetError, match=r"no mix of prune, factorize meets the budget: the nearest takes \d"):
        mixed(0.001, ["factorize"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"also": ["prun"], "latency": 0.5}, "also='prun': choose factorize or quantize"),
        ({"also": "quantize", "channels": 0.5}, "channels sets every width itself and conflicts with also"),
        ({"also": "quantize", "metric": "m:f", "max_drop": 0.1}, "also needs a budget"),
    ],
)
def test_what_makes_no_sense_is_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        hwpass.run(FIXTURES / "cnn.onnx", "server-cpu", **asked)


def test_means_are_in_the_order_of_a_pipeline() -> None:
    assert chosen_means(["quantize", "factorize"]) == ("prune", "factorize", "quantize")
