"""What a model does, kernel by kernel, for many candidate widths at once: the input of every cost model."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Floats = NDArray[np.float64]
T = TypeVar("T")

#: The fields [P, K].
_OF_KERNELS = ("groups", "m", "n", "k", "read", "written", "weights", "elements")
_NONE = np.zeros(0, np.int64)

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


#: Entries of a sparse matrix that is multiplied with faster as a dense one.
DENSE = 1 << 15


def small(matrix: csr_array) -> Floats | csr_array:
    """A matrix in the form that is multiplied with faster."""
    return np.asarray(matrix.toarray()) if np.prod(matrix.shape) <= DENSE else matrix


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
    # [E], a number for each tensor, the same on all edges that carry it; empty where inputs are not told apart
    tensor: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    # [K], the pattern N:M of zeros along the inputs that the weights have, else nothing; empty where nobody asked
    zeros: NDArray[np.str_] = field(default_factory=lambda: np.zeros(0, dtype=np.str_))
    #: What follows from the fields without P alone, kept by whoever computes it: many works share one.
    memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def of_same_kernels(self, memo: dict[Any, Any]) -> Work:
        """This work, with what other works of the same kernels keep."""
        object.__setattr__(self, "memo", memo)
        return self

    def changed(self, fields: dict[str, Any]) -> Work:
        """This work of the same kernels, but for fields with a P: `dataclasses.replace` takes as long as a formula."""
        found = object.__new__(Work)
        found.__dict__.update(self.__dict__, **fields)
        return found

    def kept(self, key: Hashable, make: Callable[[], T], of: object = None) -> T:
        """What `make` gives, computed once for all works of the same kernels; it may use no field with a P.

        `of` is what it depends on besides, such as a table of a target.
        """
        place = (key, id(of))
        if place not in self.memo:
            self.memo[place] = of, make()  # kept too, so that nothing else gets its number
        found: T = self.memo[place][1]
        return found

    def places(self, *kinds: str) -> NDArray[np.int64]:
        """The kernels of some kinds."""
        return self.kept(("kinds", kinds), lambda: np.flatnonzero(np.isin(self.kind, kinds)))

    def columns(self, these: NDArray[np.int64]) -> Work:
        """The work of some kernels alone, without the activations between them."""
        none = np.zeros((len(self.m), 0))
        memo: dict[Any, Any]
        alike, memo = self.kept(("columns", id(these)), lambda: (self._alike(these), {}), these)
        return Work(
            **{name: getattr(self, name).take(these, axis=1) for name in _OF_KERNELS},
            source=_NONE,
            sink=_NONE,
            channels=none,
            bytes=none,
            **alike,
        ).of_same_kernels(memo)

    def _alike(self, these: NDArray[np.int64]) -> dict[str, Any]:
        """The fields without P of some kernels."""
        found = {name: getattr(self, name)[these] for name in ("kind", "itemsize", "taps", "stride")}
        known = {name: getattr(self, name) for name in ("op", "axes", "zeros")}
        return found | {name: value[these] if value.size else value for name, value in known.items()}

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
