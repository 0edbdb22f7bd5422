"""What an operator rule is, the registry of rules, and what a rule may ask of its surroundings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass import plugins
from hwpass.ops.axes import Axis, Relations
from hwpass.ops.constants import Known
from hwpass.ops.functions.common import Function, NoFunction
from hwpass.ops.node import (
    Array,
    Derived,
    Extent,
    Freeze,
    Node,
    Product,
    Real,
    Sign,
    Tensor,
    WrongExtents,
)
from hwpass.ops.planar import Planar, entrywise
from hwpass.ops.signs import by_traits
from hwpass.ops.traits import Form, Pick, Shape, Traits

__all__ = [
    "Array", "Derived", "Extent", "Form", "Freeze", "Function", "Known", "NoFunction", "Node", "Product", "Real",
    "Relate", "Rule", "Shrink", "Sign", "Tensor", "Traits", "WrongExtents", "register", "rule_for", "rules",
    "traits_of",
]  # fmt: skip


class Relate(Relations):
    """What a rule may ask and state while axes are related: equalities of indices, and what froze them."""

    #: The version of the standard operators.
    opset: int
    #: Constants by node and input: the abstract tensor of that use.
    uses: dict[tuple[int, int], Tensor]

    def inferred(self, node: Node) -> list[Tensor]:
        """The outputs as ONNX's own shape inference sees them, opaque; unknown extents get a stand-in."""
        raise NotImplementedError


class Shrink(Protocol):
    """What a rule may ask and change while a plan is applied."""

    def kept(self, axis: Axis) -> NDArray[np.bool_]:
        """Which indices of an axis stay, [size]."""

    def size(self, axis: Axis) -> int:
        """The extent of an axis after pruning."""

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """The extents of a tensor after pruning."""

    def touched(self, axis: Axis) -> bool:
        """Whether any index of the axis goes."""

    opset: int

    def set_operand(self, node: Node, position: int, value: Sequence[int]) -> None:
        """Make an integer input evaluate to `value`, whether it is a constant or computed."""

    def add_operand(self, node: Node, position: int, value: Sequence[int]) -> None:
        """Give a node an integer input that it did not have."""

    def set_constant(self, node: Node, position: int, value: Array) -> None:
        """Replace a constant input at this node alone."""

    def scale_output(self, node: Node, factor: float) -> None:
        """Multiply a node's output by a number."""

    def replace(self, node: Node, op: str, attributes: dict[str, Any], operand: Array) -> None:
        """Turn a node into `op` of its first input and a constant."""


