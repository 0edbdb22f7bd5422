"""Two products in place of one: y = W x -> y = B (A x), with few channels between them.

- *outputs*: A is the product with fewer outputs, B a product over channels (1 x 1). With data, the channels between are
  the principal axes of the output, so that no other pair of this rank is closer to it on the data (X. Zhang et al.,
  "Accelerating Very Deep Convolutional Networks for Classification and Detection", 2015); without, those of the weight.
- *spatial*: a k x l convolution as k x 1 and then 1 x l, by a singular value decomposition of the weight seen as
  [inputs x k, l x outputs] (M. Jaderberg et al., "Speeding up Convolutional Neural Networks with Low Rank Expansions",
  2014), the inputs weighed with their power where it is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.constant_channels import plain
from hwpass.surgery.weight_views import WeightView

Floats = NDArray[np.float64]
Form = Literal["outputs", "spatial"]
FORMS: tuple[Form, ...] = ("outputs", "spatial")


@dataclass(frozen=True)
class Factorization:
    """All ranks of one form of a layer: A [.., full], B [full, ..] by falling size, and what is lost at each rank.

    `lost` [full + 1] is the squared error of the output as a share of its variance, as far as it is known.
    """

    view: WeightView
    form: Form
    first: Floats
    second: Floats
    lost: Floats

    @property
    def full(self) -> int:
        """The largest rank."""
        return int(self.first.shape[-1])


def refusal(view: WeightView) -> str | None:
    """Why a layer cannot be factored; None where it can."""
    node = view.node.gs
    if node.op not in ("Conv", "Gemm", "MatMul"):
        return f"{node.op} is not factored"
    if view.groups > 1:
        return "its groups are products of their own"
    if not plain(node):
        return "it scales or turns its operands"
    if node.op == "Conv" and node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "its padding is not given in numbers"
    return None


def forms_of(view: WeightView) -> Sequence[Form]:
    """The forms that a layer can take."""
    window = view.shape[2:]
    return FORMS if view.kind == "conv" and len(window) == 2 and min(window) > 1 else FORMS[:1]


def full_rank(view: WeightView, form: Form) -> int:
    """The rank at which nothing is lost."""
    _, inputs, taps, outputs = view.sizes
    if form == "outputs":
        return min(inputs * taps, outputs)
    return min(inputs * view.shape[2], outputs * view.shape[3])


@dataclass(frozen=True)
class OutputRows:
    """Rows [.., outputs] of what a layer gives, about their mean where a bias takes that: some to find axes on, and
    others that say what is lost."""

    fitted: Floats
    held_out: Floats


def factorization(
    view: WeightView, form: Form, rows: OutputRows | None = None, power: Floats | None = None
) -> Factorization:
    """Decompose a layer; `rows` of its output and `power` [inputs] of its input come from data."""
    if form == "outputs":
        return _outputs(view, rows)
    weight = view.values.astype(np.float64)
    outputs, inputs, height, width = weight.shape
    scale = np.ones(inputs) if power is None else np.sqrt(np.maximum(power, 1e-12 * power.max(initial=0) + 1e-30))
    table = (weight * scale[:, None, None]).transpose(1, 2, 3, 0).reshape(inputs * height, width * outputs)
    left, sizes, right = np.linalg.svd(table, full_matrices=False)
    root = np.sqrt(sizes)
    first = (left * root).reshape(inputs, height, -1) / scale[:, None, None]
    second = (right.T * root).T.reshape(-1, width, outputs)
    return Factorization(view, form, first, second, _lost(np.square(sizes)))


def _outputs(view: WeightView, rows: OutputRows | None) -> Factorization:
    groups, inputs, taps, outputs = view.sizes
    matrix = view.seen(view.values).astype(np.float64).reshape(groups * inputs * taps, outputs)
    rank = full_rank(view, "outputs")
    if rows is None:
        left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
        return Factorization(view, "outputs", left * sizes, right, _lost(np.square(sizes)))
    _, axes = np.linalg.eigh(rows.fitted.T @ rows.fitted)
    axes = axes[:, ::-1][:, :rank]
    seen = np.square(rows.held_out @ axes).sum(axis=0)
    whole = max(float(np.square(rows.held_out).sum()), 1e-300)
    lost = np.maximum(1 - np.concatenate([[0.0], np.cumsum(seen)]) / whole, 0.0)
    return Factorization(view, "outputs", matrix @ axes, axes.T, lost)


def _lost(parts: Floats) -> Floats:
    """What is lost with the first r of some parts, for r from none to all."""
    left = np.concatenate([np.cumsum(parts[::-1])[::-1], [0.0]])
    return np.asarray(left / max(float(left[0]), 1e-300))


def weights_of(found: Factorization, rank: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The weights of both products at a rank, in the operator's layout."""
    view = found.view
    first, second = (
        part.astype(view.values.dtype, copy=False) for part in (found.first[..., :rank], found.second[:rank])
    )
    if found.form == "spatial":  # [rank, inputs, k, 1] and [outputs, rank, 1, l]
        return first.transpose(2, 0, 1)[..., None], second.transpose(2, 0, 1)[:, :, None, :]
    if view.kind == "conv":
        _, inputs, taps, outputs = view.sizes
        kernel = first.reshape(inputs, taps, rank).transpose(2, 0, 1).reshape(rank, *view.shape[1:])
        return kernel, second.T.reshape(outputs, rank, *[1] * len(view.shape[2:]))
    return (first.T, second.T) if view.turned else (first, second)


