"""Noise that is like what a layer gives: what pruning takes from it is no white noise either.

Errors of a pruned layer have the covariance of its channels, and they are partly alike at neighbouring positions. White
noise averages out where a network pools or smooths, and falls on channels that hardly vary. So a part of the noise on
one sample is the difference of what the layer gives for two others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from hwpass.runtime.array_files import Rows, Spool

#: Share of the power that is like the layer's output. On nine networks, 182 times a group was narrowed to half or a
#: quarter by itself, and the rest refitted: the curves' losses differ from the true ones with a deviation of 0.47 in
#: logarithms (their mean taken off), with white noise alone 0.84, with none of it 0.59; 0.1 to 0.4 are much alike.
LIKE = 0.2

#: Where two samples differ by less than this share of what a layer gives, they say nothing of its errors.
ALIKE = 1e-6


class LayerNoise:
    """Noise for the outputs of layers, of root mean square one, for each feed of a few samples."""

    def __init__(self, layers: Iterable[str], seed: int = 0) -> None:
        self._given: dict[str, list[Rows | NDArray[np.generic]]] = {name: [] for name in layers}
        self._samples: list[int] = []
        self._spool = Spool()
        self._random = np.random.default_rng(seed)

    def add(self, samples: int, values: Mapping[str, NDArray[np.generic]]) -> None:
        """Enter what the layers give for the next feed, which has so many samples."""
        self._samples.append(max(samples, 1))
        for name, given in self._given.items():
            given.append(self._spool.put(np.asarray(values[name])))

    def of(self, layer: str, feed: int) -> NDArray[np.float32]:
        """Noise for the output of a layer on a feed: all white where fewer than three samples have one of its rank."""
        given = self._given[layer]
        shape = given[feed].shape
        white = self._random.standard_normal(shape, np.float32)
        like = [number for number, value in enumerate(given) if len(value.shape) == len(shape)]
        sizes = [given[number].shape[0] if shape else 1 for number in like]
        # Axes of samples and of something else may be one: then a sample has several of its entries.
        each = max((shape[0] if shape else 1) // self._samples[feed], 1)
        if shape and sum(sizes) >= 3 * each:
            first = sum(sizes[: like.index(feed)])
            found = self._entries(given, like, first + each, shape) - self._entries(
                given, like, first + 2 * each, shape
            )
            size = float(np.sqrt(np.square(found, dtype=np.float64).mean())) if found.size else 0.0
            own = _values(given[feed]).astype(np.float64)
            if np.isfinite(size) and size > ALIKE * float(np.sqrt(np.square(own).mean())):
                found *= np.float32(np.sqrt(LIKE) / size)
                return found + white * np.float32(np.sqrt(1 - LIKE))
        return white

    @staticmethod
    def _entries(
        given: list[Rows | NDArray[np.generic]], like: list[int], start: int, shape: tuple[int, ...]
    ) -> NDArray[np.float32]:
        """Entries of the first axis of all feeds, one behind the other and from the first again; feeds of other
        extents are repeated or cut."""
        total = sum(given[number].shape[0] for number in like)
        wanted = (start + np.arange(shape[0])) % total
        found = np.empty(shape, np.float32)
        first = 0
        for number in like:
            size = given[number].shape[0]
            inside = (wanted >= first) & (wanted < first + size)
            if inside.any():
                value = _values(given[number])[wanted[inside] - first]
                for axis, (own, extent) in enumerate(zip(value.shape, shape, strict=True)):
                    if axis and own != extent:
                        value = np.take(value, np.arange(extent) % max(own, 1), axis=axis)
                found[inside] = value
            first += size
        return found


def _values(given: Rows | NDArray[np.generic]) -> NDArray[np.generic]:
    return given if isinstance(given, np.ndarray) else given.read(0, given.shape[0])
