"""NPUs that compute blocks of a feature map: Ethos-U, Hexagon, Rockchip and their like.

A step of the unit takes a block of output positions x output channels x input channels; what is left over at an edge is
computed as a whole block. Two orders of a convolution are known: depth first pads the input channels to `block_depth`
for every tap, part kernel pads them to `part_depth` and the taps to `part_taps`. The compiler takes the order that pads
less; part kernel then reads the depth in blocks of `part_block`, so that more channels can be faster.

    seconds = overhead + max(compute + exposed x memory, memory)

Feature maps live in the smallest memory level that holds what a kernel reads and writes, stored in bricks: depth is
rounded up to `brick`, so that one channel more can be a brick more. Constants beyond the memory that keeps them come
from the last level in each inference.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from hwpass.cost_models.accelerator import Accelerator, round_up
from hwpass.cost_models.base import Figures, register
from hwpass.cost_models.work import Floats, Work


class NpuLayout(Figures):
    """Blocks in elements, 1 where there is no rounding."""

    block_positions: int = Field(gt=0)  #: output positions of a step
    block_out: int = Field(gt=0)  #: output channels of a step
    block_depth: int = Field(gt=0)  #: input channels of a step, depth first
    part_depth: int = Field(gt=0)  #: input channels of a step, part kernel
    part_block: int = Field(gt=0)  #: input channels that are read at a time in that order
    part_taps: int = Field(ge=0)  #: taps of a step, part kernel; 0: there is no such order
    depthwise_out: int = Field(gt=0)  #: channels of a step of a depthwise convolution
    depthwise_taps: int = Field(gt=0)  #: taps of it
    brick: int = Field(gt=0)  #: stored depth of a feature map is a multiple of it
    parameter_kib: int = Field(ge=0)  #: memory on the chip that keeps constants between inferences


class NpuConstants(Figures):
    """Rates."""

    depthwise: float = Field(gt=0, le=1)  #: share of the peak that a depthwise convolution reaches, padding apart
    grouped: float = Field(gt=0, le=1)  #: the same for grouped convolutions
    activations: float = Field(gt=0, le=1)  #: the same for products of two activations
    recurrent: float = Field(gt=0, le=1)  #: the same for the steps of a recurrent kernel
    output_ns: float = Field(ge=0)  #: least time of one output byte of a product
    edge: float = Field(ge=0, le=1)  #: share of the shorter of products and outputs that is not hidden at the ends
    exposed: float = Field(ge=0, le=1)  #: share of memory time that arithmetic does not hide
    constant_gbs: float = Field(gt=0)  #: bandwidth at which constants come, 1e9 bytes per second
    tensor_us: float = Field(ge=0)  #: fixed cost of handing one input or output over, microseconds
    link_gbs: float = Field(gt=0)  #: bandwidth between host and chip, 1e9 bytes per second


@register
class BlockNpu(Accelerator):
    """An NPU that works through blocks of one kernel after another."""

    Layout = NpuLayout
    Constants = NpuConstants
    _layout: NpuLayout
    _constants: NpuConstants

    def latency(self, work: Work) -> Floats:
        """Seconds per kernel, [P, K]."""
        c = self._constants
        stored = self.stored_bytes(work)
        compute = self.unit_seconds(work) + self.vector_seconds(work)
        constants = self.spilled(work, self._layout.parameter_kib * 1024.0) * 1e-9 / c.constant_gbs
        memory = self.memory_seconds(stored, stored) + constants
        inside = np.where(work.kind == "free", 0.0, np.maximum(compute + c.exposed * memory, memory))
        return np.asarray(inside + self.busy(work) + self.crossing_seconds(work, c.tensor_us, c.link_gbs))

    def stored_bytes(self, work: Work) -> Floats:
        """Bytes that a kernel reads and writes in bricks, [P, K]."""
        brick = self._layout.brick
        into = round_up(work.in_channels, brick) / np.maximum(work.in_channels, 1.0)
        out = round_up(work.out_channels, brick) / np.maximum(work.out_channels, 1.0)
        product = work.macs > 0
        return np.asarray(work.read * np.where(product, into, 1.0) + work.written * np.where(product, out, 1.0))

    def unit_seconds(self, work: Work) -> Floats:
        """Seconds of products and their outputs, [P, K]: side by side but for the first and the last block."""
        products, outputs = self.product_seconds(work), self.output_seconds(work)
        return np.asarray(np.maximum(products, outputs) + self._constants.edge * np.minimum(products, outputs))

    def output_seconds(self, work: Work) -> Floats:
        """Least seconds to finish the outputs of a product, [P, K]."""
        padded = round_up(work.out_channels, self._layout.block_out) / np.maximum(work.out_channels, 1.0)
        each = work.written * padded * self._constants.output_ns * 1e-9
        return np.asarray(np.where(work.macs > 0, each, 0.0))

    def product_seconds(self, work: Work) -> Floats:
        """Seconds of the multiply-accumulate unit, [P, K]."""
        c, peak = self._constants, self.peak(work)
        moving = (work.kind == "matmul") & (work.weights <= 0).all(axis=0)
        cases = [work.kind == "grouped", work.kind == "recurrent", moving]
        rate = np.select(cases, [c.grouped, c.recurrent, c.activations], 1.0)
        seconds = self.padded_macs(work) / (peak * rate)
        single = self.depthwise_macs(work) / (peak * c.depthwise)
        seconds = np.where(work.kind == "depthwise", np.minimum(seconds, single), seconds)
        return np.asarray(np.where(work.macs > 0, seconds, 0.0))

    def padded_macs(self, work: Work) -> Floats:
        """Multiply-accumulates of whole blocks, [P, K], in the order that the compiler takes."""
        lay = self._layout
        depth = round_up(work.k, lay.block_depth) * work.taps
        if lay.part_taps:
            taps, small = round_up(work.taps, lay.part_taps), round_up(work.k, lay.part_depth)
            # Shares of useful work, as the compiler compares them: rounding decides between equal ones.
            whole = np.maximum(round_up(work.k, lay.block_depth), 1.0)
            better = (work.k / np.maximum(small, 1.0)) * (work.taps / taps) >= work.k / whole
            read = np.where(work.k > lay.part_depth, round_up(work.k, lay.part_block), small)
            depth = np.where(better | (work.k <= lay.part_depth), read * taps, depth)
        return np.asarray(work.groups * round_up(work.m, lay.block_positions) * round_up(work.n, lay.block_out) * depth)

    def depthwise_macs(self, work: Work) -> Floats:
        """Multiply-accumulates of a depthwise convolution in whole blocks, [P, K]."""
        lay = self._layout
        channels = round_up(work.out_channels, lay.depthwise_out) * round_up(work.taps, lay.depthwise_taps)
        return np.asarray(round_up(work.m, lay.block_positions) * channels)
