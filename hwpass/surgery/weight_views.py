"""The weight of a product as [groups, inputs, taps, outputs], whatever the layout in which its operator has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.ops import Node, traits_of
from hwpass.surgery.declared import Place


@dataclass(frozen=True)
class WeightView:
    """A product with a constant weight of its own: convolutions [out, in, window], transposed ones [in, out, window]
    and matrices [in, out] or, `turned`, [out, in]."""

    node: Node
    kind: str
    shape: tuple[int, ...]
    groups: int
    turned: bool

    @classmethod
    def of(cls, node: Node) -> WeightView | str | None:
        """The view; in words why there is none; None for what is no product with a constant weight."""
        form, product = traits_of(node.gs).form, node.product
        if form is None or product is None or form.kind == "channels":
            return None
        tensor = node.gs.inputs[product.weight] if product.weight < len(node.gs.inputs) else None
        if not isinstance(tensor, gs.Constant):
            return None
        if tensor.values.dtype.kind != "f":
            return "its weight is not floating point"
        if form.kind == "recurrent":
            return "the weights of a recurrent layer are read again in each step"
        if product.weight != 1 or product.data != 0:
            return "its weight stands at another input"
        if len(tensor.outputs) > 1:
            return "its weight is shared with another layer"
        if form.kind == "matrix" and tensor.values.ndim != 2:
            return "it is a stack of matrices"
        groups = 1 if form.kind == "matrix" else int(node.gs.attrs.get("group", 1))
        return cls(node, form.kind, tensor.values.shape, groups, form.kind == "matrix" and product.weight_out == 0)

    @property
    def place(self) -> Place:
        """Where the weight stands."""
        return str(self.node.gs.outputs[0].name), 1

    @property
    def values(self) -> NDArray[Any]:
        """The weight as it is, in its own layout."""
        return np.asarray(self.node.gs.inputs[1].values)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Groups, inputs and taps and outputs of one group."""
        if self.kind == "matrix":
            first, second = self.shape
            return (1, second, 1, first) if self.turned else (1, first, 1, second)
        taps = int(np.prod(self.shape[2:], dtype=np.int64))
        if self.kind == "conv":
            return self.groups, self.shape[1], taps, self.shape[0] // self.groups
        return self.groups, self.shape[0] // self.groups, taps, self.shape[1]

    def seen(self, values: NDArray[Any]) -> NDArray[Any]:
        """An array of the weight's own layout as [groups, inputs, taps, outputs]."""
        groups, inputs, taps, outputs = self.sizes
        if self.kind == "matrix":
            return (values.T if self.turned else values)[None, :, None, :]
        if self.kind == "conv":
            return values.reshape(groups, outputs, inputs, taps).transpose(0, 2, 3, 1)
        return values.reshape(groups, inputs, outputs, taps).transpose(0, 1, 3, 2)

    def laid(self, seen: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `seen`."""
        if self.kind == "matrix":
            matrix = seen[0, :, 0, :]
            return np.ascontiguousarray(matrix.T if self.turned else matrix)
        order = (0, 3, 1, 2) if self.kind == "conv" else (0, 1, 3, 2)
        return np.ascontiguousarray(seen.transpose(order)).reshape(self.shape)
