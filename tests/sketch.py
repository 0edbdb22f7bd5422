"""Models for tests, written node by node: random weights, any operator set, no framework."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]


def random_weight(rng: np.random.Generator, shape: Sequence[int], fan: int | None = None) -> Array:
    """Normal weights of variance 1 / fan, so that activations keep their size through a deep graph."""
    fan = fan or max(1, int(np.prod(shape[1:], dtype=np.int64)))
    weight: Array = (rng.standard_normal(tuple(shape)) / np.sqrt(fan)).astype(np.float32)
    return weight


class Sketch:
    """A graph in the making: `op` adds a node and hands back the name of its output."""

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._names = 0

    def name(self, stem: str) -> str:
        """A name nobody has yet."""
        self._names += 1
        return f"{stem.lower()}{self._names}"

    def input(self, shape: Sequence[int | str | None] | None, name: str = "", dtype: int = TensorProto.FLOAT) -> str:
        """An input of the model; text in the shape names a dynamic dimension."""
        name = name or self.name("x")
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def const(self, value: ArrayLike, dtype: Any = None, stem: str = "c") -> str:
        """An initialiser; Python floats are float32 and integers int64 unless `dtype` says otherwise."""
        array = np.asarray(value)
        if dtype is not None:
            array = array.astype(dtype)
        elif array.dtype == np.float64:
            array = array.astype(np.float32)
        name = self.name(stem)
        self.initialisers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def weight(self, *shape: int, fan: int | None = None) -> str:
        """An initialiser of random normal weights."""
        return self.const(random_weight(self.rng, shape, fan), stem="w")

    def positive(self, *shape: int) -> str:
        """An initialiser of random numbers in [0.5, 1.5): variances, divisors."""
        return self.const(self.rng.uniform(0.5, 1.5, shape), stem="p")

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output."""
        return self.ops(op, *inputs, count=1, **attributes)[0]

    def ops(self, op: str, *inputs: str, count: int, **attributes: Any) -> list[str]:
        """A node of `count` outputs."""
        outputs = [self.name(op) for _ in range(count)]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=f"{op}_{outputs[0]}", **attributes))
        return outputs

    def output(self, *names: str, dtype: int = TensorProto.FLOAT) -> None:
        """Make tensors outputs of the model; their shapes are left to be found out."""
        self.outputs += [helper.make_tensor_value_info(name, dtype, None) for name in names]

    def batch_norm(self, x: str, width: int) -> str:
        """An inference batch norm of `width` channels."""
        parameters = [
            self.weight(width, fan=1),
            self.weight(width, fan=1),
            self.weight(width, fan=1),
            self.positive(width),
        ]
        return self.op("BatchNormalization", x, *parameters)

    def conv(self, x: str, outputs: int, inputs: int, kernel: int = 1, bias: bool = False, **attributes: Any) -> str:
        """A 2-d convolution that keeps the image's size; `inputs` are those of one group."""
        operands = [self.weight(outputs, inputs, kernel, kernel)] + ([self.weight(outputs, fan=4)] if bias else [])
        attributes.setdefault("pads", [kernel // 2] * 4)
        return self.op("Conv", x, *operands, **attributes)

    def conv_1d(self, x: str, outputs: int, inputs: int) -> str:
        """A 1-d convolution of kernel 1."""
        return self.op("Conv", x, self.weight(outputs, inputs, 1))

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        """A MatMul with a weight over the last axis."""
        return self.op("MatMul", x, self.weight(inputs, outputs, fan=inputs))

    def axes_op(self, op: str, x: str, axes: Sequence[int], since: int = 13, **attributes: Any) -> str:
        """A node whose axes are an input from operator set `since` on, and an attribute before."""
        if self.opset < since:
            return self.op(op, x, axes=list(axes), **attributes)
        return self.op(op, x, self.const(list(axes), np.int64), **attributes)

    def drop_unread(self) -> None:
        """Drop nodes, constants and inputs that no output depends on."""
        wanted = {entry.name for entry in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                bodies = [a.g for a in node.attribute if a.HasField("g")]
                wanted.update(name for body in bodies for inner in body.node for name in inner.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.initialisers = [t for t in self.initialisers if t.name in wanted]
        self.inputs = [entry for entry in self.inputs if entry.name in wanted]

    def model(self) -> onnx.ModelProto:
        """The model so far."""
        graph = helper.make_graph(self.nodes, "sketch", self.inputs, self.outputs, self.initialisers)
        version = 7 if self.opset < 15 else 8 if self.opset < 19 else 10
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=version)
        if all(entry.type.tensor_type.HasField("shape") for entry in self.outputs):
            return model
        # The checker wants at least the rank of an output.
        with suppress(onnx.shape_inference.InferenceError):
            inferred = {entry.name: entry for entry in onnx.shape_inference.infer_shapes(model).graph.output}
            for entry in model.graph.output:
                entry.CopyFrom(inferred[entry.name])
        return model
