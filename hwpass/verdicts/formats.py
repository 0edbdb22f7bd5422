"""What is proved of a model whose number formats changed: its structure, and that its weights are as near as they can.

Without the conversions between formats (pairs of QuantizeLinear and DequantizeLinear with the same parameters, casts
between floating-point types, products on integers with what brings them back) the new model must be the old one: the
same operators with the same attributes, read from the outputs back to the inputs. A weight that is stored in another
format must be within half a step of the old one, by the scale of its own channel or block; few values may lie beyond
its range, and are stored as the end of it. What cannot be proved so is the values of activations: they are other ones,
and fidelity judges them.

Nothing here goes through what writes the formats: scales, zero points and integers are read from the new model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.figures import counted
from hwpass.model.model import Model, bodies
from hwpass.verdicts.integer_forms import integer_product, quantised_table
from hwpass.verdicts.stored_values import MOST_CUT, Stored, nbits_weight, quantised_weight, stored

#: By how much more than half a step a weight may be off: scales are rounded to 32 bits.
SLACK = 1e-3

#: Operators whose third input is added to the product.
BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})


class OtherModel(Exception):
    """The two models are not the same but for their formats; the message is one line."""


@dataclass
class Changed:
    """What was found on the way: how much of the model has another format."""

    weights: int = 0
    activations: int = 0
    casts: int = 0
    biases: int = 0
    statistics: int = 0
    worst: float = 0.0  # the largest difference of a weight, in half steps
    ends: int = 0  # weights beyond the range of their scale, cut off at its end

    def __str__(self) -> str:
        parts = []
        if self.weights:
            parts.append(f"{counted(self.weights, 'weight tensor')} within {max(self.worst, 0.01):.2f} half steps")
        if self.ends:
            parts.append(f"{counted(self.ends, 'weight')} cut off at the ends of the ranges")
        if self.activations:
            parts.append(f"{counted(self.activations, 'activation')} with one scale on both sides")
        if self.casts:
            parts.append(counted(self.casts, "cast"))
        if self.biases:
            parts.append(f"the biases of {counted(self.biases, 'layer')} moved as stated")
        if self.statistics:
            parts.append(f"mean and variance of {counted(self.statistics, 'batch normalisation')} replaced")
        return ", ".join(parts) or "nothing changed"


@dataclass
class _Matcher:
    """Goes through both models from the outputs."""

    moved: Mapping[str, NDArray[np.float64]]
    found: Changed = field(default_factory=Changed)
    todo: list[tuple[gs.Tensor, gs.Tensor]] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)
    counted: set[int] = field(default_factory=set)
    inputs: dict[int, int] = field(default_factory=dict)  # old graph inputs, by identity, and what stands for them

    def graphs(self, old: gs.Graph, new: gs.Graph, where: str) -> None:
        """Enter a pair of graphs: inputs and outputs stand for each other in order."""
        for kind, ours, theirs in (("input", old.inputs, new.inputs), ("output", old.outputs, new.outputs)):
            if len(ours) != len(theirs):
                raise OtherModel(f"{where} has {len(theirs)} {kind}s instead of {len(ours)}")
        for ours, theirs in zip(old.inputs, new.inputs, strict=True):
            self.inputs[id(ours)] = id(theirs)
        self.todo += zip(old.outputs, new.outputs, strict=True)

    def run(self) -> None:
        """Compare until nothing is left. Raises OtherModel."""
        while self.todo:
            old, new = self.todo.pop()
            if (id(old), id(new)) not in self.seen:
                self.seen.add((id(old), id(new)))
                self._tensors(old, new)

    def _tensors(self, old: gs.Tensor, new: gs.Tensor, shift: NDArray[np.float64] | None = None) -> None:
        name, before, value = old.name, self._value(old, own=True), self._value(new)
        if isinstance(before, Stored):
            if not isinstance(value, Stored):
                raise OtherModel(f"{name} is a constant, and {new.name} in its place is not")
            self._constants(name, before, value, shift)
            return
        if isinstance(value, Stored):
            raise OtherModel(f"{new.name} is a constant, and {name} in its place is not")
        if not before.inputs or not value.inputs:
            self._sources(before, value)
            return
        self._nodes(before.inputs[0], value.inputs[0], before, value)

    def _sources(self, old: gs.Tensor, new: gs.Tensor) -> None:
        """Both come from outside: the same input, or nothing at all."""
        if old.inputs or new.inputs or self.inputs.get(id(old), id(new)) != id(new):
            raise OtherModel(f"{new.name or 'nothing'} stands where {old.name or 'nothing'} is read")
        if (not old.is_empty() and id(old) not in self.inputs) or old.is_empty() != new.is_empty():
            raise OtherModel(f"{new.name or 'nothing'} stands where {old.name or 'nothing'} is read")

    def _nodes(self, old: gs.Node, new: gs.Node, made: gs.Tensor, given: gs.Tensor) -> None:
        here = f"{old.op} {old.name or made.name}"
        if old.op in ("MatMul", "Gemm") and self._integer(old, here, given):
            return
        if old.op == "Gather" and (table := quantised_table(new)) is not None:
            self._table(old, *table, here)
            return
        if new.op == "MatMulNBits" and old.op == "MatMul":
            self._blocks(old, new, here)
            return
        if (old.op, old.domain or "") != (new.op, new.domain or ""):
            raise OtherModel(f"{new.op} {new.name} stands where {here} was")
        if _position(old.outputs, made) != _position(new.outputs, given):
            raise OtherModel(f"another output of {here} is read")
        self._attributes(old, new, here)
        if len(_trimmed(old.inputs)) != len(_trimmed(new.inputs)):
            raise OtherModel(f"{here} reads {len(_trimmed(new.inputs))} tensors instead of {len(_trimmed(old.inputs))}")
        statistics = old.op == "BatchNormalization"
        for place, (ours, theirs) in enumerate(zip(_trimmed(old.inputs), _trimmed(new.inputs), strict=True)):
            shift = self._shift(old, place, ours)
            if statistics and place in (3, 4) and isinstance(ours, gs.Constant) and isinstance(theirs, gs.Constant):
                self._statistics(ours, theirs, variance=place == 4)
            elif shift is not None:
                self._tensors(ours, theirs, shift)
            else:
                self.todo.append((ours, theirs))

    def _shift(self, node: gs.Node, place: int, tensor: gs.Tensor) -> NDArray[np.float64] | None:
        """What was stated to be added to a bias."""
        shift = self.moved.get(node.outputs[0].name)
        biased = node.op in BIASED and place == 2
        added = node.op == "Add" and isinstance(tensor, gs.Constant)
        return shift if shift is not None and (biased or added) else None

    def _attributes(self, old: gs.Node, new: gs.Node, here: str) -> None:
        if set(old.attrs) != set(new.attrs):
            raise OtherModel(f"{here} has other attributes")
        for name, value in old.attrs.items():
            other = new.attrs[name]
            if isinstance(value, gs.Graph):
                continue
            if not _equal(value, other):
                raise OtherModel(f"{here} has {name}={other!r} instead of {value!r}"[:200])
        for ours, theirs in zip(bodies(old), bodies(new), strict=True):
            self.graphs(ours, theirs, f"a body of {here}")

    def _constants(self, name: str, old: Stored, new: Stored, shift: NDArray[np.float64] | None) -> None:
        """A constant against what stands for it."""
        wanted, given = old.values, new.values
        if wanted.shape != given.shape:
            raise OtherModel(f"weight {name} has shape {list(given.shape)} instead of {list(wanted.shape)}")
        if not np.issubdtype(wanted.dtype, np.floating):
            if not np.array_equal(wanted, given):
                raise OtherModel(f"constant {name} has other values")
            return
        if shift is not None:
            wanted = wanted + shift.reshape(_along(wanted.shape, shift.size))
            self.found.biases += 1
        elif new.half is None:
            if not np.array_equal(wanted, given, equal_nan=True):
                raise OtherModel(f"weight {name} has other values")
            return
        # What a shift is added to in 32 bits is rounded there.
        half = new.half if new.half is not None else np.abs(wanted) * 2.0**-24
        rounding = np.abs(wanted) * 2.0**-23 + 1e-30
        with np.errstate(invalid="ignore"):
            off = np.abs(wanted - given)
            far = ~((off <= half * (1 + SLACK) + rounding) | (wanted == given))
            ends = np.zeros(far.shape, bool) if new.ends is None else far & (np.sign(wanted - given) == new.ends)
        # Values beyond the range are cut off; many of one scale, by more than a step, would mean that it is wrong.
        beyond = ends & (off > 2 * half)
        crowded = beyond & (_share(beyond, half) > MOST_CUT)
        if (bad := (far & ~ends) | crowded).any():
            place = tuple(int(i) for i in np.argwhere(bad)[0])
            raise OtherModel(
                f"weight {name} at {list(place)} is {wanted[place]:.6g} and is stored as {given[place]:.6g}, "
                "more than half a step away"
            )
        self.found.ends += int(ends.sum())
        if new.half is not None:
            self.found.weights += 1
            share = off[~ends] / np.maximum(np.broadcast_to(half, off.shape)[~ends], 1e-300)
            self.found.worst = max(self.found.worst, float(share[np.isfinite(share)].max(initial=0.0)))

    def _statistics(self, old: gs.Constant, new: gs.Constant, *, variance: bool) -> None:
        ours, theirs = np.asarray(old.values), np.asarray(new.values)
        if ours.shape != theirs.shape or not np.isfinite(theirs).all() or (variance and (theirs < 0).any()):
            raise OtherModel(f"{old.name} is no {'variance' if variance else 'mean'} any more")
        self.found.statistics += int(variance and not np.array_equal(ours, theirs))

    def _integer(self, node: gs.Node, here: str, given: gs.Tensor) -> bool:
        """Whether a product became the one on integers that dynamic quantisation writes; a Gemm's bias is added."""
        bias, scaled = None, given
        if node.op == "Gemm" and given.inputs[0].op == "Add":
            scaled, bias = given.inputs[0].inputs
        product = integer_product(scaled)
        if product is None:
            return False
        operand, weight = product
        ours = node.inputs[1]
        own = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
        plain = all(float(node.attrs.get(name, 1.0)) == 1.0 for name in ("alpha", "beta"))
        if (
            not isinstance(ours, gs.Constant)
            or not plain
            or node.attrs.get("transA", 0)
            or (own is None) != (bias is None)
        ):
            raise OtherModel(f"{here} became another product on integers")
        wanted = np.asarray(ours.values, np.float64)
        turned = node.op == "Gemm" and node.attrs.get("transB", 0)
        self._constants(ours.name, Stored(wanted.T if turned else wanted), weight, None)
        self._activation(operand)
        self.todo.append((node.inputs[0], operand))
        if own is not None and bias is not None:
            self.todo.append((own, bias))
        return True

    def _blocks(self, old: gs.Node, new: gs.Node, here: str) -> None:
        weight = nbits_weight(new)
        ours = old.inputs[1]
        if weight is None or not isinstance(ours, gs.Constant):
            raise OtherModel(f"{here}: its blocks of integers cannot be read")
        self._constants(ours.name, Stored(np.asarray(ours.values, np.float64)), weight, None)
        self.todo.append((old.inputs[0], new.inputs[0]))

    def _table(self, old: gs.Node, new: gs.Node, weight: Stored, here: str) -> None:
        """Rows that are picked from integers, and scaled then."""
        ours = old.inputs[0]
        if not isinstance(ours, gs.Constant):
            raise OtherModel(f"{here} picks from a table of integers")
        self._attributes(old, new, here)
        self._constants(ours.name, Stored(np.asarray(ours.values, np.float64)), weight, None)
        self.todo.append((old.inputs[1], new.inputs[1]))

    def _activation(self, tensor: gs.Tensor) -> None:
        if id(tensor) not in self.counted:
            self.counted.add(id(tensor))
            self.found.activations += 1

    def _uncast(self, tensor: gs.Tensor, *, count: bool) -> gs.Tensor:
        """The tensor before casts between floating-point types."""
        while tensor.inputs and tensor.inputs[0].op == "Cast" and _floating_cast(tensor.inputs[0]):
            if count and id(tensor) not in self.counted:
                self.counted.add(id(tensor))
                self.found.casts += 1
            tensor = tensor.inputs[0].inputs[0]
        return tensor

    def _value(self, tensor: gs.Tensor, *, own: bool = False) -> gs.Tensor | Stored:
        """What a tensor stands for: a constant, or a tensor without conversions; `own` is of the old model, whose
        conversions are its own business."""
        while True:
            tensor = self._uncast(tensor, count=not own)
            if isinstance(tensor, gs.Constant):
                return stored(tensor)
            node = tensor.inputs[0] if tensor.inputs else None
            if node is None or node.op != "DequantizeLinear":
                return tensor
            weight = quantised_weight(tensor)
            if weight is not None:
                return weight
            before = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
            if before is None or before.op != "QuantizeLinear":
                return tensor
            if not own:
                self._pair(before, node)
                self._activation(tensor)
            tensor = before.inputs[0]

    def _pair(self, quantise: gs.Node, dequantise: gs.Node) -> None:
        """QuantizeLinear and DequantizeLinear that undo each other."""
        name = quantise.inputs[0].name
        for place, what in ((1, "scale"), (2, "zero point")):
            values = [
                np.asarray(node.inputs[place].values) if len(node.inputs) > place else np.zeros(())
                for node in (quantise, dequantise)
                if len(node.inputs) <= place or isinstance(node.inputs[place], gs.Constant)
            ]
            if len(values) < 2 or not np.array_equal(values[0], values[1]):
                raise OtherModel(f"activation {name} is quantised with another {what} than it is brought back with")
            if place == 1 and not (np.isfinite(values[0]).all() and (values[0] > 0).all()):
                raise OtherModel(f"activation {name} has a scale that is not positive")
        if not _equal(quantise.attrs.get("axis", 1), dequantise.attrs.get("axis", 1)):
            raise OtherModel(f"activation {name} is quantised along another axis than it is brought back along")


