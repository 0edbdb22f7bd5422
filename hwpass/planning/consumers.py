"""The layers that read prunable channels: covariance of their inputs, Gram matrix of their weights, sensitivity.

Gathered by running the model with taps on calibration data; a few thousand sampled rows per tensor are enough. Where
there is no tap to be had (inside the body of an If, Loop or Scan), channels are taken to be alike and independent, so
that the norms of weights decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hwpass.cost_models.work import Floats
from hwpass.coupling.groups import Coupling
from hwpass.data.activation_statistics import require_measurable
from hwpass.data.taps import Outer, tapped_session
from hwpass.model.model import Model
from hwpass.ops import Node
from hwpass.ops.axes import axis_size
from hwpass.planning.pairs import Pair, Split, operands, pair
from hwpass.planning.sensitivity import Loud, sensitivities
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import StoredModel, run_session
from hwpass.spans import span

#: Rows per tensor: a covariance of c channels wants several times c.
ROWS = 8192
#: Multiply-accumulates that statistics may take before samples are left out, and how many samples stay at the least.
STATISTICS_MACS = 5e11
SAMPLES = 96
#: Samples run at once: as many as the tapped activations leave room for, and no more than that.
BATCH = 4
BATCH_BYTES = 32 << 20
#: Matrices of more channels are kept in single precision, which is that of what they are made of.
WIDE = 512
#: Rows multiplied at once: those of every tensor wait in memory.
PORTION = 256
#: Values of a weight that are multiplied at once.
VALUES = 1 << 23
#: Inputs of a product from which on the positions of a channel (a flattened map) are taken to see one covariance, as
#: taps of a window are: the matrix of all inputs of VGG-16's first product takes 5 GB, and its inverse minutes.
FLATTENED = 4096


class Tap(NamedTuple):
    """A tensor to look at: the axis of its channels, and which of them, [c] or with their positions [c, p]."""

    axis: int
    channels: NDArray[np.intp]

    def table(self, value: NDArray[np.generic]) -> tuple[NDArray[np.generic], int]:
        """A view [.., channels of the axis], and how many of its axes number the rows."""
        return np.moveaxis(value, self.axis, -1), value.ndim - 1

    def of(self, rows: NDArray[np.generic]) -> NDArray[np.generic]:
        """Of such rows the channels to look at; a row for each position."""
        if self.channels.ndim > 1:
            return np.moveaxis(rows[:, self.channels], -1, 1).reshape(-1, len(self.channels))
        return rows[:, self.channels] if len(self.channels) < rows.shape[1] else rows


View: TypeAlias = "Tap | Split"


@dataclass(eq=False)
class Consumer:
    """A product that reads channels."""

    node: Node
    tensor: str
    components: NDArray[np.int64]  # of the input's channel axis, [c]
    left: NDArray[np.intp]  # which of the axis' channels these are, [c], or with their positions [c, p]
    covariance: Floats  # of the input's channels, [c, c], about their mean: a bias takes the mean
    energy: float  # variance of the output: trace(M C)
    sensitivity: float = 1.0  # relative change of the model's outputs for a relative change of this output

    @property
    def entry(self) -> float:
        """Variance of one entry of the output."""
        weight = self._weight
        product = self.node.product
        assert product is not None
        return self.energy / max(1 if weight is None else int(weight.shape[product.weight_out]), 1)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type of its numbers."""
        weight = self._weight
        return np.dtype(np.float32) if weight is None else weight.dtype

    @property
    def _weight(self) -> NDArray[np.generic] | None:
        assert self.node.product is not None
        return self.node.value(self.node.product.weight)

    def gram(self) -> Floats:
        """M[i, j] = sum of W[i] W[j] over outputs, taps and positions, [c, c]: made when asked for, as large as a
        covariance."""
        product = self.node.product
        assert product is not None
        found = weight_gram(self.node, axis_size(self.node.axes(product.data)[product.data_axis]), self.left)
        assert found is not None
        return found


