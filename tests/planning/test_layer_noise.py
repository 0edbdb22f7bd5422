"""Noise like what layers give: its power, its covariance, and where it has to be white."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwpass.planning import layer_noise
from hwpass.planning.layer_noise import LayerNoise


def _noise(feeds: list[np.ndarray], samples: list[int] | None = None) -> LayerNoise:
    found = LayerNoise(["y"])
    for number, value in enumerate(feeds):
        found.add(samples[number] if samples else len(value), {"y": value})
    return found


@settings(deadline=None, max_examples=60)
@given(
    feeds=st.integers(1, 5),
    batch=st.integers(1, 4),
    shape=st.lists(st.integers(1, 5), min_size=0, max_size=3),
    widths=st.booleans(),
    seed=st.integers(0, 99),
)
def test_of_any_extents_it_has_the_shape_and_is_finite(
    feeds: int, batch: int, shape: list[int], widths: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = []
    for number in range(feeds):
        own = [*shape[:-1], shape[-1] + number] if widths and shape else shape
        values.append(rng.standard_normal((batch, *own)).astype(np.float16))
    noise = _noise(values)
    for number, value in enumerate(values):
        found = noise.of("y", number)
        assert found.shape == value.shape
        assert found.dtype == np.float32
        assert np.isfinite(found).all()
    assert np.array_equal(found, [*map(_noise(values).of, ["y"] * feeds, range(feeds))][-1])


def test_its_power_is_one_and_its_part_follows_the_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that does not vary gets white noise alone; one that does, as much more as it varies more."""
    rng = np.random.default_rng(0)
    scales = np.asarray([0.0, 1.0, 3.0], np.float32)
    noise = _noise([5 + rng.standard_normal((4, 900, 3)).astype(np.float32) * scales for _ in range(8)])
    found = np.concatenate([noise.of("y", number) for number in range(8)]).reshape(-1, 3)
    like = layer_noise.LIKE
    expected = (1 - like) + like * np.square(scales) / np.square(scales).mean()
    assert np.square(found).mean(axis=0) == pytest.approx(expected, rel=0.05)
    assert np.square(found).mean() == pytest.approx(1.0, rel=0.05)


def test_neighbours_get_like_noise_where_what_a_layer_gives_is_alike() -> None:
    rng = np.random.default_rng(0)
    flat = _noise([np.repeat(rng.standard_normal((4, 1, 50)), 100, axis=1).astype(np.float32) for _ in range(8)])
    found = np.concatenate([flat.of("y", number) for number in range(8)])
    assert np.square(found.mean(axis=1)).mean() == pytest.approx(
        layer_noise.LIKE + (1 - layer_noise.LIKE) / 100, rel=0.2
    )


@pytest.mark.parametrize("feeds", [[np.ones((2, 40))], [np.ones((5, 40))], [np.full((5, 40), np.inf)], [np.float32(3)]])
def test_it_is_white_where_samples_are_too_few_or_tell_nothing(feeds: list[np.ndarray]) -> None:
    found = _noise([np.asarray(v, np.float32) for v in feeds], [2]).of("y", 0)
    assert np.array_equal(found, np.random.default_rng(0).standard_normal(found.shape, np.float32))


def test_samples_that_share_an_axis_with_something_else_are_told_apart() -> None:
    """[samples x 10, channels]: the entries of a sample go together, so that noise is no difference within one."""
    steps = np.repeat(np.asarray([1.0, 2.0, 4.0]), 10)[:, None] * np.ones((30, 8))
    found = _noise([steps.astype(np.float32)], [3]).of("y", 0)
    like = np.sqrt(layer_noise.LIKE)
    # Of the others: 2 - 4, 4 - 1, 1 - 2.
    expected = np.repeat([-2.0, 3.0, -1.0], 10) / np.sqrt(14 / 3)
    assert found.mean(axis=1) == pytest.approx(like * expected, abs=1.5)
    assert np.corrcoef(found.mean(axis=1), expected)[0, 1] > 0.6
