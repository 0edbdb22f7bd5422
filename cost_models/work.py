"""What a model does, kernel by kernel, for many candidate widths at once: the input of every cost model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: The kinds of kernel a cost model may meet. `free` does nothing at run time (reshape of a view, identity).
KINDS = (
    "conv",  # implicit GEMM with taps, groups == 1
    "grouped",  # the same, 1 < groups and more than one channel per group
    "depthwise",  # one input channel per group
    "conv_transpose",
    "matmul",  # Gemm, MatMul and Einsum, with weights or between activations
    "recurrent",
    "elementwise",
    "pool",
    "reduce",
    "normalization",
    "softmax",
    "movement",  # transpose, concat, slice, pad, resize, gather: bytes move, nothing is computed
    "other",
    "free",
)


@dataclass(frozen=True)
class Work:
    """The work of K fused kernels under P plans.

    A kernel with a product in it is seen as `groups` independent GEMMs of m x k by k x n, where k counts
    channels and `taps` the positions of the window: MACs = groups * m * n * k * taps. Kernels without a product
    have n = k = 0 and are described by their bytes and elements alone.
    """

    kind: NDArray[np.str_]  # [K], of KINDS
    itemsize: Floats  # [K], bytes of one activation element
    taps: Floats  # [K], positions of the window (9 for 3x3; 1 for a product without a window)
    stride: Floats  # [K], product of the strides
    groups: Floats  # [P, K]
    m: Floats  # [P, K], output positions, batch included
    n: Floats  # [P, K], output channels per group
    k: Floats  # [P, K], input channels per group
    read: Floats  # [P, K], bytes of activations read, each distinct input once
    written: Floats  # [P, K], bytes of activations written
    weights: Floats  # [P, K], bytes of constants read
    elements: Floats  # [P, K], scalar operations outside the product (fused activations, elementwise work)
    source: NDArray[np.int64]  # [E], kernel that writes an activation, -1 for an input of the model
    sink: NDArray[np.int64]  # [E], kernel that reads it
    channels: Floats  # [P, E], extent of the activation's channel axis (axis 1)
    bytes: Floats  # [P, E], size of the activation
    # Two fields that some runtimes' layout rules depend on; left empty ([0]) where nobody knows.
    # [K], the fused ONNX operator types, anchor first, joined by a plus: "Conv+Relu"
    op: NDArray[np.str_] = field(default_factory=lambda: np.zeros(0, dtype=np.str_))
    # [K], spatial axes of a window (2 for images)
    axes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def macs(self) -> Floats:
        """Multiply-accumulates, [P, K]."""
        return np.asarray(self.groups * self.m * self.n * self.k * self.taps)

    @property
    def in_channels(self) -> Floats:
        """Input channels of all groups together, [P, K]."""
        return self.groups * self.k

    @property
    def out_channels(self) -> Floats:
        """Output channels of all groups together, [P, K]."""
        return self.groups * self.n
