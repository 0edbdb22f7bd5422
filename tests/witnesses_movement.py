"""Witnesses for operators without weights: elementwise, layout, selection, control flow."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper
from sketch import Sketch
from witnesses import WITNESSES, Tap, constant, everywhere, image, live, rows, witness

# --- elementwise

everywhere("relu", lambda s, x: s.op("Relu", x))
everywhere("sigmoid", lambda s, x: s.op("Sigmoid", x))
everywhere("log", lambda s, x: s.op("Log", s.op("Abs", x)))
everywhere("clip", lambda s, x: s.op("Clip", x, s.const(-1.0), s.const(1.0)))
everywhere("clip_above_zero", lambda s, x: s.op("Clip", x, s.const(0.25), s.const(2.0)))
everywhere("prelu", lambda s, x: s.op("PRelu", x, s.positive(6, 1)))
everywhere("add_constant", lambda s, x: s.op("Add", x, s.positive(6, 1)))
everywhere("add_full_constant", lambda s, x: s.op("Add", s.positive(4, 6, 5), x))
everywhere("max_of_three", lambda s, x: s.op("Max", x, s.op("Neg", x), s.positive(6, 5)))
everywhere("mod", lambda s, x: s.op("Mod", x, s.positive(6, 1), fmod=1))
everywhere("mul_constant", lambda s, x: s.op("Mul", x, s.positive(6, 1)))
everywhere("div_constant", lambda s, x: s.op("Div", x, s.positive(6, 1)))
everywhere("div_into_constant", lambda s, x: s.op("Div", s.positive(6, 1), x))
everywhere("div_of_sigmoids", lambda s, x: s.op("Div", s.op("Sigmoid", x), s.op("Sigmoid", x)))
everywhere(
    "pow_constant", lambda s, x: s.op("Pow", s.op("Abs", x), s.const([[1.0], [2.0], [3.0], [1.5], [2.5], [1.0]]))
)
everywhere(
    "pow_negative", lambda s, x: s.op("Pow", s.op("Abs", x), s.const([[-1.0], [-2.0], [1.0], [1.5], [2.5], [1.0]]))
)
everywhere("pow_of_activations", lambda s, x: s.op("Pow", s.op("Abs", x), s.op("Sigmoid", x)))
everywhere("cast", lambda s, x: s.op("Cast", s.op("Cast", x, to=TensorProto.DOUBLE), to=TensorProto.FLOAT))
everywhere("cast_like", lambda s, x: s.op("Cast", s.op("CastLike", x, s.const(np.asarray(1.0, np.float64))), to=1))
everywhere("identity", lambda s, x: s.op("Identity", x))
everywhere("compare", lambda s, x: s.op("Cast", s.op("LessOrEqual", x, s.positive(6, 1)), to=1))
everywhere("where", lambda s, x: s.op("Where", s.op("Less", x, s.const(0.1)), x, s.op("Mul", x, x)))
everywhere("where_constant", lambda s, x: s.op("Where", s.const(np.eye(6, 5) > 0), x, s.positive(6, 5)))


def _pair(name: str, op: str) -> None:
    def function(s: Sketch) -> list[Tap]:
        (x, widths), (y, _), (z, _) = live(s, 3), live(s, 3), live(s, 3)
        right = s.op("Sigmoid", y) if op in ("Div", "Pow") else y
        left = s.op("Abs", x) if op == "Pow" else x
        operands = [s.op("Less", z, s.const(0.1)), left, right] if op == "Where" else [left, right]
        operands += [z] if op == "Max" else []
        joined = s.op(op, *operands)
        return [Tap(joined, 3, axis, width) for axis, width in enumerate(widths)]

    WITNESSES[name] = (17, function)


for _op in ("Add", "Max", "Mul", "Div", "Pow", "Where"):
    _pair(f"pair_{_op.lower()}", _op)


@witness()
def dropout(s: Sketch) -> list[Tap]:
    y, mask = s.ops("Dropout", rows(s), count=2)
    return [Tap(y, 3, 2, 6), Tap(s.op("Cast", mask, to=TensorProto.FLOAT), 3, 2, 6)]


@witness()
def residual(s: Sketch) -> list[Tap]:
    x = s.input(["N", 3, 4, 4])
    one, other = s.conv(x, 6, 3), s.conv(x, 6, 3, kernel=3)
    return [Tap(s.op(op, one, other), 4, 1, 6) for op in ("Add", "Mul")]


@witness()
def gate(s: Sketch) -> list[Tap]:
    x = image(s)
    gates = s.op("Sigmoid", s.conv(s.op("Relu", s.conv(s.op("GlobalAveragePool", x), 4, 6)), 6, 4))
    return [Tap(s.op("Mul", x, gates), 4, 1, 6)]


@witness()
def different_refinements(s: Sketch) -> list[Tap]:
    """2 x 3 and 3 x 2 channels meet in a sum."""
    x = s.input([2, 3, 3])
    one = s.op("Reshape", live(s, 3, (5, 3, 4))[0], s.const([5, 12]))
    other = s.op("Reshape", live(s, 3, (5, 4, 3))[0], s.const([5, 12]))
    assert x
    return [Tap(s.op("Add", one, other), 2, 1, 12)]


# --- layout


@witness()
def reshape_apart(s: Sketch) -> list[Tap]:
    y = s.op("Reshape", rows(s, 24), s.const([0, 5, 6, 4]))
    return [Tap(y, 4, 2, 6), Tap(s.op("Transpose", y, perm=[0, 2, 1, 3]), 4, 3, 4)]


@witness()
def reshape_together(s: Sketch) -> list[Tap]:
    x, _ = live(s, 3)
    return [Tap(s.op("Reshape", x, s.const([4, 30])), 2, 1, 30), Tap(s.op("Reshape", x, s.const([24, -1])), 2, 0, 24)]


@witness()
def reshape_computed(s: Sketch) -> list[Tap]:
    x = rows(s, 24)
    batch = s.op("Gather", s.op("Shape", x), s.const([0]), axis=0)
    return [Tap(s.op("Reshape", x, s.op("Concat", batch, s.const([5, 6, 4]), axis=0)), 4, 2, 6)]


@witness()
def reshape_by_shape(s: Sketch) -> list[Tap]:
    """The target is another tensor's shape, which does not shrink with it."""
    x, other = rows(s, 6, 2), s.input([2, 5, 6])
    y = s.op("Reshape", s.op("Reshape", x, s.const([2, 30])), s.op("Shape", other))
    return [Tap(y, 3, 2, 6)]


