"""Whole networks in small, of the blocks that networks are made of: what a fit to single layers is checked against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hwpass.cost.microbenchmarks import (
    Layer,
    Micro,
    chain,
    concatenated,
    conv,
    depthwise,
    halved,
    inverted,
    linear,
    residual,
    resized,
    then,
)
from hwpass.cost.sketches import Sketch


def small_networks() -> list[Micro]:
    """All of them."""
    return list(_networks())


def _networks() -> Iterator[Micro]:
    for scale in (1.0, 0.7):
        yield _image(f"mobile-{scale}", 160, _mobile(scale))
        yield _image(f"residual-{scale}", 96, _residual(scale))
    yield _image("bottlenecks", 96, _bottlenecks())
    yield _image("separable", 128, _separable())
    yield _image("squeezed", 128, _squeezed())
    yield _image("grouped", 96, _grouped())
    yield _image("dense", 96, _dense())
    yield _image("plain", 64, _plain())
    yield _image("shuffled", 128, _halves())
    yield _image("fire", 96, _fire())
    yield _image("large-windows", 96, _large_windows())
    yield _image("segmented", 64, _segmented(), classes=0)
    for width, heads in ((192, 3), (256, 8)):
        yield _tokens(f"transformer-{width}", 128, width, heads)
    yield _image("patches", 128, then(conv(192, 16, 16, act=""), _as_tokens, *[_block(192, 3)] * 2), classes=0)


def _image(name: str, size: int, body: Layer, classes: int = 1000) -> Micro:
    def network(s: Sketch, x: str) -> str:
        x = body(s, x)
        if not classes:
            return x
        mean = s.mean(x)
        return s.gemm(s.reshape(mean, 1, s.shapes[mean][1]), classes)

    return chain(f"network-{name}", "network", (1, 3, size, size), network, whole=True)


def _tokens(name: str, count: int, width: int, heads: int) -> Micro:
    return chain(f"network-{name}", "network", (1, count, width), _block(width, heads), 3, whole=True)


def _mobile(scale: float) -> Layer:
    """Inverted bottlenecks (MobileNetV2)."""
    layers: list[Layer] = [conv(round(32 * scale), 3, 2, act="Clip")]
    for width, count, stride in ((24, 2, 2), (32, 3, 2), (64, 3, 2), (96, 2, 1), (160, 2, 2)):
        out = round(width * scale)
        layers.append(_narrowed(out, 6 * out, 3, stride, "Clip"))
        layers += [residual(inverted(out, 6, 3, "Clip"))] * (count - 1)
    return then(*layers, conv(round(640 * scale), act="Clip"))


def _narrowed(out: int, wide: int, kernel: int, stride: int, kind: str) -> Layer:
    return then(conv(wide, act=kind), depthwise(kernel, stride, kind), conv(out, act=""))


def _stages(widths: Sequence[int], first: Layer, block: object) -> Layer:
    """Stages that halve the extent: a strided convolution, then two blocks of a width."""
    assert callable(block)
    layers = [first]
    for place, width in enumerate(widths):
        if place:
            layers.append(conv(width, 3, 2))
        layers += [block(width)] * 2
    return then(*layers)


def _residual(scale: float) -> Layer:
    """Basic residual blocks (ResNet-18)."""
    widths = [round(width * scale) for width in (64, 128, 256, 512)]
    first = then(conv(widths[0], 7, 2), _max_pool)
    return _stages(widths, first, lambda width: residual(conv(width, 3), conv(width, 3, act=""), act="Relu"))


def _max_pool(s: Sketch, x: str) -> str:
    return s.pool(x, "MaxPool", 3, 2)


def _bottlenecks() -> Layer:
    """Residual bottlenecks (ResNet-50)."""

    def block(width: int) -> Layer:
        return residual(conv(width // 4), conv(width // 4, 3), conv(width, act=""), act="Relu")

    return _stages((256, 512, 1024), then(conv(64, 7, 2), _max_pool, conv(256)), block)


def _grouped() -> Layer:
    """Residual bottlenecks with grouped convolutions (RegNet, ResNeXt)."""

    def block(width: int) -> Layer:
        return residual(conv(width), conv(width, 3, groups=width // 16), conv(width, act=""), act="Relu")

    return _stages((96, 192, 384), then(conv(32, 3, 2), conv(96, 3, 2)), block)


def _separable() -> Layer:
    """Depthwise and pointwise convolutions in turn (MobileNetV1)."""
    layers: list[Layer] = [conv(32, 3, 2)]
    for width, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1)):
        layers += [depthwise(3, stride), conv(width)]
    return then(*layers)


def _squeezed() -> Layer:
    """Inverted bottlenecks with squeeze and excitation, windows of 5 (MobileNetV3, EfficientNet)."""
    layers: list[Layer] = [conv(16, 3, 2, act="HardSwish")]
    for width, stride, kind in ((24, 2, "Relu"), (40, 2, "HardSwish"), (80, 2, "HardSwish"), (112, 1, "SiLU")):
        wide = 4 * width
        layers += [conv(wide, act=kind), depthwise(5, stride, kind), _squeeze, conv(width, act="")]
        layers.append(residual(conv(wide, act=kind), depthwise(3, 1, kind), _squeeze, conv(width, act="")))
    return then(*layers)


def _squeeze(s: Sketch, x: str) -> str:
    return s.squeeze(x)


def _dense() -> Layer:
    """Densely connected layers (DenseNet)."""
    layers: list[Layer] = [conv(64, 7, 2), _max_pool]
    for width in (128, 160):
        layers += [concatenated(then(conv(128), conv(32, 3, act="Relu")))] * 4
        layers += [conv(width // 2), _halving]
    return then(*layers, *[concatenated(then(conv(128), conv(32, 3)))] * 4)


def _halving(s: Sketch, x: str) -> str:
    return s.pool(x, "MaxPool", 2, 2)


def _plain() -> Layer:
    """Convolutions and pools (VGG)."""
    widths = (64, 128, 256, 512)
    return then(*(layer for width in widths for layer in (conv(width, 3), conv(width, 3), _halving)))


def _halves() -> Layer:
    """Half of the channels goes through each block (ShuffleNetV2, without its shuffle)."""

    def block(width: int) -> Layer:
        return halved(then(conv(width // 2), depthwise(3, act=""), conv(width // 2)))

    return _stages((48, 96, 192, 384), then(conv(24, 3, 2), conv(48, 3, 2)), block)


def _fire() -> Layer:
    """Squeezed layers that expand by two windows (SqueezeNet)."""

    def fire(narrow: int, wide: int) -> Layer:
        def added(s: Sketch, x: str) -> str:
            inner = conv(narrow)(s, x)
            return s.concat(conv(wide)(s, inner), conv(wide, 3)(s, inner))

        return added

    return then(conv(64, 3, 2), _max_pool, fire(16, 64), fire(16, 64), _max_pool, fire(32, 128), fire(48, 192))


def _large_windows() -> Layer:
    """Depthwise windows of 7, a norm and a perceptron over channels (ConvNeXt)."""

    def block(s: Sketch, x: str) -> str:
        width = s.shapes[x][1]
        inner = s.norm(s.transpose(s.depthwise(x, 7), 0, 2, 3, 1))
        inner = s.linear(s.act(s.linear(inner, 4 * width), "Gelu"), width)
        return s.add(s.transpose(inner, 0, 3, 1, 2), x)

    return then(conv(96, 4, 4, act=""), block, block, conv(192, 2, 2, act=""), block, block)


def _segmented() -> Layer:
    """Down and up again, joined at each extent (U-Net)."""

    def network(s: Sketch, x: str) -> str:
        first = conv(32, 3)(s, conv(32, 3)(s, x))
        second = conv(64, 3)(s, conv(64, 3)(s, _halving(s, first)))
        third = conv(128, 3)(s, conv(128, 3)(s, _halving(s, second)))
        up = conv(64, 3)(s, s.concat(second, resized(s, conv(64)(s, third))))
        return conv(21, act="")(s, conv(32, 3)(s, s.concat(first, resized(s, conv(32)(s, up)))))

    return network


def _as_tokens(s: Sketch, x: str) -> str:
    n, c, h, w = s.shapes[x]
    return s.transpose(s.reshape(x, n, c, h * w), 0, 2, 1)


def _block(width: int, heads: int) -> Layer:
    """A transformer's block: attention and a perceptron, each behind a norm."""

    def added(s: Sketch, x: str) -> str:
        x = s.add(s.attention(s.norm(x), heads), x)
        inner = s.act(linear(4 * width)(s, s.norm(x)), "Gelu")
        return s.add(linear(width)(s, inner), x)

    return added
