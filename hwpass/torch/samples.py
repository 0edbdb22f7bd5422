"""The inputs that a distillation learns on: single samples, put together again as batches, moved about and mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwpass.runtime.calibration import Calibration
from hwpass.runtime.inputs import is_float
from hwpass.runtime.sessions import Feed

#: Most bytes of samples that are held.
SAMPLE_BYTES = 512 << 20

#: A side of an image, or a signal, that is shifted has at least so many positions; it moves by an eighth at most.
SIDE = 8

#: Positions of a sequence of tokens that has parts.
FEWEST_TOKENS = 4

#: Channels that an image may have.
CHANNELS = (1, 3, 4)


class Samples:
    """Calibration data as single samples; those set apart judge and are never learned from.

    Samples are of one size each (a length, an image), and only those of one size make a batch.
    """

    def __init__(self, calibration: Calibration, most: int, every: int = 8) -> None:
        """At most `most` samples; of every `every`, one is set apart (none of fewer)."""
        self.axes = dict(calibration.axes)
        self.constant: Feed = {}
        self.fixed = calibration.batch
        samples: list[Feed] = []
        held = 0
        for feed in calibration.batches(1, limit=most):
            self.constant = {name: value for name, value in feed.items() if name not in self.axes}
            count = max((value.shape[self.axes[name]] for name, value in feed.items() if name in self.axes), default=0)
            for row in range(count):
                sample = {n: np.take(feed[n], [row], axis=axis) for n, axis in self.axes.items()}
                held += sum(value.nbytes for value in sample.values())
                samples.append(sample)
            if held > SAMPLE_BYTES or len(samples) >= most:
                break
        self.apart = samples[every - 1 :: every]
        self.learned = [sample for number, sample in enumerate(samples) if number % every != every - 1]

    def __len__(self) -> int:
        return len(self.learned)

    def batches(self, samples: Sequence[Feed], size: int) -> list[list[Feed]]:
        """Samples in batches of up to `size`, each of one size; with a fixed batch only whole ones."""
        alike: dict[tuple[tuple[int, ...], ...], list[Feed]] = {}
        for sample in samples:
            alike.setdefault(tuple(value.shape for value in sample.values()), []).append(sample)
        step = self.fixed or size
        found = [same[start : start + step] for same in alike.values() for start in range(0, len(same), step)]
        return [batch for batch in found if self.fixed is None or len(batch) == self.fixed]

    def feed(self, batch: Sequence[Feed]) -> Feed:
        """One feed of several samples."""
        joined = {name: np.concatenate([sample[name] for sample in batch], axis) for name, axis in self.axes.items()}
        return {**self.constant, **joined}


class Augmentation:
    """Variants of a feed: its images and signals shifted, images mirrored, floating-point samples mixed, a part of a
    sequence of tokens replaced by that of another.

    The original says what every variant should give, so that no label has to stay true. Where a model reads integers
    nothing is shifted or mixed: positions belong together. Of tokens, masks and the like, all [samples, positions],
    the same positions come from another sample; where there are any other inputs beside them, all stay as they are.
    """

    def __init__(self, axes: dict[str, int], feed: Feed, seed: int) -> None:
        self.axes = axes
        self.rng = np.random.default_rng([seed, 0xD157])
        self.moved = all(is_float(feed[name].dtype) for name in axes) and len(axes) == 1
        whole = {(feed[name].dtype.kind, axis, *feed[name].shape[1:]) for name, axis in axes.items()}
        kinds = {"i" if kind in "iub" else kind for kind, *_ in whole}
        places = {tuple(place) for _, *place in whole}
        self.tokens = kinds == {"i"} and len(places) == 1 and next(iter(places))[0] == 0
        self.tokens = self.tokens and len(next(iter(places))) == 2 and next(iter(places))[1] >= FEWEST_TOKENS

    def __call__(self, feed: Feed) -> Feed:
        """A variant of a feed; the constant inputs stay."""
        if self.tokens:
            return self._crossed(feed)
        if not self.moved:
            return feed
        (name,) = self.axes
        value = np.moveaxis(feed[name], self.axes[name], 0)
        for axis in _places(value):
            value = self._shifted(value, axis)
        if len(_places(value)) == 2:
            value = self._mirrored(value, _places(value)[-1])
        return {**feed, name: np.ascontiguousarray(np.moveaxis(self._mixed(value), 0, self.axes[name]))}

    def _shifted(self, value: NDArray[Any], axis: int) -> NDArray[Any]:
        """Every sample by its own number of positions; its edge fills what is uncovered."""
        length = value.shape[axis]
        steps = self.rng.integers(-(length // SIDE), length // SIDE + 1, len(value))
        places = np.clip(np.arange(length)[None, :] - steps[:, None], 0, length - 1)
        shape = [len(value) if a == 0 else length if a == axis else 1 for a in range(value.ndim)]
        return np.take_along_axis(value, places.reshape(shape), axis)

    def _mirrored(self, value: NDArray[Any], axis: int) -> NDArray[Any]:
        turned = self.rng.random(len(value)) < 0.5
        return np.where(turned.reshape(-1, *[1] * (value.ndim - 1)), np.flip(value, axis), value)

    def _crossed(self, feed: Feed) -> Feed:
        """Half of the samples with a stretch of another's positions."""
        count, length = feed[next(iter(self.axes))].shape
        bounds = np.sort(self.rng.integers(0, length + 1, (count, 2)), axis=1)
        places = np.arange(length)
        taken = (places >= bounds[:, :1]) & (places < bounds[:, 1:]) & (self.rng.random((count, 1)) < 0.5)
        other = self.rng.permutation(count)
        return {**feed, **{name: np.where(taken, feed[name][other], feed[name]) for name in self.axes}}

    def _mixed(self, value: NDArray[Any]) -> NDArray[Any]:
        """Half of the samples with a part of another."""
        share = np.where(self.rng.random(len(value)) < 0.5, self.rng.uniform(0.0, 0.5, len(value)), 0.0)
        share = share.astype(np.float32).reshape(-1, *[1] * (value.ndim - 1))
        other = value[self.rng.permutation(len(value))]
        return np.asarray(value * (1 - share) + other * share, value.dtype)


def _places(value: NDArray[Any]) -> tuple[int, ...]:
    """The axes along which a batch of images or signals may be shifted."""
    shape = value.shape
    if value.ndim == 4 and min(shape[2:]) >= SIDE and (shape[1] in CHANNELS or shape[3] not in CHANNELS):
        return (2, 3)
    if value.ndim == 4 and min(shape[1:3]) >= SIDE and shape[3] in CHANNELS:
        return (1, 2)
    if value.ndim == 3 and shape[2] >= 25 * SIDE and shape[1] < shape[2]:  # as `synthetic_inputs.SIGNAL` has it
        return (2,)
    return ()
