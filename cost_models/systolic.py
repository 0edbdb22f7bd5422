"""Systolic arrays: the Edge TPU, TPUs and their like.

A product of m x d by d x n (d = input channels x taps) runs in folds over an array of R rows and C columns. With
weights stationary, an array holds R of the depth and C output channels, and the m positions stream through it; with
outputs stationary it holds R positions and C output channels, and the depth streams:

    weights stationary   ceil(d/R) ceil(n/C) folds of R + (m + R + C - 2) cycles: fill, stream, drain
    outputs stationary   ceil(m/R) ceil(n/C) folds of d + R + C - 2 cycles

(A. Samajdar et al., SCALE-Sim, arXiv:1811.02883, whose simulator a benchmark compares with.) Arrays that load the next
weights while the present ones work (`overlapped`) take max(m, R) cycles for a fold, and fill and drain once.

Constants stay in the parameter memory as far as they fit; the rest comes over the last memory level in each inference,
which for the Edge TPU is the link to its host. Depthwise convolutions have a depth of one channel, so that an array
takes one at a time; a vector unit does as well.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from hwpass.cost_models.accelerator import Accelerator
from hwpass.cost_models.base import Figures, register
from hwpass.cost_models.work import Floats, Work


class SystolicLayout(Figures):
    """The array."""

    rows: int = Field(gt=0)
    columns: int = Field(gt=0)
    arrays: int = Field(gt=0)  #: arrays that share the folds of a kernel
    output_stationary: int = Field(ge=0, le=1)  #: 1: outputs stay in the array; 0: weights do
    overlapped: int = Field(ge=0, le=1)  #: 1: the next fold is loaded while one runs
    vector_lanes: int = Field(
        ge=0
    )  #: multiply-accumulates of the vector unit per cycle, for depthwise kernels; 0: none
    parameter_kib: int = Field(ge=0)  #: on-chip memory that keeps constants between inferences


class SystolicConstants(Figures):
    """Figures that no data sheet gives."""

    exposed: float = Field(ge=0, le=1)  #: share of memory time that arithmetic does not hide
    tensor_us: float = Field(ge=0)  #: fixed cost of handing one input or output over, microseconds
    link_gbs: float = Field(gt=0)  #: bandwidth between host and chip, 1e9 bytes per second


@register
class SystolicArray(Accelerator):
    """One or more equal systolic arrays with a vector unit, behind a host."""

    Layout = SystolicLayout
    Constants = SystolicConstants
    _layout: SystolicLayout
    _constants: SystolicConstants

    def latency(self, work: Work) -> Floats:
        """Seconds per kernel, [P, K]."""
        c = self._constants
        compute = self.product_seconds(work) + self.vector_seconds(work)
        activations = work.read + work.written
        memory = self.memory_seconds(activations, activations) + self.streamed_seconds(work)
        inside = np.where(work.kind == "free", 0.0, np.maximum(compute + c.exposed * memory, memory))
        return np.asarray(inside + self.busy(work) + self.crossing_seconds(work, c.tensor_us, c.link_gbs))

    def streamed_seconds(self, work: Work) -> Floats:
        """Seconds to fetch the constants that the chip does not keep, [P, K]."""
        return np.asarray(self.spilled(work, self._layout.parameter_kib * 1024.0) * self._seconds_per_byte[-1])

    def product_seconds(self, work: Work) -> Floats:
        """Seconds in the array, or in the vector unit where that is faster, [P, K]."""
        lay = self._layout
        peak = self.peak(work)
        cycle = lay.rows * lay.columns * lay.arrays / peak  # [K], seconds
        array = work.groups * self.fold_cycles(work) * cycle
        if lay.vector_lanes:
            lanes = work.groups * work.n * work.m * work.taps * work.k / lay.vector_lanes * cycle
            array = np.where(work.kind == "depthwise", np.minimum(array, lanes), array)
        return np.asarray(np.where(work.macs > 0, array, 0.0))

    def fold_cycles(self, work: Work) -> Floats:
        """Cycles that the arrays take for one group, [P, K]."""
        lay = self._layout
        depth = work.k * work.taps
        held, streamed = (work.m, depth) if lay.output_stationary else (depth, work.m)
        folds = np.ceil(np.ceil(held / lay.rows) * np.ceil(work.n / lay.columns) / lay.arrays)
        edge = lay.rows + lay.columns - 2 + (0 if lay.output_stationary else lay.rows)
        if lay.overlapped:
            return np.asarray(folds * np.maximum(streamed, lay.rows) + edge * (folds > 0))
        return np.asarray(folds * (streamed + edge))