def factor(node: gs.Node, view: WeightView, form: Form, weights: tuple[NDArray[Any], NDArray[Any]]) -> gs.Node:
    """Make a node the second product of a pair; the first, which goes before it, is given back."""
    name = node.outputs[0].name
    between = gs.Variable(f"{name}_rank")
    first = gs.Node(node.op, f"{node.name or name}_rank", dict(node.attrs), [node.inputs[0]], [between], node.domain)
    first.inputs.append(gs.Constant(f"{name}_first", weights[0]))
    node.inputs[0] = between
    node.inputs[1] = gs.Constant(f"{name}_second", weights[1])
    if view.kind == "conv":
        axes = len(view.shape[2:])
        taken = range(axes) if form == "outputs" else range(1)  # axes of the window that the first product has
        own, other = _window(first.attrs, axes, taken), _window(node.attrs, axes, set(range(axes)) - set(taken))
        first.attrs.update(own, kernel_shape=[int(s) for s in weights[0].shape[2:]])
        node.attrs.update(other, kernel_shape=[int(s) for s in weights[1].shape[2:]])
    return first


def _window(attributes: dict[str, Any], axes: int, taken: Sequence[int] | range | set[int]) -> dict[str, Any]:
    """Strides, dilations and padding along some axes of a window, and none along the others."""
    strides, dilations = (list(attributes.get(key) or [1] * axes) for key in ("strides", "dilations"))
    pads = list(attributes.get("pads") or [0] * (2 * axes)) if attributes.get("auto_pad", "NOTSET") == "NOTSET" else []
    pads = pads or [0] * (2 * axes)
    return {
        "strides": [strides[a] if a in taken else 1 for a in range(axes)],
        "dilations": [dilations[a] if a in taken else 1 for a in range(axes)],
        "pads": [pads[a] if a % axes in taken else 0 for a in range(2 * axes)],
    }


def product(view: WeightView, form: Form, first: NDArray[Any], second: NDArray[Any]) -> Floats:
    """The weight that two products come to, in the layout of the one that they stand for."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    if form == "spatial":
        return np.asarray(np.einsum("rik,orl->oikl", a[..., 0], b[:, :, 0, :], optimize=True))
    if view.kind == "conv":
        table = b.reshape(len(b), -1) @ a.reshape(len(a), -1)
        return np.asarray(table.reshape(view.shape))
    return np.asarray(b @ a if view.turned else a @ b)