@witness()
def reshape_by_data(s: Sketch) -> list[Tap]:
    zero = s.op("Cast", s.op("Mul", s.input([2]), s.const(0.0)), to=TensorProto.INT64)
    return [Tap(s.op("Reshape", rows(s, batch=2), s.op("Add", zero, s.const([10, 6]))), 2, 1, 6)]


@witness()
def reshape_by_what_shrinks(s: Sketch) -> list[Tap]:
    """The target follows a tensor that shrinks, while the reshaped one does not."""
    x, other = s.linear(s.input([2, 3]), 3, 6), s.input([12])
    y = s.op("Reshape", other, s.op("Shape", x))
    return [Tap(s.op("Concat", y, x, axis=0), 2, 0, 4), Tap(y, 2, 1, 6)]


@witness()
def reshape_across(s: Sketch) -> list[Tap]:
    """Channels of 4 and 6 are cut as 8 and 3."""
    x, _ = live(s, 2)
    return [Tap(s.op("Reshape", x, s.const([3, 8])), 2, 1, 8), Tap(s.op("Reshape", x, s.const([8, 3])), 2, 1, 3)]


@witness()
def reshape_too_far(s: Sketch) -> list[Tap]:
    """5 channels cannot be cut in 2s and 3s."""
    x = s.op("Reshape", live(s, 3, (5, 6, 4))[0], s.const([3, 40]))
    return [Tap(x, 2, 1, 40)]


@witness()
def flatten(s: Sketch) -> list[Tap]:
    return [Tap(s.op("Flatten", image(s, 6, 2)), 2, 1, 24)]


@witness()
def transpose(s: Sketch) -> list[Tap]:
    x, _ = live(s, 3)
    weight = s.op("Transpose", s.weight(7, 5), perm=[1, 0])
    return [Tap(s.op("Transpose", x, perm=[2, 0, 1]), 3, a, w) for a, w in enumerate((5, 4, 6))] + [
        Tap(s.op("MatMul", x, weight), 3, 2, 7)
    ]


