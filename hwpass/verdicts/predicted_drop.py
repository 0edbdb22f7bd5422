"""How far the accuracy of first choices is predicted to fall, without a label: by what the original itself believes.

Where the pruned model chooses another class, accuracy falls by what the original gives to its own choice, less what it
gives to the other. Its probabilities stand for the unknown labels: a network that is calibrated is right as often as it
says (C. Guo et al., "On calibration of modern neural networks", 2017), a sure one a little less often. So the low end
of the interval takes its logits at a temperature of 2, the high end as they are, each with a standard error for the
samples. Inputs that were made up are easier than real ones, for a model that was fitted on others of their
kind: what is lost on them is a part of what is lost, and little is known of how large a part.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwpass.data.input_scale import LEAST_TOLD, entropy

#: The temperature of logits at the low end.
COOLER = 2.0

#: Standard errors on either side: more than the 1.645 of a normal one, as most samples lose nothing and few much.
DEVIATIONS = 1.96

#: What is lost on real inputs over what is lost on made-up ones that the fit did not see: where much is lost, and what
#: nine of ten cases are within (benchmarks/README.md, "Predicted drops"). It may as well be nothing.
REAL = (2.0, 3.5)

#: Samples that an interval wants.
FEWEST = 16


@dataclass(frozen=True)
class PredictedDrop:
    """Shares of all first choices: the drop expected, an interval of 90 %, and the samples that it is from."""

    expected: float
    low: float
    high: float
    samples: int
    made_up: bool = False  # by what is lost on made-up inputs

    def __str__(self) -> str:
        if self.made_up:
            expected, low, high = 100 * self.expected, 100 * self.low, 100 * self.high
            return f"about {expected:.0f} points of accuracy may be lost ({low:.0f} to {high:.0f})"
        low, high = 100 * self.low, 100 * self.high
        return f"a drop of {100 * self.expected:.1f} points of accuracy is predicted ({low:.1f} to {high:.1f})"


@dataclass
class Choices:
    """The first choices of two models, gathered batch by batch."""

    losses: list[NDArray[np.float64]] = field(default_factory=list)  # of a sample, at both temperatures, [n, 2]
    total: NDArray[np.float64] | None = None  # sum of the original's probabilities, [classes]
    entropies: float = 0.0
    seen: int = 0
    none: bool = False  # no classes are told apart here
    made_up: bool = False

    def add(self, wanted: NDArray[np.floating], given: NDArray[np.floating], axis: int) -> None:
        """Scores of classes along an axis, of the original and of the pruned model; samples come first."""
        if self.none or wanted.ndim < 2 or wanted.shape[axis] < 2 or not wanted.size or axis == 0:
            return
        scores = np.moveaxis(wanted, axis, -1).astype(np.float64)
        if not np.isfinite(scores).all() or not np.isfinite(given).all():
            self.none = True
            return
        logs = _logs(scores)
        if logs is None or (self.total is not None and len(self.total) != logs.shape[-1]):
            self.none = True
            return
        likely = np.exp(logs).reshape(-1, logs.shape[-1])
        self.total = likely.sum(axis=0) + (0.0 if self.total is None else self.total)
        self.entropies += float(entropy(likely).sum())
        self.seen += len(likely)
        other = np.moveaxis(given, axis, -1).argmax(axis=-1)
        self.losses.append(np.stack([_lost(logs / t, other) for t in (1.0, COOLER)], axis=1))

    def result(self) -> PredictedDrop | None:
        """None where the output tells no classes apart, or there are too few samples."""
        losses = np.concatenate(self.losses) if self.losses else np.zeros((0, 2))
        if self.none or self.total is None or len(losses) < FEWEST:
            return None
        told = float(entropy(self.total / self.seen)) - self.entropies / self.seen
        if told < LEAST_TOLD:
            return None
        count = len(losses)
        warm, cool = losses.mean(axis=0)
        # Nothing seen in n samples may still be there in 2.3 of n (Poisson, 90 %).
        error = DEVIATIONS * losses.std(axis=0, ddof=1) / np.sqrt(count)
        high = max(float(warm + error[0]), 2.3 / count if not warm else 0.0)
        if self.made_up:
            expected, high = (min(1.0, real * found) for real, found in zip(REAL, (float(warm), high), strict=True))
            return PredictedDrop(expected, 0.0, high, count, made_up=True)
        return PredictedDrop(float(warm), max(0.0, float(cool - error[1])), min(1.0, high), count)


def _logs(scores: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Logarithms of the probabilities that scores stand for; None for what are shares of nothing, as sigmoids are."""
    if scores.min() >= 0 and scores.max() <= 1 + 1e-3:
        if not np.allclose(scores.sum(axis=-1), 1, atol=1e-2):
            return None
        return np.log(np.maximum(scores, 1e-12))
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _lost(logs: NDArray[np.float64], other: NDArray[np.intp]) -> NDArray[np.float64]:
    """What each sample loses, on average over its places: the probability of the original's choice less the other's."""
    likely = np.exp(logs - logs.max(axis=-1, keepdims=True))
    likely /= likely.sum(axis=-1, keepdims=True)
    lost = likely.max(axis=-1) - np.take_along_axis(likely, other[..., None], axis=-1)[..., 0]
    return np.asarray(lost.reshape(len(lost), -1).mean(axis=1))
