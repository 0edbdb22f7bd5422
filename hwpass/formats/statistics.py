"""Mean and variance of batch normalisations, taken again on data, in order.

What a network remembers of its activations no longer holds once channels are gone or weights are rounded. Each batch
normalisation is measured on what the corrected ones before it give.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.data.activation_statistics import require_measurable
from hwpass.data.segments import Segments
from hwpass.model.model import Model
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.settings import Settings

#: Samples run at once, and values of a channel that statistics want.
BATCH, FEWEST = 32, 64

#: Statistics that differ by less than this share of a standard deviation are the same.
SAME = 1e-5

Floats = NDArray[np.float64]


def standing(model: Model) -> Iterator[tuple[int, gs.Node]]:
    """Batch normalisations of the main graph with constant statistics of their own type, and where they stand."""
    for place, node in enumerate(model.graph.nodes):
        if node.op != "BatchNormalization" or node.domain or node.attrs.get("training_mode", 0):
            continue
        constant = len(node.inputs) == 5 and all(isinstance(t, gs.Constant) for t in node.inputs[1:])
        if constant and not isinstance(node.inputs[0], gs.Constant) and node.inputs[3].dtype == np.float32:
            yield place, node


def recalibrate(model: Model, data: Calibration, samples: int, settings: Settings) -> list[str]:
    """Take statistics again, in place; the names of the batch normalisations whose statistics changed."""
    changed = []
    with Segments(model, data.batches(BATCH, limit=samples), settings.threads) as segments:
        for place, node in list(standing(model)):
            settings.progress(f"statistics of {node.name}")
            source = node.inputs[0].name
            segments.advance(place, keep=[source])
            if not segments.live(source):
                continue
            found = _moments(data.source, source, [np.asarray(value) for value in segments.value(source)])
            if found is not None and _replaced(node, *found):
                changed.append(node.name or node.outputs[0].name)
    return changed


def _moments(where: str, name: str, batches: list[NDArray[np.generic]]) -> tuple[Floats, Floats] | None:
    """Mean and variance of each channel (axis 1); None of too few values."""
    count, total, square = 0.0, 0.0, 0.0
    for value in batches:
        require_measurable(where, name, value)
        axes = tuple(a for a in range(value.ndim) if a != 1)
        wide = value.astype(np.float64)
        count += wide.size / wide.shape[1]
        total, square = total + wide.sum(axis=axes), square + np.square(wide).sum(axis=axes)
    if count < FEWEST:
        return None
    mean = np.asarray(total / count)
    return mean, np.maximum(np.asarray(square / count) - np.square(mean), 0.0)


def _replaced(node: gs.Node, mean: Floats, variance: Floats) -> bool:
    """Put statistics into a batch normalisation, where they are others; whether they are."""
    before, spread = (np.asarray(t.values, np.float64) for t in node.inputs[3:5])
    if before.shape != mean.shape or spread.shape != variance.shape:
        return False
    floor = spread + float(node.attrs.get("epsilon", 1e-5))
    if np.abs(mean - before).max() <= SAME * np.sqrt(floor).min() and (np.abs(variance - spread) <= SAME * floor).all():
        return False
    for place, values in ((3, mean), (4, variance)):
        name = f"{node.inputs[place].name}_of_{node.outputs[0].name}"
        node.inputs[place] = gs.Constant(name, values.astype(np.float32))
    return True