everywhere("transpose_of_what_is_not_zero", lambda s, x: s.op("Transpose", s.op("Sigmoid", s.op(
    "Transpose", x, perm=[3, 2, 1, 0])), perm=[3, 2, 1, 0]), 4)  # fmt: skip


@witness()
def squeeze(s: Sketch) -> list[Tap]:
    x = s.axes_op("Unsqueeze", live(s, 2)[0], [1])
    y = s.axes_op("Squeeze", x, [1])
    return [Tap(x, 3, 0, 4), Tap(x, 3, 2, 6), Tap(y, 2, 0, 4), Tap(y, 2, 1, 6)]


@witness()
def expand(s: Sketch) -> list[Tap]:
    x = rows(s)
    row = s.op("Expand", s.positive(6), s.op("Shape", x))
    wide = s.op("Expand", s.const([[[0.5]]]), s.op("Shape", x))
    fixed = s.op("Expand", rows(s, batch=2), s.const([2, 5, 6]))
    return [
        Tap(s.op("Add", x, row), 3, 2, 6),
        Tap(s.op("Mul", x, wide), 3, 2, 6),
        Tap(wide, 3, 2, 6),
        Tap(fixed, 3, 2, 6),
    ]


everywhere("expand_of_what_is_not_zero", lambda s, x: s.op("Expand", s.op("Sigmoid", x), s.const([4, 6, 5])))
everywhere("add_constant_of_shape", lambda s, x: s.op("Add", x, s.op("ConstantOfShape", s.const([4, 6, 5]),
                                                                    value=constant(1.0))))  # fmt: skip
everywhere("expand_one_more", lambda s, x: s.op("Expand", x, s.const([4, 6, 5])))


@witness()
def expand_to_constant(s: Sketch) -> list[Tap]:
    """The target of an Expand is a constant, and must shrink."""
    x = rows(s)
    return [Tap(s.op("Add", x, s.op("Expand", s.const([0.5]), s.const([5, 6]))), 3, 2, 6)]


@witness()
def constant_of_shape(s: Sketch) -> list[Tap]:
    x = rows(s, batch=2)
    ones = s.op("ConstantOfShape", s.const([2, 5, 6]), value=constant(1.0))
    zeros = s.op("ConstantOfShape", s.const([2, 5, 6]))
    return [Tap(s.op("Add", x, ones), 3, 2, 6), Tap(s.op("Add", x, zeros), 3, 2, 6), Tap(ones, 3, 2, 6)]


@witness()
def pixels(s: Sketch) -> list[Tap]:
    deep = s.op("DepthToSpace", image(s, 24), blocksize=2, mode="DCR")
    other = s.op("DepthToSpace", image(s, 24), blocksize=2, mode="CRD")
    return [Tap(deep, 4, 1, 6), Tap(other, 4, 1, 6), Tap(deep, 4, 2, 8)]


@witness()
def pixels_on_live_axes(s: Sketch) -> list[Tap]:
    x, _ = live(s, 4, (4, 3, 4, 6))
    space = s.op("SpaceToDepth", x, blocksize=2)
    deep = s.op("DepthToSpace", live(s, 4, (2, 8, 4, 4))[0], blocksize=2)
    return [Tap(space, 4, 1, 12), Tap(space, 4, 2, 2), Tap(space, 4, 3, 3), Tap(space, 4, 0, 4), Tap(deep, 4, 0, 2),
            Tap(deep, 4, 2, 8), Tap(deep, 4, 3, 8)]  # fmt: skip


@witness()
def pixels_across(s: Sketch) -> list[Tap]:
    h = s.op("Reshape", live(s, 4, (2, 3, 4, 5))[0], s.const([2, 12, 5, 1]))
    return [Tap(s.op("DepthToSpace", h, blocksize=2, mode="DCR"), 4, 1, 3)]


# --- selection


@witness()
def concat(s: Sketch) -> list[Tap]:
    x = s.input([2, 3, 3])
    joined = s.op("Concat", s.linear(x, 3, 4), s.linear(x, 3, 5), axis=-1)
    mixed = s.op("Concat", s.linear(x, 3, 4), s.op("Sigmoid", s.linear(x, 3, 5)), x, axis=2)
    stacked = s.op("Concat", s.linear(x, 3, 4), s.op("Sigmoid", s.linear(x, 3, 4)), axis=1)
    return [Tap(joined, 3, 2, 9), Tap(mixed, 3, 2, 12), Tap(stacked, 3, 2, 4), Tap(stacked, 3, 1, 6)]


