"""Statistics of activations, gathered by running the model with taps, a few samples at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hwpass.cost_models.work import Floats
from hwpass.data.taps import tapped_session
from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import StoredModel, run_session

#: Samples run at once: taps of a whole network are large.
BATCH = 8

#: No activation that means anything is larger, and float32 holds its square.
LARGEST = 1e15


def require_measurable(source: str, name: str, values: NDArray[np.generic]) -> None:
    """Raise InputError where values of a tensor have NaN, or are so large that no statistics of them mean anything."""
    if values.size:
        with np.errstate(invalid="ignore"):
            low, high = float(values.min()), float(values.max())
        if not (low >= -LARGEST and high <= LARGEST):  # also where they are NaN
            found = low if low != low or -low > high else high
            said = f"these samples give tensor {name!r} values of {found:.2g}"
            raise InputError(f"{source}: {said}; correct or remove them")


def mean_squares(
    model: Model,
    taps: dict[str, int],
    calibration: Calibration,
    *,
    threads: int = 1,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Floats]:
    """E[x^2] per index of each tapped tensor's given axis, over all other axes and all samples.

    Tensors without any are those that cannot be handed out, and those without an entry. Raises InputError for values
    of which no mean means anything.
    """
    found = moments(model, taps, calibration, threads=threads, progress=progress)
    return {name: square for name, (_, square) in found.items()}


def moments(
    model: Model,
    taps: dict[str, int],
    calibration: Calibration,
    *,
    threads: int = 1,
    progress: Callable[[str], None] | None = None,
) -> dict[str, tuple[Floats, Floats]]:
    """E[x] and E[x^2], as `mean_squares` has the latter."""
    means: dict[str, Floats] = {}
    sums: dict[str, Floats] = {}
    counts: dict[str, float] = {}
    inputs = {t.name for t in model.graph.inputs}
    names = [name for name in taps if name not in inputs]
    try:
        with StoredModel(model.proto()) as stored:
            session, names = tapped_session(stored, names, threads)
            for number, feed in enumerate(calibration.batches(BATCH), 1):
                outputs = run_session(session, feed) if session is not None else {}
                for name, axis in taps.items():
                    if name not in outputs and name not in feed:
                        continue
                    given = outputs[name] if name in outputs else feed[name]
                    require_measurable(calibration.source, name, given)
                    value = np.asarray(given, np.float32)
                    others = tuple(a for a in range(value.ndim) if a != axis % value.ndim)
                    means[name] = means.get(name, 0.0) + value.sum(axis=others, dtype=np.float64)
                    sums[name] = sums.get(name, 0.0) + np.square(value).sum(axis=others, dtype=np.float64)
                    counts[name] = counts.get(name, 0.0) + value.size / value.shape[axis]
                if progress is not None:
                    progress(f"statistics, batch {number}")
            del session
    finally:
        release_memory()
    return {name: (means[name] / counts[name], sums[name] / counts[name]) for name in sums if counts[name]}