def same_but_for_formats(old: Model, new: Model, moved: Mapping[str, NDArray[np.float64]] | None = None) -> Changed:
    """Compare two models. `moved` says what was added to biases, [channels] by the output of the layer (or of its Add).

    Raises OtherModel with the first difference.
    """
    if old.opset != new.opset:
        raise OtherModel(f"the operator set is {new.opset} instead of {old.opset}")
    for ours, theirs in zip(old.graph.outputs, new.graph.outputs, strict=False):
        if ours.name != theirs.name:
            raise OtherModel(f"output {ours.name} is called {theirs.name}")
    for ours, theirs in zip(old.graph.inputs, new.graph.inputs, strict=False):
        if ours.name != theirs.name:
            raise OtherModel(f"input {ours.name} is called {theirs.name}")
    matcher = _Matcher(dict(moved or {}))
    matcher.graphs(old.graph, new.graph, "the model")
    matcher.run()
    return matcher.found


def _floating_cast(node: gs.Node) -> bool:
    """Whether a cast is from a floating-point type to another: what it reads is one as far as is known."""
    to = node.attrs.get("to")
    floats = (np.dtype(np.float32), np.dtype(np.float16))
    if np.dtype(gs_type(to)) not in floats:
        return False
    source = node.inputs[0]
    return source.dtype is None or (not isinstance(source.dtype, int) and np.dtype(source.dtype) in floats)


