"""How much the model's outputs change for a change of what a layer computes: noise on one output after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper

from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.ops import Node
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, StoredModel, open_session, run_session

#: Noise put on a layer's output, relative to its own root mean square, to see what the network makes of it.
NOISE = 0.25
#: Multiply-accumulates spent on all sensitivities together: decides on how many samples (8 to 64) they are measured.
SENSITIVITY_MACS = 2e11


class Reader(Protocol):
    """A node of the main graph whose first output is disturbed."""

    node: Node
    sensitivity: float

    @property
    def entry(self) -> float:
        """Variance of one entry of the output."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type of its numbers."""


R = TypeVar("R", bound=Reader)


def measure(
    model: Model,
    readers: Sequence[R],
    macs: float,
    calibration: Calibration,
    threads: int,
    seed: int,
    progress: Callable[[str], None],
    step: int,
) -> Sequence[R]:
    """Set each consumer's sensitivity: noise on its output against the change of the model's outputs.

    `macs` is what one sample takes; the nodes are of the main graph. Returns the consumers that were measured: none
    where the model cannot be given noise.
    The model runs once per consumer, on as many samples as SENSITIVITY_MACS allow.
    """
    if not readers:
        return []
    samples = int(np.clip(SENSITIVITY_MACS / (macs * len(readers) + 1), 8, 64))
    feeds = list(calibration.batches(step, limit=samples))
    rng = np.random.default_rng(seed)
    outputs = [t.name for t in model.graph.outputs]
    try:
        try:
            shapes = _shapes(model, readers, feeds, threads)
            noisy, names = _noisy(model, readers)
            session = open_session(noisy.proto(), threads=threads)
            quiet = {name: np.zeros((), np.float32) for name in names}
            clean = [_outputs(session, {**f, **quiet}, outputs) for f in feeds]
        except InputError:
            return []
        for number, (reader, name) in enumerate(zip(readers, names, strict=True), 1):
            progress(f"sensitivity of layer {number} of {len(readers)}")
            scale = np.float32(NOISE * np.sqrt(reader.entry))
            gap = size = 0.0
            for f, reference, known in zip(feeds, clean, shapes, strict=True):
                noise = scale * rng.standard_normal(known[number - 1], np.float32)
                found = _outputs(session, {**f, **quiet, name: noise}, outputs)
                with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is left out below
                    for a, b in zip(reference, found, strict=True):
                        centred = a - a.mean(axis=0)
                        gap += float(np.square(b - a).sum())
                        size += float(np.square(centred).sum())
            if size > 0 and np.isfinite(gap):
                reader.sensitivity = max(gap / size / NOISE**2, 1e-6)
        del session
        return readers
    finally:
        release_memory()


def _shapes(model: Model, readers: Sequence[Reader], feeds: list[Feed], threads: int) -> list[list[tuple[int, ...]]]:
    """The shape of every consumer's output for each feed."""
    names = [reader.node.gs.outputs[0].name for reader in readers]
    with StoredModel(model.proto()) as stored:
        session = stored.open_session(outputs=[*dict.fromkeys(names)], threads=threads)
        found = []
        for feed in feeds:
            values = run_session(session, feed)
            found.append([values[name].shape for name in names])
        del session
    return found


def _noisy(model: Model, readers: Sequence[Reader]) -> tuple[Model, list[str]]:
    """The model with y -> y + noise at every consumer's output y, and the names of the inputs that take the noise."""
    noisy = model.copy()
    made = {t.name: node for node in noisy.graph.nodes for t in node.outputs}
    names = []
    for number, reader in enumerate(readers):
        node = made[reader.node.gs.outputs[0].name]
        result = node.outputs[0]
        kind = helper.np_dtype_to_tensor_dtype(reader.dtype)
        noise = gs.Variable(f"hwpass_noise_{number}", dtype=np.float32)
        noisy.graph.inputs.append(noise)
        names.append(noise.name)
        plain, cast = (gs.Variable(f"{noise.name}_{part}") for part in ("plain", "cast"))
        node.outputs[0] = plain
        place = next(i for i, n in enumerate(noisy.graph.nodes) if n is node) + 1
        noisy.graph.nodes[place:place] = [
            gs.Node("Cast", f"{noise.name}_c", {"to": kind}, [noise], [cast]),
            gs.Node("Add", f"{noise.name}_a", {}, [plain, cast], [result]),
        ]
    return noisy, names


def _outputs(session: object, feed: Feed, names: list[str]) -> list[NDArray[np.float64]]:
    """The outputs that are tensors of floats; sequences and maps are none."""
    found = run_session(session, feed)
    return [np.asarray(found[n], np.float64) for n in names if n in found and np.asarray(found[n]).dtype.kind == "f"]
