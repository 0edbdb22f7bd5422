"""Ridge towards the weights there are, judged on held-out rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwpass.data.row_table import RowTable
from hwpass.surgery import fit_rows, ridge
from hwpass.surgery.fit_rows import Clipping
from hwpass.surgery.least_squares import Fit
from hwpass.surgery.least_squares import fit as fit_tables


def fit(x: np.ndarray, target: np.ndarray, *rest: Any, offset: np.ndarray | None = None, **options: Any) -> Fit:
    table = None if offset is None else RowTable([offset])
    return fit_tables(RowTable([x]), RowTable([target]), *rest, offset=table, **options)


def _rows(rng: np.random.Generator, rows: int, inputs: int) -> np.ndarray:
    return rng.standard_normal((rows, inputs)).astype(np.float32)


def test_recovers_the_weights_that_made_the_target() -> None:
    rng = np.random.default_rng(0)
    x = _rows(rng, 400, 5)
    truth, bias = rng.standard_normal((5, 3)), rng.standard_normal(3)
    target = (x @ truth + bias).astype(np.float32)
    found = fit(x, target, np.zeros((5, 3)), np.zeros(3), 80, has_bias=True)
    np.testing.assert_allclose(found.weights, truth, atol=1e-2)
    np.testing.assert_allclose(found.bias, bias, atol=1e-2)
    assert found.after < 1e-5 < found.before


def test_a_dropped_input_is_taken_over_by_a_correlated_one() -> None:
    # y = 2 a with a = b + noise; without a, the best weight on b is 2; left is the noise, 0.04 of 4.04.
    rng = np.random.default_rng(1)
    b = _rows(rng, 4000, 1)
    a = b + 0.1 * _rows(rng, 4000, 1)
    found = fit(b, 2 * a, np.zeros((1, 1)), np.zeros(1), 800, has_bias=True)
    assert found.weights[0, 0] == pytest.approx(2, abs=0.05)
    assert found.after == pytest.approx(0.01 / 1.01, rel=0.2)


def test_never_worse_on_held_out_rows() -> None:
    # More unknowns than rows: an unregularised fit would be far off on rows it has not seen.
    rng = np.random.default_rng(2)
    x, weights = _rows(rng, 30, 60), rng.standard_normal((60, 2))
    target = (x @ weights).astype(np.float32) + rng.standard_normal((30, 2)).astype(np.float32)
    found = fit(x, target, weights, np.zeros(2), 10, has_bias=False)
    assert found.after <= found.before


def test_keeps_the_bias_where_there_is_none_to_change() -> None:
    rng = np.random.default_rng(3)
    x = _rows(rng, 200, 2)
    target = (x @ np.ones((2, 1)) + 3).astype(np.float32)
    found = fit(x, target, np.zeros((2, 1)), np.zeros(1), 40, has_bias=False)
    np.testing.assert_array_equal(found.bias, np.zeros(1))


def test_what_the_activation_clips_does_not_count() -> None:
    # Only max(t, 0) is read. A linear fit of t itself spends its one weight on the negative side, which nobody sees.
    rng = np.random.default_rng(4)
    x = _rows(rng, 2000, 1)
    target = np.where(x > 0, x, -5 * np.abs(x)).astype(np.float32)
    plain = fit(x, target, np.zeros((1, 1)), np.zeros(1), 400, has_bias=True)
    clipped = fit(x, target, np.zeros((1, 1)), np.zeros(1), 400, has_bias=True, clipping=Clipping(low=0.0))

    def seen(found: Fit) -> float:
        return float(np.square(np.maximum(x @ found.weights + found.bias, 0) - np.maximum(x, 0)).mean())

    assert seen(clipped) < 0.6 * seen(plain)


def test_a_residual_stream_counts_before_the_clip() -> None:
    # clip(y + 10): the offset lifts every sum above zero, so nothing is clipped and the fit is the plain one.
    rng = np.random.default_rng(5)
    x = _rows(rng, 500, 3)
    target = (x @ rng.standard_normal((3, 2))).astype(np.float32)
    offset = np.full((500, 2), 100.0, np.float32)
    lifted = fit(x, target, np.zeros((3, 2)), np.zeros(2), 100, has_bias=True, clipping=Clipping(0.0), offset=offset)
    plain = fit(x, target, np.zeros((3, 2)), np.zeros(2), 100, has_bias=True)
    np.testing.assert_allclose(lifted.weights, plain.weights, rtol=1e-3)


@pytest.mark.parametrize(
    ("best", "tried"),
    [(1e-4, [1e-2, 1e-3, 1e-4]), (1e-2, [1e-2, 1e-3, 1e-1]), (1e-1, [1e-2, 1e-3, 1e-1, 1.0])],
)
def test_lambdas_are_tried_from_the_middle_on(best: float, tried: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that fall towards the best one and rise behind it: what lies on the other side is not tried."""
    seen: list[float] = []

    def solver(problem: Any, strength: np.ndarray) -> Any:
        seen.append(float(strength[0]))
        distance = abs(np.log10(strength[0] / best))
        return lambda wanted: (np.full((1, 2, 1), distance, np.float32), np.zeros((1, 1)))

    monkeypatch.setattr(ridge.ManyRows, "solver", solver)
    x = _rows(np.random.default_rng(0), 40, 2)
    # The error of weights w is w^2: the nearer to the best lambda, the less.
    found = fit(x, np.zeros((40, 1), np.float32), np.full((2, 1), 9.0), np.zeros(1), 20, has_bias=False)
    assert seen == pytest.approx(tried)
    assert found.weights == pytest.approx(0, abs=1e-6)


