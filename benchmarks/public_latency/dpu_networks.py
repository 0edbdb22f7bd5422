"""Networks of the Vitis AI model zoo, rebuilt from papers; their counts of operations agree with the published ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import onnx

from public_latency.builder import Map, Net, Size

Make = Callable[[], onnx.ModelProto]


def _classify(net: Net, x: Map, classes: int = 1000) -> onnx.ModelProto:
    return net.model(net.dense(net.mean(x), classes))


def resnet(depth: int, height: int, width: int, style: str = "torch", classes: int = 1000) -> onnx.ModelProto:
    """ResNet (He et al., arXiv 1512.03385): `style` says which unit and convolution of a stage strides.

    "torch": the 3x3 of the first unit; "keras": its first 1x1; "slim": the 3x3 of the last unit, in three stages.
    """
    counts = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
    net = Net(f"resnet{depth}", 3, height, width)
    x = net.pool(net.conv(net.input, 64, 7, 2), "Max", 3, 2)
    for stage, count in enumerate(counts):
        for unit in range(count):
            if style == "slim":
                stride = 2 if unit == count - 1 and stage < 3 else 1
            else:
                stride = 2 if unit == 0 and stage else 1
            make = _basic if depth < 50 else _bottleneck
            x = make(net, x, 64 << stage, stride, style == "keras")
    return _classify(net, x, classes)


def _basic(net: Net, x: Map, width: int, stride: int, early: bool) -> Map:
    del early
    y = net.conv(net.conv(x, width, 3, stride), width, 3, act="")
    return net.add(y, x if x.shape == y.shape else net.conv(x, width, 1, stride, act=""))


def _bottleneck(net: Net, x: Map, width: int, stride: int, early: bool) -> Map:
    first, second = (stride, 1) if early else (1, stride)
    y = net.conv(net.conv(net.conv(x, width, 1, first), width, 3, second), 4 * width, 1, act="")
    if x.shape == y.shape:
        return net.add(y, x)
    skip = net.pool(x, "Max", 1, stride) if x.channels == 4 * width else net.conv(x, 4 * width, 1, stride, act="")
    return net.add(y, skip)


def vgg(depth: int) -> onnx.ModelProto:
    """VGG (arXiv 1409.1556)."""
    net = Net(f"vgg{depth}", 3, 224)
    x = net.input
    for width, count in zip((64, 128, 256, 512, 512), (2, 2, *[(depth - 7) // 3] * 3), strict=True):
        for _ in range(count):
            x = net.conv(x, width)
        x = net.pool(x, "Max", 2, 2)
    return net.model(net.dense(net.dense(net.dense(x, 4096, "Relu"), 4096, "Relu"), 1000))


def _eight(width: float) -> int:
    """MobileNets' rounding of channels: to eights, and not below nine tenths."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


def mobilenet_v1(alpha: float, size: int) -> onnx.ModelProto:
    """MobileNetV1 (arXiv 1704.04861)."""
    net = Net("mobilenet_v1", 3, size)
    x = net.conv(net.input, _eight(32 * alpha), 3, 2)
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for width, stride in plan:
        x = net.separable(x, _eight(width * alpha), 3, stride)
    return _classify(net, x)


def mobilenet_v2(alpha: float, size: int, classes: int = 1000) -> onnx.ModelProto:
    """MobileNetV2 (arXiv 1801.04381)."""
    net = Net("mobilenet_v2", 3, size)
    x = net.conv(net.input, _eight(32 * alpha), 3, 2)
    plan = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, width, count, step in plan:
        for number in range(count):
            x = net.inverted(x, _eight(width * alpha), 3, step if number == 0 else 1, expand, "Relu")
    return _classify(net, net.conv(x, max(1280, _eight(1280 * alpha)), 1), classes)


#: EfficientNet-EdgeTPU by size: factors of width and depth (tensorflow/tpu, efficientnet/edgetpu).
_EDGE = {"S": (1.0, 1.0), "M": (1.0, 1.1), "L": (1.2, 1.4)}


