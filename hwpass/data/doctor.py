"""What is wrong with calibration data: too few, too alike, one class, another scale than the model's.

Channels that such data never moves look as if they did nothing, and are the first to go. Nothing here needs a label.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwpass.data.input_scale import LEAST_TOLD, SCALES, TRIED, class_scores, information, stated_scale
from hwpass.errors import InputError, option
from hwpass.model.model import Model
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.inputs import image_axis, input_specs
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, open_session, run_session
from hwpass.spans import span

#: Fewer samples than this are too few to choose by.
FEW = 64

#: Samples that are looked at, and multiply-accumulates of one inference on each; of fewer nothing is said of classes.
LOOKED_AT, WORK, FEWEST = 256, 1e10, 32

#: Two samples are alike whose distance is so much of the usual one, and a set is, of which such a share has its like.
ALIKE, ALIKE_SHARE = 0.15, 0.3

#: A class that the model sees in more than this share of the samples leaves too little of the others; the second is
#: where the scale may be to blame.
ONE_CLASS, MOSTLY_ONE = 0.9, 0.5

#: Where classes would have so many samples each, most of them should be seen.
EACH = 8

#: Another scale on which the model tells so many times as much is the one that it was trained on.
FAR_MORE = 1.5


@span("look at the data")
def concerns(model: Model, data: Calibration, macs: float = 0.0, threads: int = 1) -> list[str]:
    """What speaks against choosing channels by these data, each in a sentence with the mend; empty for good data.

    `macs` are those of one sample.
    """
    found = []
    if len(data) < FEW:
        found.append(f"{len(data)} samples are few to choose and refit by: give some hundred")
    feeds = list(islice(data.batches(1), min(LOOKED_AT, len(data))))
    found += _alike(feeds)
    feeds = feeds[: int(WORK / max(macs, 1.0))]
    if len(feeds) < min(FEWEST, len(data)):
        return found
    try:
        session = open_session(model.proto(), threads=threads, level="lean")

        def told(feeds: list[Feed]) -> NDArray[np.float64] | None:
            return class_scores([run_session(session, feed) for feed in feeds])

        scores = told(feeds)
        wrong, classes = _scale(model, feeds, scores, told), _classes(scores)
        if wrong and scores is not None and _largest(scores) > MOSTLY_ONE:
            # On another scale than its own a model sees one class; so it does in data of one, on any scale.
            share = f"the model sees one class in {_largest(scores):.0%} of the samples"
            wrong = f"{share}: give inputs of every kind; or {wrong}"
        found += [wrong] if wrong else classes
    except InputError:
        pass  # data that the model does not take is refused where it is used
    finally:
        release_memory()
    return found


def _alike(feeds: list[Feed]) -> list[str]:
    """Whether many samples have another that is nearly the same."""
    if len(feeds) < 8 or any(feed[n].shape != value.shape for feed in feeds for n, value in feeds[0].items()):
        return []
    rows = np.stack([np.concatenate([_small(np.asarray(v)) for v in feed.values()]) for feed in feeds])
    if not np.isfinite(rows).all():
        return []
    squares = np.square(rows).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0))
    usual = float(np.median(distances[~np.eye(len(rows), dtype=bool)]))
    np.fill_diagonal(distances, np.inf)
    if usual == 0:
        return ["all samples are the same: give different ones"]
    share = float((distances.min(axis=1) < ALIKE * usual).mean())
    if share < ALIKE_SHARE:
        return []
    return [f"{share:.0%} of the samples are nearly the same as another: give inputs of more variety"]


def _small(value: NDArray[Any]) -> NDArray[np.float64]:
    """A sample as a short row: means over places of long axes, so that small shifts and noise count for little."""
    value = value.astype(np.float64)
    for axis in range(value.ndim):
        length = value.shape[axis]
        if length > 16:
            value = np.add.reduceat(value, np.arange(0, length - length % 8, length // 8), axis) / (length // 8)
    return np.asarray(value.reshape(-1)[:4096])


def _classes(scores: NDArray[np.float64] | None) -> list[str]:
    """Whether the model sees all kinds of what it can tell apart."""
    if scores is None or scores.shape[1] < 3:
        return []
    counts = np.bincount(scores.argmax(axis=1), minlength=scores.shape[1])
    share = _largest(scores)
    if share > ONE_CLASS:
        return [f"the model sees one class in {share:.0%} of the samples: give inputs of every kind"]
    unseen = int((counts == 0).sum())
    if len(scores) >= EACH * scores.shape[1] and 2 * unseen > scores.shape[1]:
        return [f"the model never sees {unseen} of its {len(counts)} classes: give inputs of every kind"]
    return []


def _largest(scores: NDArray[np.float64]) -> float:
    """The share of the class that is seen most."""
    return float(np.bincount(scores.argmax(axis=1)).max() / len(scores))


def _scale(
    model: Model,
    feeds: list[Feed],
    scores: NDArray[np.float64] | None,
    told: Callable[[list[Feed]], NDArray[np.float64] | None],
) -> str | None:
    """Whether images lie on another scale than the model's, by what its graph states or what it tells of classes."""
    images = [s for s in input_specs(model.interface()) if s.is_float and s.name in feeds[0]]
    images = [s for s in images if image_axis(s, dict.fromkeys(map(str, s.shape), 1 << 10)) is not None]
    if len(images) != 1:
        return None
    name = images[0].name
    low, high = (float(f([f(feed[name]) for feed in feeds])) for f in (np.min, np.max))
    if high <= low:
        return None
    mend = f"scale input {name!r} as the model was trained, or give pictures with {option('input')}"
    stated = stated_scale(model, name)
    if stated is not None:
        (factor,) = SCALES[stated].factor
        ratio = (high - low) / factor
        if not 1 / 16 < ratio < 16:
            return f"images lie in [{low:.3g}, {high:.3g}], and the model prepares such in {stated}: {mend}"
        return None
    if scores is None or len(feeds) < FEWEST:
        return None
    own = information(scores)
    if FAR_MORE * own > np.log(min(scores.shape)):  # no scale tells more than each sample's class, or each sample
        return None
    unit = [{**feed, name: (feed[name] - low) / (high - low)} for feed in feeds]
    others = {}
    for scale in TRIED:
        (factor,), (shift,) = SCALES[scale].factor, SCALES[scale].shift
        kind = feeds[0][name].dtype
        found = told([{**feed, name: np.asarray(feed[name] * factor + shift, kind)} for feed in unit])
        others[scale] = 0.0 if found is None else information(found)
    best = max(others, key=lambda scale: others[scale])
    if others[best] < max(FAR_MORE * own, LEAST_TOLD):
        return None
    more = others[best] / max(own, 1e-3)
    return (
        f"images lie in [{low:.3g}, {high:.3g}], and the model tells {more:.1f} times as much of them in {best}: {mend}"
    )
