"""Detection, segmentation and super-resolution, written down for `Net`."""

from __future__ import annotations

from collections.abc import Sequence

from public_latency.attention import attend
from public_latency.convolutional import MOBILENET_V2, inverted, mobilenet_v1, resnet
from public_latency.net import Map, Net


def _c3(net: Net, x: Map, n: int, depth: int, act: str, shortcut: bool = True) -> Map:
    """The block of YOLOv5: two halves, one through residual 3x3 convolutions."""
    y = net.conv(x, n // 2, act=act)
    for _ in range(depth):
        z = net.conv(net.conv(y, n // 2, act=act), n // 2, 3, act=act)
        y = net.add(y, z) if shortcut else z
    return net.conv(net.cat(y, net.conv(x, n // 2, act=act)), n, act=act)


def _c2f(net: Net, x: Map, n: int, depth: int, act: str, shortcut: bool = True) -> Map:
    """The block of YOLOv8: all intermediate maps are concatenated."""
    x = net.conv(x, n, act=act)
    y = net.move(x, (n // 2, x.h, x.w), "Slice")
    parts = [x]
    for _ in range(depth):
        z = net.conv(net.conv(y, n // 2, 3, act=act), n // 2, 3, act=act)
        y = net.add(y, z) if shortcut else z
        parts.append(y)
    return net.conv(net.cat(*parts), n, act=act)


def _c3k2(net: Net, x: Map, n: int, depth: int, act: str, deep: bool, share: float = 0.5) -> Map:
    """The block of YOLO11: that of YOLOv8 with inner blocks of half the width, or (`deep`) of two residuals."""
    inner = round(n * share)
    x = net.conv(x, 2 * inner, act=act)
    y = net.move(x, (inner, x.h, x.w), "Slice")
    parts = [x]
    for _ in range(depth):
        if deep:
            y = _c3k(net, y, act)
        else:
            y = net.add(y, net.conv(net.conv(y, max(inner // 2, 8), 3, act=act), inner, 3, act=act))
        parts.append(y)
    return net.conv(net.cat(*parts), n, act=act)


def _c3k(net: Net, x: Map, act: str) -> Map:
    y = net.conv(x, x.c // 2, act=act)
    for _ in range(2):
        y = net.add(y, net.conv(net.conv(y, y.c, 3, act=act), y.c, 3, act=act))
    return net.conv(net.cat(y, net.conv(x, x.c // 2, act=act)), x.c, act=act)


_BLOCKS = {"v5": _c3, "v8": _c2f}

#: depth and width multiples, and the most channels
SIZES = {
    "v5": {"n": (0.33, 0.25, 1024), "s": (0.33, 0.5, 1024), "m": (0.67, 0.75, 1024), "l": (1.0, 1.0, 1024),
           "x": (1.33, 1.25, 1024)},
    "v8": {"n": (0.33, 0.25, 1024), "s": (0.33, 0.5, 1024), "m": (0.67, 0.75, 768), "l": (1.0, 1.0, 512),
           "x": (1.0, 1.25, 512)},
    "v11": {"n": (0.5, 0.25, 1024), "s": (0.5, 0.5, 1024), "m": (0.5, 1.0, 512), "l": (1.0, 1.0, 512),
            "x": (1.0, 1.5, 512)},
}  # fmt: skip
DEPTHS = {"v5": (3, 6, 9, 3), "v8": (3, 6, 6, 3), "v11": (2, 2, 2, 2)}


def yolo(net: Net, version: str, size: str, act: str = "Silu", seg: bool = False, pose: int = 0) -> list[Map]:
    """YOLOv5, v8 and 11: backbone, two-way pyramid, heads at strides 8, 16 and 32."""
    deep, wide, most = SIZES[version][size]
    n = [max(8, round(min(c, most) * wide / 8) * 8) for c in (64, 128, 256, 512, 1024)]
    depths = [max(1, round(r * deep)) for r in DEPTHS[version]]
    eleven = version == "v11"

    def stage(x: Map, width: int, place: int, shortcut: bool = True) -> Map:
        if eleven:
            share = 0.25 if shortcut and place < 2 else 0.5
            return _c3k2(net, x, width, depths[0], act, size in "mlx" or place > 1, share)
        return _BLOCKS[version](net, x, width, depths[place], act, shortcut)

    x = net.conv(net.input, n[0], 6 if version == "v5" else 3, 2, act=act)
    outs = []
    for place, width in enumerate(n[1:]):
        width = 2 * width if eleven and place < 2 else width
        x = stage(net.conv(x, n[place + 1] if place == 0 or not eleven else x.c, 3, 2, act=act), width, place)
        outs.append(x)
    p5 = _pooled(net, x, n[4], act)
    if eleven:
        half = net.view(net.conv(p5, p5.c, act=act), (p5.c // 2, p5.h * p5.w, 1))
        tokens = net.add(half, attend(net, half, max(1, p5.c // 128)))
        tokens = net.add(tokens, net.dense(net.dense(tokens, p5.c, act), p5.c // 2))
        p5 = net.conv(net.view(tokens, (p5.c // 2, p5.h, p5.w)), p5.c, act=act)
    if version == "v5":
        p5 = net.conv(p5, n[3], act=act)
    up4 = stage(net.cat(net.resize(p5), outs[2]), n[3], 0, False)
    up4 = net.conv(up4, n[2], act=act) if version == "v5" else up4
    up3 = stage(net.cat(net.resize(up4), outs[1]), n[2], 0, False)
    down4 = stage(net.cat(net.conv(up3, up3.c, 3, 2, act=act), up4), n[3], 0, False)
    down5 = stage(net.cat(net.conv(down4, down4.c, 3, 2, act=act), p5), n[4], 3 if eleven else 0, False)
    _heads(net, version, (up3, down4, down5), act, seg, pose)
    if seg:
        y = net.conv(up3, n[2], 3, act=act)
        net.conv(net.conv(net.resize(y), n[2], 3, act=act), 32, act=act)
    return [up3, down4, down5]


def _pooled(net: Net, x: Map, n: int, act: str) -> Map:
    """Pools of three sizes, concatenated."""
    parts = [net.conv(x, x.c // 2, act=act)]
    for _ in range(3):
        parts.append(net.pool(parts[-1], 5, 1))
    return net.conv(net.cat(*parts), n, act=act)


def _heads(net: Net, version: str, maps: Sequence[Map], act: str, seg: bool, pose: int) -> None:
    """The last convolutions: one of anchors (v5), or a branch each for boxes, classes and what else is asked for."""
    for x in maps:
        if version == "v5":
            net.add(net.conv(x, 3 * (85 + (32 if seg else 0)), act=""), op="Sigmoid")
            continue
        boxes, classes = max(16, maps[0].c // 4, 64), max(maps[0].c, 80)
        y = net.conv(net.conv(x, boxes, 3, act=act), boxes, 3, act=act)
        y = net.move(net.softmax(net.conv(y, 64, act="")), (4, x.h, x.w), "Reshape")
        if version == "v11":
            z = net.conv(net.dw(net.conv(net.dw(x, 3, act=act), classes, act=act), 3, act=act), classes, act=act)
        else:
            z = net.conv(net.conv(x, classes, 3, act=act), classes, 3, act=act)
        net.add(net.conv(z, 1 if pose else 80, act=""), op="Sigmoid")
        for extra in ([32] if seg else []) + ([3 * pose] if pose else []):
            inner = max(maps[0].c // 4, extra)
            net.conv(net.conv(net.conv(x, inner, 3, act=act), inner, 3, act=act), extra, act="")


def yolox(net: Net, size: str, act: str = "Silu") -> list[Map]:
    """YOLOX: the body of YOLOv5 behind a space-to-depth stem, with a decoupled head."""
    deep, wide = {"tiny": (0.33, 0.375), "s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1.0, 1.0)}[size]
    n = [round(c * wide) for c in (64, 128, 256, 512, 1024)]
    d = [max(1, round(r * deep)) for r in (3, 9, 9, 3)]
    x = net.move(net.input, (12, net.input.h // 2, net.input.w // 2), "SpaceToDepth")
    x, outs = net.conv(x, n[0], 3, act=act), []
    for width, depth in zip(n[1:], d, strict=True):
        x = _c3(net, net.conv(x, width, 3, 2, act=act), width, depth, act)
        outs.append(x)
    p5 = net.conv(x, n[3], act=act)
    up4 = net.conv(_c3(net, net.cat(net.resize(p5), outs[2]), n[3], d[0], act, False), n[2], act=act)
    up3 = _c3(net, net.cat(net.resize(up4), outs[1]), n[2], d[0], act, False)
    down4 = _c3(net, net.cat(net.conv(up3, n[2], 3, 2, act=act), up4), n[3], d[0], act, False)
    down5 = _c3(net, net.cat(net.conv(down4, n[3], 3, 2, act=act), p5), n[4], d[0], act, False)
    for y in (up3, down4, down5):
        y = net.conv(y, n[2], act=act)
        for out in (80, 5):
            z = net.conv(net.conv(y, n[2], 3, act=act), n[2], 3, act=act)
            net.add(net.conv(z, out, act=""), op="Sigmoid")
    return [up3, down4, down5]


def yolov3(net: Net, tiny: bool = False, classes: int = 80) -> list[Map]:
    """YOLOv3 on Darknet-53, or its tiny form."""
    act = "LeakyRelu"
    out = 3 * (classes + 5)
    if tiny:
        x = net.input
        for n in (16, 32, 64, 128, 256):
            x = net.pool(skip := net.conv(x, n, 3, act=act))
        x = net.conv(net.conv(net.pool(net.conv(x, 512, 3, act=act), 2, 1), 1024, 3, act=act), 256, act=act)
        net.conv(net.conv(x, 512, 3, act=act), out, act="")
        y = net.cat(net.resize(net.conv(x, 128, act=act)), skip)
        net.conv(net.conv(y, 256, 3, act=act), out, act="")
        return [x]
    x, outs = net.conv(net.input, 32, 3, act=act), []
    for n, depth in zip((64, 128, 256, 512, 1024), (1, 2, 8, 8, 4), strict=True):
        x = net.conv(x, n, 3, 2, act=act)
        for _ in range(depth):
            x = net.add(x, net.conv(net.conv(x, n // 2, act=act), n, 3, act=act))
        outs.append(x)
    y = outs[-1]
    for number, n in enumerate((512, 256, 128)):
        if number:
            y = net.cat(net.resize(net.conv(y, n, act=act)), outs[-1 - number])
        for _ in range(2):
            y = net.conv(net.conv(y, n, act=act), 2 * n, 3, act=act)
        y = net.conv(y, n, act=act)
        net.conv(net.conv(y, 2 * n, 3, act=act), out, act="")
    return [y]


def ssd(net: Net, backbone: str = "v2", classes: int = 91, lite: bool = True) -> list[Map]:
    """A single-shot detector on MobileNet: maps at stride 16 and 32 and four smaller ones, six anchors each."""
    if backbone == "v2":
        maps = inverted(net, MOBILENET_V2, classes=0)
        middle, last = maps[-2], net.conv(maps[-1], 1280)
    else:
        middle, last = mobilenet_v1(net, classes=0)[-2:]
    maps = [middle, last]
    for n in (512, 256, 256, 128):
        y = net.conv(maps[-1], n // 2)
        maps.append(net.conv(net.dw(y, 3, 2), n) if lite else net.conv(y, n, 3, 2))
    for x in maps:
        for out in (6 * 4, 6 * classes):
            net.conv(net.dw(x) if lite else x, out, act="")
    return maps


def deeplab_v3(net: Net, classes: int = 21) -> list[Map]:
    """DeepLab v3 on MobileNet v2 at stride 16, with pooled context only, and a bilinear resize to the input."""
    stages = [(*s[:3], 1 if number >= 5 else s[3], *s[4:]) for number, s in enumerate(MOBILENET_V2)]
    x = inverted(net, stages, classes=0)[-1]
    context = net.resize(net.conv(net.mean(x), 256), x.h)
    y = net.conv(net.cat(net.conv(x, 256), context), 256)
    net.resize(net.conv(y, classes, act=""), net.input.h / x.h)
    return [x]


def atrous_head(net: Net, x: Map, classes: int = 21, pyramid: bool = True) -> None:
    """The head of DeepLab v3 (or of FCN) behind a dilated ResNet."""
    if pyramid:
        parts = [net.conv(x, 256), *[net.conv(x, 256, 3) for _ in range(3)]]
        parts.append(net.resize(net.conv(net.mean(x), 256), x.h))
        y = net.conv(net.conv(net.cat(*parts), 256), 256, 3)
    else:
        y = net.conv(x, x.c // 4, 3)
    net.resize(net.conv(y, classes, act=""), 8)


def unet(net: Net, base: int = 64, classes: int = 2) -> list[Map]:
    """U-Net with transposed convolutions."""
    x, skips = net.input, []
    for number in range(5):
        x = net.conv(net.conv(x, base << number, 3), base << number, 3)
        skips.append(x)
        x = net.pool(x) if number < 4 else x
    for number in range(3, -1, -1):
        x = net.cat(net.transposed(x, base << number), skips[number])
        x = net.conv(net.conv(x, base << number, 3), base << number, 3)
    net.conv(x, classes, act="")
    return [x]


def unet_mobilenet(net: Net, classes: int = 3) -> list[Map]:
    """U-Net with MobileNet v2 as encoder and transposed convolutions, as TensorFlow's tutorial has it."""
    maps = inverted(net, MOBILENET_V2, classes=0)
    x = maps[-1]
    for n, skip in zip((512, 256, 128, 64), reversed(maps[:-1]), strict=True):
        x = net.cat(net.transposed(x, n, 3), skip)
    net.transposed(x, classes, 3)
    return maps


def ffnet(net: Net, depths: Sequence[int], low: bool = False, classes: int = 19) -> list[Map]:
    """FFNet: a ResNet and a head that adds the maps of all strides up to a quarter (or an eighth) of the input."""
    maps = resnet(net, depths, bottleneck=False, classes=0, widths=(64, 128, 192, 320))
    x = net.conv(maps[-1], 320)
    for skip in reversed(maps[1 if low else 0 : -1]):
        x = net.conv(net.cat(net.conv(net.resize(x), 128, 3), net.conv(skip, 128)), 128, 3)
    net.conv(net.conv(x, 128, 3), classes, act="")
    return maps


def plain_sr(net: Net, n: int, depth: int, scale: int, first: int = 3, colours: int = 3, wide: int = 0) -> list[Map]:
    """Super-resolution by a chain of 3x3 convolutions and depth-to-space (SRVGG, QuickSRNet, SESR, ESPCN, DnCNN)."""
    x = net.conv(net.input, wide or n, first)
    for _ in range(depth):
        x = net.conv(x, n, 3)
    x = net.conv(x, colours * scale * scale, 3, act="")
    if scale > 1:
        net.move(x, (colours, x.h * scale, x.w * scale), "DepthToSpace")
    return [x]


def sesr_expanded(net: Net, n: int = 16, depth: int = 5, scale: int = 4, wide: int = 256) -> list[Map]:
    """SESR with its linear blocks as trained, each a convolution to 256 channels and one back."""
    x = net.conv(net.conv(net.input, wide, 5, act=""), n)
    for _ in range(depth):
        x = net.conv(net.conv(x, wide, 3, act=""), n)
    x = net.conv(net.conv(x, wide, 5, act=""), 3 * scale * scale, act="")
    net.move(x, (3, x.h * scale, x.w * scale), "DepthToSpace")
    return [x]


def rrdb(net: Net, n: int = 64, growth: int = 32, depth: int = 23, scale: int = 4) -> list[Map]:
    """ESRGAN: residual dense blocks, then nearest resizes."""
    act = "LeakyRelu"
    x = first = net.conv(net.input, n, 3, act="")
    for _ in range(depth):
        outer = x
        for _ in range(3):
            parts = [x]
            for _ in range(4):
                parts.append(net.conv(net.cat(*parts) if len(parts) > 1 else x, growth, 3, act=act))
            x = net.add(x, net.conv(net.cat(*parts), n, 3, act=""))
        x = net.add(outer, x)
    x = net.add(first, net.conv(x, n, 3, act=""))
    while scale > 1:
        x, scale = net.conv(net.resize(x), n, 3, act=act), scale // 2
    net.conv(net.conv(x, n, 3, act=act), 3, 3, act="")
    return [x]
