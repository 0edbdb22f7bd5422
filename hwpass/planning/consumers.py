"""The layers that read prunable channels: covariance of their inputs, Gram matrix of their weights, sensitivity.

Gathered by running the model with taps on calibration data; a few thousand sampled rows per tensor are enough. Where
there is no tap to be had (inside the body of an If, Loop or Scan), channels are taken to be alike and independent, so
that the norms of weights decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper

from hwpass.cost_models.work import Floats
from hwpass.coupling.groups import Coupling
from hwpass.data.activation_statistics import require_measurable
from hwpass.data.taps import Outer, tapped_session
from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.ops import Node
from hwpass.ops.axes import axis_size
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, StoredModel, open_session, run_session

#: Rows per tensor: a covariance of c channels wants several times c.
ROWS = 8192
#: Samples run at once: as many as the tapped activations leave room for, and no more than that.
BATCH = 4
BATCH_BYTES = 32 << 20
#: Matrices of more channels are kept in single precision, which is that of what they are made of.
WIDE = 512
#: Rows multiplied at once: those of every tensor wait in memory.
PORTION = 256

#: Noise put on a layer's output, relative to its own root mean square, to see what the network makes of it.
NOISE = 0.25
#: Multiply-accumulates spent on all sensitivities together: decides on how many samples (8 to 64) they are measured.
SENSITIVITY_MACS = 2e11


class Tap(NamedTuple):
    """A tensor to look at: the axis of its channels, and which of them."""

    axis: int
    channels: NDArray[np.intp]


@dataclass(eq=False)
class Consumer:
    """A product that reads channels."""

    node: Node
    tensor: str
    components: NDArray[np.int64]  # of the input's channel axis, [c]
    left: NDArray[np.intp]  # which of the axis' channels these are, [c]
    covariance: Floats  # of the input's channels, [c, c], about their mean: a bias takes the mean
    energy: float  # variance of the output: trace(M C)
    sensitivity: float = 1.0  # relative change of the model's outputs for a relative change of this output

    def gram(self) -> Floats:
        """M[i, j] = sum of W[i] W[j] over outputs and taps, [c, c]: made when asked for, as large as a covariance."""
        product = self.node.product
        assert product is not None
        found = weight_gram(self.node, axis_size(self.node.axes(product.data)[product.data_axis]))
        assert found is not None
        return _narrow(found[np.ix_(self.left, self.left)])


def consumers(
    coupling: Coupling,
    calibration: Calibration,
    *,
    threads: int = 1,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
    gone: NDArray[np.bool_] | None = None,
) -> list[Consumer]:
    """Every product with a constant weight whose input has prunable channels, with its statistics.

    `gone` marks components that are zero already: they are left out.
    """
    outer = Outer(coupling.build.model)
    readers: list[tuple[Node, str, NDArray[np.int64], NDArray[np.intp]]] = []
    taps: dict[str, Tap] = {}
    for node, components in _reading(coupling):
        assert node.product is not None
        left = np.arange(len(components)) if gone is None else np.flatnonzero(~gone[components])
        tensor = node.gs.inputs[node.product.data]
        name = tensor.name if outer.holds(tensor) else ""
        readers.append((node, name, components, left))
        if name:
            taps[name] = Tap(node.product.data_axis, left)
    step = batch_size(coupling, [*taps])
    covariances = covariance(coupling.build.model, taps, calibration, threads, seed, progress, step)
    found, gram = [], None
    for node, name, components, left in readers:
        gram = weight_gram(node, len(components))
        if gram is None:
            continue
        gram, components = _narrow(gram[np.ix_(left, left)]), components[left]
        cov = covariances.get(name)
        if cov is None or len(cov) != len(components):
            cov = np.eye(len(components))
        energy = float(np.einsum("ij,ji->", gram, cov))
        if energy > 0:
            found.append(Consumer(node, name, components, left, cov, energy))
    del covariances, gram
    macs = sum(macs_of(node) for node in coupling.nodes)
    heard = [reader for reader in found if outer.makes(reader.node.gs.outputs[0])]
    measured = measure(coupling.build.model, heard, macs, calibration, threads, seed, progress, step)
    typical = float(np.median([reader.sensitivity for reader in measured])) if measured else 1.0
    for reader in found:
        if not any(reader is other for other in measured):
            reader.sensitivity = typical
    return found


def _reading(coupling: Coupling) -> Iterator[tuple[Node, NDArray[np.int64]]]:
    """Products of activations with prunable channels, and the components of those channels."""
    live = np.zeros(int(coupling.component.max()) + 1, bool)
    for group in coupling.groups:
        live[group.components] = True
    for node in coupling.nodes:
        product = node.product
        if product is None or node.tensor(product.data).constant:
            continue
        components = coupling.components_of(node.axes(product.data)[product.data_axis])
        if live[components].any() and contracts(node, len(components)):
            yield node, components


def _narrow(matrix: Floats) -> Floats:
    return matrix.astype(np.float32) if len(matrix) > WIDE else matrix


def batch_size(coupling: Coupling, names: list[str]) -> int:
    """How many samples may be run at once with tensors handed out, 1 to BATCH, at the analysed extents."""
    tensors = [coupling.build.tensors[name] for name in names if name in coupling.build.tensors]
    taken = sum(float(np.prod(t.shape)) * 4 for t in tensors if t.axes is not None)
    return int(np.clip(BATCH_BYTES // max(taken, 1.0), 1, BATCH))


def macs_of(node: Node) -> float:
    """Multiply-accumulates of a node at the analysed extents."""
    if node.extent is None:
        return 0.0
    parts = (*node.extent.groups, *node.extent.m, *node.extent.n, *node.extent.k)
    return float(node.extent.taps) * float(np.prod([float(f.size) for f in parts]))


def contracts(node: Node, channels: int) -> bool:
    """Whether a product's weight has a place for each of its input's channels: a depthwise weight has not."""
    product = node.product
    if product is None or product.weight_in is None:
        return False
    size = axis_size(node.axes(product.weight)[product.weight_in])
    return size == channels or (channels % max(size, 1) == 0 and product.weight_out == 0)


def weight_gram(node: Node, channels: int) -> Floats | None:
    """Sum over outputs and taps of the products of two input channels' weights; None for a depthwise weight."""
    product = node.product
    assert product is not None
    weight = node.value(product.weight)
    if weight is None or product.weight_in is None:
        return None
    table = np.moveaxis(weight.astype(np.float64), product.weight_in, 0).reshape(weight.shape[product.weight_in], -1)
    if len(table) == channels:
        return np.asarray(table @ table.T)
    if channels % len(table) or product.weight_out != 0:
        return None
    # A grouped convolution: each group's outputs see its own inputs.
    groups, width = channels // len(table), len(table)
    gram = np.zeros((channels, channels))
    outputs = weight.shape[0] // groups
    for g in range(groups):
        part = np.moveaxis(weight[g * outputs : (g + 1) * outputs].astype(np.float64), 1, 0).reshape(width, -1)
        gram[g * width : (g + 1) * width, g * width : (g + 1) * width] = part @ part.T
    return gram


