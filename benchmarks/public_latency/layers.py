"""Work from layers written by hand: tables of layers, and public architectures that no graph is at hand of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hwpass.cost_models.work import Work

#: Bytes of an element of a Work as built here.
FP32 = 4.0


@dataclass
class Kernel:
    """One row of a Work with a single plan; bytes in fp32."""

    kind: str
    op: str
    groups: float = 1.0
    m: float = 0.0
    n: float = 0.0
    k: float = 0.0
    taps: float = 1.0
    stride: float = 1.0
    read: float = 0.0
    written: float = 0.0
    weights: float = 0.0
    elements: float = 0.0
    axes: int = 2
    inputs: list[tuple[int, float, float]] = field(default_factory=list)  #: kernel that writes it, channels, bytes


def work_of_kernels(kernels: Iterable[Kernel]) -> Work:
    """The Work [1, K] of a list of kernels."""
    rows = list(kernels)
    edges = [(source, sink, *size) for sink, row in enumerate(rows) for source, *size in row.inputs]

    def plans(name: str) -> np.ndarray:
        return np.array([[getattr(row, name) for row in rows]], np.float64)

    return Work(
        kind=np.array([row.kind for row in rows]),
        op=np.array([row.op for row in rows]),
        axes=np.array([row.axes for row in rows], np.int64),
        itemsize=np.full(len(rows), FP32),
        taps=np.array([row.taps for row in rows], np.float64),
        stride=np.array([row.stride for row in rows], np.float64),
        **{name: plans(name) for name in ("groups", "m", "n", "k", "read", "written", "weights", "elements")},
        source=np.array([edge[0] for edge in edges], np.int64),
        sink=np.array([edge[1] for edge in edges], np.int64),
        channels=np.array([[edge[2] for edge in edges]], np.float64),
        bytes=np.array([[edge[3] for edge in edges]], np.float64),
    )


def in_format(work: Work, dtype: str) -> Work:
    """A fp32 Work in another number format; in int8 only windows and products are, the rest stays fp32."""
    share = np.full(len(work.kind), {"fp32": 1.0, "fp16": 0.5, "int8": 0.25}[dtype])
    if dtype == "int8":
        share[~np.isin(work.kind, ("conv", "grouped", "depthwise", "matmul"))] = 1.0
    moved = {name: getattr(work, name) * share for name in ("itemsize", "read", "written", "weights")}
    return replace(work, **moved, bytes=work.bytes * share[work.sink])


class Net:
    """Layers one after the other, beginning with an image; `at` is the kernel whose output comes next."""

    def __init__(self, side: int, channels: int = 3) -> None:
        self.kernels: list[Kernel] = []
        self.at, self.side, self.channels = -1, side, channels

    def _add(self, kind: str, op: str, out: int, side: int, **extent: Any) -> None:
        size = self.channels * self.side**2 * FP32
        made = out * side**2 * FP32
        inputs = [(self.at, float(self.channels), size)]
        self.kernels.append(Kernel(kind, op, read=size, written=made, inputs=inputs, **extent))
        self.at, self.channels, self.side = len(self.kernels) - 1, out, side

    def conv(self, out: int, window: int = 1, stride: int = 1, op: str = "Conv+Relu", valid: bool = False) -> None:
        """A convolution, padded to keep the image's size unless `valid`."""
        side = (self.side - window) // stride + 1 if valid else -(-self.side // stride)
        weights = self.channels * out * window**2 * FP32
        self._add(
            "conv", op, out, side, m=side**2, n=out, k=self.channels, taps=window**2, stride=stride**2, weights=weights
        )

    def depthwise(self, window: int = 3, stride: int = 1, op: str = "Conv+Relu") -> None:
        """A depthwise convolution, padded."""
        side = -(-self.side // stride)
        self._add(
            "depthwise", op, self.channels, side, groups=self.channels, m=side**2, n=1, k=1, taps=window**2,
            stride=stride**2, weights=self.channels * window**2 * FP32,
        )  # fmt: skip

    def pool(self, window: int, stride: int, op: str = "MaxPool", valid: bool = False) -> None:
        """A pool; the whole image where the window is as large."""
        side = (self.side - window) // stride + 1 if valid else -(-self.side // stride)
        if window >= self.side:
            op, window, side = "GlobalAveragePool", self.side, 1
        self._add("pool", op, self.channels, side, taps=window**2, stride=stride**2)

    def dense(self, out: int, op: str = "Gemm") -> None:
        """A product of one row with a matrix."""
        depth = self.channels * self.side**2
        self._add("matmul", op, out, 1, m=1, n=out, k=depth, weights=depth * out * FP32)

    def join(self, other: int, op: str = "Add") -> None:
        """An elementwise operator of two tensors; `other` is the kernel that wrote the second."""
        self._add("elementwise", op, self.channels, self.side)
        last = self.kernels[-1]
        size = self.kernels[other].written
        last.read += size
        last.inputs.append((other, float(self.channels), size))

    def unary(self, op: str) -> None:
        """An elementwise operator."""
        self._add("elementwise", op, self.channels, self.side)

    def work(self) -> Work:
        """The Work, [1, K]."""
        return work_of_kernels(self.kernels)
