"""The later Inception networks, written down for `Net`."""

from __future__ import annotations

from public_latency.convolutional import classifier
from public_latency.net import Map, Net


def _chain(net: Net, x: Map, *layers: tuple[int, int | tuple[int, int]]) -> Map:
    for n, size in layers:
        x = net.conv(x, n, size)
    return x


def _pooled(net: Net, x: Map, n: int) -> Map:
    return net.conv(net.pool(x, 3, 1, "AveragePool"), n)


def inception_v3(net: Net, classes: int = 1000) -> list[Map]:
    """Inception v3."""
    x = net.conv(net.conv(net.input, 32, 3, 2, valid=True), 32, 3, valid=True)
    x = net.pool(net.conv(x, 64, 3), 3, valid=True)
    x = net.pool(net.conv(net.conv(x, 80), 192, 3, valid=True), 3, valid=True)
    for n in (32, 64, 64):
        x = net.cat(
            net.conv(x, 64), _chain(net, x, (48, 1), (64, 5)), _chain(net, x, (64, 1), (96, 3), (96, 3)),
            _pooled(net, x, n),
        )  # fmt: skip
    x = net.cat(
        net.conv(x, 384, 3, 2, valid=True), net.conv(_chain(net, x, (64, 1), (96, 3)), 96, 3, 2, valid=True),
        net.pool(x, 3, valid=True),
    )  # fmt: skip
    for c in (128, 160, 160, 192):
        x = net.cat(
            net.conv(x, 192), _chain(net, x, (c, 1), (c, (1, 7)), (192, (7, 1))),
            _chain(net, x, (c, 1), (c, (7, 1)), (c, (1, 7)), (c, (7, 1)), (192, (1, 7))), _pooled(net, x, 192),
        )  # fmt: skip
    x = net.cat(
        net.conv(net.conv(x, 192), 320, 3, 2, valid=True),
        net.conv(_chain(net, x, (192, 1), (192, (1, 7)), (192, (7, 1))), 192, 3, 2, valid=True),
        net.pool(x, 3, valid=True),
    )
    for _ in range(2):
        one, two = net.conv(x, 384), _chain(net, x, (448, 1), (384, 3))
        x = net.cat(
            net.conv(x, 320), net.conv(one, 384, (1, 3)), net.conv(one, 384, (3, 1)), net.conv(two, 384, (1, 3)),
            net.conv(two, 384, (3, 1)), _pooled(net, x, 192),
        )  # fmt: skip
    classifier(net, x, classes)
    return [x]


def _stem_v4(net: Net) -> Map:
    x = net.conv(net.conv(net.conv(net.input, 32, 3, 2, valid=True), 32, 3, valid=True), 64, 3)
    x = net.cat(net.pool(x, 3, valid=True), net.conv(x, 96, 3, 2, valid=True))
    x = net.cat(
        net.conv(net.conv(x, 64), 96, 3, valid=True),
        net.conv(_chain(net, x, (64, 1), (64, (7, 1)), (64, (1, 7))), 96, 3, valid=True),
    )
    return net.cat(net.conv(x, 192, 3, 2, valid=True), net.pool(x, 3, valid=True))


def inception_v4(net: Net, classes: int = 1000) -> list[Map]:
    """Inception v4."""
    x = _stem_v4(net)
    for _ in range(4):
        x = net.cat(
            _pooled(net, x, 96), net.conv(x, 96), _chain(net, x, (64, 1), (96, 3)),
            _chain(net, x, (64, 1), (96, 3), (96, 3)),
        )  # fmt: skip
    x = net.cat(
        net.pool(x, 3, valid=True), net.conv(x, 384, 3, 2, valid=True),
        net.conv(_chain(net, x, (192, 1), (224, 3)), 256, 3, 2, valid=True),
    )  # fmt: skip
    for _ in range(7):
        x = net.cat(
            _pooled(net, x, 128), net.conv(x, 384), _chain(net, x, (192, 1), (224, (1, 7)), (256, (7, 1))),
            _chain(net, x, (192, 1), (192, (1, 7)), (224, (7, 1)), (224, (1, 7)), (256, (7, 1))),
        )  # fmt: skip
    x = net.cat(
        net.pool(x, 3, valid=True), net.conv(net.conv(x, 192), 192, 3, 2, valid=True),
        net.conv(_chain(net, x, (256, 1), (256, (1, 7)), (320, (7, 1))), 320, 3, 2, valid=True),
    )  # fmt: skip
    for _ in range(3):
        one, two = net.conv(x, 384), _chain(net, x, (384, 1), (448, (1, 3)), (512, (3, 1)))
        x = net.cat(
            _pooled(net, x, 256), net.conv(x, 256), net.conv(one, 256, (1, 3)), net.conv(one, 256, (3, 1)),
            net.conv(two, 256, (1, 3)), net.conv(two, 256, (3, 1)),
        )  # fmt: skip
    classifier(net, x, classes)
    return [x]


def inception_resnet_v2(net: Net, classes: int = 1000) -> list[Map]:
    """Inception-ResNet v2."""
    x = net.conv(net.conv(net.conv(net.input, 32, 3, 2, valid=True), 32, 3, valid=True), 64, 3)
    x = net.pool(net.conv(net.conv(net.pool(x, 3, valid=True), 80), 192, 3, valid=True), 3, valid=True)
    x = net.cat(
        net.conv(x, 96),
        _chain(net, x, (48, 1), (64, 5)),
        _chain(net, x, (64, 1), (96, 3), (96, 3)),
        _pooled(net, x, 64),
    )
    for _ in range(10):
        y = net.cat(
            net.conv(x, 32), _chain(net, x, (32, 1), (32, 3)), _chain(net, x, (32, 1), (48, 3), (64, 3))
        )  # fmt: skip
        x = net.add(x, net.conv(y, 320))
    x = net.cat(
        net.conv(x, 384, 3, 2, valid=True), net.conv(_chain(net, x, (256, 1), (256, 3)), 384, 3, 2, valid=True),
        net.pool(x, 3, valid=True),
    )  # fmt: skip
    for _ in range(20):
        y = net.cat(net.conv(x, 192), _chain(net, x, (128, 1), (160, (1, 7)), (192, (7, 1))))
        x = net.add(x, net.conv(y, 1088))
    x = net.cat(
        net.conv(net.conv(x, 256), 384, 3, 2, valid=True), net.conv(net.conv(x, 256), 288, 3, 2, valid=True),
        net.conv(_chain(net, x, (256, 1), (288, 3)), 320, 3, 2, valid=True), net.pool(x, 3, valid=True),
    )  # fmt: skip
    for _ in range(10):
        y = net.cat(net.conv(x, 192), _chain(net, x, (192, 1), (224, (1, 3)), (256, (3, 1))))
        x = net.add(x, net.conv(y, 2080))
    classifier(net, net.conv(x, 1536), classes)
    return [x]
