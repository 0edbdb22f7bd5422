"""Actions without weights: elementwise operators, joins, selections and regroupings."""

from __future__ import annotations

import random

import numpy as np
from graph_actions import conv, divisors, images, linear, replaced, same
from graphs import Dim, Maker, Value, action

KEEPING = "Relu LeakyRelu Elu Selu Tanh Sin Abs Neg Erf Softsign Atan Sign".split()
SHIFTING = "Sigmoid HardSigmoid Exp Cos Softplus".split()
INT_MAX = 2**63 - 1


@action
def unary(m: Maker, x: Value, r: random.Random) -> Value | None:
    later = [*["HardSwish"] * (m.opset >= 14), *["Mish"] * (m.opset >= 18), *["Gelu"] * (m.opset >= 20)]
    op = r.choice([*KEEPING, *later] if r.random() < 0.7 else SHIFTING)
    y = m.add(op, same(x), x.name)
    # Exponentials of exponentials leave the range of float32.
    return m.add("Tanh", same(x), y.name) if op == "Exp" else y


@action
def awkward(m: Maker, x: Value, r: random.Random) -> Value | None:
    """Functions that are not finite at zero, kept finite for the original by what comes before."""
    s = m.sketch
    m.used.add(x.name)
    if r.random() < 0.3:
        # Positive whatever x is, yet zero in a twin that forgets about it.
        scaled = s.op("Mul", s.op("Exp", s.op("Tanh", x.name)), s.const([1.5]))
        return m.add(r.choice(["Log", "Reciprocal", "Sqrt"]), same(x), scaled)
    safe = s.op("Add", s.op("Abs", x.name), s.const(0.5))
    return m.add(r.choice(["Log", "Reciprocal", "Sqrt"]), same(x), safe)


@action
def clip(m: Maker, x: Value, r: random.Random) -> Value | None:
    low, high = r.choice([(0.0, 6.0), (-1.0, 1.0), (0.25, 2.0), (-2.0, -0.5), (None, 1.0), (0.0, None)])
    bounds = ["" if bound is None else m.sketch.const(bound) for bound in (low, high)]
    while bounds and not bounds[-1]:
        bounds.pop()
    return m.add("Clip", same(x), x.name, *bounds)


@action
def prelu(m: Maker, x: Value, r: random.Random) -> Value | None:
    if not images(m, x):
        return None
    slope = r.choice([(x.size(1), *[1] * (x.rank - 2)), (1,), (1,) * (x.rank - 1)])
    return m.add("PRelu", same(x), x.name, m.vector(r, slope))


@action
def with_constant(m: Maker, x: Value, r: random.Random) -> Value | None:
    """A binary operator with a constant that is broadcast in some way, on either side."""
    shape = [x.size(a) if x.size(a) and r.random() < 0.5 else 1 for a in range(x.rank)]
    while shape and (shape[0] == 1 and r.random() < 0.6):
        shape = shape[1:]
    constant = m.vector(r, tuple(shape))
    op = r.choice(["Add", "Sub", "Mul", "Div", "Max", "Min", "Add", "Mul"])
    if op != "Div" and r.random() < 0.3:
        m.used.add(x.name)
        return m.add(op, same(x), constant, x.name)
    return m.add(op, same(x), x.name, constant)


@action
def power(m: Maker, x: Value, r: random.Random) -> Value | None:
    s = m.sketch
    if r.random() < 0.5:
        return m.add("Pow", same(x), x.name, s.const(r.choice([1.0, 2.0])))
    base = s.op("Add", s.op("Abs", s.op("Tanh", x.name)), s.const(0.5))
    m.used.add(x.name)
    shape = (x.size(1), *[1] * (x.rank - 2)) if images(m, x) else ()
    return m.add("Pow", same(x), base, s.const(s.rng.uniform(0.5, 2, shape)))