@witness()
def concat_on_live_axes(s: Sketch) -> list[Tap]:
    y = s.op("Concat", live(s, 3)[0], live(s, 3)[0], axis=0)
    return [Tap(y, 3, 0, 8), Tap(y, 3, 1, 6), Tap(y, 3, 2, 5)]


@witness()
def split(s: Sketch) -> list[Tap]:
    one, other = s.ops("Split", rows(s, 9), s.const([5, 4]), count=2, axis=2)
    equal = s.ops("Split", rows(s, 8), count=2, axis=2)
    return [Tap(one, 3, 2, 5), Tap(other, 3, 2, 4), Tap(s.op("Add", *equal), 3, 2, 4)]


@witness()
def split_on_live_axes(s: Sketch) -> list[Tap]:
    parts = s.ops("Split", live(s, 3)[0], count=2, axis=0)
    return [Tap(p, 3, axis, width) for p in parts for axis, width in ((0, 2), (1, 6), (2, 5))]


@witness(11)
def split_by_attribute(s: Sketch) -> list[Tap]:
    one, other = s.ops("Split", rows(s, 9), count=2, axis=2, split=[5, 4])
    equal = s.ops("Split", rows(s, 8), count=2, axis=2)
    return [Tap(one, 3, 2, 5), Tap(other, 3, 2, 4), Tap(equal[0], 3, 2, 4)]


@witness(18)
def split_by_number(s: Sketch) -> list[Tap]:
    parts = s.ops("Split", rows(s, 11), count=3, axis=2, num_outputs=3)
    return [Tap(parts[0], 3, 2, 4), Tap(parts[2], 3, 2, 3)]


@witness()
def slices(s: Sketch) -> list[Tap]:
    x, _ = live(s, 3, (4, 6, 8))
    far = 2**63 - 1
    cut = s.op("Slice", x, s.const([1]), s.const([-1]), s.const([1]))
    steps = s.op("Slice", x, s.const([-1]), s.const([-far]), s.const([2]), s.const([-2]))
    two = s.op("Slice", x, s.const([1, 0]), s.const([far, 6]), s.const([1, 2]))
    stepped = s.op("Slice", x, s.const([0, 0]), s.const([far, far]), s.const([1, 2]), s.const([1, 2]))
    both = s.op("Slice", x, s.const([1, 0]), s.const([far, far]), s.const([1, 2]), s.const([1, 2]))
    return [Tap(cut, 3, 1, 4), Tap(cut, 3, 0, 4), Tap(cut, 3, 2, 8), Tap(steps, 3, 2, 4), Tap(two, 3, 1, 5),
            Tap(two, 3, 2, 6), Tap(stepped, 3, 2, 4), Tap(both, 3, 2, 4), Tap(both, 3, 1, 5)]  # fmt: skip


@witness()
def slice_by_data(s: Sketch) -> list[Tap]:
    x, _ = live(s, 3)
    count = s.op(
        "Cast", s.axes_op("Unsqueeze", s.op("ReduceSum", s.input([3], dtype=TensorProto.FLOAT), keepdims=0), [0]), to=7
    )
    end = s.op("Add", s.op("Mul", count, s.const([0])), s.const([3]))
    cut = s.op("Slice", x, s.const([0]), end, s.const([1]))
    return [Tap(cut, 3, 1, 3), Tap(cut, 3, 0, 4), Tap(cut, 3, 2, 5)]


@witness()
def gather(s: Sketch) -> list[Tap]:
    x, _ = live(s, 3)
    several = s.op("Gather", x, s.const([5, 0, 0, -2, 3]), axis=1)
    one = s.op("Gather", x, s.const([2]), axis=1)
    table = s.op("Gather", x, s.const([[0, 4], [1, 2]]), axis=1)
    return [Tap(several, 3, 1, 5), Tap(several, 3, 0, 4), Tap(several, 3, 2, 5), Tap(one, 3, 2, 5), Tap(table, 4, 2, 2),
            Tap(table, 4, 3, 5), Tap(table, 4, 0, 4)]  # fmt: skip


