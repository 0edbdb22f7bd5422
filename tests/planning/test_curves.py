"""The surgeon's curve against brute force: refit after every removal."""

from __future__ import annotations

import numpy as np
import pytest

from hwpass.planning.loss_curves import LEFT, _eliminate, _inverse, _View


def _problem(seed: int, channels: int = 6, outputs: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((channels, channels))
    return mix @ mix.T + 0.1 * np.eye(channels), rng.standard_normal((channels, outputs))


def _best_error(covariance: np.ndarray, weights: np.ndarray, left: list[int]) -> float:
    """min over W' of E |x W - x_left W'|^2, from the normal equations."""
    if not left:
        return float(np.trace(weights.T @ covariance @ weights))
    cross = covariance[left] @ weights
    refit = np.linalg.solve(covariance[np.ix_(left, left)], cross)
    return float(np.trace(weights.T @ covariance @ weights) - np.trace(cross.T @ refit))


def _loss(covariance: np.ndarray, weights: np.ndarray, left: list[int]) -> float:
    """-log of the share of the variance that is left."""
    share = 1 - _best_error(covariance, weights, left) / _best_error(covariance, weights, [])
    return -float(np.log(max(share, LEFT)))


def _view(covariance: np.ndarray, weights: np.ndarray, units: np.ndarray, sensitivity: float = 1.0) -> _View:
    energy = _best_error(covariance, weights, [])
    return _View(np.linalg.inv(covariance), weights @ weights.T, units, energy, sensitivity)


@pytest.mark.parametrize("seed", range(5))
def test_curve_is_the_error_after_the_best_refit(seed: int) -> None:
    covariance, weights = _problem(seed)
    curve, order = _eliminate([_view(covariance, weights, np.arange(6))], 6)
    for removed in range(7):
        left = [c for c in range(6) if order[c] > removed]
        assert curve[removed] == pytest.approx(_loss(covariance, weights, left), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_first_removal_is_the_cheapest(seed: int) -> None:
    covariance, weights = _problem(seed)
    curve, order = _eliminate([_view(covariance, weights, np.arange(6))], 6)
    single = [_loss(covariance, weights, [c for c in range(6) if c != gone]) for gone in range(6)]
    assert int(np.argmin(single)) == int(np.argmin(order))
    assert curve[1] == pytest.approx(min(single))


def test_a_unit_of_several_indices_goes_as_one() -> None:
    covariance, weights = _problem(7)
    curve, order = _eliminate([_view(covariance, weights, np.asarray([0, 0, 1, 1, 2, 2]))], 3)
    first = int(np.argmin(order))
    left = [i for i in range(6) if i // 2 != first]
    assert curve[1] == pytest.approx(_loss(covariance, weights, left))


def test_consumers_add_by_their_sensitivity() -> None:
    covariance, weights = _problem(8)
    once, _ = _eliminate([_view(covariance, weights, np.arange(6), 3.0)], 6)
    twice, _ = _eliminate([_view(covariance, weights, np.arange(6)), _view(covariance, weights, np.arange(6), 2.0)], 6)
    np.testing.assert_allclose(once, twice, rtol=1e-9)


@pytest.mark.parametrize("definite", [True, False])
def test_the_inverse_of_a_symmetric_matrix_whether_rounding_left_it_definite_or_not(definite: bool) -> None:
    rows = np.random.default_rng(0).standard_normal((30, 60))
    matrix = rows @ rows.T if definite else rows[:, :30] + rows[:, :30].T
    np.testing.assert_allclose(_inverse(matrix.copy()), np.linalg.inv(matrix), rtol=1e-6, atol=1e-9)
