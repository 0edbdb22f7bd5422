"""Small ONNX graphs from public descriptions of architectures, batch normalization already folded into convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Map:
    """A feature map of one image: name, channels, height and width."""

    name: str
    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """NCHW."""
        return (1, self.channels, self.height, self.width)


Size = int | tuple[int, int]


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


class Net:
    """A graph under construction; every method adds nodes and gives the feature map behind them.

    Padding "same" is TensorFlow's (the extent is divided by the stride and rounded up, the odd row goes below),
    "valid" none, and a number pads that many rows on every side, as PyTorch does.
    """

    def __init__(self, name: str, channels: int, height: int, width: int | None = None) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)
        self.input = Map("input", channels, height, height if width is None else width)

    def _add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        output = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def _constant(self, *shape: int) -> str:
        name = f"constant{len(self.constants)}"
        values = self._random.standard_normal(shape, np.float32)
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def _act(self, name: str, act: str) -> str:
        return self._add(act, [name]) if act else name

    def conv(
        self,
        x: Map,
        channels: int,
        kernel: Size = 3,
        stride: Size = 1,
        act: str = "Relu",
        pad: str | int = "same",
        groups: int = 1,
    ) -> Map:
        """A convolution with bias and activation."""
        kernel, stride = _pair(kernel), _pair(stride)
        pads, height, width = _window(x, kernel, stride, pad)
        weight = self._constant(channels, x.channels // groups, *kernel)
        inputs = [x.name, weight, self._constant(channels)]
        name = self._add("Conv", inputs, kernel_shape=kernel, strides=stride, pads=pads, group=groups)
        return Map(self._act(name, act), channels, height, width)

    def depthwise(self, x: Map, kernel: Size = 3, stride: Size = 1, act: str = "Relu", pad: str | int = "same") -> Map:
        """A convolution of each channel by itself."""
        return self.conv(x, x.channels, kernel, stride, act, pad, groups=x.channels)

    def separable(self, x: Map, channels: int, kernel: Size = 3, stride: Size = 1, act: str = "Relu") -> Map:
        """A depthwise convolution and a pointwise one, both with activation."""
        return self.conv(self.depthwise(x, kernel, stride, act), channels, 1, act=act)

    def inverted(self, x: Map, channels: int, kernel: int, stride: int, expand: int, act: str = "Clip") -> Map:
        """MobileNetV2's block: widen, filter each channel, narrow without activation, add where shapes allow."""
        y = self.conv(x, x.channels * expand, 1, act=act) if expand > 1 else x
        y = self.conv(self.depthwise(y, kernel, stride, act), channels, 1, act="")
        return self.add(x, y, act="") if x.shape == y.shape else y

    def pool(self, x: Map, kind: str, kernel: Size, stride: Size, pad: str | int = "same") -> Map:
        """`kind` is Max or Average."""
        kernel, stride = _pair(kernel), _pair(stride)
        pads, height, width = _window(x, kernel, stride, pad)
        name = self._add(f"{kind}Pool", [x.name], kernel_shape=kernel, strides=stride, pads=pads)
        return Map(name, x.channels, height, width)

    def mean(self, x: Map) -> Map:
        """Mean of each channel."""
        return Map(self._add("GlobalAveragePool", [x.name]), x.channels, 1, 1)

    def dense(self, x: Map, channels: int, act: str = "") -> Map:
        """A fully connected layer over all elements of the map."""
        if (x.height, x.width) != (0, 0):
            x = Map(self._add("Flatten", [x.name]), x.channels * x.height * x.width, 0, 0)
        inputs = [x.name, self._constant(x.channels, channels), self._constant(channels)]
        return Map(self._act(self._add("Gemm", inputs), act), channels, 0, 0)

    def add(self, x: Map, y: Map, act: str = "Relu") -> Map:
        """Sum of two maps of one shape."""
        return Map(self._act(self._add("Add", [x.name, y.name]), act), x.channels, x.height, x.width)

    def scale(self, x: Map, factors: Map) -> Map:
        """Each channel times one factor."""
        return Map(self._add("Mul", [x.name, factors.name]), x.channels, x.height, x.width)

    def concat(self, *maps: Map) -> Map:
        """Channels of all maps."""
        name = self._add("Concat", [m.name for m in maps], axis=1)
        return Map(name, sum(m.channels for m in maps), maps[0].height, maps[0].width)

    def upsample(self, x: Map, factor: int = 2) -> Map:
        """Nearest neighbours, both extents times a factor."""
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array([1, 1, factor, factor], np.float32), name))
        resized = self._add("Resize", [x.name, "", name], mode="nearest")
        return Map(resized, x.channels, x.height * factor, x.width * factor)

    def act(self, x: Map, op: str) -> Map:
        """An activation of its own."""
        return Map(self._add(op, [x.name]), x.channels, x.height, x.width)

    def model(self, *outputs: Map) -> onnx.ModelProto:
        """The graph that ends in these maps."""
        given = [helper.make_tensor_value_info("input", TensorProto.FLOAT, self.input.shape)]
        made = [
            helper.make_tensor_value_info(x.name, TensorProto.FLOAT, x.shape if x.height else (1, x.channels))
            for x in outputs
        ]
        graph = helper.make_graph(self.nodes, self.name, given, made, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _window(x: Map, kernel: tuple[int, int], stride: tuple[int, int], pad: str | int) -> tuple[list[int], int, int]:
    """ONNX pads, and the height and width behind a window."""
    before, after, sizes = [], [], []
    for extent, window, step in zip((x.height, x.width), kernel, stride, strict=True):
        if pad == "same":
            size = -(-extent // step)
            total = max((size - 1) * step + window - extent, 0)
            first, last = total // 2, total - total // 2
        else:
            first = last = 0 if pad == "valid" else int(pad)
            size = (extent + first + last - window) // step + 1
        before.append(first)
        after.append(last)
        sizes.append(size)
    return [*before, *after], sizes[0], sizes[1]
