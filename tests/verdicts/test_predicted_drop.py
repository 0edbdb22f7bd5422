"""The drop of accuracy that is predicted without labels, against accuracy on labels drawn as the original believes."""

from __future__ import annotations

import numpy as np
import pytest

from hwpass.verdicts.fidelity import fidelity_of
from hwpass.verdicts.predicted_drop import Choices, PredictedDrop
from hwpass.verdicts.tolerances import parse_fidelity


def predicted(wanted: np.ndarray, given: np.ndarray, axis: int = -1) -> PredictedDrop | None:
    choices = Choices()
    for start in range(0, len(wanted), 50):
        part = slice(start, start + 50)
        choices.add(wanted[part], given[part], axis % wanted.ndim)
    return choices.result()


def softmax(logits: np.ndarray) -> np.ndarray:
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(scores / scores.sum(-1, keepdims=True))


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0, 8.0])
def test_the_interval_holds_where_the_original_is_calibrated(noise: float) -> None:
    """128 samples of 20,000: nine tenths of the intervals and more hold the drop on labels that nobody gave."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (20000, 10))
    worse = logits + noise * rng.normal(size=logits.shape)
    labels = np.asarray([rng.choice(10, p=p) for p in softmax(logits)])
    drop = float((logits.argmax(1) == labels).mean() - (worse.argmax(1) == labels).mean())
    held, expected = 0, []
    for start in range(0, 20000, 128):
        found = predicted(logits[start : start + 128], worse[start : start + 128])
        if len(logits[start : start + 128]) == 128:
            assert found is not None
            assert found.low <= found.expected <= found.high
            held += found.low - 1e-9 <= drop <= found.high
            expected.append(found.expected)
    assert held >= 0.9 * len(expected)
    assert abs(np.mean(expected) - drop) < 0.015


def test_probabilities_say_what_logits_say() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 3, (200, 7))
    worse = logits + rng.normal(size=logits.shape)
    by_logits, by_shares = predicted(logits, worse), predicted(softmax(logits), softmax(worse))
    assert by_logits is not None
    assert by_shares is not None
    assert by_shares.expected == pytest.approx(by_logits.expected, rel=1e-6)


def test_maps_count_samples_and_not_pixels() -> None:
    """A thousand pixels of one image are one sample: the interval of 20 images stays wide."""
    rng = np.random.default_rng(7)
    maps = rng.normal(0, 3, (20, 5, 16, 16))
    worse = np.where(np.arange(20)[:, None, None, None] < 4, -maps, maps)
    found = predicted(maps, worse, axis=1)
    assert found is not None
    assert found.samples == 20
    assert found.high - found.expected > 0.05


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (np.random.default_rng(0).normal(0, 0.01, (64, 32)), "a flat embedding tells no classes apart"),
        (np.tile([[9.0, 0.0]], (64, 1)), "always the same class"),
        (np.random.default_rng(0).uniform(0, 1, (64, 6)), "sigmoids are no distribution"),
        (np.random.default_rng(0).normal(0, 3, (15, 6)), "too few samples"),
        (np.full((64, 6), np.nan), "not finite"),
    ],
)  # fmt: skip
def test_no_prediction(wanted: np.ndarray, why: str) -> None:
    assert predicted(wanted, np.roll(wanted, 1, axis=0)) is None, why


def test_a_large_drop_is_alarming_and_a_tolerance_may_ask_for_a_small_one() -> None:
    rng = np.random.default_rng(1)
    wanted = 3 * np.eye(8)[rng.integers(0, 8, 400)] + rng.normal(0, 0.3, (400, 8))
    found = wanted.copy()
    found[:80] = -found[:80]  # one in five chooses among other classes
    verdict = fidelity_of([{"y": wanted}], [{"y": found}], on="given")
    assert verdict.alarming
    assert "points of accuracy" in verdict.note
    assert fidelity_of([{"y": wanted}], [{"y": found}], [parse_fidelity("drop<=0.02")], on="given").state == "failed"
    same = fidelity_of([{"y": wanted}], [{"y": wanted}], [parse_fidelity("drop<=0.02")], on="given")
    assert same.state == "passed"
    assert set(same.outputs["y"].reported()) >= {"drop", "drop_low", "drop_high"}
    # On random inputs nothing is predicted, so that nothing can be met.
    assert fidelity_of([{"y": wanted}], [{"y": wanted}], [parse_fidelity("drop<=0.02")]).state == "failed"