def _partner(m: Maker, x: Value, r: random.Random) -> Value | None:
    """A tensor of the extents of x: an earlier one, or a branch made of x by a layer that keeps them."""
    if r.random() < 0.6:
        found = m.like(x, r)
        if found is not None:
            return found
    if images(m, x) and r.random() < 0.6:
        weight = m.weight(r, x.size(1), x.size(1), *[1] * (x.rank - 2), fan=x.size(1))
        return m.add("Conv", same(x), x.name, weight)
    if x.rank >= 2 and m.fixed(x, -1):
        return m.add("MatMul", same(x), x.name, m.weight(r, x.size(-1), x.size(-1), fan=x.size(-1)))
    return None


@action
def residual(m: Maker, x: Value, r: random.Random) -> Value | None:
    other = _partner(m, x, r)
    if other is None:
        return None
    s, op = m.sketch, r.choice(["Add", "Add", "Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean", "Div", "Where"])
    m.used.update((x.name, other.name))
    if op == "Div":
        return m.add("Div", same(x), x.name, s.op("Add", s.op("Exp", s.op("Tanh", other.name)), s.const(0.5)))
    if op == "Where":
        choice = s.op(r.choice(["Greater", "Less"]), x.name, s.const(r.choice([0.1, -0.1])))
        operands = [other.name, r.choice([x.name, s.const(0.0), s.const(1.0)])]
        if r.random() < 0.5:
            operands.reverse()
        return m.add("Where", same(x), choice, *operands)
    return m.add(op, same(x), x.name, other.name)


@action
def residual_again(m: Maker, x: Value, r: random.Random) -> Value | None:
    return residual(m, x, r)


@action
def gate(m: Maker, x: Value, r: random.Random) -> Value | None:
    """Squeeze and excitation."""
    if not images(m, x):
        return None
    s, width, ones = m.sketch, x.size(1), [1] * (x.rank - 2)
    axes = list(range(2, x.rank))
    pooled = s.op("GlobalAveragePool", x.name) if r.random() < 0.5 else s.axes_op("ReduceMean", x.name, axes, since=18)
    narrow = r.choice([2, 4])
    hidden = s.op("Relu", s.op("Conv", pooled, m.weight(r, narrow, width, *ones), m.weight(r, narrow, fan=4)))
    gates = s.op(r.choice(["Sigmoid", "HardSigmoid"]), s.op("Conv", hidden, m.weight(r, width, narrow, *ones)))
    return m.add("Mul", same(x), x.name, gates)