def covariance(
    model: Model,
    taps: dict[str, Tap],
    calibration: Calibration,
    threads: int,
    seed: int,
    progress: Callable[[str], None],
    step: int = BATCH,
) -> dict[str, Floats]:
    """Covariance of each tapped tensor's channels over sampled positions of all samples.

    Tensors without one are those that cannot be handed out, and those without a row. Raises InputError for values of
    which no variance means anything.
    """
    inputs = {t.name for t in model.graph.inputs}
    inner = {t.name for node in model.graph.nodes for t in node.outputs}
    names = [name for name in taps if name in inner]
    rng = np.random.default_rng(seed)
    sums: dict[str, _Moments] = {}
    each = max(1, -(-ROWS // max(len(calibration), 1)))
    try:
        with StoredModel(model.proto()) as stored:
            session, names = tapped_session(stored, names, threads)
            for number, feed in enumerate(calibration.batches(step), 1):
                progress(f"statistics, batch {number}")
                outputs = run_session(session, feed) if session is not None else {}
                for name in [*names, *(n for n in taps if n in inputs)]:
                    value = outputs[name] if name in outputs else np.asarray(feed[name])
                    axis, left = taps[name]
                    rows = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
                    take = min(len(rows), each * max(1, value.shape[0]))
                    if take < len(rows):
                        rows = rows[rng.choice(len(rows), take, replace=False)]
                    if len(left) < rows.shape[1]:
                        rows = rows[:, left]
                    require_measurable(calibration.source, name, rows)
                    sums.setdefault(name, _Moments(rows.shape[1])).add(rows)
            del session
    finally:
        release_memory()
    return {name: moments.covariance() for name, moments in sums.items() if moments.rows}


class _Moments:
    """First and second moments of rows [r, c], added up in portions: few rows at a time would only move memory."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.origin = np.zeros(channels, np.float32)
        self.mean = np.zeros(channels)  # about the origin, like the squares
        self.square = np.zeros((channels, channels), np.float32 if channels > WIDE else np.float64)
        self.waiting: list[NDArray[np.float32]] = []

    @property
    def rows(self) -> int:
        """How many rows were entered."""
        return self.count + sum(map(len, self.waiting))

    def add(self, rows: NDArray[np.generic]) -> None:
        """Enter rows."""
        self.waiting.append(np.array(rows, np.float32))
        if sum(map(len, self.waiting)) >= PORTION:
            self._flush()

    def _flush(self) -> None:
        if self.waiting:
            rows = np.concatenate(self.waiting)
            self.waiting.clear()
            if not self.count:  # near the mean, so that single precision loses nothing when that is taken off
                self.origin = rows.mean(axis=0)
            rows -= self.origin
            self.count += len(rows)
            self.mean += rows.sum(axis=0, dtype=np.float64)
            self.square += rows.T @ rows

    def covariance(self) -> Floats:
        """[c, c], about the mean."""
        self._flush()
        mean = self.mean / self.count
        found = self.square
        self.square = np.zeros((0, 0))
        found /= self.count
        found -= np.outer(mean, mean).astype(found.dtype)
        return found


def measure(
    model: Model,
    readers: list[Consumer],
    macs: float,
    calibration: Calibration,
    threads: int,
    seed: int,
    progress: Callable[[str], None],
    step: int = BATCH,
) -> list[Consumer]:
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
            scale = np.float32(NOISE * np.sqrt(reader.energy / max(_width(reader.node), 1)))
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


def _shapes(model: Model, readers: list[Consumer], feeds: list[Feed], threads: int) -> list[list[tuple[int, ...]]]:
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


def _width(node: Node) -> int:
    product = node.product
    assert product is not None
    weight = node.value(product.weight)
    return 1 if weight is None else int(weight.shape[product.weight_out])


def _noisy(model: Model, readers: list[Consumer]) -> tuple[Model, list[str]]:
    """The model with y -> y + noise at every consumer's output y, and the names of the inputs that take the noise."""
    noisy = model.copy()
    made = {t.name: node for node in noisy.graph.nodes for t in node.outputs}
    names = []
    for number, reader in enumerate(readers):
        node = made[reader.node.gs.outputs[0].name]
        result = node.outputs[0]
        product = reader.node.product
        assert product is not None
        weight = reader.node.value(product.weight)
        assert weight is not None
        kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
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
