"""SIMD cores from their specifications: lanes, pipes, issue width, order, clock, caches; mobile runtimes such as ncnn.

Everything but memory is counted in vector operations. A core completes one in

    1/pipes + loads + wait/issue  cycles:

the time in a SIMD pipe; the time to load its share of operands, which a core that issues out of order hides behind
the first; and the share of the issue slots that addresses and loops take (`wait_in_order`, `wait_out_of_order`).
Seconds of one kernel:

    start + max(compute + exposed x memory, memory)

The formulas of each kernel follow the implementations of such runtimes: convolutions as matrix products over packed
channels (a window is gathered first), 3x3 ones by the cheapest Winograd tile, depthwise ones by vectors of channels.
Constants are of the runtime and hold for every core; what differs between cores stands in `layout`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydantic import Field

from hwpass.cost_models.base import CostModel, Figures, register
from hwpass.cost_models.core_threads import Threads
from hwpass.cost_models.target import Target
from hwpass.cost_models.work import Floats, Work


class CoreLayout(Figures):
    """What a core is."""

    vector_bytes: int = Field(gt=0)  #: of one SIMD register that the runtime uses
    pipes: int = Field(gt=0)  #: SIMD pipes
    issue: int = Field(gt=0)  #: instructions that start in a cycle
    load_bytes: int = Field(gt=0)  #: loaded in a cycle from the first cache
    in_order: int = Field(ge=0, le=1)
    pack: int = Field(gt=0)  #: channels are stored in packs of as many if their count allows it; 1: side by side (NHWC)
    product_bytes: int = Field(ge=1, le=4)  #: narrowest element in which the runtime multiplies matrices (not windows)
    fast_cores: int = Field(gt=0)  #: cores like the one described
    slow_percent: int = Field(gt=0, le=100)  #: speed of the cores beyond these, percent of a fast one


class CoreConstants(Figures):
    """Of the runtime; vector operations (a register of elements each) unless said otherwise."""

    wait_in_order: float = Field(ge=0)  #: issue slots that a vector operation waits for, core in order
    wait_out_of_order: float = Field(ge=0)  #: the same, core out of order
    loads: float = Field(ge=0)  #: vectors loaded for each vector operation
    product: float = Field(gt=0)  #: share of its peak that a matrix product reaches, beside waits
    pack_in: float = Field(ge=0)  #: put a vector of an operand into tile order
    gather: float = Field(ge=0)  #: gather a vector of a window of packed channels
    gather_plain: float = Field(ge=0)  #: the same, channels not packed, as those of an image
    store: float = Field(ge=0)  #: finish a vector of outputs
    winograd: float = Field(ge=0)  #: transform a vector of positions of a tile, per element of its side
    depthwise_tap: float = Field(ge=0)  #: one tap of a depthwise convolution
    depthwise_out: float = Field(ge=0)  #: an output of it, beside its taps
    depthwise_plain: float = Field(ge=1)  #: how much longer if the channels are not packed
    pool_tap: float = Field(ge=0)  #: one position of a pool's window
    element: float = Field(ge=0)  #: a vector of any other operator
    function: float = Field(ge=0)  #: a vector of an exponential, sigmoid, or the like
    move: float = Field(ge=0)  #: a vector of an operator that only moves
    scalar: float = Field(ge=0)  #: one element read by an operator without vectors, such as a selection of boxes
    matmul: float = Field(gt=0, le=1)  #: rate of other matrix products over that of convolutions
    group: float = Field(ge=0)  #: start the product of one group
    start: float = Field(ge=0)  #: start a kernel, beside `overhead_us`
    exposed: float = Field(ge=0, le=1)  #: share of memory time that arithmetic does not hide, core out of order
    exposed_in_order: float = Field(ge=0, le=1)
    thread_share: float = Field(gt=0, le=1)  #: share of a matrix product's arithmetic that threads divide
    thread_share_light: float = Field(gt=0, le=1)  #: the same for all other kernels
    thread_start_us: float = Field(ge=0)  #: hand a kernel to twice as many threads, microseconds
    shared_bandwidth: float = Field(ge=1)  #: bandwidth of all cores over that of one, last level


_FUNCTIONS = frozenset({"Sigmoid", "Tanh", "Gelu", "Erf", "Exp", "Softplus", "Mish", "Elu", "Selu", "Pow", "LRN"})


@register
class SimdCore(CostModel):
    """One core or several of a kind, by their specification, under a runtime that packs channels."""

    threaded = True
    Layout = CoreLayout
    Constants = CoreConstants
    _layout: CoreLayout
    _constants: CoreConstants

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        lay, c = self._layout, self._constants
        self._hertz = 1e9 * (target.clock_ghz or 1.0)
        wait = c.wait_in_order if lay.in_order else c.wait_out_of_order
        loading = c.loads * lay.vector_bytes / lay.load_bytes
        hidden = 0.0 if lay.in_order else 1 / lay.pipes
        self._wait = wait / lay.issue + max(0.0, loading - hidden)  # cycles
        self._operation = (1 / lay.pipes + self._wait) / self._hertz  # seconds
        self._exposed = c.exposed_in_order if lay.in_order else c.exposed
        self._threads = Threads(
            target.threads,
            lay.fast_cores,
            lay.slow_percent / 100,
            c.thread_share,
            c.thread_share_light,
            c.shared_bandwidth,
            c.thread_start_us,
        )

    def latency(self, work: Work) -> Floats:
        """Seconds per kernel, [P, K]."""
        work = _rounded(work)
        block = None if self._layout.pack == 1 else 2 * self._layout.pack
        compute = self.compute_seconds(work) * self._threads.compute(work, block)
        memory = self._memory(work)
        compute = compute + self._converted(work)
        seconds = np.maximum(compute + self._exposed * memory, memory)
        # Each group of a convolution is a kernel of its own for the threads.
        grouped = np.isin(work.kind, ("grouped", "conv_transpose")) & (np.maximum(work.k, work.n) > 1)
        handed = self._threads.start * np.where(grouped, work.groups, 1.0)
        start = self.target.overhead_us * 1e-6 + self._constants.start * self._operation + handed
        return np.asarray(np.where(work.kind == "free", 0.0, seconds + start))

    def _memory(self, work: Work) -> Floats:
        """Seconds to move what a kernel reads and writes, [P, K]; threads share the last level."""
        traffic = work.read + work.written
        activations = self.memory_seconds(traffic, traffic)
        weights = self.memory_seconds(work.weights, self.resident_set(work))
        return np.asarray((activations + weights) * self._threads.memory)

    def compute_seconds(self, work: Work) -> Floats:
        """Seconds of one core's arithmetic, [P, K]."""
        c, kind = self._constants, work.kind
        result = self._plain(work)
        convolution = np.isin(kind, ("conv", "grouped"))
        result = np.where(convolution, self._convolution(work), result)
        result = np.where(kind == "depthwise", self._depthwise(work), result)
        matmul = np.isin(kind, ("matmul", "recurrent"))
        result = np.where(matmul, self._matmul(work), result)
        result = np.where(kind == "conv_transpose", self._transposed(work), result)
        fused = self._fused(work) * work.written / work.itemsize / self._lanes(work)
        return np.asarray(result + np.where(work.macs > 0, fused * c.function * self._operation, 0.0))

    def _converted(self, work: Work) -> Floats:
        """Seconds to convert what another kernel left in a wider or narrower format, [P, K]."""
        result = np.zeros_like(work.m)
        for edge in np.flatnonzero(work.source >= 0):
            source, sink = int(work.source[edge]), int(work.sink[edge])
            if work.itemsize[source] != work.itemsize[sink]:
                width = min(max(float(work.itemsize[source]), float(work.itemsize[sink])), self._layout.vector_bytes)
                count = work.bytes[:, edge] / work.itemsize[sink]
                result[:, sink] += count * width / self._layout.vector_bytes * self._constants.element * self._operation
        return result

    def _lanes(self, work: Work) -> Floats:
        """Elements of a vector, [K]."""
        return np.asarray(np.maximum(self._layout.vector_bytes / work.itemsize, 1.0))

    def _vectors(self, count: Floats, work: Work) -> Floats:
        """Seconds of one vector operation on each of `count` elements, [P, K]."""
        return np.asarray(count / self._lanes(work) * self._operation)

    def _multiply(self, work: Work, macs: Floats, itemsize: Floats | None = None) -> Floats:
        """Seconds of a matrix product of so many multiply-accumulates, [P, K]."""
        sized = work if itemsize is None else replace(work, itemsize=itemsize)
        peak = self.peak(sized)
        # MACs of one instruction: as many as lanes, more where one adds several products (dot products, tiles).
        fp32 = self.peak(replace(work, itemsize=np.full_like(work.itemsize, 4.0)))
        each = np.maximum(self._layout.vector_bytes / 4 * peak / fp32, 1.0)
        return np.asarray(macs * (1 / (self._constants.product * peak) + self._wait / (each * self._hertz)))

    def _convolution(self, work: Work) -> Floats:
        """A dense or grouped convolution: gather (im2col) and multiply, or Winograd where that is cheaper."""
        c = self._constants
        packed = self._packed(work.in_channels)
        window = (work.taps > 1) | (work.stride > 1)
        each = np.where(packed, np.where(window, c.gather, c.pack_in), np.where(window, c.gather_plain, c.pack_in))
        lanes = np.where(packed, self._lanes(work) / self._narrow(work.in_channels, work), 1.0)
        lanes = np.where(window, lanes, self._lanes(work))
        gather = work.groups * work.m * work.k * work.taps * each / lanes * self._operation
        store = self._vectors(work.groups * work.m * work.n, _widened(work, 4)) * c.store
        narrow = self._halved(work.n, work)
        product = self._multiply(work, work.groups * work.m * self._whole(work.n) * work.k * work.taps) * narrow
        direct = gather + store + product + work.groups * c.group * self._operation
        able = (work.taps == 9) & (work.stride == 1) & (work.groups == 1) & (work.k >= 8) & (work.n >= 8)
        small = np.minimum(self._winograd(work, 2), self._winograd(work, 4))
        best = np.where(work.itemsize > 1, np.minimum(small, self._winograd(work, 6)), small)
        return np.asarray(np.where(able, np.minimum(direct, best + store), direct))

    def _winograd(self, work: Work, tile: int) -> Floats:
        """F(tile x tile, 3x3): transform the input tiles, multiply position by position, transform back.

        Integers are transformed in 16 bits and summed in 32.

        A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, 2015. (tile + 2)^2 products per
        tile and pair of channels; a transform makes two passes of about `side` operations over each position.
        """
        c = self._constants
        side = tile + 2
        rows = np.sqrt(np.maximum(work.m, 1.0))
        tiles = np.ceil(rows / tile) ** 2
        half = _widened(work, 2)
        into = self._vectors(tiles * side * side * work.k, half) * c.winograd * side
        back = self._vectors(tiles * side * side * work.n, half) * c.winograd * side
        product = self._multiply(_widened(work, 4), tiles * side * side * work.k * self._whole(work.n)) * self._halved(
            work.n, work
        )
        # Both transformed sets are written and read again.
        scratch = 2 * tiles * side * side * (work.k + work.n) * half.itemsize
        return np.asarray(into + back + product + self._exposed * self.memory_seconds(scratch, scratch / 2))

    def _depthwise(self, work: Work) -> Floats:
        c, work = self._constants, _widened(work, 4)
        each = c.depthwise_out + c.depthwise_tap * work.taps
        plain = np.where(self._packed(work.groups), self._narrow(work.groups, work), c.depthwise_plain)
        return self._vectors(self._whole(work.groups) * work.m * work.n, work) * each * plain

    def _matmul(self, work: Work) -> Floats:
        """m rows times n columns; an operand that is no constant is put into tile order first."""
        c = self._constants
        one = work.m <= 1
        wide = np.maximum(work.itemsize, np.where(work.itemsize > 1, self._layout.product_bytes, 1))
        macs = work.groups * work.m * self._whole(work.n) * work.k * work.taps
        many = self._multiply(work, macs, wide) / c.matmul
        few = self._vectors(macs, work)  # every weight is loaded for one multiplication
        moved = work.m * work.k + np.where(work.weights > 0, 0.0, work.n * work.k)
        packing = self._vectors(work.groups * moved, work) * c.pack_in + work.groups * c.group * self._operation
        return np.asarray(np.where(one, few, many + packing + self._vectors(work.groups * work.m * work.n, work)))

    def _transposed(self, work: Work) -> Floats:
        scatter = self._vectors(work.groups * work.m * work.n * work.taps, work) * self._constants.gather
        return np.asarray(self._multiply(work, work.macs) + scatter)

    def _plain(self, work: Work) -> Floats:
        """Kernels without a product, by the elements of their output or, of a reduction, of their input."""
        c = self._constants
        out = work.written / work.itemsize
        count = np.where(work.kind == "reduce", np.maximum(work.read / work.itemsize, out), out)
        count = np.where(work.kind == "pool", out * work.taps, count)
        each = np.where(np.isin(work.kind, ("movement", "other")), c.move, c.element)
        each = np.where(work.kind == "pool", c.pool_tap, each)
        each = np.where(work.kind == "normalization", 3 * c.element, each)
        softmax = np.where(work.kind == "softmax", 1.0, 0.0)
        scanned = np.where(work.kind == "other", work.read / work.itemsize * c.scalar * self._operation, 0.0)
        return self._vectors(count, work) * (each + (self._fused(work) + softmax) * c.function) + scanned

    def _fused(self, work: Work) -> Floats:
        """How many transcendental functions each kernel computes of every output, [K]."""
        if not work.op.size:
            return np.zeros(len(work.kind))
        return np.array([sum(op in _FUNCTIONS for op in str(chain).split("+")) for chain in work.op], np.float64)

    def _packed(self, channels: Floats) -> Floats:
        return np.asarray(channels % min(self._layout.pack, 4) == 0)

    def _narrow(self, channels: Floats, work: Work) -> Floats:
        """Elements of a vector over those of a pack: the largest of 4, 8, ... that divides the channels, [P, K]."""
        lanes = np.broadcast_to(self._lanes(work), channels.shape)
        share = np.ones(channels.shape)
        if self._layout.pack == 1:
            return share
        for pack in (8, 16, 32, 64):
            share = np.where((lanes >= pack) & (channels % pack != 0), share * 2, share)
        return share

    def _halved(self, channels: Floats, work: Work) -> Floats:
        """The same for products, which leave packs to channels that fill the smallest: others have full tiles first."""
        return np.asarray(np.where(self._packed(channels), self._narrow(channels, work), 1.0))

    def _whole(self, channels: Floats) -> Floats:
        """Channels rounded up to the register tile of four; few are handled one by one."""
        return np.asarray(np.where(channels > 1, np.ceil(channels / 4) * 4, channels))


def _widened(work: Work, integer: float) -> Work:
    """The same work with single-byte elements held in `integer` bytes, as products and sums of them are."""
    return replace(work, itemsize=np.where(work.itemsize < 2, integer, work.itemsize))


def _rounded(work: Work) -> Work:
    """The same work with extents that are whole up to rounding errors made whole."""
    return replace(work, **{name: np.round(getattr(work, name), 6) for name in ("groups", "m", "n", "k")})
