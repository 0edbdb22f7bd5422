"""Recurrent layers: a hidden unit is one index of every gate, of the recurrence and of the state."""

from __future__ import annotations

from typing import ClassVar

from hwpass.ops.axes import Axis, axis_size, opaque, with_zero
from hwpass.ops.functions import recurrent as functions
from hwpass.ops.functions.common import Function
from hwpass.ops.rule import Extent, Form, Freeze, Node, Product, Relate, Rule, Shrink, Tensor, Traits, register
from hwpass.ops.rules.matmul import is_zero


@register
class Recurrent(Rule):
    """W is [directions, gates * hidden, input], R is [directions, gates * hidden, hidden], both states [.., hidden].

    A unit whose weights and biases are zero stays at zero from a zero state: tanh and Relu keep zero, and the
    sigmoid gates only scale it. Directions share the hidden axis of their stacked weights, so a unit goes in both.
    """

    ops: ClassVar[tuple[str, ...]] = ("LSTM", "GRU", "RNN")
    kind = "matmul"
    traits = Traits(form=Form("recurrent", bias=False), heavy=True, lengths=(4,))
    gates: ClassVar[dict[str, int]] = {"LSTM": 4, "GRU": 3, "RNN": 1}
    biases: ClassVar[dict[str, int]] = {"LSTM": 8, "GRU": 6, "RNN": 2}
    places: ClassVar[tuple[int, int]] = (1, 2)  # in W, of the gates' units and of the input
    usual: ClassVar[dict[str, tuple[set[str], ...]]] = {
        "LSTM": ({"Sigmoid"}, {"Tanh", "Relu"}, {"Tanh", "Relu"}),
        "GRU": ({"Sigmoid"}, {"Tanh", "Relu"}),
        "RNN": ({"Tanh", "Relu"},),
    }
    functions: ClassVar[dict[str, Function]] = dict.fromkeys(ops, functions.recurrent)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        self._check(node)
        x = node.axes(0)
        w, r = self.weights(node, build)
        zero = all(is_zero(axis) for axes in (w, r, node.axes(3) if node.has(3) else ()) for axis in axes[1:])
        time_first = not node.attr("layout", 0)
        batch, length = (x[1], x[0]) if time_first else (x[0], x[1])
        build.freeze([*x[:2], w[0], r[0]], "steps, samples and directions")
        build.unify(x[2], w[2], f"{node.op} contracts its input")
        hidden = self._unit(node, build, w[1], self.gates[node.op])
        for axis, parts in ((r[1], self.gates[node.op]), (r[2], 1)):
            hidden, _ = build.unify(hidden, self._unit(node, build, axis, parts), "hidden units of the recurrence")
        if node.has(3):
            build.freeze(node.axes(3)[:1], "directions")
            biases = self._unit(node, build, node.axes(3)[1], self.biases[node.op])
            hidden, _ = build.unify(hidden, biases, "hidden units of the biases")
        if node.has(4):
            build.freeze(node.axes(4), "lengths of the samples")
        if not zero:
            build.freeze([hidden, x[2]], "weights are computed, and a removed unit's would not be zero")
        for position in (5, 6):
            if node.has(position):
                state = node.axes(position)
                build.freeze(state[:2], "directions and samples")
                zero = zero and all(f.zero for f in state[2] if f.ids is not None)
                hidden, _ = build.unify(hidden, state[2], "hidden units of the state")
        if node.has(7):
            build.freeze(node.axes(7)[:1], "directions")
            hidden, _ = build.unify(hidden, self._unit(node, build, node.axes(7)[1], 3), "peephole weights")
        hidden = with_zero(hidden, zero)
        node.memo["hidden"] = hidden
        ways = opaque(axis_size(w[0]))
        units = (*opaque(self.gates[node.op]), *hidden)
        node.extent = Extent(groups=ways, m=(*length, *batch), n=units, k=x[2])
        node.recurrence = Extent(groups=ways, m=(*length, *batch), n=units, k=hidden)
        if node.tensor(1).constant:
            node.product = Product(0, 2, 1, *self.places, 3 if node.has(3) else None)
        dtype = node.tensor(0).dtype
        y = (length, ways, batch, hidden) if time_first else (batch, length, ways, hidden)
        last = (ways, batch, hidden) if time_first else (batch, ways, hidden)
        return [Tensor(y, dtype), Tensor(last, dtype), Tensor(last, dtype)][: len(node.gs.outputs)]

    def weights(self, node: Node, build: Relate) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
        """The axes of W and R: directions, gates * hidden, and what they contract."""
        return node.axes(1), node.axes(2)

    def _check(self, node: Node) -> None:
        activations = node.attr("activations")
        if activations is None:
            return
        usual = self.usual[node.op]
        for number, name in enumerate(activations):
            if name not in usual[number % len(usual)]:
                raise Freeze(f"the activation {name} may not keep a removed unit at zero")

    @staticmethod
    def _unit(node: Node, build: Relate, axis: Axis, parts: int) -> Axis:
        """The hidden factor of an axis of parts * hidden."""
        if parts == 1:
            return axis
        gates, hidden = build.regroup(axis, [parts, axis_size(axis) // parts])
        build.freeze([gates], "gates of a recurrent layer")
        return hidden

    def shrink(self, node: Node, shrink: Shrink) -> None:
        node.gs.attrs["hidden_size"] = shrink.size(node.memo["hidden"])
