"""Apply a choice of channels to a graph."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.branches import branches, merged
from hwpass.coupling.groups import Coupling
from hwpass.coupling.walk import small_value
from hwpass.model.model import Model
from hwpass.ops import Node, Rule, Tensor, rule_for, traits_of
from hwpass.ops.axes import Axis
from hwpass.ops.rule import Array
from hwpass.spans import span

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SlicedConstant:
    """One use of a constant that lost entries: enough to scatter it back."""

    node: int
    position: int
    kept: tuple[Mask, ...]  # per axis, [size]
    name: str  # of the constant in the pruned graph
    fill: float | Array  # broadcast over the original shape


@dataclass(frozen=True)
class Surgery:
    """A pruned model, and what of its constants came from where."""

    model: Model
    slices: tuple[SlicedConstant, ...]
    keep: Mask  # per component
    renamed: Mapping[str, str] = field(default_factory=dict)  # outputs whose node now has another, and a node behind
    constants: Mapping[int, str] = field(default_factory=dict)  # products without input channels: the constant instead
    folded: frozenset[int] = frozenset()  # nodes that are left with nothing but constants to work on

    @property
    def modified(self) -> bool:
        """Whether anything was removed."""
        return bool(self.slices or self.constants)


@span("cut")
def prune(coupling: Coupling, keep: Mask) -> Surgery:
    """Remove every component c with keep[c] False from a copy of the coupled model.

    The graph that was coupled is left as it is. Raises ValueError unless keep[0] (frozen) is True.
    """
    if not keep[0]:
        raise ValueError("component 0 holds what must stay, and the choice removes it: keep[0] has to be True")
    model = coupling.build.model.copy()
    cutter = _Cutter(coupling, keep, model)
    cutter.run()
    model.invalidate_shapes()
    return Surgery(model, tuple(cutter.slices), keep, cutter.renamed, cutter.constants, cutter.branch.folded)


class _Cutter:
    """The walk that rewrites a copy of the graph, node by node in order: what rules know as `Shrink`."""

    def __init__(self, coupling: Coupling, keep: Mask, model: Model) -> None:
        self.coupling = coupling
        self.keep = keep
        self.model = model
        self.opset = model.opset
        self.slices: list[SlicedConstant] = []
        self.values: dict[str, Array | None] = {}
        self._made: dict[tuple[str, bytes], gs.Constant] = {}
        self._uses = Counter(t.name for node in model.walk() for t in node.inputs if isinstance(t, gs.Constant))
        self._taken = {t.name for node in model.walk() for t in (*node.inputs, *node.outputs)}
        self._inserted: dict[int, list[gs.Node]] = {}
        self._appended: dict[int, list[gs.Node]] = {}
        self._masks: dict[int, Mask] = {}
        self._outputs = {t.name for t in model.graph.outputs}
        self.renamed: dict[str, str] = {}
        self.constants: dict[int, str] = {}
        emptied = [
            branch
            for group, branch in zip(coupling.groups, branches(coupling), strict=True)
            if branch is not None and not keep[group.components].any()
        ]
        self.branch = merged(emptied)

    def run(self) -> None:
        """Rewrite every node."""
        nodes = list(self.model.walk())
        for original, target in zip(self.coupling.nodes, nodes, strict=True):
            if original.index in self.branch.gone:
                continue
            node = replace(original, gs=target)
            self._slice_constants(node)
            if node.index in self.branch.constant:
                self._become_bias(node)
                continue
            rule = rule_for(target)
            if not node.frozen:
                rule.shrink(node, self)
            if node.frozen or type(rule).shrink is Rule.shrink:
                self._hold(node)
            self._evaluate(node, rule)
            self._hold_output(node)
        self._drop_parts(nodes)
        gone = {id(nodes[index]) for index in self.branch.gone | self.branch.constant}
        for node in nodes:
            if id(node) in gone:
                node.inputs.clear()
                node.outputs.clear()
        before = {id(nodes[index]): inserted for index, inserted in self._inserted.items()}
        after = {id(nodes[index]): appended for index, appended in self._appended.items()}
        for scope in self.model.scopes():
            left = [node for node in scope.nodes if id(node) not in gone]
            scope.nodes = [n for node in left for n in (*before.get(id(node), ()), node, *after.get(id(node), ()))]

    def _drop_parts(self, nodes: Sequence[gs.Node]) -> None:
        """Concatenations without the parts that have no channels left; one of a single part copies it."""
        for index in {node for node, _ in self.branch.parts}:
            node = nodes[index]
            node.inputs = [t for place, t in enumerate(node.inputs) if (index, place) not in self.branch.parts]
            if len(node.inputs) == 1:
                node.op, node.attrs = "Identity", {}

    def _become_bias(self, node: Node) -> None:
        """A product without input channels gives its bias, everywhere: put that in its output's place."""
        product, result, form = node.product, node.gs.outputs[0], traits_of(node.gs).form
        assert product is not None
        assert form is not None
        assert node.outputs[0].axes is not None
        width = self.size(self.coupling.weight_axes(node)[product.weight_out])
        shape = [1] * len(node.outputs[0].axes)
        shape[form.channel_axis] = width
        weight, bias = node.gs.inputs[1], node.gs.inputs[2:3]
        value = bias[0].values if bias and bias[0].name else np.zeros(width, weight.values.dtype)
        constant = gs.Constant(result.name, value.reshape(shape))
        for reader in list(result.outputs):
            reader.inputs = [constant if tensor is result else tensor for tensor in reader.inputs]
        self.constants[node.index] = constant.name

    # What rules may ask.

    def kept(self, axis: Axis) -> Mask:
        """Which indices of an axis stay."""
        if len(axis) == 1 and axis[0].ids is not None:
            key = id(axis[0].ids)
            if key not in self._masks:
                self._masks[key] = self.coupling.kept(self.keep, axis)
            return self._masks[key]
        return self.coupling.kept(self.keep, axis)

    def size(self, axis: Axis) -> int:
        """The extent of an axis after pruning."""
        return int(self.kept(axis).sum())

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """The extents of a tensor after pruning."""
        assert tensor.axes is not None
        return tuple(self.size(axis) for axis in tensor.axes)

    def touched(self, axis: Axis) -> bool:
        """Whether any index of the axis goes."""
        return not bool(self.kept(axis).all())

    # What rules may change.

    def set_operand(self, node: Node, position: int, value: Sequence[int]) -> None:
        """Make an integer input evaluate to `value`; zeros and minus ones of a target that copy or infer stay."""
        tensor = node.gs.inputs[position]
        wanted = np.asarray(value, np.int64)
        actual = self._value(tensor)
        if actual is None:
            # Decided by a condition's body, whose outputs keep their width: what it was.
            actual = node.value(position)
        assert actual is not None
        flat = np.atleast_1d(actual).astype(np.int64)
        if node.op == "Reshape":
            wanted = self._implicit(node, flat, wanted)
        if np.array_equal(flat, wanted):
            return
        if isinstance(tensor, gs.Constant):
            self.set_constant(node, position, wanted.reshape(actual.shape).astype(actual.dtype))
            return
        # Computed from extents that may be dynamic: scale what it evaluates to, but zeros, which no factor changes.
        nothing = flat == 0
        steps = [("Mul", np.where(nothing, 1, wanted)), ("Div", np.where(nothing, 1, flat))]
        if wanted[nothing].any():
            steps.append(("Add", np.where(nothing, wanted, 0)))
        self._scale(node, position, [(op, v.reshape(actual.shape).astype(actual.dtype)) for op, v in steps])

    def _scale(self, node: Node, position: int, steps: list[tuple[str, Array]]) -> None:
        """Put arithmetic with constants in front of an input."""
        tensor = node.gs.inputs[position]
        scaled: gs.Tensor = tensor
        for op, factor in steps:
            constant = gs.Constant(self._name(f"{tensor.name}_{op}"), factor)
            output = gs.Variable(self._name(f"{tensor.name}_scaled"), dtype=factor.dtype)
            self._inserted.setdefault(node.index, []).append(
                gs.Node(op, name=f"{output.name}_{op}", inputs=[scaled, constant], outputs=[output])
            )
            scaled = output
        node.gs.inputs[position] = scaled

    def _hold(self, node: Node) -> None:
        """Keep what was computed from extents and meets the data here (the root of a width): scale it back."""
        if not node.outputs or node.outputs[0].data is not None:
            return
        for position, operand in enumerate(node.inputs):
            if operand is not None and not operand.constant:
                steps = _correction(operand.data, self._value(node.gs.inputs[position]))
                if steps:
                    self._scale(node, position, steps)

    def _hold_output(self, node: Node) -> None:
        """The same for extents that the model hands out; nodes that read them see the new ones."""
        result = node.gs.outputs[0] if node.gs.outputs else None
        if result is None or result.name not in self._outputs:
            return
        steps = _correction(node.outputs[0].data, self.values.get(result.name))
        if not steps:
            return
        plain = gs.Variable(self._name(f"{result.name}_new"))
        for reader in list(result.outputs):
            reader.inputs = [plain if tensor is result else tensor for tensor in reader.inputs]
        node.gs.outputs[0] = source = plain
        self.renamed[result.name] = plain.name
        for number, (op, factor) in enumerate(steps):
            constant = gs.Constant(self._name(f"{result.name}_{op}"), factor)
            last = number == len(steps) - 1
            output = result if last else gs.Variable(self._name(f"{result.name}_scaled"))
            self._appended.setdefault(node.index, []).append(
                gs.Node(op, f"{result.name}_{op}", {}, [source, constant], [output])
            )
            source = output

    def _implicit(self, node: Node, old: Array, wanted: Array) -> Array:
        """Keep -1 (inferred) and 0 (copied) of a Reshape target where they still give the wanted extent."""
        result = wanted.copy()
        x = self.shape(node.tensor(0))
        for place, value in enumerate(old):
            copies = value == 0 and not node.attr("allowzero", 0)
            if value == -1 or (copies and place < len(x) and x[place] == wanted[place]):
                result[place] = value
        return result

    def add_operand(self, node: Node, position: int, value: Sequence[int]) -> None:
        """Give a node an integer input that it did not have."""
        while len(node.gs.inputs) < position:
            node.gs.inputs.append(gs.Variable.empty())
        constant = gs.Constant(self._name(f"{node.gs.outputs[0].name}_operand"), np.asarray(value, np.int64))
        if position < len(node.gs.inputs):
            node.gs.inputs[position] = constant
        else:
            node.gs.inputs.append(constant)

    def set_constant(self, node: Node, position: int, value: Array) -> None:
        """Replace a constant input at this node alone."""
        old = node.gs.inputs[position]
        key = hashlib.sha256(value.tobytes() + repr((value.shape, value.dtype)).encode()).digest()
        node.gs.inputs[position] = self._constant(old.name, key, lambda: value)

    def scale_output(self, node: Node, factor: float) -> None:
        """Multiply a node's output by a number, in the output's own type."""
        result = node.gs.outputs[0]
        plain = gs.Variable(self._name(f"{result.name}_unscaled"))
        dtype = node.outputs[0].dtype if node.outputs[0].dtype is not None else np.dtype(np.float32)
        constant = gs.Constant(self._name(f"{result.name}_factor"), np.asarray(factor, dtype))
        node.gs.outputs[0] = plain
        self.renamed[result.name] = plain.name
        scale = gs.Node("Mul", f"{plain.name}_Mul", {}, [plain, constant], [result])
        self._appended.setdefault(node.index, []).append(scale)

    def replace(self, node: Node, op: str, attributes: dict[str, Any], operand: Array) -> None:
        """Turn a node into `op` of its first input and a constant."""
        node.gs.op = op
        node.gs.attrs = dict(attributes)
        data = node.gs.inputs[0]
        node.gs.inputs = [data, gs.Constant(self._name(f"{node.gs.outputs[0].name}_indices"), operand)]

    def _constant(self, name: str, key: bytes, make: Callable[[], Array]) -> gs.Constant:
        """A new value for a constant; uses that want the same value (the same key) share it again."""
        if (name, key) not in self._made:
            self._made[name, key] = gs.Constant(self._name(name), np.asarray(make(), order="C"))
        return self._made[name, key]

    def _name(self, name: str) -> str:
        """The old name where its only use is the one that is replaced, else one that nothing has."""
        if self._uses.get(name) == 1:
            return name
        number = 1
        while f"{name}_{number}" in self._taken:
            number += 1
        self._taken.add(f"{name}_{number}")
        return f"{name}_{number}"

    def _slice_constants(self, node: Node) -> None:
        for position, tensor in enumerate(node.gs.inputs):
            use = self.coupling.build.uses.get((node.index, position))
            if use is None or use.axes is None or not isinstance(tensor, gs.Constant):
                continue
            masks = tuple(self.kept(axis) for axis in use.axes)
            if all(mask.all() for mask in masks):
                continue
            key = b"".join(np.packbits(m).tobytes() for m in masks)
            sliced = self._constant(tensor.name, key, partial(_compress, tensor, masks))
            node.gs.inputs[position] = sliced
            self.slices.append(SlicedConstant(node.index, position, masks, sliced.name, node.fill.get(position, 0.0)))

    def _value(self, tensor: gs.Tensor) -> Array | None:
        if isinstance(tensor, gs.Constant):
            return np.asarray(tensor.values)
        return self.values.get(tensor.name)

    def _evaluate(self, node: Node, rule: Any) -> None:
        """Follow the values of shape computations through the pruned graph."""
        if not node.outputs or node.outputs[0].data is None:
            return
        shapes = [self.shape(t) if t is not None and t.axes is not None else None for t in node.inputs]
        value = small_value(node, rule, [self._value(t) if t.name else None for t in node.gs.inputs], shapes)
        self.values[node.gs.outputs[0].name] = value


def _correction(before: Array | None, now: Array | None) -> list[tuple[str, Array]]:
    """The arithmetic that turns one value into the other by factors, whatever batch and sequence are; or none."""
    if before is None or now is None or now.shape != before.shape or now.dtype.kind not in "iuf":
        return []
    if np.array_equal(before, now):
        return []
    divisor = np.where(now == 0, 1, now).astype(now.dtype)
    if now.dtype.kind == "f":
        return [("Mul", np.asarray(before / divisor, now.dtype))]
    return [("Mul", before.astype(now.dtype)), ("Div", divisor)]


def _compress(tensor: gs.Constant, masks: tuple[Mask, ...]) -> Array:
    values = tensor.values
    # The axis that loses most goes first, so that less is moved.
    for place in sorted(range(len(masks)), key=lambda p: masks[p].mean() if masks[p].size else 1.0):
        if not masks[place].all():
            values = np.compress(masks[place], values, axis=place)
    return np.asarray(values)
