"""MobileNets by width and resolution, and EfficientNet-Lite, as their papers and reference code describe them."""

from __future__ import annotations

import math

from hwpass.cost_models.work import Work
from public_latency.layers import Net


def whole(channels: float, step: int = 8) -> int:
    """Channels after a width multiplier: the nearest multiple of `step`, never a tenth less."""
    nearest = max(step, int(channels + step / 2) // step * step)
    return nearest + step if nearest < 0.9 * channels else nearest


def mobilenet_v1(width: float = 1.0, side: int = 224, classes: int = 1001, step: int = 8) -> Work:
    """A. Howard et al., 2017. `step`: channels are rounded to multiples of it."""
    net = Net(side)
    net.conv(whole(32 * width, step), 3, 2)
    rows = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for out, stride in rows:
        net.depthwise(3, stride)
        net.conv(whole(out * width, step))
    net.pool(net.side, 1)
    net.dense(classes)
    return net.work()


def _inverted(net: Net, middle: int, out: int, window: int, stride: int, op: str, squeeze: bool = False) -> None:
    """Expand, depthwise, (squeeze and excite), project, and add where shapes allow."""
    source, before, side = net.at, net.channels, net.side
    if middle != before:
        net.conv(middle, op=op)
    net.depthwise(window, stride, op)
    if squeeze:
        _squeeze_excite(net)
    net.conv(out, op="Conv")
    if before == out and side == net.side and source >= 0:
        net.join(source)


def _squeeze_excite(net: Net) -> None:
    channels, side, source = net.channels, net.side, net.at
    net.pool(side, 1)
    net.conv(whole(channels / 4))
    net.conv(channels, op="Conv+HardSigmoid")
    net.side = side
    net.join(source, "Mul")


def mobilenet_v2(width: float = 1.0, side: int = 224, classes: int = 1001, step: int = 8) -> Work:
    """M. Sandler et al., 2018. The last convolution never gets narrower."""
    net, op = Net(side), "Conv+Clip"
    net.conv(whole(32 * width, step), 3, 2, op)
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, out, count, stride in rows:
        for number in range(count):
            _inverted(net, expand * net.channels, whole(out * width, step), 3, stride if number == 0 else 1, op)
    net.conv(whole(1280 * max(1.0, width)), op=op)
    net.pool(net.side, 1)
    net.dense(classes)
    return net.work()


def mobilenet_v3_large(width: float = 1.0, side: int = 224, plain: bool = False, classes: int = 1001) -> Work:
    """A. Howard et al., 2019. `plain`: the minimalistic variant, with 3x3 windows, ReLU and no squeeze-and-excite."""
    net, swish = Net(side), "Conv+Relu" if plain else "Conv+HardSwish"
    net.conv(whole(16 * width), 3, 2, swish)
    rows = [
        (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2), (5, 120, 40, 1, 0, 1),
        (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1),
        (3, 184, 80, 0, 1, 1), (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2),
        (5, 960, 160, 1, 1, 1), (5, 960, 160, 1, 1, 1),
    ]  # fmt: skip
    for window, middle, out, squeeze, swished, stride in rows:
        op = swish if swished else "Conv+Relu"
        _inverted(
            net,
            whole(middle * width),
            whole(out * width),
            3 if plain else window,
            stride,
            op,
            bool(squeeze) and not plain,
        )
    net.conv(whole(960 * width), op=swish)
    net.pool(net.side, 1)
    net.dense(whole(1280 * max(1.0, width)), "Gemm" + swish[4:])
    net.dense(classes)
    return net.work()


def efficientnet_lite(number: int) -> Work:
    """EfficientNet-Lite 0 to 4 (tensorflow/tpu): no squeeze-and-excite, ReLU6, stem and head of fixed width."""
    width, depth, side = [(1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 260), (1.2, 1.4, 280), (1.4, 1.8, 300)][number]
    net, op = Net(side), "Conv+Clip"
    net.conv(32, 3, 2, op)
    rows = [
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ]  # fmt: skip
    for place, (expand, out, count, stride, window) in enumerate(rows):
        fixed = place in (0, len(rows) - 1)  # the first and the last stage are not repeated more often
        for block in range(count if fixed else math.ceil(count * depth)):
            _inverted(net, expand * net.channels, whole(out * width), window, stride if block == 0 else 1, op)
    net.conv(1280, op=op)
    net.pool(net.side, 1)
    net.dense(1000)
    return net.work()
