"""Scales and shifts by constants: what a node does, and constants folded into the products beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.model.model import Model
from hwpass.ops import rule_for, traits_of
from hwpass.surgery.computed_shapes import known_shapes
from hwpass.surgery.scaled_products import (
    form_of,
    fusible,
    inputs_of,
    outputs_of,
    scale_inputs,
    scale_outputs,
    takes_bias,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """A node whose output is data factor + shift: one of them is an array as the node has it, the other 1 or 0."""

    node: gs.Node
    data: gs.Tensor
    factor: Floats
    shift: Floats

    @property
    def scales(self) -> bool:
        """Whether it does nothing but scale. What adds zeros is a bias all the same, for refits to write to."""
        return not self.shift.any() and not self.shifts

    @property
    def shifts(self) -> bool:
        """Whether it does nothing but shift."""
        return bool((self.factor == 1).all())

    @property
    def output(self) -> gs.Tensor:
        """What it makes."""
        return self.node.outputs[0]


def step_of(node: gs.Node) -> Step | None:
    """What Mul, Div, Add or Sub do with one constant of finite floating-point numbers; None for everything else."""
    if node.domain or node.op not in ("Mul", "Div", "Add", "Sub") or node.attrs or len(node.inputs) != 2:
        return None
    constant = [isinstance(t, gs.Constant) for t in node.inputs]
    if sum(constant) != 1:
        return None
    first = constant[0]
    data, number = node.inputs[1 if first else 0], node.inputs[0 if first else 1]
    if np.dtype(number.dtype).kind in "iub" or (node.op == "Div" and first):
        return None
    values = number.values.astype(np.float64)
    if not np.isfinite(values).all() or (node.op == "Div" and not values.all()):
        return None
    one, zero = np.ones_like(values), np.zeros_like(values)
    if node.op in ("Mul", "Div"):
        return Step(node, data, values if node.op == "Mul" else np.asarray(1.0 / values), zero)
    if node.op == "Add":
        return Step(node, data, one, values)
    return Step(node, data, np.asarray(-one if first else one), np.asarray(values if first else -values))


def fold_affine(model: Model) -> bool:
    """Fold scales and shifts by constants into the products beside them, until none is left that can be; whether one
    was."""
    folding = _Folding(model)
    changed = False
    while sum([folding.fold(node) for node in list(model.graph.nodes)]):
        changed = True
    if changed:
        model.graph.cleanup(remove_unused_node_outputs=False)
        model.invalidate_shapes()
    return changed


class _Folding:
    """One graph."""

    def __init__(self, model: Model) -> None:
        self.shapes = known_shapes(model)  # no fold changes the shape of a tensor that stays
        self.ends = {id(t) for t in model.graph.outputs}
        self.given = {id(t) for t in model.graph.inputs}

    def fold(self, node: gs.Node) -> bool:
        """Fold a node away; whether it was."""
        step = step_of(node) if len(node.outputs) == 1 else None
        return step is not None and (self._behind(step) or self._behind_bias(step) or self._in_front(step))

    # --- behind a product

    def _behind(self, step: Step) -> bool:
        """product -> step: both in the weights of the product."""
        product = self._only_maker(step.data)
        if product is None or not _own(product) or not (step.scales or takes_bias(product)):
            return False
        factor, shift = (self._along(a, product, step.data, outputs_of(product)) for a in (step.factor, step.shift))
        if factor is None or shift is None:
            return False
        if not scale_outputs(product, factor, None if step.scales else shift, f"scaled_{step.output.name}"):
            return False
        return self._replaced(step, product)

    def _behind_bias(self, step: Step) -> bool:
        """product -> Add of a constant, where the product has no input for it -> scale: both are scaled."""
        add = self._only_maker(step.data)
        bias = step_of(add) if add is not None and step.scales else None
        if bias is None or add is None or not bias.shifts:
            return False
        product = self._only_maker(bias.data)
        if product is None or not _own(product):
            return False
        factor = self._along(step.factor, product, bias.data, outputs_of(product))
        if factor is None:
            return False
        place = next(i for i, t in enumerate(add.inputs) if isinstance(t, gs.Constant))
        constant = self._constant(add.inputs[place], bias.shift * step.factor * (-1 if add.op == "Sub" else 1), step)
        if constant is None or not scale_outputs(product, factor, None, f"scaled_{step.output.name}"):
            return False
        add.inputs[place] = constant
        return self._replaced(step, add)

    def _replaced(self, step: Step, maker: gs.Node) -> bool:
        """The node before makes what the step made."""
        output = step.output
        _detach(step.node)
        maker.outputs = [output]
        return True

    def _only_maker(self, tensor: gs.Tensor) -> gs.Node | None:
        """The node that makes a tensor which nothing else reads, and which is no output."""
        alone = len(tensor.inputs) == 1 and len(tensor.outputs) == 1 and id(tensor) not in self.ends
        maker = tensor.inputs[0] if alone else None
        return maker if maker is not None and len(maker.outputs) == 1 else None

    # --- in front of products

    def _in_front(self, step: Step) -> bool:
        """step -> products: in the weights of all that read it."""
        if self._from_input(step.data) or not _whole_maker(step.data):
            return False
        readers = list(step.output.outputs)
        if self._scaled(step, step.factor, None if step.scales else step.shift):
            for reader in readers:
                reader.inputs[0] = step.data
            _detach(step.node)
            return True
        before = self._only_maker(step.data)
        scale = step_of(before) if before is not None and step.shifts else None
        if scale is None or not scale.scales or not scale.factor.all() or not _whole_maker(scale.data):
            return False
        return self._exchange(scale, step)

    def _exchange(self, scale: Step, step: Step) -> bool:
        """x f + c -> products, which cannot take c where they pad: (x + c / f) f, of which they take f."""
        place = next(i for i, t in enumerate(step.node.inputs) if isinstance(t, gs.Constant))
        sign = -1 if step.node.op == "Sub" else 1
        constant = self._constant(step.node.inputs[place], sign * step.shift / scale.factor, step)
        if constant is None or not self._scaled(step, scale.factor, None):
            return False
        step.node.inputs[place] = constant
        step.node.inputs[1 - place] = scale.data
        _detach(scale.node)
        return True

    def _scaled(self, step: Step, factor: Floats, shift: Floats | None) -> bool:
        """Scale what all readers of a step read; nothing is changed where one of them cannot be."""
        readers: Sequence[gs.Node] = list(step.output.outputs)
        if not readers or id(step.output) in self.ends or len({id(r) for r in readers}) < len(readers):
            return False
        wanted = []
        for reader in readers:
            if not _own(reader) or rule_for(reader).turned(reader) or reader.inputs[0] is not step.output:
                return False
            if shift is not None and not (takes_bias(reader) and _unpadded(reader)):
                return False
            found = self._along(factor, reader, step.data, inputs_of(reader), self._whole(step, reader))
            moved = None if shift is None else self._along(shift, reader, step.data, inputs_of(reader),
                                                           self._whole(step, reader))  # fmt: skip
            if found is None or (shift is not None and moved is None):
                return False
            wanted.append((reader, found, moved))
        before = [list(reader.inputs) for reader in readers]
        for reader, found, moved in wanted:
            if not scale_inputs(reader, found, moved, f"scaled_{step.output.name}"):
                for other, inputs in zip(readers, before, strict=True):
                    other.inputs = inputs
                return False
        return True

    def _whole(self, step: Step, reader: gs.Node) -> bool:
        """Whether the data have all channels that the product reads: a constant may widen them."""
        dims, axis = self.shapes.get(step.data.name), form_of(reader).channel_axis
        return dims is not None and -len(dims) <= axis < len(dims) and dims[axis] == inputs_of(reader)

    def _from_input(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor is an input, or one that constants scaled: those say how the input is scaled."""
        while id(tensor) not in self.given:
            maker = tensor.inputs[0] if len(tensor.inputs) == 1 else None
            if maker is None:
                return False
            step = step_of(maker)
            if step is None and maker.op not in ("Cast", "Transpose"):
                return False
            tensor = step.data if step is not None else maker.inputs[0]
        return True

    # --- constants

    def _along(
        self, values: Floats, product: gs.Node, tensor: gs.Tensor, width: int, whole: bool = True
    ) -> Floats | None:
        """An array as one number for each channel of a product; None where it is something else, or has more axes than
        the tensor that it is applied to. `whole` says whether that tensor has all the channels."""
        axis = form_of(product).channel_axis
        if values.size > 1 and not whole:
            return None
        if axis == 1:
            rank = product.inputs[1].values.ndim
        else:
            dims = self.shapes.get(tensor.name) if values.ndim > 1 else None
            rank = 1 if dims is None else len(dims)
        if values.ndim > rank:
            return None
        full = values.reshape((1,) * (rank - values.ndim) + values.shape)
        others = [n for a, n in enumerate(full.shape) if a != axis % rank]
        if any(n != 1 for n in others) or full.shape[axis] not in (1, width):
            return None
        return np.ascontiguousarray(np.broadcast_to(full.reshape(-1), (width,)))

    def _constant(self, old: gs.Constant, values: Floats, step: Step) -> gs.Constant | None:
        """A constant of other values; None where they are not finite in its type."""
        with np.errstate(over="ignore", invalid="ignore"):
            new = np.asarray(values, old.values.dtype)
        return gs.Constant(f"{old.name}_scaled_{step.output.name}", new) if np.isfinite(new).all() else None