def gs_type(code: Any) -> Any:
    """The NumPy type of a Cast's `to`, an ONNX code or a type already."""
    from onnx import helper

    return helper.tensor_dtype_to_np_dtype(int(code)) if isinstance(code, int) else code


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray | gs.Tensor) or isinstance(right, np.ndarray | gs.Tensor):
        ours, theirs = (np.asarray(getattr(v, "values", v)) for v in (left, right))
        return ours.dtype == theirs.dtype and np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f")
    return bool(left == right)


def _share(ends: NDArray[np.bool_], half: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of values that are cut off, of those that have a value's scale: half steps are equal there."""
    wide = np.broadcast_to(half, ends.shape)
    _, number = np.unique(wide, return_inverse=True)
    number = np.asarray(number).reshape(-1)
    shares = np.bincount(number, ends.reshape(-1)) / np.bincount(number)
    return np.asarray(shares[number].reshape(ends.shape))


def _trimmed(tensors: list[gs.Tensor]) -> list[gs.Tensor]:
    """Inputs without the absent ones at the end."""
    count = len(tensors)
    while count and tensors[count - 1].is_empty():
        count -= 1
    return list(tensors[:count])


def _position(tensors: list[gs.Tensor], one: gs.Tensor) -> int:
    return next((place for place, tensor in enumerate(tensors) if tensor is one), -1)


def _along(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """A shape that broadcasts one value per channel of a bias over it."""
    if not shape or size == 1:
        return (1,) * len(shape)
    place = max(i for i, extent in enumerate(shape) if extent == size)
    return tuple(size if i == place else 1 for i in range(len(shape)))
