"""A node while it is being analysed: its abstract tensors, and what its rule finds out about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.ops.axes import Axis, Factor, axis_size

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Real:
    """What a quantised tensor stands for: its axes with the flags of the number, and the integer that means zero.

    The flags of the quantised tensor itself are those of the integer.
    """

    axes: tuple[Axis, ...]
    zero_point: Array


@dataclass(frozen=True, slots=True)
class Sign:
    """What is certain of a tensor's entries: of all of them, and (`solid`) of those a removal leaves in the twin."""

    nonnegative: bool = False
    positive: bool = False
    solid: bool = False  # no zero among them that is not among the entries that stay


@dataclass(slots=True, eq=False)
class Tensor:
    """An abstract tensor: its axes (None when even the rank is unknown), its type, its value where that is known."""

    axes: tuple[Axis, ...] | None
    dtype: np.dtype[Any] | None = None
    data: Array | None = None  # the value: of constants, and of the small integer tensors that describe shapes
    constant: bool = False
    real: Real | None = None  # of a quantised tensor: what it stands for
    sign: Sign = Sign()

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents; only for a known rank."""
        assert self.axes is not None
        return tuple(axis_size(axis) for axis in self.axes)

    @property
    def rank(self) -> int:
        """The number of axes."""
        assert self.axes is not None
        return len(self.axes)


class Derived(Tensor):
    """A constant that follows from stored ones (a dequantised, cast or scaled weight): computed when somebody asks."""

    __slots__ = ("compute",)

    def __init__(
        self, axes: tuple[Axis, ...] | None, dtype: np.dtype[Any] | None, compute: Callable[[], Array | None]
    ) -> None:
        self.compute = compute
        Tensor.__init__(self, axes, dtype, None, True)

    @property
    def data(self) -> Array | None:
        """The numbers; None where they cannot be told after all."""
        return self.compute()

    @data.setter
    def data(self, value: Array | None) -> None:
        """Nothing to keep: they follow from what is stored."""


@dataclass(frozen=True, slots=True)
class Product:
    """A product with a constant weight: what scores and compensation look at.

    Positions are of the node's inputs; axes are of the tensor at that input. `weight_in` is None when the weight's
    input side is not a channel axis (a table of embeddings, a depthwise kernel).
    """

    data: int
    data_axis: int
    weight: int
    weight_out: int
    weight_in: int | None
    bias: int | None = None


@dataclass(slots=True)
class Extent:
    """The GEMM view of a node (see `hwpass.cost_models.work.Work`): factors whose sizes multiply to each extent."""

    groups: tuple[Factor, ...] = ()
    m: tuple[Factor, ...] = ()
    n: tuple[Factor, ...] = ()
    k: tuple[Factor, ...] = ()
    taps: int = 1
    stride: int = 1


@dataclass(slots=True, eq=False)
class Node:
    """A node while it is being analysed: the graph's node, its abstract inputs, and what its rule found out."""

    index: int
    gs: gs.Node
    inputs: list[Tensor | None]
    outputs: list[Tensor] = field(default_factory=list)
    kind: str = "other"
    extent: Extent | None = None
    recurrence: Extent | None = None  # the step by step part of a recurrent layer's work
    product: Product | None = None
    scale: tuple[int, ...] = ()  # inputs that scale or shift channels: the parameters of a batch norm
    fill: dict[int, float | Array] = field(default_factory=dict)  # removed entries in the twin, where not 0
    memo: dict[str, Any] = field(default_factory=dict)  # what `shrink` needs to know from `couple`
    bodies: list[list[Tensor]] = field(default_factory=list)  # the outputs of each subgraph
    frozen: str = ""

    @property
    def op(self) -> str:
        """The operator's name."""
        return str(self.gs.op)

    @property
    def name(self) -> str:
        """The node's name, or one made of its operator and its output."""
        return str(self.gs.name or f"{self.gs.op}:{self.gs.outputs[0].name if self.gs.outputs else self.index}")

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        return self.gs.attrs.get(name, default)

    def has(self, position: int) -> bool:
        """Whether the (optional) input is there."""
        return 0 <= position < len(self.inputs) and self.inputs[position] is not None

    def tensor(self, position: int) -> Tensor:
        """An input of known rank; freezes the node otherwise."""
        if not self.has(position):
            raise Freeze(f"input {position} is missing")
        tensor = self.inputs[position]
        assert tensor is not None
        if tensor.axes is None:
            raise Freeze("the rank of an input is unknown")
        return tensor

    def axes(self, position: int) -> tuple[Axis, ...]:
        """The axes of an input of known rank."""
        axes = self.tensor(position).axes
        assert axes is not None
        return axes

    def value(self, position: int) -> Array | None:
        """An input's value, where it is known."""
        tensor = self.inputs[position] if position < len(self.inputs) else None
        return None if tensor is None else tensor.data

    def integers(self, position: int, attribute: str | None = None) -> list[int] | None:
        """A list of integers given as an input, or (older operator sets) as an attribute; None when absent.

        Freezes the node when the input is there but its value is not known.
        """
        if attribute is not None and attribute in self.gs.attrs:
            found = self.gs.attrs[attribute]
            return [int(v) for v in found] if isinstance(found, list) else [int(found)]
        if not self.has(position):
            return None
        value = self.value(position)
        if value is None:
            raise Freeze(f"input {position} is computed from the data")
        return [int(v) for v in np.atleast_1d(value)]


class Freeze(Exception):
    """The rule cannot describe this use of the operator: its neighbours are frozen, with this reason."""


class WrongExtents(Freeze):
    """The extents at hand do not go together; where dimensions are dynamic, others may."""
