"""Make good what was removed: least squares on the weights that stayed, layer by layer, without training.

Goes through the network in order, so that every layer is fitted on what the corrected layers before it compute; where
the output is added to a residual stream, what the stream already lacks is asked of it too. Batch normalisations that
stand alone get a new scale and bias the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.constant_channels import added_bias
from hwpass.coupling.constant_channels import plain as plain_product
from hwpass.coupling.groups import Coupling
from hwpass.data.row_table import RowTable
from hwpass.data.sampled_rows import Ints, Window, conv_rows, image_rows, last_axis_rows, sample, transposed_rows
from hwpass.data.segments import Segments
from hwpass.data.sizes import peak_bytes
from hwpass.errors import InputError
from hwpass.ops import Node, traits_of
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.memory import release_memory
from hwpass.runtime.settings import Settings
from hwpass.surgery.cut import Surgery
from hwpass.surgery.least_squares import Clipping, fit, fit_channels
from hwpass.surgery.product_tail import Tail, follow
from hwpass.surgery.wanted_rows import WantedRows, Without

#: Share of the rows that choose lambda and judge the step; they never enter a fit.
HELD_OUT = 0.2

#: Most bytes of the rows of one product.
ROW_BYTES = 192 << 20

#: Samples that go through a few layers at once: as many as their activations leave room for, and no more than that.
BATCH = 32
BATCH_BYTES = 24 << 20


@dataclass(frozen=True)
class _Wanted:
    """Rows of the outputs that a product should give, and what follows them: clip(y + offset)."""

    rows: RowTable
    clipping: Clipping
    offset: RowTable | None


def batch_size(coupling: Coupling) -> int:
    """How many samples may be run at once at the analysed extents, 1 to BATCH."""
    return int(np.clip(BATCH_BYTES // max(peak_bytes(coupling.build), 1), 1, BATCH))


class Compensation:
    """Both networks in lockstep, and on the way the fit of each product: the weights W', b' that best give the
    original's outputs from the pruned inputs."""

    def __init__(
        self, coupling: Coupling, surgery: Surgery, context: Settings, *, samples: int, rows: int, spare: bool = True
    ) -> None:
        """The surgery's model is edited; `samples` and `rows` of a layer's input and output bound what is fitted on.

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
        self.gains: list[tuple[str, float, float]] = []
        self.changed = False  # whether any weight is another

    def run(self, calibration: Calibration) -> list[tuple[str, float, float]]:
        """Correct every product in order; per layer its held-out error before and after."""
        size = batch_size(self.coupling)

        def batches() -> Iterator[dict[str, np.ndarray]]:
            # The last rows judge: they come from all over the data, which may be sorted.
            every = round(1 / HELD_OUT)
            for last in (False, True):
                for number, batch in enumerate(calibration.batches(size, limit=self.samples)):
                    if (number % every == every - 1) is last:
                        yield batch

        dense_model = self.coupling.build.model
        place = {id(n): i for i, n in enumerate(dense_model.graph.nodes)}
        current = {n.outputs[0].name: (i, n) for i, n in enumerate(self.model.graph.nodes) if n.outputs}
        alone = self.surgery.constants
        todo = [n for n in self.coupling.nodes if id(n.gs) in place and n.index not in self.surgery.folded]
        todo = [n for n in todo if n.index in alone or n.gs.outputs[0].name in current]
        todo = [n for n in todo if n.product is not None or _kind(n) == "channels"]
        try:
            with (
                Segments(dense_model, batches(), self.context.threads) as dense,
                Segments(self.model, batches(), self.context.threads) as pruned,
                # Where values overflow, no fit is better than the weights there are: they stay.
                np.errstate(over="ignore", invalid="ignore"),
            ):
                for number, node in enumerate(todo, 1):
                    self.context.progress(f"compensating layer {number} of {len(todo)}")
                    if node.index in alone:
                        self._constant(node, dense, place[id(node.gs)])
                        continue
                    index, target = current[node.gs.outputs[0].name]
                    fitted = self._fitter(node, target)
                    if fitted is None:
                        continue
                    y = node.gs.outputs[0].name
                    try:
                        dense.advance(place[id(node.gs)] + 1, keep=[y, node.gs.inputs[0].name])
                        pruned.advance(index)
                    except InputError as error:  # such as a list of tensors between two layers
                        self.context.warn(f"{node.name} and the layers behind it were not refitted: {error}")
                        break
                    if not (dense.live(y) and pruned.live(target.inputs[0].name)):
                        continue
                    found = fitted(node, target, dense, pruned)
                    release_memory(cycles=False)
                    if found is not None:
                        self.gains.append((node.name, *found))
                        self.changed |= found[1] < found[0]
        finally:
            release_memory()
        return self.gains

    def _constant(self, node: Node, dense: Segments, place: int) -> None:
        """Where a branch went, its mean stays: the best constant there is."""
        product, name = node.product, node.gs.outputs[0].name
        assert product is not None
        found = {t.name: t for n in self.model.graph.nodes for t in n.inputs if isinstance(t, gs.Constant)}
        constant = found.get(name)
        if constant is None:
            return
        dense.advance(place + 1, keep=[name])
        form = traits_of(node.gs).form
        assert form is not None
        axis = form.channel_axis
        rows = (np.moveaxis(v, axis, -1).reshape(-1, v.shape[axis]) for v in dense.value(name))
        mean = np.stack([r.mean(axis=0, dtype=np.float64) for r in rows]).mean(axis=0)
        kept = self._kept(self.coupling.weight_axes(node)[product.weight_out])
        if form.bias:
            constant.values = mean[kept].reshape(constant.shape).astype(constant.values.dtype)
            self.changed = True
            return
        # Without a bias of its own, the Add behind it may give it one.
        holder, position = added_bias(constant, int(kept.sum()))
        if holder is not None:
            old = holder.inputs[position].values
            _store(holder, position, old + mean[kept].reshape(old.shape), old.dtype)
            self.changed = True

    def _fitter(self, node: Node, target: gs.Node) -> Callable[..., tuple[float, float] | None] | None:
        kind = _kind(node)
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

    def _original(self, dense: Segments, name: str, channels: int) -> Sequence[np.ndarray]:
        """The original's values of a tensor at the positions that the pruned network has: of other axes than that of
        the channels, too, what was removed is left out."""
        values = dense.value(name)
        axes = self.coupling.build.tensors[name].axes or ()
        for place, axis in enumerate(axes):
            kept = self._kept(axis)
            if place != channels % len(axes) and not kept.all():
                values = Without(values, kept, place)
        return values

    def _where(self, values: Sequence[np.ndarray], image: slice, width: int, name: str) -> list[tuple[Ints, ...]]:
        """Sampled positions of each batch; `image` are the axes beside samples and channels."""
        rows = min(self.rows, max(1024, ROW_BYTES // (4 * max(width, 1))))
        seed = self.context.seed + len(name)
        shapes = [v.shape for v in values]
        return sample([s[0] for s in shapes], [s[image] for s in shapes], rows, seed)

    def _wanted(
        self,
        node: Node,
        target: gs.Node,
        dense: Segments,
        pruned: Segments,
        where: list[tuple[Ints, ...]],
        rows_of: Callable[[np.ndarray, tuple[Ints, ...]], NDArray[np.float32]],
        mask: NDArray[np.bool_],
        groups: int = 1,
    ) -> _Wanted:
        """The original's outputs at the sampled positions, plus what a residual stream lacks, and what follows."""
        name, axis = node.gs.outputs[0].name, 1 if rows_of is image_rows else -1
        outputs = self._original(dense, name, axis)
        tail = follow(target)
        lacking = None
        if tail.other is not None:
            lacking = self._lacking(tail.other, dense, pruned, outputs, axis, int(mask.sum()))
            if lacking is None:
                tail = Tail()
        wanted = WantedRows(outputs, lacking, tail, where, rows_of, mask, axis, groups)
        clipping = Clipping(tail.low, tail.high)
        shifted = lacking is not None or (clipping.clips and tail.constant is not None)
        return _Wanted(RowTable(wanted.rows()), clipping, RowTable(wanted.offsets()) if shifted else None)

    def _lacking(
        self, other: str, dense: Segments, pruned: Segments, outputs: Sequence[np.ndarray], axis: int, kept: int
    ) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]] | None:
        """The other side of a residual sum as the original has it and as the pruned network has it; None where they
        cannot be set against each other."""
        if not (dense.live(other) and pruned.live(other)):
            return None
        theirs, ours = self._original(dense, other, axis), pruned.value(other)
        if theirs[0].shape != outputs[0].shape or ours[0].ndim != theirs[0].ndim or ours[0].shape[axis] != kept:
            return None
        return theirs, ours

    def _conv(self, node: Node, target: gs.Node, dense: Segments, pruned: Segments) -> tuple[float, float] | None:
        x, y = pruned.value(target.inputs[0].name), self._original(dense, node.gs.outputs[0].name, 1)
        weight = target.inputs[1].values
        groups = int(target.attrs.get("group", 1))
        transposed = _kind(node) == "transposed"
        if transposed:  # [in, out, window] like a convolution's [out, in, window]
            weight = weight.swapaxes(0, 1)
        outputs, depth = weight.shape[0] // groups, int(np.prod(weight.shape[1:]))
        where = self._where(y, slice(2, None), depth * (groups if groups > 1 else 1), node.name)
        mask = self._kept(self.coupling.weight_axes(node)[1 if transposed else 0])
        wanted = self._wanted(node, target, dense, pruned, where, image_rows, mask, groups)
        gather = transposed_rows if transposed else conv_rows
        shape = (-1, groups, depth) if groups > 1 else (-1, depth)
        parts = (gather(v, Window.of(target, v.shape[2:]), w) for v, w in zip(x, where, strict=True))
        rows = RowTable(part.reshape(shape) for part in parts)
        found = fit(
            rows, wanted.rows, weight.reshape(groups, outputs, depth).swapaxes(1, 2),
            _bias(target, weight.shape[0]).reshape(groups, outputs), self._held(len(rows)),
            has_bias=self._biased(target), clipping=wanted.clipping, offset=wanted.offset, threads=self.context.threads,
        )  # fmt: skip
        if found.after < found.before:
            new = found.weights.swapaxes(1, 2).reshape(weight.shape)
            _store(target, 1, new.swapaxes(0, 1) if transposed else new, weight.dtype)
            if self._biased(target):
                _store(target, 2, found.bias.reshape(-1), weight.dtype)
        return found.before, found.after

    def _recurrent(self, node: Node, target: gs.Node, dense: Segments, pruned: Segments) -> tuple[float, float] | None:
        """What the gates get from the input: W [directions, gates * hidden, input], as the original's x W^T."""
        x, original = pruned.value(target.inputs[0].name), self._original(dense, node.gs.inputs[0].name, -1)
        weight, before = target.inputs[1].values, node.value(1)
        assert before is not None
        mask = self._kept(self.coupling.weight_axes(node)[1])
        where = self._where(x, slice(1, -1), weight.shape[2], node.name)
        ways = len(weight)
        taken = (last_axis_rows(v, w) for v, w in zip(x, where, strict=True))
        rows = RowTable(np.repeat(part[:, None], ways, axis=1) for part in taken)
        theirs = (last_axis_rows(v, w) for v, w in zip(original, where, strict=True))
        weights = before[:, mask].astype(np.float32)
        wanted = RowTable(np.einsum("rd,gnd->rgn", part, weights, optimize=True) for part in theirs)
        bias = target.inputs[3] if len(target.inputs) > 3 and isinstance(target.inputs[3], gs.Constant) else None
        found = fit(
            rows, wanted, weight.swapaxes(1, 2), np.zeros(weight.shape[:2]), self._held(len(rows)),
            has_bias=bias is not None, threads=self.context.threads,
        )  # fmt: skip
        if found.after < found.before:
            _store(target, 1, found.weights.swapaxes(1, 2), weight.dtype)
            if bias is not None:  # [directions, both biases of the gates]: the input's come first
                shift = np.concatenate([found.bias, np.zeros_like(found.bias)], axis=1)
                _store(target, 3, bias.values + shift, weight.dtype)
        return found.before, found.after

    def _matmul(self, node: Node, target: gs.Node, dense: Segments, pruned: Segments) -> tuple[float, float] | None:
        x, y = pruned.value(target.inputs[0].name), self._original(dense, node.gs.outputs[0].name, -1)
        if x[0].ndim != y[0].ndim or x[0].ndim < 2:
            return None
        weight = target.inputs[1].values
        product, form = node.product, traits_of(target).form
        assert product is not None
        assert form is not None
        turned = product.weight_out == 0
        matrix = weight.T if turned else weight
        mask = self._kept(self.coupling.weight_axes(node)[product.weight_out])
        where = self._where(x, slice(1, -1), len(matrix), node.name)
        holder, position = (target, 2) if form.bias else added_bias(target.outputs[0], matrix.shape[1])
        wanted = self._wanted(node, target, dense, pruned, where, last_axis_rows, mask)
        rows = RowTable(last_axis_rows(v, w) for v, w in zip(x, where, strict=True))
        has_bias = holder is not None and (holder is not target or self._biased(target))
        start = _bias(target, matrix.shape[1]) if form.bias else np.zeros(matrix.shape[1])
        found = fit(
            rows, wanted.rows, matrix, start, self._held(len(rows)), has_bias=has_bias, clipping=wanted.clipping,
            offset=wanted.offset, threads=self.context.threads,
        )  # fmt: skip
        if found.after < found.before:
            _store(target, 1, found.weights.T if turned else found.weights, weight.dtype)
            if has_bias and holder is target:
                _store(target, 2, found.bias, weight.dtype)
            elif holder is not None and has_bias:
                old = holder.inputs[position].values
                _store(holder, position, old + found.bias.reshape(old.shape), old.dtype)
        return found.before, found.after

    def _norm(self, node: Node, target: gs.Node, dense: Segments, pruned: Segments) -> tuple[float, float] | None:
        """One slope and one offset per channel."""
        x, y = pruned.value(target.inputs[0].name), self._original(dense, node.gs.outputs[0].name, 1)
        scale, bias, mean, variance = (t.values.astype(np.float64) for t in target.inputs[1:5])
        mask = self._kept(node.axes(1)[0])
        where = self._where(x, slice(2, None), len(scale), node.name)
        deviation = np.sqrt(variance + float(target.attrs.get("epsilon", 1e-5)))
        wanted = RowTable(image_rows(v, w)[:, mask] for v, w in zip(y, where, strict=True))
        rows = RowTable((image_rows(v, w) - mean) / deviation for v, w in zip(x, where, strict=True))
        found = fit_channels(rows, wanted, scale, bias, self._held(len(rows)))
        if found.after < found.before:
            dtype = target.inputs[1].values.dtype
            _store(target, 1, found.weights, dtype)
            _store(target, 2, found.bias, dtype)
        return found.before, found.after

    def _biased(self, target: gs.Node) -> bool:
        """Whether a product with an input for a bias has one, or may get one."""
        return self.spare or len(target.inputs) > 2

    @staticmethod
    def _held(rows: int) -> int:
        return max(1, int(rows * HELD_OUT))


def _kind(node: Node) -> str:
    form = traits_of(node.gs).form
    return form.kind if form is not None else ""


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