def _whole_maker(tensor: gs.Tensor) -> bool:
    """Whether what makes a tensor, through steps, is one operator or a swish: runtimes know norms and GELUs that are
    written out by their last scales, and compute what lacks these in pieces."""
    maker = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    while maker is not None and (step := step_of(maker)) is not None:
        maker = step.data.inputs[0] if len(step.data.inputs) == 1 else None
    if maker is None or maker.domain:
        return False
    if maker.op == "Mul":
        return any(t.inputs and t.inputs[0].op in ("HardSigmoid", "Sigmoid") for t in maker.inputs)
    rule, traits = rule_for(maker), traits_of(maker)
    return traits.form is not None or traits.fuses == "activation" or rule.kind == "pool" or maker.op == "Add"


def _own(product: gs.Node) -> bool:
    """Whether scales can go into a product, and its weight is no other's."""
    return fusible(product) and len(product.inputs[1].outputs) == 1


def _detach(node: gs.Node) -> None:
    node.inputs.clear()
    node.outputs.clear()


def _unpadded(product: gs.Node) -> bool:
    """Whether a product reads nothing but its input: zeros around it would be shifted too."""
    form = form_of(product)
    if form.kind == "matrix":
        return True
    plain = product.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID", "")
    return form.kind == "conv" and plain and not any(product.attrs.get("pads", ()))
