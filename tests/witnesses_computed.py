"""Witnesses for operands that are computed where a constant is usual: weights, parameters, lengths and sizes."""

from __future__ import annotations

from sketch import Sketch
from witnesses import Tap, everywhere, image, live, rows, witness


def computed(s: Sketch, *shape: int) -> str:
    """A parameter that is not zero where channels are removed."""
    return s.op("Sigmoid", live(s, len(shape), shape)[0])


@witness()
def conv_computed(s: Sketch) -> list[Tap]:
    y = s.op("Conv", image(s, batch=2), computed(s, 5, 6, 1, 1))
    grouped = s.op("Conv", image(s, 8, batch=2), computed(s, 12, 2, 1, 1), group=4)
    return [Tap(y, 4, 1, 5), Tap(grouped, 4, 1, 12), Tap(s.op("Conv", image(s, 5, batch=2), computed(s, 4, 5, 1, 1)),
                                                         4, 1, 4)]  # fmt: skip


@witness()
def conv_transpose_computed(s: Sketch) -> list[Tap]:
    y = s.op("ConvTranspose", image(s, batch=2), computed(s, 6, 5, 1, 1))
    grouped = s.op("ConvTranspose", image(s, 8, batch=2), computed(s, 8, 3, 1, 1), group=4)
    return [Tap(y, 4, 1, 5), Tap(grouped, 4, 1, 12)]


@witness()
def batch_norm_computed(s: Sketch) -> list[Tap]:
    parameters = [computed(s, 6), computed(s, 6), s.weight(6, fan=1), s.positive(6)]
    return [Tap(s.op("BatchNormalization", image(s, batch=2), *parameters), 4, 1, 6)]


@witness()
def batch_norm_training(s: Sketch) -> list[Tap]:
    x, _ = live(s, 3)
    parameters = [s.weight(6, fan=1), s.weight(6, fan=1), s.weight(6, fan=1), s.positive(6)]
    y, *_ = s.ops("BatchNormalization", x, *parameters, count=3, training_mode=1)
    return [Tap(y, 3, 0, 4), Tap(y, 3, 1, 6), Tap(y, 3, 2, 5)]


@witness()
def instance_norm_computed(s: Sketch) -> list[Tap]:
    return [Tap(s.op("InstanceNormalization", image(s, batch=2), computed(s, 6), computed(s, 6)), 4, 1, 6)]


everywhere("dropout_training", lambda s, x: s.op("Dropout", x, s.const(0.5), s.const(True), seed=1))


@witness()
def reduce_log_sum(s: Sketch) -> list[Tap]:
    x, widths = live(s, 3)
    y = s.op("ReduceLogSum", s.op("Mul", x, x), axes=[1])
    return [Tap(y, 3, axis, width) for axis, width in enumerate(widths) if axis != 1]


@witness()
def lstm_computed(s: Sketch) -> list[Tap]:
    x = s.linear(s.input([4, 2, 3]), 3, 5)
    y, _ = s.ops("LSTM", x, computed(s, 1, 24, 5), s.weight(1, 24, 6, fan=6), count=2, hidden_size=6)
    return [Tap(y, 4, 3, 6)]


@witness()
def lstm_of_lengths(s: Sketch) -> list[Tap]:
    """As many lengths as samples; their number is no channel."""
    x = s.linear(s.input([4, 6, 3]), 3, 5)
    lengths = s.op("Cast", s.op("Add", computed(s, 6), s.const(1.5)), to=6)
    y, _ = s.ops("LSTM", x, s.weight(1, 24, 5, fan=5), s.weight(1, 24, 6, fan=6), "", lengths, count=2, hidden_size=6)
    return [Tap(y, 4, 3, 6), Tap(y, 4, 2, 6)]


@witness(opset=18)
def resize_by_aspect(s: Sketch) -> list[Tap]:
    x, _ = live(s, 4, (4, 6, 4, 3))
    y = s.op("Resize", x, "", "", s.const([4, 4]), axes=[2, 3], keep_aspect_ratio_policy="not_larger")
    return [Tap(y, 4, 1, 6), Tap(y, 4, 2, 4), Tap(y, 4, 3, 3)]


@witness()
def resize_by_data(s: Sketch) -> list[Tap]:
    """Three rows of 2 when the data say so."""
    x, _ = live(s, 4, (4, 6, 3, 3))
    by = s.op("Add", s.const(2.0), s.op("Mul", s.const(0.0), s.op("ReduceSum", rows(s), keepdims=0)))
    sides = s.op("Concat", s.const([1.0, 1.0]), *[s.op("Reshape", by, s.const([1]))] * 2, axis=0)
    y = s.op("Resize", x, "", sides, mode="nearest")
    return [Tap(y, 4, 1, 6), Tap(y, 4, 2, 6)]


@witness()
def root_of_a_width(s: Sketch) -> list[Tap]:
    """What is divided by the root of the width that it had goes on being divided by that."""
    x = rows(s, batch=2)
    width = s.op("Gather", s.op("Shape", x), s.const([2]), axis=0)
    return [Tap(s.op("Div", x, s.op("Sqrt", s.op("Cast", width, to=1))), 3, 2, 6)]


@witness(opset=23)
def rms_norm(s: Sketch) -> list[Tap]:
    """Epsilon large enough to tell whether it is scaled."""
    x, widths = live(s, 3)
    g = s.op("Relu", live(s, 1, (5,))[0])
    y = s.op("RMSNormalization", x, g, epsilon=0.3)
    positive = s.op("RMSNormalization", s.op("Sigmoid", x), s.weight(5, fan=1), epsilon=0.3)
    bare = s.op("RMSNormalization", x, s.weight(6, 5, fan=1), axis=1, epsilon=0.0)
    taps = [Tap(y, 3, axis, width) for axis, width in enumerate(widths)]
    taps += [Tap(positive, 3, axis, width) for axis, width in enumerate(widths)]
    return [*taps, Tap(bare, 3, 0, 4), Tap(bare, 3, 1, 6), Tap(bare, 3, 2, 5)]


@witness()
def rms_norm_with_statistics(s: Sketch) -> list[Tap]:
    y, inverse = s.ops("SimplifiedLayerNormalization", live(s, 3)[0], s.weight(5, fan=1), count=2, epsilon=0.3)
    return [Tap(s.op("Mul", y, inverse), 3, 2, 5), Tap(inverse, 3, 0, 4), Tap(inverse, 3, 1, 6)]
