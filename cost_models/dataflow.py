"""Dataflow chips: a whole network, or as much of it as fits, lies on the chip, and pictures stream through it.

Every layer has compute and memory of its own, so that one layer works on rows that the layer before it has just made.
Latency here is the interval between pictures. A network that fits runs in one context, and its constants stay:

    contexts = ceil((constants + row buffers) / memory of the chip)

What does not fit is cut into contexts that run one after another. All constants then come over the link in each
inference, so does what passes from one context to the next, and each change of context costs a fixed time: a network
that grows past the memory by a few channels becomes several times slower.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from hwpass.cost_models.accelerator import Accelerator, round_up
from hwpass.cost_models.base import Figures, register
from hwpass.cost_models.work import Floats, Work


class DataflowLayout(Figures):
    """Blocks in elements, memory in KiB."""

    block_out: int = Field(gt=0)  #: output channels that a compute element works on at a time
    block_depth: int = Field(gt=0)  #: input channels of it
    memory_kib: int = Field(gt=0)  #: memory for constants and row buffers
    reach: int = Field(gt=0)  #: windows in a row that together span a picture


class DataflowConstants(Figures):
    """Rates."""

    whole: float = Field(ge=0)  #: copies kept of what has to be there as a whole, such as the tokens of an attention
    depthwise: float = Field(gt=0, le=1)  #: share of the peak that a depthwise convolution reaches
    switch_us: float = Field(ge=0)  #: cost of one change of context, microseconds
    refill_gbs: float = Field(gt=0)  #: bandwidth at which the constants of a context come, 1e9 bytes per second
    tensor_us: float = Field(ge=0)  #: fixed cost of handing one input or output over, microseconds
    link_gbs: float = Field(gt=0)  #: bandwidth at which pictures come and results go, 1e9 bytes per second


@register
class DataflowArray(Accelerator):
    """A chip whose compute elements are shared out to the layers of a context."""

    Layout = DataflowLayout
    Constants = DataflowConstants
    _layout: DataflowLayout
    _constants: DataflowConstants

    def latency(self, work: Work) -> Floats:
        """Seconds per kernel, [P, K]: its share of the interval between pictures."""
        c = self._constants
        inside = self.product_seconds(work) + self.vector_seconds(work) + self.busy(work)
        activations = work.read + work.written
        inside = np.where(work.kind == "free", 0.0, inside + self.memory_seconds(activations, activations))
        crossing = self.crossing_seconds(work, c.tensor_us, c.link_gbs)
        return np.asarray(inside + crossing + self.context_seconds(work))

    def context_seconds(self, work: Work) -> Floats:
        """Seconds to change contexts, [P, K], shared among the kernels by the memory they take; 0 for one context."""
        c = self._constants
        held = self.held_bytes(work)
        total = held.sum(axis=1, keepdims=True)
        contexts = np.ceil(total / (self._layout.memory_kib * 1024.0))
        refill = work.weights * 1e-9 / c.refill_gbs
        switch = contexts * c.switch_us * 1e-6 * held / np.maximum(total, 1.0)
        return np.asarray(np.where(contexts > 1, refill + switch, 0.0))

    def held_bytes(self, work: Work) -> Floats:
        """Bytes that a kernel keeps on the chip, [P, K]: its constants, the rows that its window spans, and what it
        reads from far before, which waits until the kernels between are done.

        Pictures are taken to be square: a window of `taps` positions spans sqrt(taps) rows of sqrt(m x stride)
        positions. A product of two activations, a softmax and a normalization keep all they read, `whole` times.
        """
        rows = np.sqrt(work.taps) * np.sqrt(work.m * work.stride) * work.in_channels * work.itemsize
        every = np.isin(work.kind, ("softmax", "normalization")) | ((work.macs > 0) & (work.weights <= 0))
        kept = np.where(work.macs > 0, np.minimum(rows, work.read), 0.0)
        kept = np.where(every, self._constants.whole * work.read, kept)
        spans = np.concatenate([[0.0], np.cumsum(np.where(every.any(axis=0), self._layout.reach, work.taps > 1))])
        between = spans[work.sink] - spans[np.maximum(work.source, 0) + 1]  # windows of the kernels between
        waiting = work.bytes * np.clip(between / self._layout.reach, 0.0, 1.0) * (work.source >= 0)
        np.add.at(kept.T, work.sink, waiting.T)
        return np.asarray(work.weights + kept)

    def product_seconds(self, work: Work) -> Floats:
        """Seconds of arithmetic at the peak rate of the whole chip, [P, K]."""
        lay, peak = self._layout, self.peak(work)
        dense = work.groups * work.m * round_up(work.n, lay.block_out) * round_up(work.k, lay.block_depth) * work.taps
        single = work.macs / self._constants.depthwise
        macs = np.where(work.kind == "depthwise", np.minimum(dense, single), dense)
        return np.asarray(np.where(work.macs > 0, macs / peak, 0.0))
