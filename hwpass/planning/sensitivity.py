"""How much the outputs of a model change when a layer's output does: noise on each layer, one after the other.

Noise on a layer changes nothing before it. So the layers are taken in stages, and for those of a stage only what comes
from its first layer on runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import ModelProto, helper

from hwpass.data.segments import Segments
from hwpass.errors import InputError
from hwpass.model.model import Model, quiet
from hwpass.planning.layer_noise import LayerNoise
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, StoredModel, open_session, run_session
from hwpass.spans import span

Outputs = list[NDArray[np.float64]]

#: Noise put on a layer's output, relative to its standard deviation, to see what the network makes of it.
NOISE = 0.25

#: Multiply-accumulates spent on all sensitivities together: decides on how many samples they are measured; the fewest
#: and the most of these.
MACS = 1e11
SAMPLES = (4, 64)

#: Layers of a stage at the least, and stages: each opens a session with the weights of all that follows.
LAYERS, STAGES = 8, 6


@dataclass(frozen=True)
class Loud:
    """A layer that noise is put on: its output's name and type, and the root mean square of what it gives."""

    output: str
    dtype: np.dtype[np.generic]
    scale: float


@span("sensitivity")
def sensitivities(
    model: Model,
    layers: Sequence[Loud],
    macs: float,
    calibration: Calibration,
    *,
    threads: int = 1,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
    step: int = 1,
) -> list[float | None]:
    """The relative change of the model's outputs for a relative change of each layer's; None where it shows nothing.

    `macs` is what one sample takes; `step` samples run at once, once with all layers' outputs handed out. The layers
    are of the main graph, in its order. The list is empty where the model cannot be given noise.
    """
    if not layers:
        return []
    samples = int(np.clip(MACS / (macs * len(layers) + 1), *SAMPLES))
    feeds = list(calibration.batches(step, limit=samples))
    place = {t.name: number for number, node in enumerate(model.graph.nodes) for t in node.outputs}
    found: list[float | None] = []
    try:
        clean, noises = _clean(model, layers, feeds, threads, seed)
        means = _means(clean)
        with Segments(model, feeds, threads) as before:
            for part in np.array_split(np.arange(len(layers)), int(np.clip(len(layers) // LAYERS, 1, STAGES))):
                stage = [layers[number] for number in part]
                before.advance(min(place[layer.output] for layer in stage))
                session = open_session(_noisy(before, stage), threads=threads)
                given = {t.name for t in session.get_inputs()}
                still: Feed = {_noise(layer): np.zeros((), np.float32) for layer in stage}
                for layer in stage:
                    progress(f"sensitivity of layer {len(found) + 1} of {len(layers)}")
                    loud: list[Outputs] = []
                    for number in range(len(feeds)):
                        noise = np.float32(NOISE * layer.scale) * noises.of(layer.output, number)
                        values = {n: np.asarray(before.value(n)[number], order="C") for n in before.names() & given}
                        loud.append(_floats(run_session(session, {**values, **still, _noise(layer): noise}), model))
                    found.append(_change(clean, loud, means))
                del session
    except InputError:
        return []
    finally:
        release_memory()
    return found


def _clean(
    model: Model, layers: Sequence[Loud], feeds: Sequence[Feed], threads: int, seed: int
) -> tuple[list[Outputs], LayerNoise]:
    """The model's outputs without noise for each feed, and noise for the layers."""
    names = [*dict.fromkeys([*(t.name for t in model.graph.outputs), *(layer.output for layer in layers)])]
    clean, noises = [], LayerNoise([layer.output for layer in layers], seed)
    with StoredModel(model.proto()) as stored:
        session = stored.open_session(outputs=names, threads=threads, level="lean")
        for feed in feeds:
            values = run_session(session, feed)
            clean.append(_floats(values, model))
            noises.add(max((len(v) for v in feed.values() if v.ndim), default=1), values)
            del values
        del session
    return clean, noises


def _noise(layer: Loud) -> str:
    return f"hwpass_noise_{layer.output}"


def _noisy(before: Segments, stage: Sequence[Loud]) -> ModelProto:
    """What is still to run of a model, with y -> y + noise at the outputs y of a stage's layers."""
    graph = before.model.graph.copy()
    graph.nodes[:] = graph.nodes[before.cursor :]
    made = {t.name: node for node in graph.nodes for t in node.outputs}
    read = {t.name: t for node in graph.nodes for t in node.inputs}
    graph.inputs = [read[name] for name in sorted(before.names() & read.keys() - made.keys())]
    for tensor in graph.inputs:
        value = before.value(tensor.name)[0]
        tensor.dtype, tensor.shape = value.dtype, [f"{tensor.name}.{axis}" for axis in range(value.ndim)]
    for layer in stage:
        node = made[layer.output]
        result = node.outputs[0]
        noise = gs.Variable(_noise(layer), dtype=np.float32)
        graph.inputs.append(noise)
        plain, cast = (gs.Variable(f"{noise.name}_{part}") for part in ("plain", "cast"))
        node.outputs[0] = plain
        place = next(i for i, n in enumerate(graph.nodes) if n is node) + 1
        graph.nodes[place:place] = [
            gs.Node("Cast", f"{noise.name}_c", {"to": helper.np_dtype_to_tensor_dtype(layer.dtype)}, [noise], [cast]),
            gs.Node("Add", f"{noise.name}_a", {}, [plain, cast], [result]),
        ]
    with quiet():
        found: ModelProto = gs.export_onnx(graph, do_type_check=False)
    return found


def _floats(values: Feed, model: Model) -> Outputs:
    """The outputs that are tensors of floats; sequences and maps are none."""
    found = [np.asarray(values[t.name]) for t in model.graph.outputs if t.name in values]
    return [value.astype(np.float64) for value in found if value.dtype.kind == "f"]


def _means(clean: Sequence[Outputs]) -> dict[tuple[int, ...], NDArray[np.float64]]:
    """The mean over samples of each output, by its number and the shape of one sample's.

    Over all feeds: those of a model whose batch is 1 have no mean of their own to differ from.
    """
    rows: dict[tuple[int, ...], list[NDArray[np.float64]]] = {}
    for outputs in clean:
        for number, value in enumerate(outputs):
            rows.setdefault((number, *value.shape[1:]), []).append(value)
    return {key: np.concatenate([np.atleast_1d(v) for v in values]).mean(axis=0) for key, values in rows.items()}


def _change(
    clean: Sequence[Outputs], loud: Sequence[Outputs], means: dict[tuple[int, ...], NDArray[np.float64]]
) -> float | None:
    gap = size = 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is left out below
        for reference, found in zip(clean, loud, strict=True):
            for number, (a, b) in enumerate(zip(reference, found, strict=True)):
                gap += float(np.square(b - a).sum())
                size += float(np.square(a - means[number, *a.shape[1:]]).sum())
    return max(gap / size / NOISE**2, 1e-6) if size > 0 and np.isfinite(gap) else None