class Rule:
    """Base of all rules. A subclass names its operators and states how their axes couple.

    What else is known of them stands in `traits`, for all of its operators, or in `each` for one by its name; what a
    use of the operator decides, the methods say.
    """

    ops: ClassVar[tuple[str, ...]] = ()
    domain: ClassVar[str] = ""
    kind: ClassVar[str] = "other"
    parameters: ClassVar[tuple[int, ...]] = ()  # inputs that say what to do, and are no data: they keep their extents
    traits: ClassVar[Traits] = Traits()
    each: ClassVar[Mapping[str, Traits]] = {}
    functions: ClassVar[Mapping[str, Function]] = {}  # of torch tensors, by operator
    fixed: ClassVar[tuple[int, ...]] = ()  # inputs whose numbers belong to the operator, and are never trained

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        """Relate the axes of inputs and outputs; return the outputs. Raise Freeze where that cannot be said."""
        raise Freeze(f"no rule describes {node.op}")

    def shrink(self, node: Node, shrink: Shrink) -> None:
        """Rewrite attributes and shape operands that depend on a width; weights are sliced by the engine."""

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        """The value of the first output, when those of the inputs are known: for chains that compute shapes."""
        return None

    def torch(self, node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
        """The outputs as torch tensors from the inputs, None for an absent one, so that a gradient flows through.

        Without a method of its own, a rule is asked for `functions`. Raises NoFunction where there is none for the
        operator, or not for this use of it.
        """
        function = self.functions.get(node.op)
        if function is None:
            raise NoFunction(node)
        return function(node, inputs, opset)

    def has_function(self, op: str) -> bool:
        """Whether one of its operators has a torch function, if not for every use of it."""
        return op in self.functions or type(self).torch is not Rule.torch

    def traits_of(self, op: str) -> Traits:
        """The traits of one of its operators: those that the nearest class gives it, by name or for all."""
        for cls in type(self).__mro__:
            if op in cls.__dict__.get("each", {}):
                return cls.__dict__["each"][op]  # type: ignore[no-any-return]
            if "traits" in cls.__dict__:
                return cls.__dict__["traits"]  # type: ignore[no-any-return]
        return Traits()

    def sign(self, node: Node) -> Sign:
        """What is certain of the sign of the outputs, which are floating point, from those of the operands."""
        return by_traits(node, self.traits_of(node.op))

    def constants(self, node: Node, given: Mapping[int, Known]) -> Known | None:
        """Which channels of the first output are constant, from those of the inputs by position. What is `pointwise`
        is not asked: it is run on one number per channel."""
        return None

    def folds(self, node: Node) -> bool:
        """Whether of constants that are the same at every position it makes such a constant."""
        return self.traits_of(node.op).elementwise

    def linear_in(self, node: Node) -> tuple[int, ...]:
        """The inputs in which this use is linear; see `Traits.linear`."""
        found = self.traits_of(node.op).linear
        return tuple(range(len(node.inputs))) if found is None else found

    def clips(self, node: gs.Node) -> tuple[float, float] | None:
        """The bounds that this use cuts its input off at, where it does nothing else."""
        return self.traits_of(node.op).clips

    def scaled(self, node: gs.Node) -> bool:
        """Of what has a `form`: whether this use multiplies weight or bias by a number besides."""
        return False

    def turned(self, node: gs.Node) -> bool:
        """Of what has a `form`: whether the data of this use comes transposed."""
        return False

    def weight_out(self, node: gs.Node) -> int:
        """Of what has a `form`: the axis of the weight that holds the outputs."""
        form = self.traits_of(node.op).form
        return 0 if form is not None and form.kind == "conv" else 1

    def planar(self, node: gs.Node, ranks: Sequence[int | None]) -> Planar | None:
        """What changes in a node when inputs [N, C, L] are [N, C, 1, L]; None where it has to stay as it is.

        `ranks` are those of the inputs, None where they are not known; that of the data is 3.
        """
        return entrywise(node, ranks) if self.traits_of(node.op).pointwise else None

    def picks(self, node: gs.Node, shape: Callable[[int], Shape | None]) -> list[Pick]:
        """The inputs that pick rows of a table; `shape` tells the extents of an input, None where nobody knows."""

        def pick(indices: int, table: int, attribute: str, default: int) -> Pick:
            axis = int(node.attrs.get(attribute, default))
            return indices, shape(table), lambda extents: extents[axis]

        return [pick(*entry) for entry in self.traits_of(node.op).indices]


_RULES: plugins.Registry[tuple[str, str], Rule] = plugins.Registry("hwpass.ops.rules")


def register(cls: type[Rule]) -> type[Rule]:
    """Class decorator: enter a rule into the table under each operator it names.

    Raises TypeError for what is no rule, ValueError for an operator that has one.
    """
    if not (isinstance(cls, type) and issubclass(cls, Rule)):
        raise TypeError(f"{getattr(cls, '__name__', cls)} is no subclass of hwpass.ops.Rule")
    rule = cls()
    for op in cls.ops:
        _RULES.enter((cls.domain, op), rule, f"two rules for {op}")
    return cls


def rules() -> dict[tuple[str, str], Rule]:
    """The rule table: (domain, operator) to rule. Those of installed packages are in it (entry points `hwpass.rules`).

    An entry point that is broken is left out, with one warning that names it, see `hwpass.plugins`.
    """
    _RULES.complete()
    plugins.load(plugins.RULES, _check_plugin, _RULES)
    return _RULES


def _check_plugin(found: object) -> None:
    """Raise for what an entry point names, unless it is a rule, or a module that has entered one."""
    if isinstance(found, ModuleType):
        package = found.__name__.partition(".")[0]
        if not any(type(rule).__module__.partition(".")[0] == package for rule in _RULES.values()):
            raise plugins.Refused(f"module {found.__name__} registers no rule")
    elif isinstance(found, type) and issubclass(found, Rule):
        if not found.ops:
            raise plugins.Refused(f"rule {found.__name__} names no operator")
        if not any(type(rule) is found for rule in _RULES.values()):
            register(found)
    else:
        kind = found.__name__ if isinstance(found, type) else type(found).__name__
        raise plugins.Refused(f"{kind} is neither a subclass of hwpass.ops.Rule nor a module that registers one")


_UNKNOWN = Rule()


def rule_for(node: gs.Node) -> Rule:
    """The rule of a node; one that freezes when nobody described the operator."""
    domain = node.domain or ""
    return rules().get(("" if domain == "ai.onnx" else domain, node.op), _UNKNOWN)


def traits_of(node: gs.Node) -> Traits:
    """The traits of a node's operator; none when nobody described it."""
    return rule_for(node).traits_of(node.op)
