"""Rows of measured and predicted latency, and how well they agree: ranks, errors after one scale, ratios, signs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import spearmanr

#: Fewer rows than this rank nothing.
FEWEST = 4


@dataclass(frozen=True)
class Row:
    """One network on one device. Latency in seconds, or any one unit; `macs` what counting them alone would say.

    `given` rows were used to fit the device and judge nothing. `low` and `high` are the ends of the predicted interval.
    """

    device: str
    network: str
    measured: float
    predicted: float
    macs: float
    given: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Pair:
    """A network and a narrower variant of it on one device: latency of the variant over that of the network."""

    device: str
    network: str
    variant: str
    measured: float
    predicted: float
    macs: float


@dataclass(frozen=True)
class Table:
    """What one set of measurements says of one target or kind; `note` is how predictions were made, in a line.

    `scaled`: only ranks and errors after one scale per device mean anything; else predictions are absolute too.
    """

    name: str
    rows: Sequence[Row] = ()
    pairs: Sequence[Pair] = ()
    note: str = ""
    left_out: dict[str, int] = field(default_factory=dict)  #: rows not used, by reason


@dataclass(frozen=True)
class Score:
    """How predictions agree with measurements; errors are shares (0.1: 10 %)."""

    devices: int
    rows: int
    spearman: float  #: of the median device
    spearman_macs: float  #: the same by multiply-accumulates alone
    absolute: float  #: median error without a scale
    scaled: float  #: median error after one scale per device
    scaled_macs: float
    within_10: float  #: share of rows within 10 % after the scale
    within_20: float
    held: float | None  #: share of rows within their interval


def score(rows: Iterable[Row]) -> Score | None:
    """Score rows that were not given; devices with fewer than FEWEST rows count for errors alone."""
    judged = [row for row in rows if not row.given and row.measured > 0 and row.predicted > 0]
    if not judged:
        return None
    ranks, ranks_macs = [], []
    errors: list[float] = []
    errors_macs: list[float] = []
    for device in dict.fromkeys(row.device for row in judged):
        own = [row for row in judged if row.device == device]
        measured, predicted, macs = (np.array([getattr(r, k) for r in own]) for k in ("measured", "predicted", "macs"))
        if len(own) >= FEWEST:
            ranks.append(float(spearmanr(measured, predicted).statistic))
            ranks_macs.append(float(spearmanr(measured, macs).statistic))
        errors += list(np.abs(_one_scale(measured, predicted) - 1))
        errors_macs += list(np.abs(_one_scale(measured, macs) - 1))
    absolute = [abs(row.predicted / row.measured - 1) for row in judged]
    held = [row.low <= row.measured <= row.high for row in judged if row.low is not None and row.high is not None]
    return Score(
        devices=len({row.device for row in judged}),
        rows=len(judged),
        spearman=float(np.median(ranks)) if ranks else float("nan"),
        spearman_macs=float(np.median(ranks_macs)) if ranks else float("nan"),
        absolute=float(np.median(absolute)),
        scaled=float(np.median(errors)),
        scaled_macs=float(np.median(errors_macs)),
        within_10=float(np.mean(np.array(errors) <= 0.1)),
        within_20=float(np.mean(np.array(errors) <= 0.2)),
        held=float(np.mean(held)) if held else None,
    )


def _one_scale(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Predicted over measured, by the one factor that makes the median 1."""
    ratio = predicted / np.maximum(measured, 1e-300)
    middle = float(np.median(ratio))
    return np.asarray(ratio / middle) if middle > 0 else np.zeros_like(ratio)


def with_intervals(rows: Sequence[Row], width: float | None, absolute: bool = False) -> list[Row]:
    """Rows with the ends of an interval whose half-width is `width` in logarithms (None: rows as they are).

    It lies about the prediction if `absolute`, else about that after the one scale of each device.
    """
    if width is None:
        return list(rows)
    scales = {
        device: 1.0 if absolute else float(np.median([r.measured / r.predicted for r in rows if r.device == device]))
        for device in {row.device for row in rows}
    }
    middles = [row.predicted * scales[row.device] for row in rows]
    factor = float(np.exp(width))
    return [replace(row, low=m / factor, high=m * factor) for row, m in zip(rows, middles, strict=True)]


@dataclass(frozen=True)
class Ratios:
    """How predicted ratios agree with measured ones."""

    pairs: int
    error: float  #: median
    error_90: float  #: nine of ten are no larger
    error_macs: float
    signs: int  #: faster by 5 % or more where slower was predicted, or the other way round
    signs_macs: int


def ratios(pairs: Iterable[Pair]) -> Ratios | None:
    """Score pairs."""
    found = list(pairs)
    if not found:
        return None
    errors = np.array([abs(p.predicted / p.measured - 1) for p in found])
    macs = np.array([abs(p.macs / p.measured - 1) for p in found])
    return Ratios(
        pairs=len(found),
        error=float(np.median(errors)),
        error_90=float(np.quantile(errors, 0.9)),
        error_macs=float(np.median(macs)),
        signs=sum(_wrong_sign(p.measured, p.predicted) for p in found),
        signs_macs=sum(_wrong_sign(p.measured, p.macs) for p in found),
    )


def _wrong_sign(measured: float, predicted: float) -> bool:
    return abs(measured - 1) > 0.05 and (measured - 1) * (predicted - 1) < 0