@action
def pool(m: Maker, x: Value, r: random.Random) -> Value | None:
    if not images(m, x):
        return None
    spatial = range(2, x.rank)
    if r.random() < 0.3:
        op = r.choice(["GlobalAveragePool", "GlobalMaxPool"])
        return m.add(op, (*x.dims[:2], *[Dim(1)] * (x.rank - 2)), x.name)
    if not m.fixed(x, *spatial) or any(x.size(a) % 2 for a in spatial):
        return None
    op, n = r.choice(["MaxPool", "AveragePool"]), x.rank - 2
    if r.random() < 0.4:
        return m.add(op, same(x), x.name, kernel_shape=[3] * n, pads=[1] * (2 * n))
    halved = (*x.dims[:2], *[Dim(x.size(a) // 2) for a in spatial])
    return m.add(op, halved, x.name, kernel_shape=[2] * n, strides=[2] * n)


def _axis(m: Maker, x: Value, r: random.Random) -> int | None:
    """A static axis of more than one index; the channels', or the last one, more often than not."""
    found = [a for a in range(x.rank) if m.fixed(x, a)]
    likely = [a for a in found if a in (1, x.rank - 1)]
    return r.choice(likely if likely and r.random() < 0.7 else found) if found else None


@action
def concat(m: Maker, x: Value, r: random.Random) -> Value | None:
    axis = _axis(m, x, r)
    if axis is None:
        return None
    rest = [v for v in m.values if v.rank == x.rank and v.size(axis)
            and all(v.dims[a] == x.dims[a] for a in range(x.rank) if a != axis)]  # fmt: skip
    parts = [x, *(r.choice(rest[-6:]) for _ in range(r.choice([1, 1, 2])))]
    r.shuffle(parts)
    total = sum(p.size(axis) for p in parts)
    if total > 24:
        return None
    where = axis if r.random() < 0.6 else axis - x.rank
    return m.add("Concat", replaced(x, axis, total), *(p.name for p in parts), axis=where)


@action
def split(m: Maker, x: Value, r: random.Random) -> Value | None:
    axis = _axis(m, x, r)
    if axis is None or x.size(axis) < 3:
        return None
    s, total = m.sketch, x.size(axis)
    equal = [d for d in divisors(total) if d <= 4]
    m.used.add(x.name)
    if equal and r.random() < 0.5:
        count = r.choice(equal)
        sizes = [total // count] * count
        extra = {"num_outputs": count} if m.opset >= 18 else {}
        names = s.ops("Split", x.name, count=count, axis=axis, **extra)
    else:
        cut = r.randrange(1, total)
        sizes = [cut, total - cut]
        if m.opset < 13:
            names = s.ops("Split", x.name, count=2, axis=axis, split=sizes)
        else:
            names = s.ops("Split", x.name, s.const(sizes), count=2, axis=axis)
    parts = [m.push(n, replaced(x, axis, size)) for n, size in zip(names, sizes, strict=True)]
    return r.choice(parts)


def _windows(size: int) -> list[tuple[int, int, int]]:
    """Starts, ends and steps of slices."""
    forward = [(0, size // 2, 1), (1, INT_MAX, 1), (-2, INT_MAX, 1), (0, -1, 1), (0, size, 2), (1, size, 2)]
    return [*forward, (-1, -INT_MAX, -1), (size - 1, 0, -1), (-1, -INT_MAX, -2)]


@action
def cut(m: Maker, x: Value, r: random.Random) -> Value | None:
    """Slice: forwards, backwards, by steps, with far ends, of one axis or two."""
    axes = [a for a in (_axis(m, x, r), _axis(m, x, r)) if a is not None]
    if not axes:
        return None
    axes = list(dict.fromkeys(axes[: 1 if r.random() < 0.7 else 2]))
    dims, starts, ends, steps = list(x.dims), [], [], []
    for axis in axes:
        size = x.size(axis)
        start, end, step = r.choice(_windows(size))
        low = None if step < 0 and end < -size else end
        left = len(range(size)[start:low:step])
        if not left:
            return None
        dims[axis] = Dim(left)
        starts.append(start)
        ends.append(end)
        steps.append(step)
    s, where = m.sketch, [a if r.random() < 0.5 else a - x.rank for a in axes]
    dtype = np.int32 if r.random() < 0.3 else np.int64
    extra = [s.const(steps, dtype)] if any(step != 1 for step in steps) or r.random() < 0.3 else []
    if dtype == np.int32:
        ends = [max(-(2**31) + 1, min(end, 2**31 - 1)) for end in ends]
    return m.add("Slice", tuple(dims), x.name, *(s.const(v, dtype) for v in (starts, ends, where)), *extra)


@action
def gather(m: Maker, x: Value, r: random.Random) -> Value | None:
    """A permutation, a choice with repeats, one index (the axis goes), or a table of indices."""
    axis = _axis(m, x, r)
    if axis is None:
        return None
    size, form = x.size(axis), r.random()
    before, after = x.dims[:axis], x.dims[axis + 1 :]
    if form < 0.4:
        index = list(range(size))
        r.shuffle(index)
    elif form < 0.7:
        index = [r.randrange(-size, size) for _ in range(r.randrange(2, 7))]
    elif form < 0.85 and x.rank > 2:
        return m.add("Gather", (*before, *after), x.name, m.sketch.const(r.randrange(size)), axis=axis)
    else:
        table = [[r.randrange(size) for _ in range(2)] for _ in range(2)]
        if x.rank > 3:
            return None
        return m.add("Gather", (*before, Dim(2), Dim(2), *after), x.name, m.sketch.const(table), axis=axis)
    dtype = np.int32 if r.random() < 0.3 else np.int64
    return m.add("Gather", replaced(x, axis, len(index)), x.name, m.sketch.const(index, dtype), axis=axis)


@action
def layer(m: Maker, x: Value, r: random.Random) -> Value | None:
    return linear(m, x, r) if r.random() < 0.5 else conv(m, x, r)
