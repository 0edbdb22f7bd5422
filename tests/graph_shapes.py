"""Actions that regroup, move, pad, reduce or mix axes."""

from __future__ import annotations

import random

import numpy as np
from graph_actions import divisors, images, replaced, same
from graph_moves import _axis
from graphs import Dim, Maker, Value, action


@action
def pad(m: Maker, x: Value, r: random.Random) -> Value | None:
    axis = _axis(m, x, r)
    if axis is None or x.size(axis) > 12:
        return None
    mode = r.choice(["constant", "constant", "constant", "reflect", "edge"])
    before, after = r.choice([(0, 1), (1, 0), (1, 2), (0, 2)])
    pads = [0] * (2 * x.rank)
    if x.size(axis) <= max(before, after):
        return None
    pads[axis], pads[x.rank + axis] = before, after
    value = [m.sketch.const(r.choice([0.0, 1.0]))] if mode == "constant" and r.random() < 0.6 else []
    return m.add(
        "Pad", replaced(x, axis, x.size(axis) + before + after), x.name, m.sketch.const(pads), *value, mode=mode
    )


@action
def resize(m: Maker, x: Value, r: random.Random) -> Value | None:
    if x.rank != 4 or not m.fixed(x, 1, 2, 3) or x.size(2) > 4 or x.size(3) > 4:
        return None
    s, dims = m.sketch, (*x.dims[:2], Dim(2 * x.size(2)), Dim(2 * x.size(3)))
    mode = r.choice(["nearest", "linear"])
    # Before operator set 13 the region of interest was not optional.
    roi, none = ("", "") if m.opset >= 13 else (s.const(np.zeros(0, np.float32)), s.const(np.zeros(0, np.float32)))
    if x.dims[0].fixed and r.random() < 0.5:
        return m.add("Resize", dims, x.name, roi, none, s.const([d.size for d in dims]), mode=mode)
    if r.random() < 0.4:
        # Sizes taken from the shape of the input, as exports with dynamic axes do.
        head = s.op("Slice", s.op("Shape", x.name), s.const([0]), s.const([2]), s.const([0]))
        sizes = s.op("Concat", head, s.const([dims[2].size, dims[3].size]), axis=0)
        return m.add("Resize", dims, x.name, roi, none, sizes, mode=mode)
    return m.add("Resize", dims, x.name, roi, s.const([1.0, 1.0, 2.0, 2.0]), mode=mode)


@action
def flatten(m: Maker, x: Value, r: random.Random) -> Value | None:
    if x.rank < 3:
        return None
    axis = r.choice([1, 1, 1, 2, -1])
    place = axis % x.rank
    head, tail = Dim(1), Dim(1)
    for dim in x.dims[:place]:
        head = head * dim
    for dim in x.dims[place:]:
        tail = tail * dim
    if tail.size > 256:
        return None
    return m.add("Flatten", (head, tail), x.name, axis=axis)


