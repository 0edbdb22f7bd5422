"""Public convolutional architectures for classification, written down for `Net`.

Every function takes a Net and returns maps; widths, depths and strides are those of the papers and reference code.
"""

from __future__ import annotations

from collections.abc import Sequence

from public_latency.net import Map, Net


def eighths(channels: float) -> int:
    """Channels rounded to a multiple of 8, never by more than 10 % down, as the MobileNets do."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def classifier(net: Net, x: Map, classes: int = 1000) -> Map:
    """The mean of each channel and a fully connected layer."""
    return net.dense(net.mean(x), classes)


def mobilenet_v1(net: Net, width: float = 1.0, classes: int = 1000) -> list[Map]:
    """Depthwise separable convolutions; maps at strides 8, 16 and 32."""
    x = net.conv(net.input, eighths(32 * width), 3, 2)
    outs = []
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for n, stride in plan:
        if stride == 2:
            outs.append(x)
        x = net.conv(net.dw(x, 3, stride), eighths(n * width))
    outs.append(x)
    if classes:
        classifier(net, x, classes)
    return outs[-3:]


#: expansion, channels, repeats, stride, window, share of channels squeezed (0: none), activation
Stage = tuple[float, int, int, int, int, float, str]

MOBILENET_V2: Sequence[Stage] = [
    (1, 16, 1, 1, 3, 0, "Relu"), (6, 24, 2, 2, 3, 0, "Relu"), (6, 32, 3, 2, 3, 0, "Relu"), (6, 64, 4, 2, 3, 0, "Relu"),
    (6, 96, 3, 1, 3, 0, "Relu"), (6, 160, 3, 2, 3, 0, "Relu"), (6, 320, 1, 1, 3, 0, "Relu"),
]  # fmt: skip
MNASNET: Sequence[Stage] = [
    (1, 16, 1, 1, 3, 0, "Relu"), (3, 24, 3, 2, 3, 0, "Relu"), (3, 40, 3, 2, 5, 0, "Relu"), (6, 80, 3, 2, 5, 0, "Relu"),
    (6, 96, 2, 1, 3, 0, "Relu"), (6, 192, 4, 2, 5, 0, "Relu"), (6, 320, 1, 1, 3, 0, "Relu"),
]  # fmt: skip
MOBILENET_V3_LARGE: Sequence[Stage] = [
    (1, 16, 1, 1, 3, 0, "Relu"), (4, 24, 1, 2, 3, 0, "Relu"), (3, 24, 1, 1, 3, 0, "Relu"),
    (3, 40, 3, 2, 5, 0.25, "Relu"),
    (6, 80, 1, 2, 3, 0, "HardSwish"), (2.4, 80, 3, 1, 3, 0, "HardSwish"), (6, 112, 2, 1, 3, 0.25, "HardSwish"),
    (6, 160, 3, 2, 5, 0.25, "HardSwish"),
]  # fmt: skip
MOBILENET_V3_SMALL: Sequence[Stage] = [
    (1, 16, 1, 2, 3, 0.25, "Relu"), (4.5, 24, 1, 2, 3, 0, "Relu"), (3.67, 24, 1, 1, 3, 0, "Relu"),
    (4, 40, 1, 2, 5, 0.25, "HardSwish"), (6, 40, 2, 1, 5, 0.25, "HardSwish"), (3, 48, 2, 1, 5, 0.25, "HardSwish"),
    (6, 96, 3, 2, 5, 0.25, "HardSwish"),
]  # fmt: skip
EFFICIENTNET: Sequence[Stage] = [
    (1, 16, 1, 1, 3, 0.25, "Silu"), (6, 24, 2, 2, 3, 1 / 24, "Silu"), (6, 40, 2, 2, 5, 1 / 24, "Silu"),
    (6, 80, 3, 2, 3, 1 / 24, "Silu"), (6, 112, 3, 1, 5, 1 / 24, "Silu"), (6, 192, 4, 2, 5, 1 / 24, "Silu"),
    (6, 320, 1, 1, 3, 1 / 24, "Silu"),
]  # fmt: skip
EFFICIENTNET_LITE: Sequence[Stage] = [(*stage[:5], 0, "Relu") for stage in EFFICIENTNET]
#: negative expansions are fused: one convolution widens, without a depthwise one
EFFICIENTNET_EDGE: Sequence[Stage] = [
    (-4, 24, 1, 1, 3, 0, "Relu"), (-8, 32, 2, 2, 3, 0, "Relu"), (-8, 48, 4, 2, 3, 0, "Relu"),
    (8, 96, 5, 2, 5, 0, "Relu"),
    (8, 144, 4, 1, 5, 0, "Relu"), (8, 192, 2, 2, 5, 0, "Relu"),
]  # fmt: skip
EFFICIENTNET_V2_S: Sequence[Stage] = [
    (-1, 24, 2, 1, 3, 0, "Silu"), (-4, 48, 4, 2, 3, 0, "Silu"), (-4, 64, 4, 2, 3, 0, "Silu"),
    (4, 128, 6, 2, 3, 1 / 16, "Silu"), (6, 160, 9, 1, 3, 1 / 24, "Silu"), (6, 256, 15, 2, 3, 1 / 24, "Silu"),
]  # fmt: skip


def _residual(net: Net, x: Map, n: int, stride: int, stage: Stage) -> Map:
    expansion, _, _, _, size, squeezed, act = stage
    wide = eighths(x.c * abs(expansion))
    if expansion < 0:
        y = net.conv(x, n if expansion == -1 else wide, size, stride, act=act)
        y = y if expansion == -1 else net.conv(y, n, act="")
    else:
        y = x if expansion == 1 else net.conv(x, wide, act=act)
        y = net.dw(y, size, stride, act=act)
        if squeezed:
            y = net.se(y, eighths(wide * squeezed), act=act)
        y = net.conv(y, n, act="")
    return net.add(x, y) if stride == 1 and x.c == n else y


def inverted(
    net: Net, stages: Sequence[Stage], width: float = 1.0, depth: float = 1.0, stem: int = 32, head: int = 1280,
    classes: int = 1000, hidden: int = 0,
) -> list[Map]:  # fmt: skip
    """Stages of inverted residuals; maps before each stride and the last one."""
    act = stages[-1][6]
    x = net.conv(net.input, eighths(stem * width), 3, 2, act=act)
    outs = []
    for stage in stages:
        _, channels, repeats, stride, *_ = stage
        repeats = -int(-repeats * depth // 1)
        for number in range(repeats):
            if number == 0 and stride == 2:
                outs.append(x)
            x = _residual(net, x, eighths(channels * width), stride if number == 0 else 1, stage)
    outs.append(x)
    if classes:
        x = net.mean(net.conv(x, head, act=act))
        net.dense(net.dense(x, hidden, act) if hidden else x, classes)
    return outs


def efficientnet(net: Net, stages: Sequence[Stage], width: float, depth: float, classes: int = 1000) -> list[Map]:
    """An EfficientNet; the lite and edge forms keep stem and head at their width."""
    fixed = stages in (EFFICIENTNET_LITE,)
    stem = 32 / width if fixed else 32
    head = 1280 if fixed else eighths(1280 * max(1.0, width))
    return inverted(net, stages, width, depth, round(stem), head, classes)


def resnet(
    net: Net, depths: Sequence[int], bottleneck: bool = True, base: int = 64, groups: int = 1, classes: int = 1000,
    squeeze: int = 0, stride: int = 32, first: bool = True, widths: Sequence[int] = (64, 128, 256, 512),
) -> list[Map]:  # fmt: skip
    """ResNet, ResNeXt and wide ResNet; `base` is the width of a group times groups at the first stage, `stride` that of
    the last map (less: the last stages are dilated). `first`: a stem of 7x7 and a pool."""
    x = net.pool(net.conv(net.input, 64, 7, 2), 3) if first else net.conv(net.input, 64, 3, 2)
    outs, total = [], 4 if first else 2
    for number, depth in enumerate(depths):
        inner = base * 2**number if bottleneck else widths[number]
        out = widths[number] * (4 if bottleneck else 1)
        for block in range(depth):
            step = 2 if block == 0 and number and total < stride else 1
            total *= step
            shortcut = x
            if bottleneck:
                y = net.conv(net.conv(x, inner), inner, 3, step, groups)
                y = net.conv(y, out, act="")
            else:
                y = net.conv(net.conv(x, inner, 3, step), inner, 3, act="")
            y = net.se(y, out // squeeze) if squeeze else y
            if x.c != y.c or step > 1:
                shortcut = net.conv(x, y.c, 1, step, act="")
            x = net.add(shortcut, y)
        outs.append(x)
    if classes:
        classifier(net, x, classes)
    return outs


DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

#: depths, widths, channels of a group, squeeze and excitation
REGNETS = {
    "x_400mf": ((1, 2, 7, 12), (32, 64, 160, 400), 16, False),
    "x_800mf": ((1, 3, 7, 5), (64, 128, 288, 672), 16, False),
    "x_1.6gf": ((2, 4, 10, 2), (72, 168, 408, 912), 24, False),
    "x_3.2gf": ((2, 6, 15, 2), (96, 192, 432, 1008), 48, False),
    "y_400mf": ((1, 3, 6, 6), (48, 104, 208, 440), 8, True),
    "y_800mf": ((1, 3, 8, 2), (64, 144, 320, 784), 16, True),
    "y_1.6gf": ((2, 6, 17, 2), (48, 120, 336, 888), 24, True),
}


def regnet(net: Net, name: str, classes: int = 1000) -> list[Map]:
    """A RegNet of the table."""
    depths, widths, each, squeeze = REGNETS[name]
    x = net.conv(net.input, 32, 3, 2)
    outs = []
    for depth, n in zip(depths, widths, strict=True):
        for block in range(depth):
            step = 2 if block == 0 else 1
            y = net.conv(net.conv(x, n), n, 3, step, groups=n // each)
            y = net.se(y, x.c // 4) if squeeze else y
            y = net.conv(y, n, act="")
            x = net.add(net.conv(x, n, 1, step, act="") if step == 2 else x, y)
        outs.append(x)
    if classes:
        classifier(net, x, classes)
    return outs


def vgg(net: Net, depths: Sequence[int], classes: int = 1000) -> list[Map]:
    """A VGG with its three fully connected layers."""
    x, outs = net.input, []
    for depth, n in zip(depths, (64, 128, 256, 512, 512), strict=True):
        for _ in range(depth):
            x = net.conv(x, n, 3)
        outs.append(x)
        x = net.pool(x)
    if classes:
        net.dense(net.dense(net.dense(net.flat(x), 4096, "Relu"), 4096, "Relu"), classes)
    return outs


def densenet(net: Net, depths: Sequence[int], growth: int = 32, classes: int = 1000) -> list[Map]:
    """Densely connected blocks; every layer reads all before it."""
    x = net.pool(net.conv(net.input, 2 * growth, 7, 2), 3)
    for number, depth in enumerate(depths):
        for _ in range(depth):
            y = net.add(x, op="BatchNormalization+Relu")
            x = net.cat(x, net.conv(net.conv(y, 4 * growth), growth, 3, act=""))
        if number + 1 < len(depths):
            x = net.pool(net.conv(net.add(x, op="BatchNormalization+Relu"), x.c // 2, act=""), op="AveragePool")
    classifier(net, x, classes)
    return [x]


def squeezenet(net: Net, old: bool = False, classes: int = 1000) -> list[Map]:
    """SqueezeNet 1.1, or 1.0."""
    x = net.conv(net.input, 96 if old else 64, 7 if old else 3, 2, valid=True)
    pools = (0, 3, 7) if old else (0, 2, 4)
    for number, squeezed in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        if number in pools:
            x = net.pool(x, 3)
        y = net.conv(x, squeezed)
        x = net.cat(net.conv(y, 4 * squeezed), net.conv(y, 4 * squeezed, 3))
    net.mean(net.conv(x, classes))
    return [x]


def shufflenet_v2(net: Net, widths: Sequence[int] = (116, 232, 464, 1024), classes: int = 1000) -> list[Map]:
    """Two branches that exchange channels by a shuffle."""
    x = net.pool(net.conv(net.input, 24, 3, 2), 3)
    for n, depth in zip(widths, (4, 8, 4), strict=False):
        for block in range(depth):
            if block == 0:
                left = net.conv(net.dw(x, 3, 2, act=""), n // 2)
                right = net.conv(net.dw(net.conv(x, n // 2), 3, 2, act=""), n // 2)
            else:
                left = net.view(x, (n // 2, x.h, x.w))
                half = net.move(x, (n // 2, x.h, x.w), "Slice")
                right = net.conv(net.dw(net.conv(half, n // 2), act=""), n // 2)
            x = net.move(net.cat(left, right), (n, right.h, right.w))
    classifier(net, net.conv(x, widths[3]), classes)
    return [x]


def googlenet(net: Net, classes: int = 1000) -> list[Map]:
    """Inception v1."""
    x = net.pool(net.conv(net.input, 64, 7, 2), 3)
    x = net.pool(net.conv(net.conv(x, 64), 192, 3), 3)
    plan = [
        (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), (), (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128), (), (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
    ]  # fmt: skip
    for row in plan:
        if not row:
            x = net.pool(x, 3)
            continue
        one, r3, n3, r5, n5, p = row
        x = net.cat(
            net.conv(x, one), net.conv(net.conv(x, r3), n3, 3), net.conv(net.conv(x, r5), n5, 3),
            net.conv(net.pool(x, 3, 1), p),
        )  # fmt: skip
    classifier(net, x, classes)
    return [x]
