"""Deep learning processors on FPGAs (AMD's DPUCZDX8G and its like): one convolution engine with fixed parallelism.

In one step the engine multiplies `pixels` positions of a row by `inputs` input channels by `outputs` output channels,
so that each of the three is rounded up (AMD PG338, architecture of the DPUCZDX8G). Steps of a convolution with rows of
w positions and windows of t taps:

    rows x ceil(w / pixels) x t x ceil(k / inputs) x ceil(n / outputs)

A first layer with few channels takes a row of the window at once ("channel augmentation"). Depthwise convolutions have
an engine of their own. Constants come from DRAM, and so does of a feature map what the buffer on the chip cannot hold:

    overhead + max(compute + exposed x memory, memory)

The processor beside it prepares every image. With one thread that comes on top; with more, images overlap: cores work
at the same time and share the DRAM, and a prediction is seconds per image.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from hwpass.cost_models.base import CostModel, Figures, register
from hwpass.cost_models.target import Target
from hwpass.cost_models.work import Floats, Work


class DpuLayout(Figures):
    """Parallelism of the engines, and how many of them there are."""

    pixels: int = Field(gt=0)  #: positions of a row per step
    inputs: int = Field(gt=0)  #: input channels per step
    outputs: int = Field(gt=0)  #: output channels per step
    depthwise_pixels: int = Field(gt=0)  #: positions of a row per step in the depthwise engine, for `inputs` channels
    cores: int = Field(gt=0)  #: engines, each of which takes one image


class DpuConstants(Figures):
    """Fitted figures."""

    exposed: float = Field(ge=0, le=1)  #: share of memory time that arithmetic does not hide
    shared_gbs: float = Field(gt=0)  #: 1e9 bytes per second of DRAM for all cores together
    host_us: float = Field(ge=0)  #: the host's own work for one image
    host_byte_ns: float = Field(ge=0)  #: the same for every byte of the image


@register
class FpgaDpu(CostModel):
    """One image through a DPU: `memory` is the buffer for feature maps on the chip, then DRAM as one core sees it.

    `peak` is the rate of one core when each step is full, so that a step takes pixels x inputs x outputs / peak.
    """

    threaded = True
    Layout = DpuLayout
    Constants = DpuConstants
    _layout: DpuLayout
    _constants: DpuConstants

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        #: Cores at work, and the seconds that one more byte of DRAM takes when they share it.
        self._busy = min(target.threads, self._layout.cores)
        shared = 1e-9 * self._busy / self._constants.shared_gbs
        self._seconds_per_byte[-1] = max(float(self._seconds_per_byte[-1]), shared)

    def latency(self, work: Work) -> Floats:
        """Seconds per kernel, [P, K], of one image, or per image where several are under way."""
        lay = self._layout
        compute = self._steps(work) * lay.pixels * lay.inputs * lay.outputs / self.peak(work)
        read, written = self.memory_seconds(work.read, work.read), self.memory_seconds(work.written, work.written)
        memory = read + written + work.weights * self._seconds_per_byte[-1]
        seconds = np.maximum(compute + self._constants.exposed * memory, memory) + self.target.overhead_us * 1e-6
        engine = np.where(work.kind == "free", 0.0, seconds) / self._busy
        return np.asarray(engine + self._host(work, engine))

    def _steps(self, work: Work) -> Floats:
        """Steps of the engines, [P, K]; kernels without a product are bound by memory."""
        lay = self._layout
        side = np.sqrt(np.round(work.m, 6))
        wide = np.ceil(np.round(side / lay.pixels, 6))
        few = (work.taps > 1) & (2 * work.k <= lay.inputs)
        row = np.sqrt(work.taps)
        depth = np.where(few, row * _blocks(work.k * row, lay.inputs), work.taps * _blocks(work.k, lay.inputs))
        dense = work.groups * side * wide * depth * _blocks(work.n, lay.outputs)
        narrow = np.ceil(np.round(side / lay.depthwise_pixels, 6))
        depthwise = side * narrow * work.taps * _blocks(work.groups, lay.inputs)
        return np.asarray(np.where(work.kind == "depthwise", depthwise, dense))

    def _host(self, work: Work, engine: Floats) -> Floats:
        """Seconds of the host, charged to the kernels that read the image, [P, K].

        Several threads prepare images while the engine works: what takes longer decides, so that the host adds what it
        takes beyond the engine.
        """
        found = np.zeros(work.m.shape)
        first = np.flatnonzero(work.source < 0)
        if not first.size:
            return found
        image = work.bytes[:, first].max(axis=1)
        seconds = self._constants.host_us * 1e-6 + self._constants.host_byte_ns * 1e-9 * image
        threads = self.target.threads
        if threads > 1:
            seconds = np.maximum(seconds / threads - engine.sum(axis=1), 0.0)
        found[:, work.sink[first[0]]] += seconds
        return found


def _blocks(channels: Floats, step: int) -> Floats:
    """How many steps channels take."""
    return np.asarray(np.ceil(np.round(channels / step, 6)))