def consumers(
    coupling: Coupling,
    calibration: Calibration,
    *,
    threads: int = 1,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
    gone: NDArray[np.bool_] | None = None,
) -> list[Consumer | Pair]:
    """Every product with a constant weight whose input has prunable channels, and of two activations that sums over
    such, with its statistics.

    `gone` marks components that are zero already: they are left out.
    """
    outer = Outer(coupling.build.model)
    readers: list[tuple[Node, str, NDArray[np.int64], NDArray[np.intp]]] = []
    views: dict[object, tuple[str, View]] = {}
    live = _live(coupling)
    for node, components in _reading(coupling, live):
        assert node.product is not None
        left = np.arange(len(components)) if gone is None else np.flatnonzero(~gone[components])
        left = by_position(left, components)
        tensor = node.gs.inputs[node.product.data]
        name = tensor.name if outer.holds(tensor) else ""
        readers.append((node, name, components, left))
        if name:
            views[name] = name, Tap(node.product.data_axis, left)
    products = operands(coupling, live)
    views |= {key: key for product in products for key in zip(product.names, product.splits, strict=True)}
    step = batch_size(coupling, [name for name, _ in views.values()])
    some = affordable(calibration, sum(macs_of(node) for node in coupling.nodes))
    moments = look(coupling.build.model, views, some, threads, seed, progress, step)
    found: list[Consumer | Pair] = [p for p in (pair(product, moments) for product in products) if p is not None]
    gram = None
    for node, name, components, left in readers:
        gram = weight_gram(node, len(components), left)
        if gram is None:
            continue
        components = components[left if left.ndim == 1 else left[:, 0]]
        cov = moments[name][0] if name in moments else None
        if cov is None or len(cov) != len(components):
            cov = np.eye(len(components))
        energy = float(np.einsum("ij,ji->", gram, cov))
        if energy > 0:
            found.append(Consumer(node, name, components, left, cov, energy))
    del moments, gram
    _measure(coupling, found, calibration, threads, seed, progress, step)
    return found


