"""GPUs, discrete and mobile: products as tiles over cores, everything else as bytes and elements.

Seconds of one kernel:

    overhead + max(arithmetic of the tiles, latency of the longest chain of steps, memory)

A product of m x n outputs, k x taps deep, is cut into tiles of a x b outputs. A core works on one tile at a time, so
ceil(tiles / cores) waves of tiles are waited for, however empty the last one is. Of the tile shapes that a library
holds, it is taken to run the fastest. The same view of a GPU: S. Lee et al., "NeuSight", ASPLOS 2025 (the utilisation
of tiles, bounded by a roofline); NVIDIA, "Matrix Multiplication Background" (tile and wave quantisation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hwpass.cost_models.base import CostModel, Figures, register
from hwpass.cost_models.work import Floats, Work

Ids = NDArray[np.int64]


class GpuLayout(Figures):
    """Counts of cores, and extents of tiles in elements."""

    cores: int = Field(gt=0)  #: streaming multiprocessors or shader cores that take tiles of their own
    tile: int = Field(gt=0)  #: longest side of a tile of outputs
    tile_floor: int = Field(gt=0)  #: shortest side; the sides between are halves of the longest
    depth: int = Field(gt=0)  #: how many of the k x taps products a step takes; a last step is never shorter
    splits: int = Field(gt=0)  #: among how many tiles the depth of one output may be split
    winograd: int = Field(ge=0)  #: side of the output tile of Winograd's 3x3 convolution (0: not used)
    attention: int = Field(ge=0, le=1)  #: 1: the scores of attention never leave a core, so that they move no bytes
    granule: int = Field(gt=0)  #: bytes of which a row of channels is a multiple, else it is padded and `ragged`


class GpuConstants(Figures):
    """Fitted shares of what the device could do, the same for every device under one runtime."""

    achieved: float = Field(gt=0, le=1)  #: share of the peak that a large tile reaches
    reuse: float = Field(ge=0)  #: side of a square tile that loads its operands as long as it multiplies them
    step_cycles: float = Field(ge=0)  #: cycles from one step of a tile to the next, when nothing hides them
    resident: float = Field(ge=1)  #: tiles on one core that hide each other's latency
    ragged: float = Field(ge=1)  #: time of a product whose channels fill no granule over one that fills it
    grouped: float = Field(gt=0, le=1)  #: rate of the tiles of a grouped convolution over those of a dense one
    matmul: float = Field(gt=0, le=1)  #: the same of a matrix product of several rows
    depthwise: float = Field(gt=0, le=1)  #: share of the fp32 peak that a depthwise convolution reaches
    streamed: float = Field(gt=0, le=1)  #: share of the bandwidth that kernels reach
    weights: float = Field(gt=0, le=1)  #: the same for constants, which are read in order
    gathered: float = Field(gt=0, le=1)  #: the same where elements change order, or pass several times
    launch_cycles: float = Field(ge=0)  #: cycles of the GPU before a kernel starts, beside the target's overhead
    operation_cycles: float = Field(ge=0)  #: cycles of a lane for one scalar operation, fp32


@register
class TiledGpu(CostModel):
    """Cores that work on tiles of outputs, behind one shared cache and one memory."""

    Layout = GpuLayout
    Constants = GpuConstants
    _layout: GpuLayout
    _constants: GpuConstants

    def latency(self, work: Work) -> Floats:
        """Seconds per kernel, [P, K]."""
        work = self._run(work)
        busy = np.maximum(self.compute_seconds(work), self.transfer_seconds(work))
        seconds = busy + self._start()
        return np.asarray(np.where(work.kind == "free", 0.0, seconds))

    def traffic_energy(self, work: Work) -> Floats:
        """Joules to move each kernel's activations and constants once, [P, K]."""
        work = self._run(work)
        return np.asarray(super().traffic_energy(work) * (work.kind != "free"))

    def _run(self, work: Work) -> Work:
        """The work as the runtime's kernels do it."""
        return without_scores(work) if self._layout.attention else work

    def compute_seconds(self, work: Work) -> Floats:
        """Seconds of arithmetic, [P, K]: of the product, and of the scalar operations fused behind it or alone."""
        kind, rate = work.kind, self._lane_rate()
        vector = work.macs / (rate * self._constants.depthwise)
        product = np.where(kind == "depthwise", vector, 0.0)
        tiled = work.places("conv", "grouped", "conv_transpose", "matmul", "recurrent")
        if len(tiled):
            product[:, tiled] = self._tiled(work.columns(tiled))
        return np.asarray(product + work.elements * self._constants.operation_cycles / rate)

    def _start(self) -> float:
        """Seconds before a kernel does anything: the driver's, and those of the GPU's own clock."""
        return self.target.overhead_us * 1e-6 + self._constants.launch_cycles / self._clock()

    def _lane_rate(self) -> float:
        """Multiply-accumulates per second of the plain lanes: of fp32, which no matrix unit speeds up."""
        peak = self.target.peak
        return peak.get("fp32", min(peak.values())) * 1e9

    def _tiled(self, work: Work) -> Floats:
        """The fastest of the tile shapes, [P, K]; of few channels a group, the plain lanes if those are faster."""
        ragged = self._ragged(work)
        best = self._fastest(work) * ragged
        lanes = work.macs / (self._lane_rate() * self._constants.depthwise)
        best = np.where((work.kind == "grouped") | (work.kind == "conv_transpose"), np.minimum(best, lanes), best)
        fits = (work.kind == "conv") & (work.taps == 9) & (work.stride == 1)
        if self._layout.winograd and fits.any():
            best = np.where(fits, np.minimum(best, self._winograd(work) * ragged), best)
        return np.asarray(best)

    def _winograd(self, work: Work) -> Floats:
        """Seconds of a 3x3 convolution in Winograd's form, [P, K], its transforms included.

        Of s x s outputs, (s + 2)^2 products are left of 9 s^2: as many independent matrix products, one row for each
        square of outputs. The transforms before and behind are kernels that write and read those many elements
        (A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015).
        """
        side = self._layout.winograd
        products, outputs = (side + 2.0) ** 2, side**2
        form = replace(work, groups=work.groups * products, m=np.ceil(work.m / outputs), taps=np.ones_like(work.taps))
        moved = self._moved(work.read + work.written) * 2 * products / outputs / self._constants.streamed
        return self._fastest(form) + moved + 2 * self._start()

    def _ragged(self, work: Work) -> Floats:
        """What channels that fill no granule cost, [P, K], as a factor of time."""
        step = np.maximum(1.0, self._layout.granule / work.itemsize)
        off = (work.n % step > 0) | ((work.k % step > 0) & (work.k >= step))
        return np.where(off, self._constants.ragged, 1.0)

    def _fastest(self, work: Work) -> Floats:
        """Seconds of the fastest tile shape, [P, K]."""
        lay, c = self._layout, self._constants
        granule = np.maximum(1.0, lay.granule / work.itemsize)
        n = np.ceil(work.n / granule) * granule
        steps = np.ceil(np.ceil(work.k / granule) * granule * work.taps / lay.depth)  # of the whole depth
        several = (work.kind == "matmul") & (work.m > 1)
        share = np.where(work.kind == "grouped", c.grouped, np.where(several, c.matmul, 1.0)) * c.achieved
        # Seconds of one step of one output on one core; a core skips zeros that its matrix unit knows of.
        step = (
            lay.depth
            * lay.cores
            / (self.peak(work) * share * work.kept("zeros", lambda: self._skipping(work), self.target))
        )
        shapes = self._shapes()
        down = {rows: work.groups * np.ceil(work.m / rows) for rows in {rows for rows, _ in shapes}}
        across = {columns: np.ceil(n / columns) for columns in {columns for _, columns in shapes}}
        best = np.full(work.m.shape, np.inf)
        for rows, columns in shapes:
            most = lay.tile if rows == 1 else lay.splits  # the lanes of a single row share its depth
            outputs = rows * columns + c.reuse * (rows + columns) / 2.0  # those of a tile, and what its operands take
            best = np.minimum(best, self._tiles(down[rows] * across[columns], steps, most, outputs * step))
        return best

    def _skipping(self, work: Work) -> Floats:
        """How many times as fast each product runs for the zeros of its weights, [K]."""
        if not work.zeros.size or not self.target.sparse:
            return np.ones(len(work.kind))
        gains = np.asarray([self.target.sparse.get(pattern, 1.0) for pattern in work.zeros.tolist()])
        return np.where(np.isin(work.kind, ("conv", "matmul")), gains, 1.0)

    def _shapes(self) -> list[tuple[int, int]]:
        """Rows and columns of the tiles that a library holds; single rows for a product of a vector."""
        sides = [self._layout.tile]
        while sides[-1] // 2 >= self._layout.tile_floor:
            sides.append(sides[-1] // 2)
        near = [(rows, columns) for rows in sides for columns in sides if max(rows, columns) <= 4 * min(rows, columns)]
        return [*near, (1, self._layout.tile)]

    def _tiles(self, tiles: Floats, steps: Floats, splits: int, step: Floats) -> Floats:
        """Seconds of some tiles, [P, K], whose depth takes `steps` steps of `step` seconds, or is split among cores.

        Where few cores have a tile, others take a part of its depth. The last wave is waited for as long as a full
        one, and a step never takes less than its latency over the tiles that hide each other's.
        """
        cores, c = self._layout.cores, self._constants
        if splits > 1:
            parts = np.clip(np.floor(cores / np.maximum(tiles, 1.0)), 1.0, np.clip(steps, 1.0, splits))
            tiles, steps = tiles * parts, np.ceil(steps / parts)
        waves = tiles / cores
        latency = np.ceil(waves / c.resident) * (c.step_cycles / self._clock())
        return np.asarray(np.maximum(np.ceil(waves) * step, latency) * steps)

    def _clock(self) -> float:
        return (self.target.clock_ghz or 1.0) * 1e9

    def transfer_seconds(self, work: Work) -> Floats:
        """Seconds to move activations and constants through the level that holds them, [P, K]."""
        c = self._constants
        ordered = np.isin(work.kind, ("movement", "normalization", "softmax", "reduce"))
        share = np.where(ordered, c.gathered, c.streamed)
        stored = work.weights * work.kept("stored", lambda: self._stored(work), self.target)
        constants = self.memory_seconds(stored, self.resident_set(work)) / c.weights
        return np.asarray(self._moved(work.read + work.written) / share + constants)

    def _stored(self, work: Work) -> Floats:
        """The share of its weights that a product reads, [K]: those that a pattern keeps, and their places in two bits
        each."""
        whole = np.ones(len(work.kind))
        for place in np.flatnonzero(self._skipping(work) > 1):
            n, m = (int(part) for part in str(work.zeros[place]).split(":"))
            whole[place] = n / m * (1 + 2 / (8 * work.itemsize[place]))
        return whole

    def _moved(self, traffic: Floats) -> Floats:
        return self.memory_seconds(traffic, traffic)


def without_scores(work: Work) -> Work:
    """The work of a runtime that has one kernel for attention: a product, its softmax, and a product with that.

    The scores between the products are neither written nor read, and what is done to them (scale, mask, softmax) is
    no kernel of its own (T. Dao et al., "FlashAttention", 2022). The two products stay two, each with its arithmetic.
    """
    kinds, first, last, edges, memo = work.kept("attention", lambda: _attention(work))
    if not len(first):
        return work
    read, written = work.read.copy(), work.written.copy()
    written[:, first] = 0.0
    read[:, last] -= work.bytes[:, edges]
    return replace(work, kind=kinds, read=read, written=written).of_same_kernels(memo)


def _attention(work: Work) -> tuple[NDArray[np.str_], Ids, Ids, Ids, dict[Any, Any]]:
    """Kinds with all between the products of attention free; those products, and the edges into the second ones."""
    readers: dict[int, list[int]] = {}
    inputs: dict[int, list[int]] = {}
    for edge, (source, sink) in enumerate(zip(work.source, work.sink, strict=True)):
        readers.setdefault(int(source), []).append(edge)
        inputs.setdefault(int(sink), []).append(edge)

    def product(kernel: int) -> bool:
        """Whether both factors are activations."""
        return kernel >= 0 and str(work.op[kernel]) in ("MatMul", "Einsum") and len(inputs.get(kernel, ())) > 1

    def passes(kernel: int) -> bool:
        return kernel >= 0 and work.kind[kernel] in ("elementwise", "free") and len(readers.get(kernel, ())) == 1

    kinds = work.kind.copy()
    first, last, edges = [], [], []
    for softmax in work.places("softmax") if work.op.size else ():
        between, above = [int(softmax)], _maker(int(softmax), work, inputs, product, passes)
        below = readers.get(int(softmax), [])
        while len(below) == 1 and passes(int(work.sink[below[0]])):
            between.append(int(work.sink[below[0]]))
            below = readers[between[-1]]
        if above and len(below) == 1 and product(int(work.sink[below[0]])) and len(readers[above[-1]]) == 1:
            kinds[between + above[:-1]] = "free"
            first.append(above[-1])
            last.append(int(work.sink[below[0]]))
            edges.append(below[0])
    return kinds, np.array(first, np.int64), np.array(last, np.int64), np.array(edges, np.int64), {}


def _maker(
    kernel: int,
    work: Work,
    inputs: Mapping[int, list[int]],
    product: Callable[[int], bool],
    passes: Callable[[int], bool],
) -> list[int]:
    """The kernels from a softmax up to the product that makes its scores, that product last; else none."""
    for edge in inputs.get(kernel, ()):
        source = int(work.source[edge])
        if product(source):
            return [source]
        if passes(source):
            above = _maker(source, work, inputs, product, passes)
            if above:
                return [source, *above]
    return []
