"""Cached SIMD CPUs, one thread: x86 servers with ONNX Runtime, big Arm cores with a mobile runtime.

Seconds of one kernel:

    overhead + max(compute + exposed x memory, memory) + layout conversions

`compute` is the multiply-accumulates after padding to the blocks and tiles of the kernel that runs, over the
peak rate. `memory` is the bytes moved over the bandwidth of the level that holds them; the prefetchers hide
all but the share `exposed` of it behind arithmetic.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from hwpass.cost_models.base import CostModel, Figures, register
from hwpass.cost_models.blocked import BlockedLayout, Bools
from hwpass.cost_models.target import Target
from hwpass.cost_models.work import Floats, Work

#: Channels that a depthwise convolution of bytes takes at a time.
INT8_CHANNELS = 16


class CpuLayout(Figures):
    """Widths in elements. `block`, `entry` and `exit` are explained by BlockedLayout."""

    block: int = Field(gt=0)
    entry: int = Field(gt=0)
    exit: int = Field(gt=0)
    set_blocks: int = Field(gt=0)  #: output blocks that a pass of the blocked convolution keeps in registers
    tile_rows: int = Field(gt=0)  #: rows of the matrix product's register tile
    tile_columns: int = Field(gt=0)  #: columns of it


class CpuConstants(Figures):
    """Fitted figures. Times are nanoseconds for fp32 elements, `set_floor` counts blocks, `_macs` MACs."""

    set_floor: float = Field(ge=0)  #: blocks' worth of time that even a one-block pass takes (FMA latency)
    exposed: float = Field(ge=0, le=1)  #: share of memory time that arithmetic does not hide
    weight_exposed: float = Field(ge=0, le=1)  #: the same for constants
    output_macs: float = Field(ge=0)  #: MACs' worth of storing one output of a blocked convolution
    direct_macs: float = Field(ge=0)  #: the same when the input is read in the plain layout
    pack_ns: float = Field(ge=0)  #: pack one element of an operand into tile order
    im2col_ns: float = Field(ge=0)  #: gather one element of a window, stride 1
    im2col_strided_ns: float = Field(ge=0)  #: the same when the stride is more than 1
    im2col_row_ns: float = Field(ge=0)  #: start one row of gathered elements; an output has sqrt(m) rows
    plain_output_ns: float = Field(ge=0)  #: finish one output (bias, activation) outside the blocked layout
    group_ns: float = Field(ge=0)  #: start the product of one group
    depthwise_mac_ns: float = Field(ge=0)  #: one multiply-accumulate of a blocked depthwise convolution
    depthwise_output_ns: float = Field(ge=0)  #: one output of it
    depthwise_channel_ns: float = Field(ge=0)  #: one channel of it
    winograd: float = Field(ge=1)  #: rate of a 3x3 stride-1 convolution over the direct rate (1: not used)
    recurrent: float = Field(gt=0, le=1)  #: share of the peak that recurrent kernels reach
    conversion_ns: float = Field(ge=0)  #: convert one element between layouts, beside its memory time
    # Kernels on integers of 8 bits; only where `peak` has a rate for them.
    int8_output_ns: float = Field(default=0, ge=0)  #: scale, round and store one output of a product
    int8_gather_ns: float = Field(default=0, ge=0)  #: gather one element of a window
    int8_depthwise_mac_ns: float = Field(default=0, ge=0)  #: one multiply-accumulate of a depthwise convolution
    int8_depthwise_rest_ns: float = Field(default=0, ge=0)  #: the same for channels beyond whole groups of 16
    int8_depthwise_tap_ns: float = Field(default=0, ge=0)  #: start one position of its window, for all channels
    int8_element_ns: float = Field(default=0, ge=0)  #: one output of any other operator
    int8_pool_ns: float = Field(default=0, ge=0)  #: one output of a pool, over each position of its window


@register
class CachedSimdCpu(CostModel):
    """One core of a CPU with caches and SIMD lanes under a runtime with a blocked channel layout."""

    Layout = CpuLayout
    Constants = CpuConstants
    _layout: CpuLayout
    _constants: CpuConstants

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        lay = self._layout
        self.blocked = BlockedLayout(lay.block, lay.entry, lay.exit)

    def latency(self, work: Work) -> Floats:
        """Seconds per kernel, [P, K]."""
        work = _whole(work)
        reads, writes = self.blocked.masks(work)
        return self.kernel_seconds(work, reads, writes) + self.conversion_seconds(work, reads, writes)

    def idle(self, work: Work) -> Bools:
        """Kernels that do nothing, unless they are fed by one whose layout has to be converted for them, [K]."""
        return self.blocked.idle(work)

    def kernel_seconds(self, work: Work, reads: Bools, writes: Bools) -> Floats:
        """Seconds per kernel without conversions, [P, K], given which read and write the blocked layout."""
        into, out = self._padding(work.in_channels, reads), self._padding(work.out_channels, writes)
        compute = self.compute_seconds(work, reads, writes) + self.fused_seconds(work) * out
        traffic = work.read * into + work.written * out
        activations = self.memory_seconds(traffic, traffic)
        constants = work.weights * out * np.where(work.kind == "depthwise", 1.0, into)
        weights = self.memory_seconds(constants, self.resident_set(work))
        c = self._constants
        product = work.macs > 0
        hidden = np.maximum(compute + c.exposed * activations + c.weight_exposed * weights, activations + weights)
        seconds = np.where(product, hidden, compute + activations + weights)
        busy = (work.kind != "free") * self.target.overhead_us * 1e-6
        return np.asarray(np.where(work.kind == "free", 0.0, seconds) + busy)

    def _padding(self, channels: Floats, inside: Bools) -> Floats:
        """Stored channels over channels, [P, K]: whole blocks inside the layout; 1 without a product."""
        real = np.maximum(channels, 1.0)
        return np.asarray(np.where(inside & (channels > 0), self.blocked.padded(real) / real, 1.0))

    def conversion_seconds(self, work: Work, reads: Bools, writes: Bools) -> Floats:
        """Seconds each kernel pays to convert layouts, [P, K]: read a tensor, shuffle it, write it."""
        count, moved = self.blocked.conversions(work, reads, writes)
        each = self._constants.conversion_ns * 1e-9 / work.itemsize
        memory = self.memory_seconds(2 * moved, 2 * moved)
        return np.asarray(count * self.target.overhead_us * 1e-6 + moved * each + memory)

    def compute_seconds(self, work: Work, reads: Bools, writes: Bools) -> Floats:
        """Seconds of arithmetic, [P, K], by the formula of the implementation that runs each kernel."""
        peak = self.peak(work)
        result = self._plain(work, reads)
        for kind, formula in (
            ("matmul", self._matmul),
            ("conv_transpose", self._transposed),
            ("recurrent", lambda own, rate: own.macs / (rate * self._constants.recurrent)),
        ):
            these = work.places(kind)
            if len(these):
                result[:, these] = formula(work.columns(these), peak[these])
        these = work.places("conv", "grouped")
        if len(these):
            own, read = work.columns(these), reads[:, these]
            blocked = self._blocked(own, read, peak[these])
            inside = read | writes[:, these]
            outside = blocked if inside.all() else self._gathered(own, peak[these])
            result[:, these] = np.where(inside, blocked, outside)
        these = work.places("depthwise")
        if len(these):
            own, read = work.columns(these), reads[:, these]
            blocked = self._depthwise(own)
            result[:, these] = blocked if read.all() else np.where(read, blocked, self._gathered(own, peak[these]))
        narrow = work.kept("on integers", lambda: np.flatnonzero(work.itemsize == 1))
        if len(narrow) and "int8" in self.target.peak:
            result[:, narrow] = self._on_integers(work.columns(narrow), peak[narrow])
        return result

    def _on_integers(self, work: Work, peak: Floats) -> Floats:
        """Kernels on integers of 8 bits: the product, outputs that are brought back to 8 bits, windows that are
        gathered. Depthwise convolutions load and widen every element anew, 16 channels at a time and then one by
        one."""
        c = self._constants
        outputs = work.groups * work.m * work.n
        columns = np.where(work.kind == "matmul", self._columns(work.n), work.n)
        product = work.groups * work.m * columns * work.k * work.taps / peak
        windowed = (work.taps > 1) | (work.stride > 1)
        gather = np.where(windowed, work.groups * work.m * work.k * work.taps * c.int8_gather_ns * 1e-9, 0.0)
        whole = np.floor(work.groups / INT8_CHANNELS) * INT8_CHANNELS
        channels = whole * c.int8_depthwise_mac_ns + (work.groups - whole) * c.int8_depthwise_rest_ns
        single = work.m * work.n * work.k * work.taps * (c.int8_depthwise_tap_ns + channels) * 1e-9
        found = np.where(work.kind == "depthwise", single, product + gather) + outputs * c.int8_output_ns * 1e-9
        each = np.where(work.kind == "pool", work.taps * c.int8_pool_ns, c.int8_element_ns) * 1e-9
        converts = np.isin(work.op, ("QuantizeLinear", "DequantizeLinear")) if work.op.size else np.zeros(1, bool)
        moved = np.where(work.kind == "reduce", np.maximum(work.read, work.written), work.written)
        convert = self._op_ns(["QuantizeLinear"], "elementwise") * 1e-9
        plain = np.where(converts, work.written * convert, moved * each)
        return np.asarray(np.where(work.macs > 0, found, np.where(work.kind == "free", 0.0, plain)))

    def _blocked(self, work: Work, reads: Bools, peak: Floats) -> Floats:
        """A dense (or grouped) convolution in the blocked layout.

        Output blocks are computed `set_blocks` at a time, so that ceil(n/B) blocks take floor(blocks/S) full
        passes and one with r left over. A pass of r blocks has too few independent accumulators to fill the
        FMA pipeline below `set_floor` blocks: its time is the smooth maximum (r^4 + floor^4)^(1/4), scaled so
        that a full pass takes S. Input channels are padded to the block when they are read blocked.
        """
        lay, c = self._layout, self._constants
        k = np.where(reads, self.blocked.padded(work.k), work.k)
        blocks = np.ceil(work.n / lay.block)
        effective = _passes(blocks, lay.set_blocks, c.set_floor, 4.0) * lay.block
        gain = np.where((work.taps == 9) & (work.stride == 1) & (work.kind == "conv"), c.winograd, 1.0)
        store = np.where(reads, c.output_macs, c.direct_macs)
        macs = work.groups * work.m * effective * (k * (work.taps / gain) + store)
        return np.asarray(macs / peak)

    def _depthwise(self, work: Work) -> Floats:
        """A blocked depthwise convolution: padded channels x (start + outputs x (store + taps x MAC)), in
        ns."""
        c = self._constants
        each = (c.depthwise_output_ns + work.taps * c.depthwise_mac_ns) * _lanes(work)
        return np.asarray(self.blocked.padded(work.groups) * (c.depthwise_channel_ns + work.m * each) * 1e-9)

    def _gathered(self, work: Work, peak: Floats) -> Floats:
        """A convolution outside the blocked layout: per group, gather the windows (im2col), pack them,
        multiply.

        The product has the group's n output channels as rows, the m positions as columns, k x taps deep. Rows
        are padded to the register tile, except that a single row has a kernel of its own.
        """
        c = self._constants
        depth = work.k * work.taps
        # Of each element, and of each row; nothing where there is no window.
        strided, row = work.kept("gathered", lambda: self._windows(work), self.target)
        gather = work.m * strided + np.sqrt(work.m) * row
        move = (depth * (work.m * c.pack_ns + gather) + work.m * work.n * c.plain_output_ns) * 1e-9
        rows = np.where(work.n > 1, _round_up(work.n, self._layout.tile_rows), work.n)
        product = rows * self._columns(work.m) * depth / peak
        return np.asarray(work.groups * (c.group_ns * 1e-9 + move + product))

    def _windows(self, work: Work) -> tuple[Floats, Floats]:
        """Nanoseconds to gather an element of a window and a row of them, [K]."""
        c = self._constants
        windowed = (work.taps > 1) | (work.stride > 1)
        each = np.where(work.stride > 1, c.im2col_strided_ns, c.im2col_ns) * _lanes(work)
        return np.where(windowed, each, 0.0), np.where(windowed, c.im2col_row_ns, 0.0)

    def _matmul(self, work: Work, peak: Floats) -> Floats:
        """m rows times n columns, k deep; an operand that is no constant is packed first."""
        c = self._constants
        pack = np.where(work.weights > 0, 0.0, work.k * work.n * c.pack_ns * 1e-9)
        product = work.m * self._columns(work.n) * work.k * work.taps / peak
        return np.asarray(work.groups * (c.group_ns * 1e-9 + pack + product))

    def _transposed(self, work: Work, peak: Floats) -> Floats:
        """Transposed convolution: one product, then every one of its n x taps x m results is scattered
        (col2im)."""
        c = self._constants
        scatter = work.m * work.n * work.taps * c.plain_output_ns * 1e-9
        product = work.n * work.taps * self._columns(work.m) * work.k / peak
        return np.asarray(work.groups * (c.group_ns * 1e-9 + scatter + product))

    def _columns(self, columns: Floats) -> Floats:
        """Columns of a matrix product padded to the register tile."""
        return _round_up(columns, self._layout.tile_columns)

    def _plain(self, work: Work, reads: Bools) -> Floats:
        """Kernels without a product: nanoseconds per element, by operator; blocked pools by `blocked_pool`.

        The element is one of the output, or of the input where a reduction has more of them.
        """
        each = work.kept(
            "op_ns",
            lambda: np.array([self._op_ns(*p) for p in zip(_chains(work), work.kind, strict=True)]),
            self.target,
        )
        result = work.written * (each / 4e9)  # per element, which takes as many lanes as it has bytes, of four
        these = work.places("reduce")
        result[:, these] = work.read[:, these] * (each[these] / 4e9)
        these = work.places("pool")
        blocked = work.written[:, these] * (self._op_ns(["blocked_pool"], "pool") / 4e9)
        result[:, these] = np.where(reads[:, these], blocked, result[:, these])
        return np.asarray(result)

    def _op_ns(self, chain: list[str], kind: str) -> float:
        table = self.target.op_ns
        if "+".join(chain) in table:  # a chain that the runtime has one operator for, such as Sigmoid+Mul
            return table["+".join(chain)]
        return table.get(chain[0], table.get(str(kind), table.get("default", 0.0)))

    def fused_seconds(self, work: Work) -> Floats:
        """Seconds that operators fused behind a product add: most activations are one more pass over the
        output."""
        table = self.target.fused_ns
        each = work.kept(
            "fused_ns",
            lambda: np.array([sum(table.get(op, 0.0) for op in chain[1:]) for chain in _chains(work)]),
            table,
        )
        return np.asarray(work.written * (each / 4e9))


def _lanes(work: Work) -> Floats:
    """Time per element relative to fp32, [K]: a SIMD register holds more of the narrower formats."""
    return np.asarray(work.itemsize / 4)


def _whole(work: Work) -> Work:
    """The same work with extents that are whole up to rounding errors made whole: a remainder decides the
    layout."""
    extents = {name: getattr(work, name).round(6) for name in ("groups", "m", "n", "k", "channels")}
    return work.changed(extents)


def _chains(work: Work) -> list[list[str]]:
    """The operators of each kernel; one empty name where they are not recorded."""
    return [str(op).split("+") for op in work.op] if work.op.size else [[""]] * len(work.kind)


def _round_up(count: Floats, step: int) -> Floats:
    return np.asarray(np.ceil(count / step) * step)


def _passes(count: Floats, size: int, floor: float, power: float) -> Floats:
    """Units of time of `count` units done `size` at a time, where a pass of r takes (r^p + floor^p)^(1/p),
    scaled to `size` for a full one. Never less than `count`, never falls as `count` grows."""
    scale = size / (size**power + floor**power) ** (1 / power)
    full = np.floor(count / size)
    rest = count - full * size
    tail = np.where(rest > 0, (rest**power + floor**power) ** (1 / power) * scale, 0.0)
    return np.asarray(full * size + tail)
