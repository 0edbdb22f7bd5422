"""Random models: a strategy of programs, and the machine that turns a program into an ONNX graph.

A program is a header and a list of steps; every step names an action and a seed for its details, so that
hypothesis shrinks a counterexample by leaving steps out (action 0 does nothing) and by making the seeds small.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper
from sketch import Sketch

#: Tensors of more elements than this (at batch 3) are not made larger.
LARGEST = 6000


@dataclass(frozen=True)
class Dim:
    """An extent: `size` times the product of dynamic extents (repeats allowed)."""

    size: int
    symbols: tuple[str, ...] = ()

    def __mul__(self, other: Dim) -> Dim:
        return Dim(self.size * other.size, tuple(sorted(self.symbols + other.symbols)))

    @property
    def fixed(self) -> bool:
        """Whether the extent is the same for every input."""
        return not self.symbols


@dataclass(frozen=True)
class Value:
    """A float tensor of the graph in the making."""

    name: str
    dims: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.dims)

    def size(self, axis: int) -> int:
        """The static extent of an axis, 0 for a dynamic one."""
        return self.dims[axis].size if self.dims[axis].fixed else 0

    @property
    def elements(self) -> int:
        """About how many elements there are in a run."""
        return prod(d.size * 3 ** len(d.symbols) for d in self.dims)


Action = Callable[["Maker", Value, random.Random], Value | None]
ACTIONS: list[Action] = []


def action(function: Action) -> Action:
    """Enter an action into the table."""
    ACTIONS.append(function)
    return function


@dataclass
class Maker:
    """The state of a graph in the making: a sketch, and what of it can still be used."""

    sketch: Sketch
    values: list[Value] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    weights: dict[tuple[int, ...], list[str]] = field(default_factory=dict)

    @property
    def opset(self) -> int:
        """The operator set of the graph."""
        return self.sketch.opset

    def add(self, op: str, dims: tuple[Dim, ...], *inputs: str, **attributes: Any) -> Value:
        """A node of one output."""
        self.used.update(inputs)
        return self.push(self.sketch.op(op, *inputs, **attributes), dims)

    def push(self, name: str, dims: tuple[Dim, ...]) -> Value:
        """Remember a tensor that later steps may use."""
        value = Value(name, tuple(dims))
        self.values.append(value)
        return value

    def fixed(self, value: Value, *axes: int) -> bool:
        """Whether the axes exist and are static and more than one wide."""
        return all(-value.rank <= a < value.rank and value.size(a) > 1 for a in axes)

    def vector(self, r: random.Random, shape: tuple[int, ...]) -> str:
        """Constants between 0.5 and 1.5 of either sign."""
        value = self.sketch.rng.uniform(0.5, 1.5, shape)
        if r.random() < 0.5:
            value *= self.sketch.rng.choice([-1, 1], shape)
        return self.sketch.const(value)

    def weight(self, r: random.Random, *shape: int, fan: int | None = None) -> str:
        """A weight in one of the forms that exporters write: shared, behind Identity or Transpose, a Constant node."""
        known = self.weights.setdefault(tuple(shape), [])
        if known and r.random() < 0.25:
            return r.choice(known)
        s, form = self.sketch, r.random()
        if form < 0.08:
            name = s.op("Identity", s.weight(*shape, fan=fan))
        elif form < 0.16 and len(shape) == 2:
            name = s.op("Transpose", s.weight(*reversed(shape), fan=fan or shape[1]), perm=[1, 0])
        elif form < 0.24:
            s.weight(*shape, fan=fan)
            proto = s.initialisers.pop()
            name = s.op("Constant", value=proto)
        else:
            name = s.weight(*shape, fan=fan)
        known.append(name)
        return name

    def like(self, value: Value, r: random.Random) -> Value | None:
        """Another tensor of the same extents."""
        found = [v for v in self.values if v.dims == value.dims and v.name != value.name]
        return r.choice(found[-4:]) if found else None

    def reshape(self, value: Value, dims: tuple[Dim, ...], r: random.Random) -> Value | None:
        """Reshape: the target is plain numbers, 0 and -1, or computed from the shape of the input."""
        s = self.sketch
        target: list[int] = []
        inferred = [i for i, d in enumerate(dims) if not d.fixed]
        copies = [i for i in inferred if i < value.rank and value.dims[i] == dims[i]]
        style = r.random()
        if style < 0.3:
            # Shape -> Gather -> Concat -> Reshape, as scripted exports do.
            shape = s.op("Shape", value.name)
            parts = []
            for place, dim in enumerate(dims):
                if place in copies:
                    one = s.op("Gather", shape, s.const(np.asarray(place)), axis=0)
                    parts.append(s.axes_op("Unsqueeze", one, [0]))
                elif place in inferred:
                    if any(v == -1 for v in target):
                        return None
                    target.append(-1)
                    parts.append(s.const([-1]))
                else:
                    parts.append(s.const([dim.size]))
            self.used.add(value.name)
            return self.add("Reshape", dims, value.name, s.op("Concat", *parts, axis=0))
        for place, dim in enumerate(dims):
            target.append(dim.size if dim.fixed else 0 if place in copies and style < 0.8 else -1)
        if target.count(-1) > 1:
            target = [0 if i in copies else t for i, t in enumerate(target)]
        if target.count(-1) > 1:
            return None
        if -1 not in target and r.random() < 0.3:
            target[r.randrange(len(target))] = -1
        return self.add("Reshape", dims, value.name, s.const(target, np.int64))


def build(program: tuple[Any, ...]) -> onnx.ModelProto:
    """The model of a program."""
    import graph_actions  # noqa: F401  these three fill the table
    import graph_moves  # noqa: F401
    import graph_shapes  # noqa: F401

    opset, layout, seed, steps = program
    maker = Maker(Sketch(opset, seed))
    r = random.Random(seed)
    _inputs(maker, layout, r)
    for number, back, details in steps:
        if number:
            act, detail = ACTIONS[(number - 1) % len(ACTIONS)], random.Random(details)
            value = maker.values[-1 - back % len(maker.values)]
            if value.elements > LARGEST and act.__name__ not in ("reduce", "strided", "halve", "pool"):
                continue
            act(maker, value, detail)
    _heads(maker, r)
    return maker.sketch.model()


def _inputs(maker: Maker, layout: int, r: random.Random) -> None:
    batch = Dim(1, ("N",)) if layout % 4 else Dim(2)
    shape = {
        0: (batch, Dim(3), Dim(8), Dim(8)),
        1: (batch, Dim(5), Dim(6)) if layout % 8 < 4 else (batch, Dim(1, ("L",)), Dim(6)),
        2: (batch, Dim(8)),
        3: (batch, Dim(4), Dim(8)),
        4: (batch, Dim(2), Dim(4), Dim(6)),
    }[layout % 5]
    declared = [d.size if d.fixed else d.symbols[0] for d in shape]
    x = maker.push(maker.sketch.input(declared), shape)
    # Channels of an input are frozen: a layer first.
    if x.rank == 4:
        width = r.choice([4, 6, 8])
        maker.add("Conv", (x.dims[0], Dim(width), *x.dims[2:]), x.name,
                  maker.sketch.weight(width, x.size(1), 3, 3), pads=[1] * 4)  # fmt: skip
    else:
        width = r.choice([4, 6, 8, 12])
        maker.add("MatMul", (*x.dims[:-1], Dim(width)), x.name,
                  maker.sketch.weight(x.size(-1), width, fan=x.size(-1)))  # fmt: skip


def _heads(maker: Maker, r: random.Random) -> None:
    """Make outputs of what nothing reads: as it is, or behind a layer, so that its channels are not frozen."""
    s = maker.sketch
    leaves = [v for v in maker.values if v.name not in maker.used][-3:]
    for value in leaves or maker.values[-1:]:
        if value.rank >= 1 and value.size(-1) > 1 and r.random() < 0.8:
            if value.rank == 4 and value.size(1) > 1 and r.random() < 0.6:
                value = maker.add("Conv", (value.dims[0], Dim(2), *value.dims[2:]), value.name,
                                  s.weight(2, value.size(1), 1, 1))  # fmt: skip
            else:
                value = maker.add("MatMul", (*value.dims[:-1], Dim(3)), value.name,
                                  s.weight(value.size(-1), 3, fan=value.size(-1)))  # fmt: skip
        elif value.rank >= 3 and value.size(1) > 1 and r.random() < 0.8:
            value = maker.add("MatMul", (*value.dims[:-2], Dim(2), value.dims[-1]), s.weight(2, value.size(-2) or 1),
                              value.name) if value.size(-2) else value  # fmt: skip
        symbols = [
            ("_".join([str(d.size), *d.symbols]) if d.symbols != ("N",) or d.size > 1 else "N") for d in value.dims
        ]
        shape = [d.size if d.fixed else text for d, text in zip(value.dims, symbols, strict=True)]
        s.outputs.append(helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shape))


def programs(steps: int = 18) -> st.SearchStrategy[tuple[Any, ...]]:
    """Programs of up to `steps` actions."""
    step = st.tuples(st.integers(0, 160), st.integers(0, 5).map(lambda n: max(0, n - 3)), st.integers(0, 9999))
    return st.tuples(st.integers(11, 21), st.integers(0, 39), st.integers(0, 9999), st.tuples(*[step] * steps))
