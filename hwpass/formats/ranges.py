"""Ranges of activations from data, by four methods.

A range is what the integers have to cover; what lies outside is cut off. The wider it is the coarser the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwpass.data.activation_statistics import require_measurable
from hwpass.data.taps import tapped_session
from hwpass.errors import UsageError
from hwpass.model.model import Model
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import StoredModel, run_session

#: Bins of a histogram, levels of an integer of 8 bits, samples run at once.
BINS, LEVELS, BATCH = 2048, 256, 8

#: Shares of the whole range that are tried.
SHARES = np.linspace(0.2, 1.0, 41)

#: The share of values that a percentile covers, both tails together.
COVERED = 0.9999

Floats = NDArray[np.float64]
Range = tuple[float, float]


@dataclass
class Seen:
    """The values of one tensor: lowest and highest, and how many lie in each of BINS equal steps between them."""

    low: float = np.inf
    high: float = -np.inf
    counts: Floats | None = None

    def widen(self, values: NDArray[np.generic]) -> None:
        """Take values into the range."""
        if values.size:
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def count(self, values: NDArray[np.generic]) -> None:
        """Take values into the histogram; the range is known by now."""
        if values.size and self.high > self.low:
            found, _ = np.histogram(values, BINS, (self.low, self.high))
            self.counts = found + (0.0 if self.counts is None else self.counts)


def observe(
    model: Model, names: Sequence[str], data: Calibration, limit: int, threads: int, *, histograms: bool
) -> dict[str, Seen]:
    """The values of tensors of a model's main graph on `limit` samples, in two passes where histograms are wanted.

    Tensors that cannot be handed out have no entry. Raises InputError for values of which no range means anything.
    """
    seen: dict[str, Seen] = {}
    inputs = {t.name for t in model.graph.inputs}
    wanted = [name for name in names if name not in inputs]
    try:
        with StoredModel(model.proto()) as stored:
            session, there = tapped_session(stored, wanted, threads)
            for turn in range(1 + histograms):
                for feed in data.batches(BATCH, limit=limit):
                    values = {**(run_session(session, feed) if session is not None and there else {}), **feed}
                    for name in names:
                        if name not in values or np.asarray(values[name]).dtype != np.float32:
                            continue
                        if turn:
                            seen[name].count(values[name])
                            continue
                        require_measurable(data.source, name, values[name])
                        seen.setdefault(name, Seen()).widen(values[name])
            del session
    finally:
        release_memory()
    return {name: item for name, item in seen.items() if np.isfinite(item.low)}


def smallest(seen: Seen) -> Range:
    """From the lowest to the highest value seen."""
    return seen.low, seen.high


def percentile(seen: Seen) -> Range:
    """Without the values of both tails beyond COVERED."""
    if seen.counts is None:
        return smallest(seen)
    shares = np.cumsum(seen.counts) / seen.counts.sum()
    tail = (1 - COVERED) / 2
    edges = np.linspace(seen.low, seen.high, BINS + 1)
    low = edges[int(np.searchsorted(shares, tail, "right"))]
    high = edges[min(BINS, int(np.searchsorted(shares, 1 - tail)) + 1)]
    return float(min(low, high)), float(high)


def least_squares(seen: Seen) -> Range:
    """With the least squared error of what is rounded and what is cut off."""
    if seen.counts is None:
        return smallest(seen)
    centres, counts = _centres(seen), seen.counts
    tried = [(share * min(seen.low, 0.0), share * max(seen.high, 0.0)) for share in SHARES]

    def error(bounds: Range) -> float:
        step = (bounds[1] - bounds[0]) / (LEVELS - 1) or 1.0
        rounded = np.clip(np.round((centres - bounds[0]) / step), 0, LEVELS - 1) * step + bounds[0]
        # Within a bin values are spread evenly, so rounding adds what a step leaves at most.
        return float(counts @ np.square(centres - rounded))

    return min(tried, key=error)


def entropy(seen: Seen) -> Range:
    """With the least divergence of the quantised distribution from the one seen.

    S. Migacz, "8-bit inference with TensorRT", GTC 2017: what lies outside is counted at the ends of the reference.
    """
    if seen.counts is None:
        return smallest(seen)
    centres, counts = _centres(seen), seen.counts
    tried = [(share * min(seen.low, 0.0), share * max(seen.high, 0.0)) for share in SHARES]

    def divergence(bounds: Range) -> float:
        inside = (centres >= bounds[0]) & (centres <= bounds[1])
        kept = counts[inside]
        if kept.size < 2 or not kept.sum():
            return np.inf
        reference = kept.copy()
        reference[0] += counts[centres < bounds[0]].sum()
        reference[-1] += counts[centres > bounds[1]].sum()
        level = np.minimum((np.arange(kept.size) * LEVELS) // kept.size, LEVELS - 1)
        filled = kept > 0
        sums, used = np.bincount(level, kept, LEVELS), np.bincount(level, filled, LEVELS)
        spread = np.where(filled, (sums / np.maximum(used, 1))[level], 0.0)
        p, q = reference / reference.sum(), spread / spread.sum()
        there = p > 0
        # A value seen where nothing is left of the quantised distribution is as bad as it gets.
        return float(np.sum(p[there] * np.log(p[there] / np.maximum(q[there], 1e-9))))

    return min(tried[::-1], key=divergence)


def _centres(seen: Seen) -> Floats:
    edges = np.linspace(seen.low, seen.high, BINS + 1)
    return np.asarray((edges[:-1] + edges[1:]) / 2)


#: The methods by name.
METHODS: Mapping[str, Callable[[Seen], Range]] = {
    "minmax": smallest, "percentile": percentile, "mse": least_squares, "entropy": entropy,
}  # fmt: skip


def ranges(seen: Mapping[str, Seen], method: str) -> dict[str, Range]:
    """The range of each tensor. Raises UsageError for a method that is none."""
    if method not in METHODS:
        raise UsageError(f"ranges={method}: choose {', '.join(METHODS)}")
    return {name: METHODS[method](item) for name, item in seen.items()}


def union(found: Iterable[Range]) -> Range:
    """The smallest range that covers some."""
    lows, highs = zip(*found, strict=True)
    return min(lows), max(highs)