def affordable(calibration: Calibration, macs: float) -> Calibration:
    """The samples that statistics are taken of, from all over the data; `macs` is what one takes."""
    most = max(SAMPLES, STATISTICS_MACS / max(macs, 1.0))
    return replace(calibration, every=calibration.every * max(1, int(len(calibration) // most)))


def _live(coupling: Coupling) -> NDArray[np.bool_]:
    """Which components belong to a group."""
    live = np.zeros(int(coupling.component.max()) + 1, bool)
    for group in coupling.groups:
        live[group.components] = True
    return live


def _reading(coupling: Coupling, live: NDArray[np.bool_]) -> Iterator[tuple[Node, NDArray[np.int64]]]:
    """Products of activations with prunable channels, and the components of those channels."""
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


def by_position(left: NDArray[np.intp], components: NDArray[np.int64]) -> NDArray[np.intp]:
    """Of many indices of an axis those of each channel [c, p], where every channel has as many of them: [c] else."""
    own = components[left]
    found, counts = np.unique(own, return_counts=True)
    if len(left) <= FLATTENED or counts[0] == 1 or (counts != counts[0]).any():
        return left
    return left[np.argsort(own, kind="stable")].reshape(len(found), -1)


def weight_gram(node: Node, channels: int, left: NDArray[np.intp]) -> Floats | None:
    """Sum over outputs and taps of the products of two input channels' weights; None for a depthwise weight.

    Of `channels` those that are `left`, [c], or with the positions to sum over [c, p].
    """
    product = node.product
    assert product is not None
    weight = node.value(product.weight)
    if weight is None or product.weight_in is None:
        return None
    table = np.moveaxis(weight, product.weight_in, 0).reshape(weight.shape[product.weight_in], -1)
    if len(table) == channels:
        gram = np.zeros((len(left), len(left)))
        step = max(1, VALUES // max(channels, 1))
        for start in range(0, table.shape[1], step):
            part = table[:, start : start + step][left].astype(np.float64)
            part = part.reshape(len(left), prod(part.shape[1:]))
            gram += part @ part.T
        return _narrow(gram)
    if channels % len(table) or product.weight_out != 0 or left.ndim > 1:
        return None
    # A grouped convolution: each group's outputs see its own inputs.
    groups, width = channels // len(table), len(table)
    gram = np.zeros((channels, channels))
    outputs = weight.shape[0] // groups
    for g in range(groups):
        part = np.moveaxis(weight[g * outputs : (g + 1) * outputs].astype(np.float64), 1, 0).reshape(width, -1)
        gram[g * width : (g + 1) * width, g * width : (g + 1) * width] = part @ part.T
    return _narrow(gram[np.ix_(left, left)])


@span("statistics")
def look(
    model: Model,
    views: Mapping[object, tuple[str, View]],
    calibration: Calibration,
    threads: int,
    seed: int,
    progress: Callable[[str], None],
    step: int = BATCH,
) -> dict[object, tuple[Floats, Floats]]:
    """Covariance and mean of the rows of each view of a tensor, over sampled positions of all samples.

    Views without one are of those that cannot be handed out, and those without a row. Raises InputError for values of
    which no variance means anything.
    """
    inputs = {t.name for t in model.graph.inputs}
    inner = {t.name for node in model.graph.nodes for t in node.outputs}
    names = list(dict.fromkeys(name for name, _ in views.values() if name in inner))
    rng = np.random.default_rng(seed)
    sums: dict[object, _Moments] = {}
    each = max(1, -(-ROWS // max(len(calibration), 1)))
    try:
        with StoredModel(model.proto()) as stored:
            session, names = tapped_session(stored, names, threads)
            for number, feed in enumerate(calibration.batches(step), 1):
                progress(f"statistics, batch {number}")
                outputs = run_session(session, feed) if session is not None else {}
                for key, (name, view) in views.items():
                    if name not in outputs and name not in inputs:
                        continue
                    value = outputs[name] if name in outputs else np.asarray(feed[name])
                    rows = view.of(_some(*view.table(value), each * max(1, value.shape[0]), rng))
                    require_measurable(calibration.source, name, rows)
                    sums.setdefault(key, _Moments(rows.shape[1])).add(rows)
            del session
    finally:
        release_memory()
    return {key: moments.covariance() for key, moments in sums.items() if moments.rows}


def _some(table: NDArray[np.generic], axes: int, most: int, rng: np.random.Generator) -> NDArray[np.generic]:
    """At most so many rows of a table, [rows, ..], drawn by chance: of a large one only these are touched."""
    shape = table.shape[:axes]
    count = prod(shape)
    if most < count:
        table = table[np.unravel_index(rng.choice(count, most, replace=False), shape)]
    return table.reshape(min(most, count), -1)


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

    def covariance(self) -> tuple[Floats, Floats]:
        """[c, c], about the mean, and the mean [c]."""
        self._flush()
        mean = self.mean / self.count
        found = self.square
        self.square = np.zeros((0, 0))
        found /= self.count
        found -= np.outer(mean, mean).astype(found.dtype)
        return found, mean + self.origin


def _measure(
    coupling: Coupling,
    readers: Sequence[Consumer | Pair],
    calibration: Calibration,
    threads: int,
    seed: int,
    progress: Callable[[str], None],
    step: int,
) -> None:
    """Set each consumer's sensitivity; what cannot be measured gets that of a typical one."""
    outer = Outer(coupling.build.model)
    # One layer may be read by way of several tensors; its output is one.
    heard = {r.node.index: r for r in readers if outer.makes(r.node.gs.outputs[0])}
    layers = [_loud(heard[index]) for index in sorted(heard)]
    macs = sum(macs_of(node) for node in coupling.nodes)
    found = sensitivities(
        coupling.build.model, layers, macs, calibration, threads=threads, seed=seed, progress=progress, step=step
    )
    known = dict(zip(sorted(heard), found, strict=True)) if found else {}
    measured = [value for value in known.values() if value is not None]
    typical = float(np.median(measured)) if measured else 1.0
    for reader in readers:
        value = known.get(reader.node.index)
        reader.sensitivity = typical if value is None else value


def _loud(reader: Consumer | Pair) -> Loud:
    return Loud(reader.node.gs.outputs[0].name, reader.dtype, float(np.sqrt(reader.entry)))