def efficientnet_edge(size: str, resolution: int) -> onnx.ModelProto:
    """EfficientNet-EdgeTPU: first three stages with a full 3x3 in place of the 1x1 and the depthwise convolution."""
    width, depth = _EDGE[size]
    net = Net(f"efficientnet_edge_{size}", 3, resolution)
    x = net.conv(net.input, _eight(32 * width), 3, 2)
    plan = [(1, 24, 4, 1, 3, True), (2, 32, 8, 2, 3, True), (4, 48, 8, 2, 3, True),
            (5, 96, 8, 2, 5, False), (4, 144, 8, 1, 5, False), (2, 192, 8, 2, 5, False)]  # fmt: skip
    for count, channels, expand, step, kernel, fused in plan:
        for number in range(-(-int(count * depth * 10) // 10)):
            stride, out = step if number == 0 else 1, _eight(channels * width)
            if not fused:
                x = net.inverted(x, out, kernel, stride, expand, "Relu")
                continue
            y = net.conv(net.conv(x, x.channels * expand, kernel, stride), out, 1, act="")
            x = net.add(x, y, act="") if x.shape == y.shape else y
    return _classify(net, net.conv(x, _eight(1280 * width), 1))


def squeezenet_v11(size: int = 224, classes: int = 1000) -> onnx.ModelProto:
    """SqueezeNet 1.1 (arXiv 1602.07360 and its repository)."""
    net = Net("squeezenet", 3, size)
    x = net.pool(net.conv(net.input, 64, 3, 2, pad="valid"), "Max", 3, 2, "valid")
    for number, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        y = net.conv(x, squeeze, 1)
        x = net.concat(net.conv(y, 4 * squeeze, 1), net.conv(y, 4 * squeeze, 3))
        if number in (1, 3):
            x = net.pool(x, "Max", 3, 2, "valid")
    return net.model(net.mean(net.conv(x, classes, 1)))


def _tower(net: Net, x: Map, *layers: tuple[int, Size] | tuple[int, Size, int]) -> Map:
    """Convolutions in a row: channels, window, and stride without padding."""
    for layer in layers:
        stride = layer[2] if len(layer) > 2 else 1
        x = net.conv(x, layer[0], layer[1], stride, pad="valid" if stride > 1 else "same")
    return x


def _mixed(net: Net, x: Map, pooled: int, *towers: tuple[tuple[int, Size], ...]) -> Map:
    """An Inception block that keeps the extent; `pooled` channels follow an average."""
    parts = [_tower(net, x, *tower) for tower in towers]
    return net.concat(*parts, net.conv(net.pool(x, "Average", 3, 1), pooled, 1))


def _reduced(net: Net, x: Map, *towers: tuple[tuple[int, Size] | tuple[int, Size, int], ...]) -> Map:
    """An Inception block that halves the extent, beside a maximum."""
    return net.concat(*[_tower(net, x, *tower) for tower in towers], net.pool(x, "Max", 3, 2, "valid"))


def inception_v1() -> onnx.ModelProto:
    """GoogLeNet (arXiv 1409.4842), table 1; the 5x5 windows as published."""
    net = Net("inception_v1", 3, 224)
    x = net.pool(net.conv(net.input, 64, 7, 2), "Max", 3, 2)
    x = net.pool(net.conv(net.conv(x, 64, 1), 192, 3), "Max", 3, 2)
    blocks = ["64 96 128 16 32 32", "128 128 192 32 96 64", "", "192 96 208 16 48 64", "160 112 224 24 64 64",
              "128 128 256 24 64 64", "112 144 288 32 64 64", "256 160 320 32 128 128", "",
              "256 160 320 32 128 128", "384 192 384 48 128 128"]  # fmt: skip
    for block in blocks:
        if not block:
            x = net.pool(x, "Max", 3, 2)
            continue
        one, three, threes, five, fives, pool = map(int, block.split())
        x = _mixed(net, x, pool, ((one, 1),), ((three, 1), (threes, 3)), ((five, 1), (fives, 5)))
    return _classify(net, x)


def inception_v2() -> onnx.ModelProto:
    """Inception with batch normalization (arXiv 1502.03167), 3x3 windows in pairs."""
    net = Net("inception_v2", 3, 224)
    x = net.pool(net.conv(net.input, 64, 7, 2), "Max", 3, 2)
    x = net.pool(net.conv(net.conv(x, 64, 1), 192, 3), "Max", 3, 2)
    blocks = ["64 64 64 64 96 32", "64 64 96 64 96 64", "128 160 64 96", "224 64 96 96 128 128",
              "192 96 128 96 128 128", "160 128 160 128 160 96", "96 128 192 160 192 96", "128 192 192 256",
              "352 192 320 160 224 128", "352 192 320 192 224 128"]  # fmt: skip
    for block in blocks:
        c = [int(n) for n in block.split()]
        if len(c) == 4:
            parts = [
                net.conv(net.conv(x, c[0], 1), c[1], 3, 2),
                net.conv(_tower(net, x, (c[2], 1), (c[3], 3)), c[3], 3, 2),
            ]
            x = net.concat(*parts, net.pool(x, "Max", 3, 2))
            continue
        x = _mixed(net, x, c[5], ((c[0], 1),), ((c[1], 1), (c[2], 3)), ((c[3], 1), (c[4], 3), (c[4], 3)))
    return _classify(net, x)


def _stem(net: Net) -> Map:
    x = net.conv(net.input, 32, 3, 2, pad="valid")
    return net.conv(net.conv(x, 32, 3, pad="valid"), 64, 3)


def inception_v3() -> onnx.ModelProto:
    """Inception v3 (arXiv 1512.00567)."""
    net = Net("inception_v3", 3, 299)
    x = net.pool(_stem(net), "Max", 3, 2, "valid")
    x = net.pool(net.conv(net.conv(x, 80, 1), 192, 3, pad="valid"), "Max", 3, 2, "valid")
    for pooled in (32, 64, 64):
        x = _mixed(net, x, pooled, ((64, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3)))
    x = _reduced(net, x, ((384, 3, 2),), ((64, 1), (96, 3), (96, 3, 2)))
    for c in (128, 160, 160, 192):
        long = ((c, 1), (c, (7, 1)), (c, (1, 7)), (c, (7, 1)), (192, (1, 7)))
        x = _mixed(net, x, 192, ((192, 1),), ((c, 1), (c, (1, 7)), (192, (7, 1))), long)
    x = _reduced(net, x, ((192, 1), (320, 3, 2)), ((192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)))
    for _ in range(2):
        y, z = net.conv(x, 384, 1), _tower(net, x, (448, 1), (384, 3))
        split = [net.conv(part, 384, window) for part in (y, z) for window in ((1, 3), (3, 1))]
        x = net.concat(net.conv(x, 320, 1), *split, net.conv(net.pool(x, "Average", 3, 1), 192, 1))
    return _classify(net, x)


def _stem_v4(net: Net) -> Map:
    x = _stem(net)
    x = net.concat(net.pool(x, "Max", 3, 2, "valid"), net.conv(x, 96, 3, 2, pad="valid"))
    y = net.conv(net.conv(x, 64, 1), 96, 3, pad="valid")
    z = net.conv(_tower(net, x, (64, 1), (64, (7, 1)), (64, (1, 7))), 96, 3, pad="valid")
    x = net.concat(y, z)
    return net.concat(net.conv(x, 192, 3, 2, pad="valid"), net.pool(x, "Max", 3, 2, "valid"))


def inception_v4() -> onnx.ModelProto:
    """Inception v4 (arXiv 1602.07261)."""
    net = Net("inception_v4", 3, 299)
    x = _stem_v4(net)
    for _ in range(4):
        x = _mixed(net, x, 96, ((96, 1),), ((64, 1), (96, 3)), ((64, 1), (96, 3), (96, 3)))
    x = _reduced(net, x, ((384, 3, 2),), ((192, 1), (224, 3), (256, 3, 2)))
    for _ in range(7):
        long = ((192, 1), (192, (1, 7)), (224, (7, 1)), (224, (1, 7)), (256, (7, 1)))
        x = _mixed(net, x, 128, ((384, 1),), ((192, 1), (224, (1, 7)), (256, (7, 1))), long)
    x = _reduced(net, x, ((192, 1), (192, 3, 2)), ((256, 1), (256, (1, 7)), (320, (7, 1)), (320, 3, 2)))
    for _ in range(3):
        y, z = net.conv(x, 384, 1), _tower(net, x, (384, 1), (448, (1, 3)), (512, (3, 1)))
        split = [net.conv(part, 256, window) for part in (y, z) for window in ((1, 3), (3, 1))]
        x = net.concat(net.conv(x, 256, 1), *split, net.conv(net.pool(x, "Average", 3, 1), 256, 1))
    return _classify(net, x)


def inception_resnet_v2() -> onnx.ModelProto:
    """Inception-ResNet v2 (arXiv 1602.07261, widths of TensorFlow-slim)."""
    net = Net("inception_resnet_v2", 3, 299)
    x = net.pool(_stem(net), "Max", 3, 2, "valid")
    x = net.pool(net.conv(net.conv(x, 80, 1), 192, 3, pad="valid"), "Max", 3, 2, "valid")
    x = _mixed(net, x, 64, ((96, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3)))
    for _ in range(10):
        parts = [_tower(net, x, (32, 1)), _tower(net, x, (32, 1), (32, 3)), _tower(net, x, (32, 1), (48, 3), (64, 3))]
        x = net.add(x, net.conv(net.concat(*parts), 320, 1, act=""))
    x = _reduced(net, x, ((384, 3, 2),), ((256, 1), (256, 3), (384, 3, 2)))
    for _ in range(20):
        parts = [_tower(net, x, (192, 1)), _tower(net, x, (128, 1), (160, (1, 7)), (192, (7, 1)))]
        x = net.add(x, net.conv(net.concat(*parts), 1088, 1, act=""))
    x = _reduced(net, x, ((256, 1), (384, 3, 2)), ((256, 1), (288, 3, 2)), ((256, 1), (288, 3), (320, 3, 2)))
    for _ in range(10):
        parts = [_tower(net, x, (192, 1)), _tower(net, x, (192, 1), (224, (1, 3)), (256, (3, 1)))]
        x = net.add(x, net.conv(net.concat(*parts), 2080, 1, act=""))
    return _classify(net, net.conv(x, 1536, 1))


def darknet_yolo_v3(size: int, outputs: int) -> onnx.ModelProto:
    """YOLOv3 (arXiv 1804.02767) with Darknet-53; `outputs` channels of each of the three heads."""
    net = Net("yolo_v3", 3, size)
    x = net.conv(net.input, 32)
    kept = []
    for width, count in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        x = net.conv(x, width, 3, 2)
        for _ in range(count):
            x = net.add(x, net.conv(net.conv(x, width // 2, 1), width), act="")
        kept.append(x)
    heads = []
    for width, below in ((512, kept[3]), (256, kept[2]), (128, None)):
        for _ in range(2):
            x = net.conv(net.conv(x, width, 1), 2 * width)
        x = net.conv(x, width, 1)
        heads.append(net.conv(net.conv(x, 2 * width), outputs, 1, act=""))
        if below is not None:
            x = net.concat(net.upsample(net.conv(x, width // 2, 1)), below)
    return net.model(*heads)


def ssd_mobilenet(version: int, light: bool = False) -> onnx.ModelProto:
    """SSD (arXiv 1512.02325) of 300x300 and 91 classes on a MobileNet, as TensorFlow's object detection zoo has it."""
    net = Net(f"ssd_mobilenet_v{version}", 3, 300)
    x = net.conv(net.input, 32, 3, 2)
    if version == 1:
        for width, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5):
            x = net.separable(x, width, 3, stride)
        maps = [x]
        x = net.separable(net.separable(x, 1024, 3, 2), 1024)
    else:
        for expand, width, count, step in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)):
            for number in range(count):
                x = net.inverted(x, width, 3, step if number == 0 else 1, expand, "Relu")
        wide = net.conv(x, 576, 1)
        maps = [wide]
        x = net.conv(net.depthwise(wide, 3, 2), 160, 1, act="")
        for width in (160, 160, 320):
            x = net.inverted(x, width, 3, 1, 6, "Relu")
        x = net.conv(x, 1280, 1)
    maps.append(x)
    for narrow, width in ((256, 512), (128, 256), (128, 256), (64, 128)):
        y = net.conv(x, narrow, 1)
        x = net.conv(net.depthwise(y, 3, 2), width, 1) if light else net.conv(y, width, 3, 2)
        maps.append(x)
    heads = []
    for number, part in enumerate(maps):
        anchors, window = 3 if number == 0 else 6, 1 if version == 1 else 3
        for channels in (anchors * 4, anchors * 91):
            y = net.depthwise(part) if light else part
            heads.append(net.conv(y, channels, 1 if light else window, act=""))
    return net.model(*heads)


def refinedet(classes: int) -> onnx.ModelProto:
    """RefineDet of 320x320 (arXiv 1711.06897) on VGG-16: anchors are refined, then maps are joined from above."""
    net = Net("refinedet", 3, 320)
    x = net.input
    maps = []
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            x = net.conv(x, width)
        maps.append(x)
        x = net.pool(x, "Max", 2, 2)
    x = net.conv(net.conv(x, 1024), 1024, 1)
    maps = [*maps[3:], x, net.conv(net.conv(x, 256, 1), 512, 3, 2)]
    heads = [net.conv(part, channels, act="") for part in maps for channels in (12, 6)]
    above = None
    for part in reversed(maps):
        y = net.conv(net.conv(part, 256), 256, act="")
        if above is not None:
            y = net.add(y, net.conv(net.upsample(above), 256, 2, act=""))
        above = net.conv(y, 256)
        heads += [net.conv(above, channels, act="") for channels in (12, 3 * classes)]
    return net.model(*heads)


Name = tuple[str, int, int]


def _factor(name: str) -> float:
    """The factor of width in a MobileNet's name."""
    found = re.search(r"v\d.*?(\d\.\d+)", name)
    return float(found[1]) if found else 1.0


def _depth(name: str) -> int:
    """The number of layers in a ResNet's or VGG's name."""
    return int(re.findall(r"(?:resnet|vgg)_?(?:v[12][-_])?(\d+)", name)[0])


#: Networks by what the published name matches, in lower case, with the height and width of the input.
_NAMES: tuple[tuple[str, Callable[..., onnx.ModelProto], Callable[[Name], tuple[object, ...]]], ...] = (
    (r"ssdlite_?mobilenet_?v2", ssd_mobilenet, lambda n: (2, True)),
    (r"ssd_?mobilenet_?v1", ssd_mobilenet, lambda n: (1,)),
    (r"ssd_?mobilenet_?v2", ssd_mobilenet, lambda n: (2,)),
    (r"cityscapes|coco_(640|1200)|_fpn|semantic", vgg, lambda n: ()),  # not classifiers: unknown
    (r"mobilenet_?v1", mobilenet_v1, lambda n: (_factor(n[0]), n[1])),
    (r"mobilenet_?v2", mobilenet_v2, lambda n: (_factor(n[0]), n[1])),
    (r"efficientnet-edgetpu-[sml]", efficientnet_edge, lambda n: (n[0][n[0].index("edgetpu-") + 8].upper(), n[1])),
    (r"inception_?resnet_?v2", inception_resnet_v2, lambda n: ()),
    (r"inception_?v1", inception_v1, lambda n: ()),
    (r"inception_?v2", inception_v2, lambda n: ()),
    (r"inception_?v3", inception_v3, lambda n: ()),
    (r"inception_?v4", inception_v4, lambda n: ()),
    (r"squeezenet", squeezenet_v11, lambda n: ()),
    (r"personreid-res18", resnet, lambda n: (18, n[1], n[2], "torch", 751)),
    (r"personreid-res50", resnet, lambda n: (50, n[1], n[2], "torch", 751)),
    (r"vehicle-(type|color|make)", resnet, lambda n: (18, n[1], n[2], "torch", 10)),
    (r"^tf_resnet_?v[12][-_](50|101|152)", resnet, lambda n: (_depth(n[0]), n[1], n[2], "slim")),
    (r"^tf2_resnet50", resnet, lambda n: (50, n[1], n[2], "keras")),
    (r"^(tf_mlperf_|pt_|cf_)resnet_?(18|50|101|152)", resnet, lambda n: (_depth(n[0]), n[1], n[2])),
    (r"vgg_?(16|19)", vgg, lambda n: (_depth(n[0]),)),
    (r"yolov3", darknet_yolo_v3, lambda n: (n[1], 75 if "voc" in n[0] else 255)),
    (r"refinedet", refinedet, lambda n: (21 if "voc" in n[0] else 2,)),
)


def vitis_network(name: str, shape: str) -> tuple[str, Make] | None:
    """A key and the network of a published name such as tf_resnetv1_50_imagenet_224_224_6.97G; None where unknown."""
    extents = [int(n) for n in re.findall(r"\d+", shape)[:2]]
    name = name.lower()
    if len(extents) < 2 or re.search(r"ofa|bdd", name):
        return None
    for pattern, make, arguments in _NAMES:
        if re.search(pattern, name):
            given = arguments((name, extents[0], extents[1]))
            return (f"{make.__name__} {given}", partial(make, *given)) if given or make is not vgg else None
    return None
