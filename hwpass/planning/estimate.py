"""How long choosing channels and refitting will take, before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from hwpass.coupling.groups import Coupling
from hwpass.errors import InputError
from hwpass.runtime.blas_threads import limited
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.sessions import open_session, run_session
from hwpass.runtime.settings import Settings
from hwpass.surgery.weight_views import WeightView

#: Seconds of a run at normal effort, fitted to 14 networks (seven compact ones, five wide ones, MobileNetV2 and
#: ResNet-50 on images of 224 x 224; two threads): times one inference of all samples by one thread, a billion
#: multiply-accumulates of the least squares, a layer. The estimates were 0.49 (MobileNetV2) to 1.34 of what these took.
INFERENCES, BILLION, LAYER = 7.5, 7.9e-3, 0.144

#: The same for one thread, and for efforts by how often loss curves are taken.
ONE_THREAD, ROUNDS = 1.5, {1: 0.3, 3: 2.0}

#: Rows of a layer's input that a fit takes: so many for each column, and at most.
ROWS_A_COLUMN, MOST_ROWS = 64, 16384

#: Side of the product that tells how fast this machine is, and its seconds on the one that was fitted to.
SIDE, REFERENCE = 512, 1.8e-3

#: Seconds that are not worth a word.
SHORT = 5.0

#: Repetitions of what is timed.
TIMES = 3


def estimated_seconds(coupling: Coupling, data: Calibration, settings: Settings, rounds: int = 0) -> float | None:
    """Seconds that choosing channels and refitting take on some data; None where the model does not run on them."""
    inference = _inference(coupling, data)
    if inference is None:
        return None
    layers, fits = 0, 0.0
    for node in coupling.nodes:
        view = WeightView.of(node)
        if isinstance(view, WeightView):
            groups, inputs, taps, outputs = view.sizes
            columns = inputs * taps
            layers += 1
            fits += groups * min(MOST_ROWS, ROWS_A_COLUMN * columns) * columns * (columns + outputs)
    seconds = INFERENCES * len(data) * inference + _slowness() * (BILLION * fits / 1e9 + LAYER * layers)
    return seconds * ROUNDS.get(rounds, 1.0) * (ONE_THREAD if settings.threads == 1 else 1.0)


def announced(coupling: Coupling, data: Calibration, settings: Settings, rounds: int = 0) -> Callable[[str], None]:
    """Who is told of progress from here on, with how long all of it takes; as before where that is short."""
    seconds = estimated_seconds(coupling, data, settings, rounds)
    tell = settings.progress
    if seconds is None or seconds < SHORT:
        return tell
    text = f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"
    return lambda what: tell(f"{what}; channels and refit take about {text}")


def _inference(coupling: Coupling, data: Calibration) -> float | None:
    """Seconds of one sample, one thread."""
    feed = next(iter(data.batches(1, limit=1)))
    session = open_session(coupling.build.model.proto(), threads=1)
    times = []
    try:
        for _ in range(TIMES):
            start = time.perf_counter()
            run_session(session, feed)
            times.append(time.perf_counter() - start)
    except InputError:
        return None
    return min(times)


def _slowness() -> float:
    """How much longer this machine takes for a product than the one of the fit."""
    a = np.ones((SIDE, SIDE), np.float32)
    times = []
    with limited(1):
        for _ in range(TIMES):
            start = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - start)
    return min(times) / REFERENCE
