"""Elementwise operators with broadcasting: every aligned index of every operand is the same channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.ops.axes import Axis, axis_size, with_zero
from hwpass.ops.functions import elementwise as functions
from hwpass.ops.functions.common import Function
from hwpass.ops.rule import Array, Node, Relate, Rule, Sign, Tensor, Traits, WrongExtents, register
from hwpass.ops.signs import shifted, signs

#: Of what computes every entry by itself.
ENTRYWISE = Traits(pointwise=True, hands_on=True)
ELEMENTWISE = replace(ENTRYWISE, fuses="elementwise")
ACTIVATION = replace(ENTRYWISE, fuses="activation")
#: Of what compares, or combines what is true and false.
LOGIC = replace(ENTRYWISE, truth=True)


def broadcast(
    node: Node,
    build: Relate,
    positions: list[int],
    zero: Callable[[list[bool]], bool],
    operands: list[tuple[Axis, ...]] | None = None,
) -> list[Axis]:
    """Align axes to the right, equate those that are not broadcast, and return the axes of the result.

    `zero` says, from the operands' flags along one axis, whether the result is zero where the index is removed.
    An operand that is broadcast along the axis does not know the removal: its flag is False. `operands` are the
    axes, where they are not those of the inputs at `positions` as they stand.
    """
    operands = operands or [node.axes(position) for position in positions]
    rank = max(len(axes) for axes in operands)
    result: list[Axis] = []
    for place in range(rank):
        aligned = [axes[place - rank + len(axes)] if place >= rank - len(axes) else () for axes in operands]
        wide = [axis for axis in aligned if axis]
        if not wide:
            result.append(())
            continue
        size = max(axis_size(axis) for axis in wide)
        if any(axis_size(axis) != size for axis in wide):
            raise WrongExtents("operands of different extents")
        joined = wide[0]
        for axis in wide[1:]:
            joined, _ = build.unify(joined, axis, f"{node.op} joins its operands")
        flags = [bool(axis) and all(f.zero for f in axis if f.ids is not None) for axis in aligned]
        everywhere = [_is_zero(node.inputs[position]) for position in positions]
        flag = zero([a or b for a, b in zip(flags, everywhere, strict=True)])
        result.append(with_zero(joined, flag))
    return result


def _is_zero(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.constant and tensor.data is not None and not np.any(tensor.data)


_ACTIVATIONS = (
    "LeakyRelu Elu Selu Celu ThresholdedRelu HardSigmoid HardSwish Tanh Gelu QuickGelu Mish Swish Softsign Erf".split()
)


@register
class Unary(Rule):
    """f(x): the channel stays the channel. Knows which f keep zero at zero, and which are not finite there."""

    kind = "elementwise"
    keeps_zero: ClassVar[frozenset[str]] = frozenset(
        "Relu LeakyRelu Elu Selu Celu ThresholdedRelu Gelu HardSwish Mish Swish Tanh Sin Sinh Asin Asinh Atan Atanh Tan"
        " Abs Neg Sqrt Erf Floor Ceil Round Sign Softsign Shrink QuickGelu FastGelu".split()
    )
    not_finite: ClassVar[frozenset[str]] = frozenset({"Log", "Reciprocal", "Acosh"})
    ops = (
        *sorted(keeps_zero),
        "Log",
        "Reciprocal",
        "Sigmoid",
        "HardSigmoid",
        "Exp",
        "Softplus",
        "Cos",
        "Cosh",
        "Acos",
        "Acosh",
        "Not",
        "IsNaN",
        "IsInf",
        "BitwiseNot",
    )
    traits = ENTRYWISE
    each: ClassVar[dict[str, Traits]] = {
        **dict.fromkeys(_ACTIVATIONS, ACTIVATION),
        "Relu": replace(ACTIVATION, sign="nonnegative", clips=(0.0, np.inf)),
        "Sigmoid": replace(ACTIVATION, sign="positive"),
        "Softplus": replace(ACTIVATION, sign="positive"),
        "Exp": replace(ELEMENTWISE, sign="positive"),
        "Cosh": replace(ENTRYWISE, sign="positive"),
        "Abs": replace(ELEMENTWISE, sign="nonnegative", keeps_solid=True),
        "Sqrt": replace(ELEMENTWISE, sign="nonnegative", keeps_solid=True),
        "Neg": replace(ELEMENTWISE, linear=(0,)),
        "Not": LOGIC,
    }
    numeric: ClassVar[dict[str, Any]] = {
        "Neg": np.negative,
        "Abs": np.abs,
        "Floor": np.floor,
        "Ceil": np.ceil,
        "Not": np.logical_not,
        "Sqrt": np.sqrt,
        "Sign": np.sign,
        "Round": np.round,
    }
    functions: ClassVar[dict[str, Function]] = functions.UNARY

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.tensor(0)
        if node.op == "Acosh" or (node.op in self.not_finite and not x.sign.solid):
            # log 0 and 1/0 of a removed channel would meet the zero weights of its consumers as NaN.
            build.freeze(node.axes(0), f"{node.op} is not finite at zero")
        keeps = node.op in self.keeps_zero
        dtype = np.dtype(bool) if node.op in ("Not", "IsNaN", "IsInf") else x.dtype
        axes = node.axes(0) if keeps else tuple(with_zero(axis, False) for axis in node.axes(0))
        return [Tensor(axes, dtype)]

    def sign(self, node: Node) -> Sign:
        known = super().sign(node)
        positive = node.op == "Sqrt" and signs(node)[0].positive
        return replace(known, positive=True, solid=True) if positive else known

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        function = self.numeric.get(node.op)
        return None if function is None or inputs[0] is None else np.asarray(function(inputs[0]))


@register
class Clip(Rule):
    """min(max(x, low), high) with scalar bounds; zero stays zero when the bounds enclose it."""

    ops = ("Clip",)
    kind = "elementwise"
    traits = replace(ACTIVATION, carries=(0,))
    functions: ClassVar[dict[str, Function]] = {"Clip": functions.clip}
    fixed = (1, 2)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.tensor(0)
        low, high = self._bound(node, 1, "min", -np.inf), self._bound(node, 2, "max", np.inf)
        keeps = low is not None and high is not None and low <= 0 <= high
        return [Tensor(tuple(a if keeps else with_zero(a, False) for a in node.axes(0)), x.dtype)]

    def sign(self, node: Node) -> Sign:
        low = node.value(1) if node.has(1) else node.attr("min")
        least = -np.inf if low is None else float(np.reshape(low, -1)[0])
        return Sign(least >= 0, least > 0, least > 0)

    def clips(self, node: gs.Node) -> tuple[float, float] | None:
        if not all(isinstance(t, gs.Constant) for t in node.inputs[1:]) or len(node.inputs) != 3:
            return None
        low, high = (float(t.values.reshape(-1)[0]) for t in node.inputs[1:])
        return low, high

    @staticmethod
    def _bound(node: Node, position: int, attribute: str, default: float) -> float | None:
        if node.attr(attribute) is not None:
            return float(node.attr(attribute))
        if not node.has(position):
            return default
        value = node.value(position)
        return None if value is None else float(np.asarray(value).reshape(-1)[0])

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        if any(v is None and node.has(position) for position, v in enumerate(inputs)):
            return None
        low = inputs[1] if len(inputs) > 1 else None
        high = inputs[2] if len(inputs) > 2 else None
        return np.asarray(np.clip(np.asarray(inputs[0]), low, high))


@register
class PRelu(Rule):
    """x where positive, slope * x elsewhere: zero stays zero whatever the slope."""

    ops = ("PRelu",)
    kind = "elementwise"
    traits = ACTIVATION
    functions: ClassVar[dict[str, Function]] = {"PRelu": functions.prelu}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        return [Tensor(tuple(broadcast(node, build, [0, 1], lambda z: z[0])), node.tensor(0).dtype)]


@register
class Nary(Rule):
    """Sums, maxima and their kind: zero where every operand is zero."""

    ops: ClassVar[tuple[str, ...]] = (
        "Add",
        "Sub",
        "Max",
        "Min",
        "Sum",
        "Mean",
        "BitwiseOr",
        "BitwiseXor",
        "Or",
        "Xor",
        "Mod",
    )
    kind = "elementwise"
    traits = ENTRYWISE
    each: ClassVar[dict[str, Traits]] = {
        "Add": replace(ELEMENTWISE, sign="all", linear=None),
        "Sub": replace(ELEMENTWISE, linear=None),
        "Max": replace(ELEMENTWISE, sign="all", carries=None),
        "Min": replace(ELEMENTWISE, sign="all", carries=None),
        "Sum": replace(ENTRYWISE, sign="all"),
        "Or": LOGIC,
        "Xor": LOGIC,
    }
    numeric: ClassVar[dict[str, Any]] = {
        "Add": np.add,
        "Sub": np.subtract,
        "Max": np.maximum,
        "Min": np.minimum,
        "Or": np.logical_or,
        "Mod": np.mod,
        "Mul": np.multiply,
        "And": np.logical_and,
        "Equal": np.equal,
        "Less": np.less,
        "Greater": np.greater,
        "LessOrEqual": np.less_equal,
        "GreaterOrEqual": np.greater_equal,
        "Pow": np.power,
    }
    functions: ClassVar[dict[str, Function]] = {**functions.NARY, "Mean": functions.mean, "Mod": functions.modulo}

    def zero(self, flags: list[bool]) -> bool:
        """Whether f is zero when these operands are."""
        return all(flags)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        if node.op == "Mod":
            # 0 mod 0 is undefined: a removed divisor may not reach the twin.
            build.freeze(node.axes(1), "Mod by a removed entry is undefined")
        axes = tuple(broadcast(node, build, [p for p in range(len(node.inputs)) if node.has(p)], self.zero))
        return [Tensor(axes, self.dtype(node))]

    def dtype(self, node: Node) -> np.dtype[Any] | None:
        """The type of the result."""
        return node.tensor(0).dtype

    def sign(self, node: Node) -> Sign:
        known = super().sign(node)
        if node.op in ("Add", "Sum", "Max") and known.nonnegative and any(s.positive for s in signs(node)):
            return Sign(True, True, True)
        return replace(known, solid=True) if node.op == "Add" and shifted(node) else known

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        function = self.numeric.get(node.op)
        if function is None or any(v is None for v in inputs):
            return None
        result = np.asarray(inputs[0])
        for operand in inputs[1:]:
            result = np.asarray(function(result, operand))
        return result.astype(inputs[0].dtype) if inputs[0] is not None and result.dtype.kind in "iuf" else result


@register
class Mul(Nary):
    """Products: zero where any operand is zero."""

    ops = ("Mul", "And", "BitwiseAnd")
    traits = replace(ENTRYWISE, multiplies=True)
    each: ClassVar[dict[str, Traits]] = {
        "Mul": replace(ELEMENTWISE, multiplies=True, sign="all", linear=None),
        "And": replace(LOGIC, multiplies=True),
    }

    def zero(self, flags: list[bool]) -> bool:
        return any(flags)

    def sign(self, node: Node) -> Sign:
        known = super().sign(node)
        return replace(known, nonnegative=True) if node.inputs[0] is node.inputs[-1] else known


@register
class Compare(Nary):
    """Comparisons: true or false, and never a zero to rely on."""

    ops = ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")
    traits = replace(LOGIC, compares=True)

    def zero(self, flags: list[bool]) -> bool:
        return False

    def dtype(self, node: Node) -> np.dtype[Any] | None:
        return np.dtype(bool)


@register
class Div(Rule):
    """a / b: the twin must not divide by a removed entry, so constants are filled with one and activations frozen."""

    ops = ("Div", "Pow")
    kind = "elementwise"
    traits = ELEMENTWISE
    each: ClassVar[dict[str, Traits]] = {"Div": replace(ELEMENTWISE, sign="all", linear=(0,))}
    functions: ClassVar[dict[str, Function]] = functions.NARY

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        right = node.tensor(1)
        if (node.index, 1) in build.uses:
            # A removed entry of the right operand becomes 1: a / 1 and a ** 1 keep zero at zero.
            node.fill[1] = 1.0
            positive = node.op == "Div" or (right.data is not None and bool(np.all(right.data > 0)))
            axes = broadcast(node, build, [0, 1], lambda z: z[0] and positive)
            if not positive:
                build.freeze([a for a in node.axes(0) if any(f.zero for f in a)], "a power of zero is not finite")
        else:
            if not (right.sign.positive if node.op == "Pow" else right.sign.solid):
                build.freeze(node.axes(1), "a removed channel would divide by zero")
            axes = broadcast(node, build, [0, 1], lambda z: z[0] and node.op == "Div")
        return [Tensor(tuple(axes), node.tensor(0).dtype)]

    def sign(self, node: Node) -> Sign:
        power = node.value(1) if node.op == "Pow" else None
        even = power is not None and power.size == 1 and float(power.reshape(-1)[0]) % 2 == 0
        return Sign(nonnegative=True) if even else super().sign(node)

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        left, right = inputs
        if left is None or right is None:
            return None
        if node.op == "Pow":
            return np.asarray(np.power(left, right))
        if left.dtype.kind in "iu":
            # ONNX divides integers towards zero.
            return np.asarray(np.trunc(left / np.where(right == 0, 1, right))).astype(left.dtype)
        return np.asarray(left / right)


@register
class Where(Rule):
    """Chooses between two operands: zero where both are."""

    ops = ("Where",)
    kind = "elementwise"
    traits = Traits(hands_on=True, linear=(1, 2), masks=(0,), carries=(1, 2))
    functions: ClassVar[dict[str, Function]] = {"Where": functions.where}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        axes = broadcast(node, build, [0, 1, 2], lambda z: z[1] and z[2])
        return [Tensor(tuple(axes), node.tensor(1).dtype)]

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        if any(v is None for v in inputs):
            return None
        return np.asarray(np.where(inputs[0], inputs[1], inputs[2]))  # type: ignore[arg-type]
