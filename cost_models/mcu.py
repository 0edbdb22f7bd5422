"""Microcontrollers: one in-order core with a small cache or none, weights in flash, int8 by SIMD of a few lanes.

The runtime is part of such a target as much as the core is: the same board differs by 1.8 times between compilers
(MLPerf Tiny), so a target names its library and carries its figures. Cycles of a convolution or dense layer with m
output positions, n output channels and windows of d = channels x taps elements:

    n x (m x d x MAC + passes x d x weight load) + m x d x gather + m x n x output

where `passes` = ceil(m / columns): libraries compute the outputs of a few positions (two in CMSIS-NN, Lai et al., arXiv
1801.06601) with every weight they load. Elements beyond a multiple of the unrolled loop are taken one by one. Weights
that the data cache cannot hold come from flash again in every pass.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from hwpass.cost_models.base import CostModel, Figures, register
from hwpass.cost_models.target import Target
from hwpass.cost_models.work import Floats, Work
from hwpass.errors import InputError

#: Kernels that multiply matrices.
_DENSE = ("conv", "grouped", "conv_transpose", "matmul", "recurrent")


class McuLayout(Figures):
    """Extents of the library's inner loops."""

    unroll: int = Field(gt=0)  #: elements of a window per turn of the SIMD loop; the rest is done one by one
    columns: int = Field(gt=0)  #: output positions computed with each weight that is loaded


class McuConstants(Figures):
    """Cycles of the core, all for one element of int8 unless said otherwise."""

    weight_cycles: float = Field(ge=0)  #: load and widen one weight, once per pass
    rest_cycles: float = Field(ge=0)  #: one multiply-accumulate outside the unrolled SIMD loop
    gather_cycles: float = Field(ge=0)  #: copy one element of a window into the buffer of columns (im2col)
    output_cycles: float = Field(ge=0)  #: bias, activation and store of one output, any format
    requantise_cycles: float = Field(ge=0)  #: scale one int32 sum back to int8
    depthwise_cycles: float = Field(ge=0)  #: one multiply-accumulate of a depthwise convolution
    depthwise_float_cycles: float = Field(ge=0)  #: the same in floating point


@register
class Microcontroller(CostModel):
    """A microcontroller under one neural network library.

    `memory` begins with what keeps weights between passes (a data cache, or flash buffers) and ends with the flash.
    `peak` is the rate of the inner SIMD loop alone.
    """

    Layout = McuLayout
    Constants = McuConstants
    _layout: McuLayout
    _constants: McuConstants

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        if target.clock_ghz is None:
            raise InputError(f"target '{target.name}': clock_ghz: missing; the cycles of its constants need it")
        self._cycle = 1e-9 / target.clock_ghz

    def latency(self, work: Work) -> Floats:
        """Seconds per kernel, [P, K]."""
        dense = np.isin(work.kind, _DENSE)
        seconds = np.where(dense, self._dense(work) + self._flash(work), self._plain(work))
        seconds = np.where(work.kind == "depthwise", self._depthwise(work), seconds)
        busy = work.kind != "free"
        return np.asarray(np.where(busy, seconds + self._fused(work) + self.target.overhead_us * 1e-6, 0.0))

    def _dense(self, work: Work) -> Floats:
        """Arithmetic of a matrix product and of the copies before it, seconds [P, K]."""
        c, unroll = self._constants, self._layout.unroll
        whole = work.itemsize == 1
        depth = np.round(work.k * work.taps, 6)
        even = np.where(whole, np.floor(depth / unroll) * unroll, depth)
        outputs = work.groups * work.m * work.n
        product = outputs * (even / self.peak(work) + (depth - even) * c.rest_cycles * self._cycle)
        load = work.groups * self._passes(work) * work.n * depth * c.weight_cycles
        gather = np.where(work.taps > 1, work.groups * work.m * depth * c.gather_cycles, 0.0)
        return np.asarray(product + (load + gather + outputs * self._output(work)) * self._cycle)

    def _passes(self, work: Work) -> Floats:
        return np.asarray(np.ceil(np.round(work.m, 6) / self._layout.columns))

    def _output(self, work: Work) -> Floats:
        """Cycles to finish one output, [K]."""
        c = self._constants
        return np.asarray(c.output_cycles + np.where(work.itemsize == 1, c.requantise_cycles, 0.0))

    def _flash(self, work: Work) -> Floats:
        """Seconds that the flash takes to deliver weights, [P, K]: once, and again in every pass if they do not stay.

        As everywhere, a store of the oldest-out kind keeps all of S bytes up to its capacity C, nothing from 2C on.
        """
        kept = np.clip(2 - work.weights / self._capacity[0], 0.0, 1.0)
        times = 1 + (1 - kept) * np.maximum(self._passes(work) - 1, 0.0)
        return np.asarray(work.weights * times * self._seconds_per_byte[-1])

    def _depthwise(self, work: Work) -> Floats:
        """Every channel by itself, without reuse of what is loaded."""
        c = self._constants
        mac = np.where(work.itemsize == 1, c.depthwise_cycles, c.depthwise_float_cycles)
        each = work.taps * work.k * mac + self._output(work)
        return np.asarray(work.groups * work.m * work.n * each * self._cycle)

    def _plain(self, work: Work) -> Floats:
        """Kernels without a product: nanoseconds per element of the larger side, by operator or kind."""
        ops = [str(op).partition("+")[0] for op in work.op] if work.op.size else [""] * len(work.kind)
        table = self.target.op_ns
        default = table.get("default", 0.0)
        each = [table.get(op, table.get(str(kind), default)) for op, kind in zip(ops, work.kind, strict=True)]
        return np.asarray(np.maximum(work.read, work.written) / work.itemsize * np.array(each) * 1e-9)

    def _fused(self, work: Work) -> Floats:
        """Seconds that operators fused behind another add, [P, K]."""
        chains = [str(op).split("+")[1:] for op in work.op] if work.op.size else [[]] * len(work.kind)
        each = [sum(self.target.fused_ns.get(op, 0.0) for op in chain) for chain in chains]
        return np.asarray(work.written / work.itemsize * np.array(each) * 1e-9)
