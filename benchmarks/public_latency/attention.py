"""Transformers, written down for `Net`: vision and language encoders, Swin, ConvNeXt."""

from __future__ import annotations

from collections.abc import Sequence

from public_latency.net import Map, Net


def attend(net: Net, x: Map, heads: int, windows: int = 1, keys: int = 0) -> Map:
    """Self-attention without its normalization; tokens lie along the height, `windows` attend each for itself."""
    tokens, width = x.h // windows, x.c // heads
    seen = keys or tokens
    q, k, v = net.dense(x, x.c), net.dense(x, x.c), net.dense(x, x.c)
    q, k, v = (net.move(t, (t.c, t.h, 1)) for t in (q, k, v))
    s = net.softmax(net.product(q, k, heads * windows, tokens, width, seen))
    y = net.product(s, v, heads * windows, tokens, seen, width)
    y = net.view(net.move(y, (y.c, y.h, 1)), (x.c, x.h, 1))
    return net.dense(y, x.c)


def block(
    net: Net, x: Map, heads: int, ratio: float = 4, windows: int = 1, act: str = "Gelu", norms: bool = True
) -> Map:
    """One layer of an encoder: attention, then two dense layers, each behind a normalization and with a shortcut.

    Without `norms` the normalization is one of batches, which is folded into the dense layers.
    """
    x = net.add(x, attend(net, net.norm(x) if norms else x, heads, windows))
    y = net.add(net.dense(net.norm(x) if norms else x, round(x.c * ratio)), op=act)
    return net.add(x, net.dense(y, x.c))


def vit(
    net: Net, dim: int, depth: int, heads: int, patch: int = 16, classes: int = 1000, norms: bool = True
) -> list[Map]:
    """A vision transformer (ViT, DeiT, BEiT)."""
    x = net.conv(net.input, dim, patch, patch, act="")
    x = net.move(x, (dim, x.h * x.w + 1, 1))
    for _ in range(depth):
        x = block(net, x, heads, norms=norms)
    x = net.norm(x) if norms else x
    if classes:
        net.dense(net.view(x, (dim, 1, 1)), classes)
    return [x]


def encoder(
    net: Net, dim: int, depth: int, heads: int, ratio: float = 4, vocabulary: int = 0, act: str = "Gelu"
) -> list[Map]:
    """A language encoder over tokens that are embedded already (BERT and its like); the input is [1, tokens]."""
    x = net.move(net.input, (dim, net.input.h, 1), "Gather")
    for _ in range(depth):
        x = block(net, x, heads, ratio, act=act)
    if vocabulary:
        net.dense(net.norm(x), vocabulary)
    return [x]


def swin(
    net: Net, dim: int, depths: Sequence[int], heads: Sequence[int], window: int = 7, classes: int = 1000
) -> list[Map]:
    """Attention in windows, shifted in every second layer."""
    x = net.conv(net.input, dim, 4, 4, act="")
    for number, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        if number:
            x = net.move(x, (x.c * 4, x.h // 2, x.w // 2))
            x = net.dense(net.norm(x), x.c // 2)
        h, w = x.h, x.w
        x = net.view(x, (x.c, h * w, 1))
        windows = -(-h // window) * -(-w // window)
        for layer in range(depth):
            y = net.norm(x)
            for _ in range(4 if layer % 2 else 2):
                y = net.move(y, (y.c, y.h, 1))
            x = net.add(x, attend(net, y, count, windows))
            y = net.add(net.dense(net.norm(x), 4 * x.c), op="Gelu")
            x = net.add(x, net.dense(y, x.c))
        x = net.view(x, (x.c, h, w))
    if classes:
        net.dense(net.mean(net.norm(x)), classes)
    return [x]


def convnext(
    net: Net, depths: Sequence[int] = (3, 3, 9, 3), widths: Sequence[int] = (96, 192, 384, 768), classes: int = 1000
) -> list[Map]:
    """Depthwise 7x7, normalization, two dense layers."""
    x = net.norm(net.conv(net.input, widths[0], 4, 4, act=""))
    for number, (depth, n) in enumerate(zip(depths, widths, strict=True)):
        if number:
            x = net.conv(net.norm(x), n, 2, 2, act="")
        for _ in range(depth):
            y = net.norm(net.dw(x, 7, act=""))
            y = net.dense(net.add(net.dense(y, 4 * n), op="Gelu"), n)
            x = net.add(x, y)
    if classes:
        net.dense(net.norm(net.mean(x)), classes)
    return [x]
