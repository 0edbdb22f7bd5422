"""What `hwpass calibrate` measures: short chains of one layer, and small networks that check the whole.

A layer is repeated until a chain takes well over the cost of starting it. Each chain is a model of its own, since not
every runtime can time a single layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from hwpass.cost.sketches import Sketch

#: A layer: the tensor that it adds behind another.
Layer = Callable[[Sketch, str], str]

#: MACs that a chain of dense convolutions aims at.
MACS = 6e7

#: Widths that show which multiples pay: on and off the blocks of any layout, from 64 to the next lower multiple of 32.
STEPS = (32, 36, 40, 44, 48, 52, 56, 60, 62, 63, 64)
STEP_KINDS = ("dense", "inverted")


@dataclass(frozen=True)
class Micro:
    """A model to measure: its family, and whether it is a whole small network, which weighs more than a chain."""

    name: str
    family: str
    make: Callable[[], onnx.ModelProto]
    whole: bool = False


def chains() -> list[Micro]:
    """Chains of one layer each."""
    found = (_steps(), _dense(), _windows(), _depthwise(), _products(), _elementwise(), _movement())
    return [micro for part in found for micro in part]


def chain(name: str, family: str, shape: tuple[int, ...], layer: Layer, repeat: int = 1, whole: bool = False) -> Micro:
    """A layer repeated behind an input of a shape."""

    def make() -> onnx.ModelProto:
        sketch = Sketch(name, *shape)
        x = "x"
        for _ in range(repeat):
            x = layer(sketch, x)
        return sketch.model(x)

    return Micro(name, family, make, whole)


def step_name(kind: str, width: int) -> str:
    """The name of a chain of STEP_KINDS at a width."""
    return f"step-{kind}-{width}"


def conv(out: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: str = "Relu") -> Layer:
    """A convolution and its activation."""
    return lambda s, x: s.act(s.conv(x, out, kernel, stride, groups), act)


def depthwise(kernel: int = 3, stride: int = 1, act: str = "Relu") -> Layer:
    """A depthwise convolution and its activation."""
    return lambda s, x: s.act(s.depthwise(x, kernel, stride), act)


def then(*layers: Layer) -> Layer:
    """Layers one behind the other."""

    def added(s: Sketch, x: str) -> str:
        for layer in layers:
            x = layer(s, x)
        return x

    return added


def residual(*layers: Layer, act: str = "") -> Layer:
    """Layers, and what went into them added to what came out."""
    return lambda s, x: s.act(s.add(then(*layers)(s, x), x), act)


def act(kind: str) -> Layer:
    """An activation."""
    return lambda s, x: s.act(x, kind)


def inverted(width: int, expand: int, kernel: int = 3, kind: str = "Relu") -> Layer:
    """An inverted bottleneck without its residual."""
    return then(conv(width * expand, act=kind), depthwise(kernel, act=kind), conv(width, act=""))


def _steps() -> Iterator[Micro]:
    for width in STEPS:
        layers = {"dense": conv(width, 3), "inverted": inverted(width, 2)}
        for kind in STEP_KINDS:
            yield chain(step_name(kind, width), "step", (1, width, 28, 28), layers[kind], 3)


def _repeat(macs: float) -> int:
    return max(2, min(12, round(MACS / macs)))


def _dense() -> Iterator[Micro]:
    sizes = {
        3: ((16, 112), (24, 56), (96, 28), (128, 28), (160, 14), (256, 14), (512, 7),
            (30, 28), (47, 28), (90, 28), (127, 14)),
        1: ((16, 112), (24, 112), (40, 56), (96, 28), (128, 28), (192, 28), (256, 14), (320, 7), (512, 14), (960, 7),
            (21, 56), (47, 28), (90, 28), (127, 28), (250, 14)),
        5: ((48, 28), (45, 28)),
        7: ((32, 28),),
    }  # fmt: skip
    for kernel, pairs in sizes.items():
        for width, size in pairs:
            repeat = _repeat(width * width * kernel * kernel * size * size)
            yield chain(f"conv{kernel}-{width}-{size}", "conv", (1, width, size, size), conv(width, kernel), repeat)
    for narrow, wide, size in ((24, 144, 56), (64, 384, 14), (160, 960, 7), (64, 256, 56), (256, 1024, 14)):
        layer = then(conv(narrow), conv(wide))
        yield chain(f"bottleneck-{narrow}-{wide}-{size}", "conv", (1, wide, size, size), layer, 3)
    for kind in ("", "Clip", "HardSwish", "Sigmoid", "SiLU", "LeakyRelu", "Tanh", "HardSigmoid", "Gelu"):
        yield chain(f"fused-{kind or 'none'}", "fused", (1, 64, 28, 28), conv(64, act=kind), 6)
    for width in (64, 63):
        layer = residual(conv(width, 3, act=""), act="Relu")
        yield chain(f"residual-{width}", "conv", (1, width, 28, 28), layer, 4)
    for size in (7, 28, 56):
        yield chain(f"mixed-64-63-{size}", "conv", (1, 64, size, size), then(conv(63), conv(64)), 4)


def _windows() -> Iterator[Micro]:
    for kernel, stride, out, size in (
        (3, 2, 32, 224),
        (7, 2, 64, 224),
        (3, 1, 64, 112),
        (4, 4, 96, 224),
        (16, 16, 192, 224),
    ):
        yield chain(f"first-{kernel}-{stride}-{out}", "first", (1, 3, size, size), conv(out, kernel, stride))
    for kernel, widths in ((3, (64, 128, 256)), (1, (128, 256, 512)), (3, (60, 90, 150)), (5, (32, 48, 96))):
        layer = then(*(conv(width, kernel, 2) for width in widths))
        yield chain(f"strided-{kernel}-{widths[0]}", "conv", (1, widths[0], 56, 56), layer)
    for groups, each, size in (
        (32, 4, 28),
        (32, 8, 14),
        (4, 16, 28),
        (8, 16, 28),
        (2, 64, 28),
        (16, 24, 14),
        (3, 40, 28),
    ):
        layer = conv(groups * each, 3, groups=groups)
        yield chain(f"grouped-{groups}x{each}-{size}", "grouped", (1, groups * each, size, size), layer, 4)
    for width, size in ((64, 14), (32, 28)):
        yield chain(f"transposed-{width}", "transposed", (1, width, size, size), _transposed, 2)


def _transposed(s: Sketch, x: str) -> str:
    n, c, h, w = s.shapes[x]
    return s.op(
        "ConvTranspose", x, s.weight(c, c, 2, 2), shape=(n, c, 2 * h, 2 * w), strides=[2, 2], kernel_shape=[2, 2]
    )


def _depthwise() -> Iterator[Micro]:
    sizes = {
        3: ((32, 112), (96, 56), (144, 28), (384, 14), (960, 7), (63, 28), (90, 56)),
        5: ((96, 28), (480, 14), (150, 14)),
        7: ((96, 56), (384, 14), (98, 28)),
    }
    for kernel, pairs in sizes.items():
        for width, size in pairs:
            yield chain(f"depthwise{kernel}-{width}-{size}", "depthwise", (1, width, size, size), depthwise(kernel), 5)
    for kernel, width in ((3, 96), (5, 240)):
        layer = depthwise(kernel, 2)
        yield chain(f"depthwise{kernel}-{width}-strided", "depthwise", (1, width, 112, 112), layer, 2)


def linear(*widths: int) -> Layer:
    """Products with weights along the last axis, each with a bias."""
    return then(*(lambda s, x, w=width: s.linear(x, w) for width in widths))


def gemm(*widths: int) -> Layer:
    """Fully connected layers."""
    return then(*(lambda s, x, w=width: s.gemm(x, w) for width in widths))


def _products() -> Iterator[Micro]:
    for tokens, width, wide in (
        (197, 192, 768),
        (197, 384, 1536),
        (49, 768, 3072),
        (784, 96, 384),
        (197, 190, 762),
        (64, 200, 600),
    ):
        yield chain(f"linear-{tokens}-{width}-{wide}", "matmul", (1, tokens, width), linear(wide, width), 2)
    for width, out in ((512, 512), (1024, 1024), (2048, 1000), (4096, 1024), (1280, 999)):
        yield chain(f"gemm-{width}-{out}", "matmul", (1, width), gemm(out, width), 2)
    for tokens, width, heads in ((197, 192, 3), (197, 384, 6), (49, 384, 12)):
        layer = _attention(heads)
        yield chain(f"attention-{tokens}-{width}-{heads}", "attention", (1, tokens, width), layer, 2)
    yield chain("lstm-32-64-128", "recurrent", (32, 1, 64), _lstm)


def _attention(heads: int) -> Layer:
    return lambda s, x: s.attention(x, heads)


def _lstm(s: Sketch, x: str) -> str:
    hidden, (steps, batch, width) = 128, s.shapes[x]
    weights = s.weight(1, 4 * hidden, width), s.weight(1, 4 * hidden, hidden), s.weight(1, 8 * hidden)
    return s.op("LSTM", x, *weights, shape=(steps, 1, batch, hidden), hidden_size=hidden)


UNARY = (
    "Relu",
    "Sigmoid",
    "Tanh",
    "HardSwish",
    "HardSigmoid",
    "LeakyRelu",
    "Clip",
    "SiLU",
    "Gelu",
    "Erf",
    "Abs",
    "Neg",
)


def _elementwise() -> Iterator[Micro]:
    tokens = (1, 197, 768)
    for kind in UNARY:
        yield chain(f"unary-{kind}", "elementwise", tokens, act(kind), 2 if kind == "Gelu" else 4)
    for kind in ("Sqrt", "Softplus"):  # of what is above 0
        yield chain(f"unary-{kind}", "elementwise", tokens, then(act("Abs"), act(kind)), 2)
    yield chain("unary-Exp", "elementwise", tokens, then(act("Abs"), act("Neg"), act("Exp")), 2)
    for size in (1 << 12, *(1 << power for power in range(15, 23)), 3 << 22):
        yield chain(f"memory-{size}", "memory", (1, size), then(act("Abs"), act("Neg")), 6 if size < 1 << 21 else 2)
    for kind in ("Add", "Mul"):
        for shape in (tokens, (1, 96, 56, 56)):
            yield chain(f"binary-{kind}-{shape[-1]}", "elementwise", shape, _binary(kind), 4)
    yield chain("softmax-197", "softmax", (3, 197, 197), _softmax, 3)
    for count, width in ((197, 384), (784, 96)):
        yield chain(f"norm-{count}-{width}", "normalization", (1, count, width), lambda s, x: s.norm(x), 4)
    yield chain("overhead", "overhead", (1, 8), then(act("Abs"), act("Neg")), 64)
    yield chain("overhead-conv", "overhead", (1, 16, 2, 2), conv(16), 48)
    for width, size in ((96, 56), (240, 14), (960, 7), (90, 28)):
        yield chain(f"squeeze-{width}-{size}", "squeeze", (1, width, size, size), lambda s, x: s.squeeze(x), 4)


def _binary(kind: str) -> Layer:
    return lambda s, x: s.add(x, "x", kind)


def _softmax(s: Sketch, x: str) -> str:
    return s.op("Softmax", x, shape=s.shapes[x], axis=-1)


def _movement() -> Iterator[Micro]:
    for kind, kernel, stride in (("MaxPool", 3, 2), ("AveragePool", 3, 1), ("MaxPool", 2, 2), ("MaxPool", 5, 1)):
        for width in (64, 60):
            layer = then(conv(width), _pool(kind, kernel, stride))
            yield chain(f"pool-{kind}-{kernel}-{stride}-{width}", "pool", (1, width, 56, 56), layer)
    yield chain(
        "transpose-image", "movement", (1, 96, 56, 56), then(_turned(0, 2, 3, 1), act("Abs"), _turned(0, 3, 1, 2)), 2
    )
    yield chain("transpose-heads", "movement", (1, 197, 6, 64), then(_turned(0, 2, 1, 3), act("Abs")), 4)
    for width in (32, 30):
        yield chain(f"concat-{width}", "movement", (1, width, 28, 28), concatenated(conv(width, 3)), 5)
    yield chain("split-64", "movement", (1, 64, 28, 28), halved(conv(32)), 4)
    yield chain("resize-64", "movement", (1, 64, 28, 28), resized)
    yield chain("mean-96", "reduce", (1, 96, 56, 56), lambda s, x: s.add(x, s.mean(x)), 4)
    yield chain("reduce-384", "reduce", (1, 197, 384), _centred, 4)
    yield chain("batch-norm-64", "normalization", (1, 64, 56, 56), _normed, 4)


def _pool(kind: str, kernel: int, stride: int) -> Layer:
    return lambda s, x: s.pool(x, kind, kernel, stride)


def _turned(*order: int) -> Layer:
    return lambda s, x: s.transpose(x, *order)


def concatenated(layer: Layer) -> Layer:
    """A layer, and what went into it before what came out."""
    return lambda s, x: s.concat(x, layer(s, x))


def halved(layer: Layer) -> Layer:
    """A layer on the first half of the channels, behind the second."""

    def added(s: Sketch, x: str) -> str:
        n, c, h, w = s.shapes[x]
        ends = [s.constant(np.array([place], np.int64)) for place in (0, c // 2, c, 1)]
        first, second = (
            s.op("Slice", x, ends[i], ends[i + 1], ends[3], shape=(n, c // 2, h, w)) for i in (0, 1)
        )  # fmt: skip
        return s.concat(second, layer(s, first))

    return added


def resized(s: Sketch, x: str) -> str:
    """Twice the extent, by the nearest pixel."""
    n, c, h, w = s.shapes[x]
    scales = s.constant(np.array([1, 1, 2, 2], np.float32))
    return s.op("Resize", x, "", scales, shape=(n, c, 2 * h, 2 * w), mode="nearest")


def _centred(s: Sketch, x: str) -> str:
    mean = s.op("ReduceMean", x, shape=(*s.shapes[x][:-1], 1), axes=[-1], keepdims=1)
    return s.add(x, mean, "Sub")


def _normed(s: Sketch, x: str) -> str:
    """A batch normalisation that nothing before it takes up."""
    ones = s.constant(np.ones(s.shapes[x][1], np.float32))
    zeros = s.constant(np.zeros(s.shapes[x][1], np.float32))
    return s.act(s.op("BatchNormalization", x, ones, zeros, zeros, ones, shape=s.shapes[x]), "Sigmoid")