everywhere("gather_of_what_is_not_zero", lambda s, x: s.op("Gather", s.op("Sigmoid", x),
                                                            s.const([5, 4, 3, 2, 1, 0]), axis=1))  # fmt: skip


@witness()
def gather_by_data(s: Sketch) -> list[Tap]:
    index = s.op("Cast", s.op("Clip", s.op("Mul", s.input([4]), s.const(2.0)), s.const(0.0), s.const(3.0)), to=7)
    x, _ = live(s, 3)
    y = s.op("Gather", x, index, axis=1)
    rows_ = s.op("Gather", s.input([4, 5]), s.const([3, 1, 1, 2, 0, 2]), axis=0)
    return [Tap(y, 3, 1, 4), Tap(y, 3, 0, 4), Tap(y, 3, 2, 5), Tap(rows_, 2, 0, 6)]


@witness()
def pads(s: Sketch) -> list[Tap]:
    x, _ = live(s, 3)
    zeros = s.op("Pad", x, s.const([0, 0, 1, 0, 0, 2]))
    ones = s.op("Pad", x, s.const([0, 0, 1, 0, 0, 2]), s.const(1.0))
    return [Tap(zeros, 3, 2, 8), Tap(zeros, 3, 1, 6), Tap(zeros, 3, 0, 4), Tap(ones, 3, 2, 8), Tap(ones, 3, 1, 6),
            Tap(ones, 3, 0, 4)]  # fmt: skip


@witness()
def pads_joined(s: Sketch) -> list[Tap]:
    """A padded stem joins a wider layer: the padding shrinks with its channels."""
    x = s.input([2, 2, 3])
    padded = s.op("Pad", s.linear(x, 3, 4), s.const([0, 0, 1, 0, 0, 2]))
    ones = s.op("Pad", s.linear(x, 3, 4), s.const([0, 0, 1, 0, 0, 2]), s.const(1.0))
    return [Tap(s.op("Add", p, s.linear(x, 3, 7)), 3, 2, 7) for p in (padded, ones)]


everywhere("pad_reflected", lambda s, x: s.op("Slice", s.op("Pad", x, s.const([0, 1, 0, 0, 1, 0]), mode="reflect"),
                                              s.const([0]), s.const([6]), s.const([1])))  # fmt: skip


@witness()
def tile(s: Sketch) -> list[Tap]:
    y = s.op("Tile", live(s, 3)[0], s.const([1, 1, 2]))
    return [Tap(y, 3, 0, 4), Tap(y, 3, 1, 6), Tap(y, 3, 2, 10)]


@witness()
def resize(s: Sketch) -> list[Tap]:
    x, _ = live(s, 4, (4, 6, 3, 3))
    scaled = s.op("Resize", x, "", s.const([1.0, 1.0, 2.0, 2.0]), mode="nearest")
    sized = s.op("Resize", x, "", "", s.const([4, 6, 6, 6]), mode="linear")
    return [Tap(scaled, 4, 0, 4), Tap(scaled, 4, 1, 6), Tap(scaled, 4, 2, 6), Tap(sized, 4, 1, 6), Tap(sized, 4, 0, 4)]


# --- control flow


@witness()
def conditional(s: Sketch) -> list[Tap]:
    """A branch scales the channels, the other hands them on; the condition depends on the data."""
    x = rows(s)
    flag = s.op("Greater", s.op("ReduceSum", x, keepdims=0), s.const(0.0))
    bodies = []
    for op in ("Relu", "Sigmoid"):
        output = s.name("body")
        node = helper.make_node(op, [x], [output], name=f"{op}_{output}")
        bodies.append(helper.make_graph([node], output, [], [helper.make_tensor_value_info(output, 1, None)]))
    return [Tap(s.op("If", flag, then_branch=bodies[0], else_branch=bodies[1]), 3, 2, 6)]


@witness()
def sequence(s: Sketch) -> list[Tap]:
    x = rows(s, batch=2)
    both = s.op("SequenceConstruct", x, s.op("Relu", x))
    other = s.op("SequenceAt", both, s.const(1))
    square = s.op("MatMul", s.linear(s.input([2, 6, 3]), 3, 5), other)
    return [Tap(other, 3, 2, 6), Tap(square, 3, 1, 6), Tap(s.op("Add", rows(s, batch=2), other), 3, 2, 6)]
