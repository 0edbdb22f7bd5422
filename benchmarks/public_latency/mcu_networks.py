"""Networks of the microcontroller tables, rebuilt from the public descriptions of their architectures.

MLPerf Tiny: mlcommons/tiny, the training scripts of its four benchmarks. ST's model zoo: STMicroelectronics/
stm32ai-modelzoo, one file per model. MCUNet: mit-han-lab/tinyml, mcunet/assets/configs.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import onnx

from public_latency.builder import Map, Net
from public_latency.dpu_networks import mobilenet_v2, squeezenet_v11


def mobilenet_v1(alpha: float, size: int, classes: int, channels: int = 3) -> onnx.ModelProto:
    """MobileNetV1: Howard et al., arXiv 1704.04861, table 1."""
    net = Net("mobilenet_v1", channels, size)
    x = net.conv(net.input, int(32 * alpha), 3, 2)
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for width, stride in plan:
        x = net.separable(x, int(width * alpha), 3, stride)
    return net.model(net.act(net.dense(net.mean(x), classes), "Softmax"))


#: Widths of FD-MobileNet (arXiv 1802.03750) and what each is multiplied by: one factor, or ST's own twelve.
_FD_WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 1024)
_FD_STRIDES = (2, 2, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1)
_FD_ST = (0.5, 0.75, 0.625, 0.5, 0.375, *[0.25] * 7)


def fd_mobilenet(size: int, classes: int, alphas: tuple[float, ...] = (0.25,) * 12) -> onnx.ModelProto:
    """FD-MobileNet: half the layers of MobileNetV1, downsampled early."""
    net = Net("fd_mobilenet", 3, size)
    first, *widths = [int(w * a) for w, a in zip(_FD_WIDTHS, alphas, strict=True)]
    x = net.conv(net.input, first, 3, 2)
    for width, stride in zip(widths, _FD_STRIDES[1:], strict=True):
        x = net.separable(x, width, 3, stride)
    return net.model(net.act(net.dense(net.mean(x), classes), "Softmax"))


def resnet_v1(depth: int, classes: int = 10) -> onnx.ModelProto:
    """Residual network for 32x32 images, 6n + 2 layers of 16, 32 and 64 channels; a stage's first block projects."""
    net = Net(f"resnet_v1_{depth}", 3, 32)
    x = net.conv(net.input, 16)
    for width, step in ((16, 1), (32, 2), (64, 2)):
        for number in range((depth - 2) // 6):
            stride = step if number == 0 else 1
            y = net.conv(net.conv(x, width, 3, stride), width, 3, act="")
            skip = x if (x.channels, stride) == (width, 1) else net.conv(x, width, 1, stride, act="")
            x = net.add(skip, y)
    return net.model(net.act(net.dense(net.mean(x), classes), "Softmax"))


def ds_cnn() -> onnx.ModelProto:
    """Keyword spotting of MLPerf Tiny: 49x10 features, 12 words."""
    net = Net("ds_cnn", 1, 49, 10)
    x = net.conv(net.input, 64, (10, 4), 2)
    for _ in range(4):
        x = net.separable(x, 64)
    return net.model(net.act(net.dense(net.mean(x), 12), "Softmax"))


def autoencoder() -> onnx.ModelProto:
    """Anomaly detection of MLPerf Tiny: ten dense layers from 640 features to 8 and back."""
    net = Net("autoencoder", 640, 1)
    x = net.input
    for width in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = net.dense(x, width, "Relu")
    return net.model(net.dense(x, 640))


def squeezenet_v10_st(size: int, classes: int) -> onnx.ModelProto:
    """SqueezeNet 1.0 as ST's model zoo has it: without fire module 8."""
    net = Net("squeezenet_v10", 3, size)
    x = net.pool(net.conv(net.input, 96, 7, 2, pad="valid"), "Max", 3, 2, "valid")
    for number, (squeeze, expand) in enumerate([(16, 64)] * 2 + [(32, 128)] * 2 + [(48, 192)] * 2 + [(64, 256)]):
        y = net.conv(x, squeeze, 1)
        x = net.concat(net.conv(y, expand, 1), net.conv(y, expand, 3))
        if number in (2, 5):
            x = net.pool(x, "Max", 3, 2, "valid")
    return net.model(net.act(net.mean(net.conv(x, classes, 1)), "Softmax"))


def efficientnet_lc(size: int, classes: int) -> onnx.ModelProto:
    """ST's EfficientNet of 0.45 times the width, factor 3 of expansion and ReLU6 in place of Swish."""
    net = Net("efficientnet_lc", 3, size)
    x = net.conv(net.input, 16, 3, 2, "Clip")
    stages = [(8, 1, 3, 1), (16, 2, 3, 2), (24, 2, 5, 2), (40, 3, 3, 2), (48, 3, 5, 1), (88, 4, 5, 2), (144, 1, 3, 1)]
    for stage, (width, repeats, kernel, step) in enumerate(stages):
        for number in range(repeats):
            x = _squeezed(net, x, width, kernel, step if number == 0 else 1, 3 if stage else 1)
    x = net.mean(net.conv(x, 576, 1, act="Clip"))
    return net.model(net.act(net.dense(x, classes), "Softmax"))


def _squeezed(net: Net, x: Map, width: int, kernel: int, stride: int, expand: int) -> Map:
    """MobileNetV2's block with squeeze and excitation behind the depthwise convolution."""
    y = net.conv(x, x.channels * expand, 1, act="Clip") if expand > 1 else x
    y = net.depthwise(y, kernel, stride, "Clip")
    gate = net.conv(net.mean(y), max(1, x.channels // 4), 1, act="Clip")
    y = net.conv(net.scale(y, net.conv(gate, y.channels, 1, act="Sigmoid")), width, 1, act="")
    return net.add(x, y, act="") if x.shape == y.shape else y


def st_mnist(classes: int = 36) -> onnx.ModelProto:
    """ST's character recogniser of 28x28 grey images."""
    net = Net("st_mnist", 1, 28)
    x = net.depthwise(net.conv(net.input, 16, 3, 2))
    x = net.conv(net.depthwise(net.conv(x, 32), 3, 2), 64, 1)
    return net.model(net.act(net.dense(net.mean(x), classes), "Softmax"))


def mini_resnet(stacks: int, classes: int = 10) -> onnx.ModelProto:
    """ST's audio event detector: the stem of ResNet, then stacks of two blocks of a 1x1 and a 3x3 convolution.

    Both blocks project, the second strides, and the classifier reads all positions: so the published parameters agree.
    """
    net = Net("mini_resnet", 1, 64, 50)
    x = net.pool(net.conv(net.input, 64, 7, 2, pad=3), "Max", 3, 2, 1)
    for stack in range(stacks):
        for number in range(2):
            width, stride = 64 << stack, 2 if number else 1
            skip = net.conv(x, width, 1, stride, act="")
            x = net.add(skip, net.conv(net.conv(x, width, 1, stride), width))
    return net.model(net.act(net.dense(x, classes), "Softmax"))


def mini_resnet_v2(stacks: int, classes: int = 10) -> onnx.ModelProto:
    """The same with activations before the convolutions; the first block of a stack projects, the second strides."""
    net = Net("mini_resnet_v2", 1, 64, 50)
    x = net.pool(net.conv(net.input, 64, 7, 2, pad=3, act=""), "Max", 3, 2, 1)
    for stack in range(stacks):
        width = 64 << stack
        for number in range(2):
            before = net.act(x, "Relu")
            stride = 2 if number else 1
            skip = net.pool(x, "Max", 1, 2, "valid") if number else net.conv(before, width, 1, act="")
            x = net.add(skip, net.conv(net.conv(before, width, 1), width, 3, stride, act=""), act="")
    return net.model(net.act(net.dense(net.act(x, "Relu"), classes), "Softmax"))


def yamnet_256(classes: int = 10) -> onnx.ModelProto:
    """YAMNet (a MobileNetV1 of 64x96 features) up to its first 256 channels wide stage."""
    net = Net("yamnet_256", 1, 64, 96)
    x = net.conv(net.input, 32, 3, 2)
    for width, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        x = net.separable(x, width, 3, stride)
    return net.model(net.act(net.dense(net.mean(x), classes), "Softmax"))


def hand_posture() -> onnx.ModelProto:
    """ST's hand posture recogniser of 8x8 distances and signals; its 2,752 parameters agree with the published ones."""
    net = Net("hand_posture", 2, 8)
    x = net.pool(net.conv(net.input, 8, 3, pad="valid"), "Max", 2, 2, "valid")
    return net.model(net.act(net.dense(net.dense(x, 32, "Relu"), 8), "Softmax"))


def ignatov(window: int) -> onnx.ModelProto:
    """Human activity recogniser of `window` accelerations; parameters agree with the published 3,064 and 9,976."""
    net = Net("ignatov", 1, window, 3)
    x = net.pool(net.conv(net.input, 24, (16, 1), pad="valid"), "Max", (3, 1), (3, 1), "valid")
    return net.model(net.act(net.dense(net.dense(x, 12, "Relu"), 4), "Softmax"))


#: MCUNet: image size, channels of the first convolution, then channels, window, stride and expansion of each block.
MCUNET = {
    "in0": (48, 24, "16,3,1,1 16,5,2,4 16,3,1,3 16,3,1,4 24,7,2,5 24,5,1,4 24,5,1,5 48,7,2,5 48,5,1,4 56,3,1,5 "
            "56,5,1,4 56,3,1,5 112,3,2,6 112,5,1,4 192,3,1,6"),
    "in1": (96, 16, "8,3,1,1 16,3,2,4 16,3,1,3 24,7,2,3 24,3,1,5 40,3,2,5 40,7,1,4 48,5,1,4 48,3,1,3 48,3,1,4 "
            "96,7,2,5 96,5,1,4 96,5,1,4 160,3,1,6"),
    "in2": (160, 16, "8,3,1,1 16,5,2,3 16,7,1,6 16,3,1,5 16,5,1,5 24,3,2,5 24,7,1,6 24,5,1,6 40,7,2,4 40,5,1,5 "
            "48,3,1,5 48,5,1,5 48,3,1,4 96,5,2,6 96,5,1,4 96,5,1,3 96,3,1,4 160,5,1,5"),
    "in3": (176, 16, "8,3,1,1 16,7,2,3 16,3,1,5 16,7,1,5 16,5,1,4 24,5,2,5 24,5,1,5 24,5,1,5 40,3,2,5 40,7,1,6 "
            "40,5,1,4 48,5,1,5 48,7,1,5 48,3,1,5 96,3,2,6 96,7,1,5 96,3,1,4 160,7,1,5"),
    "in4": (160, 32, "16,3,1,1 24,7,2,3 24,3,1,5 24,5,1,4 40,7,2,5 40,3,1,4 40,7,1,4 80,7,2,3 80,3,1,3 80,7,1,3 "
            "96,3,1,4 96,5,1,3 96,5,1,3 192,7,2,4 192,7,1,3 192,5,1,3 320,5,1,4"),
}  # fmt: skip


def mcunet(which: str) -> onnx.ModelProto:
    """MCUNet for ImageNet: Lin et al., arXiv 2007.10319."""
    size, first, blocks = MCUNET[which]
    net = Net(f"mcunet_{which}", 3, size)
    x = net.conv(net.input, first, 3, 2, "Clip")
    for block in blocks.split():
        width, kernel, stride, expand = map(int, block.split(","))
        x = net.inverted(x, width, kernel, stride, expand)
    return net.model(net.dense(net.mean(x), 1000))


#: Networks of MLPerf Tiny by benchmark.
TINY: dict[str, Callable[[], onnx.ModelProto]] = {
    "ad": autoencoder,
    "ic": lambda: resnet_v1(8),
    "kws": ds_cnn,
    "vww": lambda: mobilenet_v1(0.25, 96, 2),
}


def st_network(family: str, model: str, resolution: str) -> Callable[[], onnx.ModelProto] | None:
    """The network of a row of ST's tables, by family, name and resolution; None where it is not known."""
    extents = [int(n) for n in re.findall(r"\d+", resolution)]
    size, channels = (extents[0], extents[-1]) if extents else (0, 3)
    found = re.search(r"\((\d+) classes\)", model)
    classes = int(found[1]) if found else 5
    alpha = re.search(r"0\.\d+|1\.0", model)
    number = re.search(r"(?:wl |v1 |^)(\d+)|(\d)\s*stack", model.strip())
    count = int(next(filter(None, number.groups()))) if number else 0
    name = family.lower()
    table: dict[str, Callable[[], onnx.ModelProto]] = {
        "efficientnet": lambda: efficientnet_lc(size, classes),
        "squeezenetv1.0": lambda: squeezenet_v10_st(size, classes),
        "squeezenetv1.1": lambda: squeezenet_v11(size, classes),
        "stmnist": st_mnist,
        "st_mnist": st_mnist,
        "yamnet": yamnet_256,
        "cnn2d_st_handposture": hand_posture,
    }
    if name == "mobilenetv1" and alpha is not None:
        return lambda: mobilenet_v1(float(alpha[0]), size, classes, channels)
    if name == "mobilenetv2" and alpha is not None:
        return lambda: mobilenet_v2(float(alpha[0]), size, classes)
    if name == "fdmobilenet":
        return lambda: fd_mobilenet(size, classes, _FD_ST if model.startswith("ST") else (0.25,) * 12)
    if name == "resnetv1" and "Hybrid" not in model and count:
        return lambda: resnet_v1(count, 100 if count > 8 else 10)
    if name in ("miniresnet", "miniresnetv2"):
        stacks = re.search(r"(\d)\s*stack", model)
        make = mini_resnet if name == "miniresnet" else mini_resnet_v2
        return None if stacks is None else lambda: make(int(stacks[1]))
    if name == "ign" and count:
        return lambda: ignatov(count)
    return table.get(name)
