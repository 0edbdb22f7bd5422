"""Make good what was removed: least squares on the weights that stayed, layer by layer, without training.

Goes through the network in order, so that every layer is fitted on what the corrected layers before it compute; where
the output is added to a residual stream, what the stream already lacks is asked of it too. Batch normalisations that
stand alone get a new scale and bias the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.constant_channels import added_bias
from hwpass.coupling.constant_channels import plain as plain_product
from hwpass.coupling.groups import Coupling
from hwpass.data.dense_rows import DenseRows, LayerRows
from hwpass.data.row_table import RowTable
from hwpass.data.sampled_rows import Ints, Window, conv_rows, image_rows, last_axis_rows, transposed_rows
from hwpass.data.segments import Segments
from hwpass.errors import InputError
from hwpass.ops import Node, traits_of
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.memory import release_memory
from hwpass.runtime.settings import Settings
from hwpass.surgery.cut import Surgery
from hwpass.surgery.fit_data import HELD_OUT, batch_size, dense_rows, feeds, held_bytes, kind_of
from hwpass.surgery.fit_rows import Clipping
from hwpass.surgery.least_squares import Fit, fit, fit_channels
from hwpass.surgery.product_tail import Tail, follow
from hwpass.surgery.wanted_rows import WantedRows


class Method(Protocol):
    """How the weights of one product are found: `fit`, or one that wants more of them than to be close."""

    def __call__(self, target: gs.Node, x: RowTable, wanted: RowTable, weights: Any, bias: Any, held_out: int,
                 *, has_bias: bool, clipping: Clipping, offset: RowTable | None, threads: int) -> Fit:  # fmt: skip
        """What `fit` gives, for the product of the node `target`."""


def _fitted(target: gs.Node, *rows: Any, **options: Any) -> Fit:
    return fit(*rows, **options)


@dataclass(frozen=True)
class _Wanted:
    """Rows of the outputs that a product should give, and what follows them: clip(y + offset)."""

    rows: RowTable
    clipping: Clipping
    offset: RowTable | None


class Compensation:
    """Both networks in lockstep, and on the way the fit of each product: the weights W', b' that best give the
    original's outputs from the pruned inputs."""

    def __init__(
        self,
        coupling: Coupling,
        surgery: Surgery,
        context: Settings,
        *,
        samples: int,
        rows: int,
        spare: bool = True,
        dense: DenseRows | None = None,
        method: Method = _fitted,
    ) -> None:
        """The surgery's model is edited; `samples` and `rows` of a layer's input and output bound what is fitted on.

        `dense` are rows of the original for the same data, samples and rows, where they are there already.
        `spare` tells that there is room for biases where layers have none, and for weights of their own where they
        share one.
        """
        self.coupling = coupling
        self.surgery = surgery
        self.model = surgery.model
        self.context = context
        self.samples = samples
        self.rows = rows
        self.spare = spare
        self.dense = dense
        self.method = method
        self.stored: set[tuple[str, int]] = set()  # constants that were given, by their node's output and their place
        self.gains: list[tuple[str, float, float]] = []

    @property
    def changed(self) -> bool:
        """Whether any weight is another."""
        return bool(self.stored)

    def run(self, calibration: Calibration) -> list[tuple[str, float, float]]:
        """Correct every product in order; per layer its held-out error before and after."""
        size = batch_size(self.coupling)
        place = {id(n): i for i, n in enumerate(self.coupling.build.model.graph.nodes)}
        current = {n.outputs[0].name: (i, n) for i, n in enumerate(self.model.graph.nodes) if n.outputs}
        alone = self.surgery.constants
        todo = [n for n in self.coupling.nodes if id(n.gs) in place and n.index not in self.surgery.folded]
        todo = [n for n in todo if n.index in alone or n.gs.outputs[0].name in current]
        todo = [n for n in todo if n.product is not None or kind_of(n) == "channels"]
        try:
            # Where values overflow, no fit is better than the weights there are: they stay.
            with np.errstate(over="ignore", invalid="ignore"):
                dense = self.dense
                if dense is None:
                    dense = dense_rows(self.coupling, calibration, self.context, samples=self.samples, rows=self.rows)
                given = feeds(calibration, size, self.samples)
                room = held_bytes(self.context)
                with Segments(self.model, given, self.context.threads, room=room) as pruned:
                    self._correct(todo, dense, pruned, current)
        finally:
            release_memory()
        return self.gains

    def _correct(
        self, todo: list[Node], dense: DenseRows, pruned: Segments, current: dict[str, tuple[int, gs.Node]]
    ) -> None:
        for number, node in enumerate(todo, 1):
            self.context.progress(f"compensating layer {number} of {len(todo)}")
            if not dense.has(node.index):
                continue
            if node.index in self.surgery.constants:
                self._constant(node, dense)
                continue
            index, target = current[node.gs.outputs[0].name]
            fitted = self._fitter(node, target)
            if fitted is None:
                continue
            try:
                pruned.advance(index)
            except InputError as error:  # such as a list of tensors between two layers
                self.context.warn(f"{node.name} and the layers behind it were not refitted: {error}")
                break
            if not pruned.live(target.inputs[0].name):
                continue
            found = fitted(node, target, self._original(dense, node), pruned)
            release_memory(cycles=False)
            if found is not None:
                self.gains.append((node.name, *found))

    def _constant(self, node: Node, dense: DenseRows) -> None:
        """Where a branch went, its mean stays: the best constant there is."""
        product, name = node.product, node.gs.outputs[0].name
        assert product is not None
        found = {t.name: t for n in self.model.graph.nodes for t in n.inputs if isinstance(t, gs.Constant)}
        constant = found.get(name)
        if constant is None:
            return
        form = traits_of(node.gs).form
        assert form is not None
        rows = dense.layer(node.index)
        mean = np.concatenate([rows.rows(i) for i in range(len(rows.where))]).mean(axis=0, dtype=np.float64)
        kept = self._kept(self.coupling.weight_axes(node)[product.weight_out])
        if form.bias:
            constant.values = mean[kept].reshape(constant.shape).astype(constant.values.dtype)
            return
        # Without a bias of its own, the Add behind it may give it one.
        holder, position = added_bias(constant, int(kept.sum()))
        if holder is not None:
            old = holder.inputs[position].values
            self._store(holder, position, old + mean[kept].reshape(old.shape), old.dtype)

    def _fitter(self, node: Node, target: gs.Node) -> Callable[..., tuple[float, float] | None] | None:
        kind = kind_of(node)
        if not self.spare and any(isinstance(t, gs.Constant) and len(t.outputs) > 1 for t in target.inputs):
            return None  # a weight that others read too would be stored once more
        if kind == "channels":
            plain = all(isinstance(t, gs.Constant) for t in target.inputs[1:5]) and len(target.outputs) == 1
            return self._norm if plain else None
        product = node.product
        if product is None or product.data != 0 or product.weight != 1:
            return None
        weight = target.inputs[1]
        if not isinstance(weight, gs.Constant) or weight.values.dtype not in (np.float32, np.float16, np.float64):
            return None
        if kind == "recurrent":
            return self._recurrent
        if any(isinstance(t, gs.Constant) is False and t.name for t in target.inputs[2:3]):
            return None
        if kind == "conv":
            return self._conv
        if kind == "transposed":
            plain = target.attrs.get("group", 1) == 1 and target.attrs.get("auto_pad", "NOTSET") == "NOTSET"
            return self._conv if plain and "output_shape" not in target.attrs else None
        return self._matmul if kind == "matrix" and weight.values.ndim == 2 and plain_product(target) else None

    def _kept(self, axis: Any) -> NDArray[np.bool_]:
        return self.coupling.kept(self.surgery.keep, axis)

    def _original(self, dense: DenseRows, node: Node) -> LayerRows:
        """The original's values at positions that the pruned network has: of other axes than that of the channels, too,
        what was removed is left out."""
        wish = dense.wishes[node.index]
        axes = self.coupling.build.tensors[wish.tensor].axes or ()
        kept = {place: self._kept(axis) for place, axis in enumerate(axes) if place != wish.axis % len(axes)}
        return dense.layer(node.index, {place: mask for place, mask in kept.items() if not mask.all()})

    def _wanted(
        self,
        target: gs.Node,
        original: LayerRows,
        pruned: Segments,
        rows_of: Callable[[np.ndarray, tuple[Ints, ...]], NDArray[np.float32]],
        mask: NDArray[np.bool_],
        groups: int = 1,
    ) -> _Wanted:
        """The original's outputs at the sampled positions, plus what a residual stream lacks, and what follows."""
        axis = 1 if rows_of is image_rows else -1
        tail, now = follow(target), None
        if tail.other is not None:
            now = self._now(tail.other, original, pruned, axis, int(mask.sum()))
            if now is None:
                tail = Tail()
        wanted = WantedRows(original, now, tail, rows_of, mask, axis, groups)
        clipping = Clipping(tail.low, tail.high)
        shifted = now is not None or (clipping.clips and tail.constant is not None)
        return _Wanted(RowTable(wanted.rows()), clipping, RowTable(wanted.offsets()) if shifted else None)

    @staticmethod
    def _now(other: str, original: LayerRows, pruned: Segments, axis: int, kept: int) -> Sequence[np.ndarray] | None:
        """The other side of a residual sum as the pruned network has it; None where it cannot be set against the
        original's."""
        if not (original.has(other) and pruned.live(other)):
            return None
        ours = pruned.value(other)
        return ours if ours[0].ndim == len(original.shapes[0]) and ours[0].shape[axis] == kept else None

    def _conv(self, node: Node, target: gs.Node, original: LayerRows, pruned: Segments) -> tuple[float, float] | None:
        x = pruned.value(target.inputs[0].name)
        weight = target.inputs[1].values
        groups = int(target.attrs.get("group", 1))
        transposed = kind_of(node) == "transposed"
        if transposed:  # [in, out, window] like a convolution's [out, in, window]
            weight = weight.swapaxes(0, 1)
        outputs, depth = weight.shape[0] // groups, int(np.prod(weight.shape[1:]))
        mask = self._kept(self.coupling.weight_axes(node)[1 if transposed else 0])
        wanted = self._wanted(target, original, pruned, image_rows, mask, groups)
        gather = transposed_rows if transposed else conv_rows
        shape = (-1, groups, depth) if groups > 1 else (-1, depth)
        parts = (gather(v, Window.of(target, v.shape[2:]), w) for v, w in zip(x, original.where, strict=True))
        rows = RowTable(part.reshape(shape) for part in parts)
        found = self.method(
            target, rows, wanted.rows, weight.reshape(groups, outputs, depth).swapaxes(1, 2),
            _bias(target, weight.shape[0]).reshape(groups, outputs), self._held(len(rows)),
            has_bias=self._biased(target), clipping=wanted.clipping, offset=wanted.offset, threads=self.context.threads,
        )  # fmt: skip
        if found.taken:
            new = found.weights.swapaxes(1, 2).reshape(weight.shape)
            self._store(target, 1, new.swapaxes(0, 1) if transposed else new, weight.dtype)
            if self._biased(target):
                self._store(target, 2, found.bias.reshape(-1), weight.dtype)
        return found.before, found.after

    def _recurrent(
        self, node: Node, target: gs.Node, original: LayerRows, pruned: Segments
    ) -> tuple[float, float] | None:
        """What the gates get from the input: W [directions, gates * hidden, input], as the original's x W^T."""
        x = pruned.value(target.inputs[0].name)
        weight, before = target.inputs[1].values, node.value(1)
        assert before is not None
        mask = self._kept(self.coupling.weight_axes(node)[1])
        ways = len(weight)
        taken = (last_axis_rows(v, w) for v, w in zip(x, original.where, strict=True))
        rows = RowTable(np.repeat(part[:, None], ways, axis=1) for part in taken)
        theirs = (original.rows(number) for number in range(len(original.where)))
        weights = before[:, mask].astype(np.float32)
        wanted = RowTable(np.einsum("rd,gnd->rgn", part, weights, optimize=True) for part in theirs)
        bias = target.inputs[3] if len(target.inputs) > 3 and isinstance(target.inputs[3], gs.Constant) else None
        found = fit(
            rows, wanted, weight.swapaxes(1, 2), np.zeros(weight.shape[:2]), self._held(len(rows)),
            has_bias=bias is not None, threads=self.context.threads,
        )  # fmt: skip
        if found.taken:
            self._store(target, 1, found.weights.swapaxes(1, 2), weight.dtype)
            if bias is not None:  # [directions, both biases of the gates]: the input's come first
                shift = np.concatenate([found.bias, np.zeros_like(found.bias)], axis=1)
                self._store(target, 3, bias.values + shift, weight.dtype)
        return found.before, found.after

    def _matmul(self, node: Node, target: gs.Node, original: LayerRows, pruned: Segments) -> tuple[float, float] | None:
        x = pruned.value(target.inputs[0].name)
        if x[0].ndim != len(original.shapes[0]):
            return None
        weight = target.inputs[1].values
        product, form = node.product, traits_of(target).form
        assert product is not None
        assert form is not None
        turned = product.weight_out == 0
        matrix = weight.T if turned else weight
        mask = self._kept(self.coupling.weight_axes(node)[product.weight_out])
        holder, position = (target, 2) if form.bias else added_bias(target.outputs[0], matrix.shape[1])
        wanted = self._wanted(target, original, pruned, last_axis_rows, mask)
        rows = RowTable(last_axis_rows(v, w) for v, w in zip(x, original.where, strict=True))
        has_bias = holder is not None and (holder is not target or self._biased(target))
        start = _bias(target, matrix.shape[1]) if form.bias else np.zeros(matrix.shape[1])
        found = self.method(
            target, rows, wanted.rows, matrix, start, self._held(len(rows)), has_bias=has_bias,
            clipping=wanted.clipping, offset=wanted.offset, threads=self.context.threads,
        )  # fmt: skip
        if found.taken:
            self._store(target, 1, found.weights.T if turned else found.weights, weight.dtype)
            if has_bias and holder is target:
                self._store(target, 2, found.bias, weight.dtype)
            elif holder is not None and has_bias:
                old = holder.inputs[position].values
                self._store(holder, position, old + found.bias.reshape(old.shape), old.dtype)
        return found.before, found.after

    def _norm(self, node: Node, target: gs.Node, original: LayerRows, pruned: Segments) -> tuple[float, float] | None:
        """One slope and one offset per channel."""
        x = pruned.value(target.inputs[0].name)
        scale, bias, mean, variance = (t.values.astype(np.float64) for t in target.inputs[1:5])
        mask = self._kept(node.axes(1)[0])
        deviation = np.sqrt(variance + float(target.attrs.get("epsilon", 1e-5)))
        wanted = RowTable(original.rows(number)[:, mask] for number in range(len(original.where)))
        rows = RowTable((image_rows(v, w) - mean) / deviation for v, w in zip(x, original.where, strict=True))
        found = fit_channels(rows, wanted, scale, bias, self._held(len(rows)))
        if found.taken:
            dtype = target.inputs[1].values.dtype
            self._store(target, 1, found.weights, dtype)
            self._store(target, 2, found.bias, dtype)
        return found.before, found.after

    def _biased(self, target: gs.Node) -> bool:
        """Whether a product with an input for a bias has one, or may get one."""
        return self.spare or len(target.inputs) > 2

    def _store(self, node: gs.Node, position: int, value: NDArray[Any], dtype: np.dtype[Any]) -> None:
        _store(node, position, value, dtype)
        self.stored.add((node.outputs[0].name, position))

    @staticmethod
    def _held(rows: int) -> int:
        return max(1, int(rows * HELD_OUT))


def _bias(node: gs.Node, width: int) -> NDArray[np.float64]:
    if len(node.inputs) > 2 and isinstance(node.inputs[2], gs.Constant):
        value = node.inputs[2].values.astype(np.float64)
        return np.broadcast_to(value.reshape(-1) if value.size == width else value, (width,)).copy()
    return np.zeros(width)


def _store(node: gs.Node, position: int, value: NDArray[Any], dtype: np.dtype[Any]) -> None:
    """Give a node a constant of its own; others that shared the old one keep it."""
    old = node.inputs[position] if position < len(node.inputs) else None
    name = (
        old.name if isinstance(old, gs.Constant) and len(old.outputs) == 1 else f"{node.outputs[0].name}_fit{position}"
    )
    constant = gs.Constant(name, np.asarray(value.astype(dtype), order="C"))
    if position < len(node.inputs):
        node.inputs[position] = constant
    else:
        node.inputs.append(constant)