def test_a_layer_that_lost_nothing_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def solver(*_: Any) -> Any:
        pytest.fail("a system was solved")

    monkeypatch.setattr(ridge.ManyRows, "solver", solver)
    rng = np.random.default_rng(0)
    x, weights = _rows(rng, 100, 4), rng.standard_normal((4, 3)).astype(np.float32)
    found = fit(x, x @ weights, weights, np.zeros(3), 20, has_bias=True)
    np.testing.assert_array_equal(found.weights, weights)


@pytest.mark.parametrize("bytes_laid_out", [0, 1 << 26])
def test_products_side_by_side_are_fitted_each(bytes_laid_out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However their rows lie."""
    monkeypatch.setattr(fit_rows, "LAID_OUT", bytes_laid_out)
    rng = np.random.default_rng(0)
    x, truth = rng.standard_normal((500, 3, 4)).astype(np.float32), rng.standard_normal((3, 4, 2))
    target = np.einsum("rgd,gdn->rgn", x, truth).astype(np.float32)
    found = fit(x, target, 0.5 * truth, np.zeros((3, 2)), 100, has_bias=True)
    np.testing.assert_allclose(found.weights, truth, atol=1e-3)


def _ridge(x: np.ndarray, t: np.ndarray, weights: np.ndarray, bias: np.ndarray | None, strength: float) -> np.ndarray:
    """Of rows [r, d] and [r, n], by the textbook, in double precision."""
    x, t = x.astype(np.float64), t.astype(np.float64)
    x, t = (x - x.mean(axis=0), t - t.mean(axis=0)) if bias is None else (x, t - bias)
    power = np.square(x).sum(axis=0)
    penalty = strength * np.diag(np.maximum(power, power.max() * 1e-9 + 1e-30))
    return np.asarray(np.linalg.solve(x.T @ x + penalty, x.T @ t + penalty @ weights))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(4, 40),
    inputs=st.integers(1, 50),
    groups=st.integers(1, 3),
    has_bias=st.booleans(),
    low=st.sampled_from([-np.inf, 0.0]),
    strength=st.sampled_from([1e-3, 1e-1, 1.0]),
    seed=st.integers(0, 999),
    make=st.sampled_from([ridge.ManyRows, ridge.FewRows]),
)
def test_both_ways_come_to_the_textbook_solution(
    rows: int, inputs: int, groups: int, has_bias: bool, low: float, strength: float, seed: int, make: Any
) -> None:
    """Whichever there is less of, and whatever the targets are: those given, and the least demanding ones."""
    rng = np.random.default_rng(seed)
    x = (1 + rng.standard_normal((rows + 5, groups, inputs)) * rng.uniform(0.5, 10, inputs)).astype(np.float32)
    target = rng.standard_normal((rows + 5, groups, 3)).astype(np.float32)
    weights = rng.standard_normal((groups, inputs, 3)).astype(np.float32)
    bias = rng.standard_normal((groups, 3))
    problem = make(RowTable([x]), RowTable([target]), None, weights, bias, 5, has_bias, Clipping(low))
    solve = problem.solver(np.full(groups, strength))
    first = solve(problem.targets())
    wanted = target
    for found in (first, solve(problem.targets(first))):
        for g in range(groups):
            t = wanted[:rows, g]
            best = _ridge(x[:rows, g], t, weights[g], None if has_bias else bias[g], strength)
            close = 1e-3 * np.abs(best).max()
            np.testing.assert_allclose(found[0][g], best, atol=close)
            if has_bias:
                given = (t - x[:rows, g] @ best).mean(axis=0)
                np.testing.assert_allclose(found[1][g], given, atol=close * inputs)
        now = np.einsum("rgd,gdn->rgn", x, first[0]) + first[1]
        wanted = np.where(target <= low, np.minimum(now, low), target)


def test_products_of_many_inputs_and_few_rows_need_no_matrix_of_all_inputs() -> None:
    rng = np.random.default_rng(0)
    x, truth = _rows(rng, 40, 30_000), rng.standard_normal((30_000, 2)).astype(np.float32)
    found = fit(x, x @ truth, 0.5 * truth, np.zeros(2), 8, has_bias=True)
    assert found.after < found.before
