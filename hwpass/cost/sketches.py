"""Small models made of code: chains of layers and networks of blocks with random weights, to time and to price."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class Sketch:
    """A model in the making: each method adds a layer to tensor `x` of a known shape, and returns what it gives."""

    def __init__(self, name: str, *shape: int) -> None:
        self.name = name
        self.x = "x"
        self.shapes: dict[str, tuple[int, ...]] = {"x": shape}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def op(self, kind: str, *inputs: str, shape: tuple[int, ...], **attributes: Any) -> str:
        """A node of one output."""
        name = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{kind}_{name}", **attributes))
        self.shapes[name] = shape
        return name

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        """Random constants, by fan-in, so that activations stay finite."""
        fan = int(np.prod(shape[1:])) or 1
        values = self._random.standard_normal(shape, dtype=np.float32) * np.float32(scale / np.sqrt(fan))
        return self.constant(values)

    def constant(self, values: np.ndarray | np.generic) -> str:
        """Constants."""
        name = f"w{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def conv(self, x: str, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> str:
        """A convolution with a bias that keeps the extent over its stride."""
        n, c, h, w = self.shapes[x]
        pad = (kernel - 1) // 2
        weight, bias = self.weight(out, c // groups, kernel, kernel), self.weight(out)
        size = [(s + 2 * pad - kernel) // stride + 1 for s in (h, w)]
        return self.op("Conv", x, weight, bias, shape=(n, out, *size), group=groups, pads=[pad] * 4,
                       strides=[stride] * 2, kernel_shape=[kernel] * 2)  # fmt: skip

    def depthwise(self, x: str, kernel: int = 3, stride: int = 1) -> str:
        """A depthwise convolution."""
        channels = self.shapes[x][1]
        return self.conv(x, channels, kernel, stride, channels)

    def act(self, x: str, kind: str) -> str:
        """An activation: an operator by name, `SiLU`, `Gelu` as exporters write it, or nothing."""
        shape = self.shapes[x]
        if kind == "SiLU":
            return self.op("Mul", x, self.op("Sigmoid", x, shape=shape), shape=shape)
        if kind == "Gelu":
            half, root, one = (self.constant(np.float32(v)) for v in (0.5, 2**0.5, 1.0))
            erf = self.op("Erf", self.op("Div", x, root, shape=shape), shape=shape)
            return self.op(
                "Mul", self.op("Mul", x, self.op("Add", erf, one, shape=shape), shape=shape), half, shape=shape
            )
        if kind == "Clip":
            return self.op("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(6)), shape=shape)
        return self.op(kind, x, shape=shape) if kind else x

    def add(self, a: str, b: str, kind: str = "Add") -> str:
        """A sum (or product) of two tensors, the second perhaps smaller."""
        return self.op(kind, a, b, shape=self.shapes[a])

    def linear(self, x: str, out: int) -> str:
        """A product with weights along the last axis, and a bias."""
        *rest, width = self.shapes[x]
        weight = self.constant(self._random.standard_normal((width, out), dtype=np.float32) / np.float32(width**0.5))
        product = self.op("MatMul", x, weight, shape=(*rest, out))
        return self.op("Add", product, self.weight(out), shape=(*rest, out))

    def gemm(self, x: str, out: int) -> str:
        """A fully connected layer of a matrix."""
        rows, width = self.shapes[x]
        return self.op("Gemm", x, self.weight(out, width), self.weight(out), shape=(rows, out), transB=1)

    def norm(self, x: str) -> str:
        """A layer normalisation along the last axis."""
        shape = self.shapes[x]
        scale, bias = self.constant(np.ones(shape[-1], np.float32)), self.constant(np.zeros(shape[-1], np.float32))
        return self.op("LayerNormalization", x, scale, bias, shape=shape, axis=-1)

    def transpose(self, x: str, *order: int) -> str:
        """Axes in another order."""
        return self.op("Transpose", x, shape=tuple(self.shapes[x][i] for i in order), perm=list(order))

    def reshape(self, x: str, *shape: int) -> str:
        """The same values in another shape."""
        return self.op("Reshape", x, self.constant(np.array(shape, np.int64)), shape=shape)

    def pool(self, x: str, kind: str = "MaxPool", kernel: int = 3, stride: int = 2) -> str:
        """A pool that keeps the extent over its stride."""
        n, c, h, w = self.shapes[x]
        pad = (kernel - 1) // 2
        size = [(s + 2 * pad - kernel) // stride + 1 for s in (h, w)]
        return self.op(kind, x, shape=(n, c, *size), kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def mean(self, x: str) -> str:
        """The mean over space."""
        return self.op("GlobalAveragePool", x, shape=(*self.shapes[x][:2], 1, 1))

    def concat(self, *parts: str, axis: int = 1) -> str:
        """Tensors one after another."""
        shape = list(self.shapes[parts[0]])
        shape[axis] = sum(self.shapes[part][axis] for part in parts)
        return self.op("Concat", *parts, shape=tuple(shape), axis=axis)

    def attention(self, x: str, heads: int) -> str:
        """Multi-head attention as exporters write it: one product for all of queries, keys and values."""
        n, tokens, width = self.shapes[x]
        each = width // heads
        parts = self.transpose(self.reshape(self.linear(x, 3 * width), n, tokens, 3, heads, each), 2, 0, 3, 1, 4)
        q, k, v = (
            self.op("Gather", parts, self.constant(np.array(i, np.int64)), shape=(n, heads, tokens, each), axis=0)
            for i in range(3)
        )
        scores = self.op("MatMul", q, self.transpose(k, 0, 1, 3, 2), shape=(n, heads, tokens, tokens))
        scaled = self.op("Mul", scores, self.constant(np.float32(each**-0.5)), shape=(n, heads, tokens, tokens))
        shares = self.op("Softmax", scaled, shape=(n, heads, tokens, tokens), axis=-1)
        mixed = self.op("MatMul", shares, v, shape=(n, heads, tokens, each))
        return self.linear(self.reshape(self.transpose(mixed, 0, 2, 1, 3), n, tokens, width), width)

    def squeeze(self, x: str, share: int = 4, gate: str = "HardSigmoid") -> str:
        """Squeeze and excitation."""
        channels = self.shapes[x][1]
        inner = self.act(self.conv(self.mean(x), max(8, channels // share)), "Relu")
        return self.add(x, self.act(self.conv(inner, channels), gate), "Mul")

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The model that gives these tensors."""
        graph = helper.make_graph(
            self._nodes,
            self.name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(self.shapes["x"]))],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(self.shapes[name])) for name in outputs],
            self._constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