@action
def halve(m: Maker, x: Value, r: random.Random) -> Value | None:
    """Reshape that cuts one axis in two."""
    axis = _axis(m, x, r)
    if axis is None or x.rank > 4:
        return None
    outer = r.choice(divisors(x.size(axis)))
    parts = (Dim(outer), Dim(x.size(axis) // outer))
    return m.reshape(x, (*x.dims[:axis], *parts, *x.dims[axis + 1 :]), r)


@action
def merge(m: Maker, x: Value, r: random.Random) -> Value | None:
    """Reshape that joins two neighbouring axes, dynamic ones included."""
    if x.rank < 3:
        return None
    axis = r.randrange(x.rank - 1)
    joined = x.dims[axis] * x.dims[axis + 1]
    if joined.size > 128:
        return None
    return m.reshape(x, (*x.dims[:axis], joined, *x.dims[axis + 2 :]), r)


@action
def regroup(m: Maker, x: Value, r: random.Random) -> Value | None:
    """Reshape that moves the border between two neighbouring static axes."""
    if x.rank < 2:
        return None
    axis = r.randrange(x.rank - 1)
    if not m.fixed(x, axis, axis + 1):
        return None
    total = x.size(axis) * x.size(axis + 1)
    outer = r.choice(divisors(total))
    return m.reshape(x, (*x.dims[:axis], Dim(outer), Dim(total // outer), *x.dims[axis + 2 :]), r)


@action
def shuffle(m: Maker, x: Value, r: random.Random) -> Value | None:
    """Channel shuffle: channels as groups x width, transposed, and back."""
    if not images(m, x):
        return None
    groups = r.choice(divisors(x.size(1)))
    inner = Dim(x.size(1) // groups)
    apart = m.reshape(x, (x.dims[0], Dim(groups), inner, *x.dims[2:]), r)
    if apart is None:
        return None
    order = [0, 2, 1, *range(3, apart.rank)]
    moved = m.add("Transpose", tuple(apart.dims[i] for i in order), apart.name, perm=order)
    return m.reshape(moved, same(x), r)


@action
def transpose(m: Maker, x: Value, r: random.Random) -> Value | None:
    if x.rank < 2:
        return None
    order = list(range(x.rank))
    r.shuffle(order)
    return m.add("Transpose", tuple(x.dims[i] for i in order), x.name, perm=order)


@action
def squeeze(m: Maker, x: Value, r: random.Random) -> Value | None:
    ones = [a for a in range(x.rank) if x.dims[a] == Dim(1)]
    if not ones:
        place = r.randrange(x.rank + 1)
        dims = list(x.dims)
        dims.insert(place, Dim(1))
        if len(dims) > 5:
            return None
        m.used.add(x.name)
        return m.push(m.sketch.axes_op("Unsqueeze", x.name, [place]), tuple(dims))
    gone = ones if r.random() < 0.5 else ones[:1]
    if x.rank - len(gone) < 2:
        return None
    m.used.add(x.name)
    return m.push(m.sketch.axes_op("Squeeze", x.name, gone), tuple(d for a, d in enumerate(x.dims) if a not in gone))


@action
def reduce(m: Maker, x: Value, r: random.Random) -> Value | None:
    axis = _axis(m, x, r)
    if axis is None:
        return None
    op = r.choice(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare", "ReduceL1"])
    keep = int(r.random() < 0.6 or x.rank <= 2)
    axes = [axis] if r.random() < 0.7 or x.rank < 4 else sorted({axis, x.rank - 1})
    dims = [Dim(1) if a in axes else d for a, d in enumerate(x.dims)]
    if not keep:
        dims = [d for a, d in enumerate(x.dims) if a not in axes]
    m.used.add(x.name)
    since = 13 if op == "ReduceSum" else 18
    y = m.push(m.sketch.axes_op(op, x.name, axes, since=since, keepdims=keep), tuple(dims))
    # Back to the full extents: a reduction is usually a statistic of its input.
    return m.add("Sub", same(x), x.name, y.name) if keep and r.random() < 0.4 else y


@action
def pixels(m: Maker, x: Value, r: random.Random) -> Value | None:
    if x.rank != 4 or not m.fixed(x, 1, 2, 3):
        return None
    if x.size(1) % 4 == 0 and x.size(2) <= 4 and r.random() < 0.7:
        dims = (x.dims[0], Dim(x.size(1) // 4), Dim(2 * x.size(2)), Dim(2 * x.size(3)))
        return m.add("DepthToSpace", dims, x.name, blocksize=2, mode=r.choice(["DCR", "CRD"]))
    if x.size(2) % 2 or x.size(3) % 2 or x.size(1) > 6:
        return None
    dims = (x.dims[0], Dim(4 * x.size(1)), Dim(x.size(2) // 2), Dim(x.size(3) // 2))
    return m.add("SpaceToDepth", dims, x.name, blocksize=2)


@action
def softmax(m: Maker, x: Value, r: random.Random) -> Value | None:
    return m.add(r.choice(["Softmax", "LogSoftmax"]), same(x), x.name, axis=r.randrange(x.rank))


@action
def uncommon(m: Maker, x: Value, r: random.Random) -> Value | None:
    """Operators that mix positions, or that no rule describes."""
    axis = _axis(m, x, r)
    form = r.randrange(5)
    s = m.sketch
    if axis is None:
        return None
    if form == 0:
        return m.add("CumSum", same(x), x.name, s.const(axis))
    if form == 1 and x.rank >= 3 and m.opset >= 14:
        return m.add("Trilu", same(x), x.name, upper=r.randrange(2))
    if form == 2 and x.rank == 4 and m.fixed(x, 1):
        return m.add("LRN", same(x), x.name, size=3)
    if form == 3 and x.size(axis) > 2:
        m.used.add(x.name)
        return m.push(s.ops("TopK", x.name, s.const([2]), count=2, axis=axis)[0], replaced(x, axis, 2))
    return m.add("LpNormalization", same(x), x.name, axis=axis, p=2)


@action
def through(m: Maker, x: Value, r: random.Random) -> Value | None:
    s, form = m.sketch, r.randrange(3)
    if form == 0:
        return m.add("Identity", same(x), x.name)
    if form == 1 and m.opset >= 12:
        return m.add("Dropout", same(x), x.name)
    m.used.add(x.name)
    wide = s.op("Cast", x.name, to=11)
    return m.add("Cast", same(x), s.op("Neg", wide) if r.random() < 0.3 else wide, to=1)


@action
def spread(m: Maker, x: Value, r: random.Random) -> Value | None:
    """Expand, ConstantOfShape and Tile, with extents computed from the shape of a tensor."""
    s, form = m.sketch, r.randrange(4)
    if form == 0 and images(m, x):
        row = m.vector(r, (x.size(1), *[1] * (x.rank - 2)))
        m.used.add(x.name)
        return m.add("Add", same(x), x.name, s.op("Expand", row, s.op("Shape", x.name)))
    if form == 1:
        m.used.add(x.name)
        value = s.op("ConstantOfShape", s.op("Shape", x.name)) if r.random() < 0.5 else s.op(
            "ConstantOfShape", s.op("Shape", x.name), value=_scalar(r.choice([0.0, 1.0])))  # fmt: skip
        return m.add(r.choice(["Add", "Mul"]), same(x), x.name, value)
    if form == 2 and m.fixed(x, x.rank - 1) and x.size(-1) <= 8:
        repeats = [1] * (x.rank - 1) + [2]
        return m.add("Tile", replaced(x, -1, 2 * x.size(-1)), x.name, s.const(repeats))
    if all(d.fixed for d in x.dims):
        return m.add("Expand", same(x), x.name, s.const([d.size for d in x.dims]))
    return m.add("Expand", same(x), x.name, s.const([1]))


def _scalar(value: float):  # type: ignore[no-untyped-def]
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray([value], np.float32))
