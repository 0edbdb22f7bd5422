"""QuantizeLinear and DequantizeLinear written into a model, around what runs on integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.cost_models.target import Int8
from hwpass.formats.placement import Placement, channel_axis, weights_of
from hwpass.formats.ranges import Range
from hwpass.model.model import Model
from hwpass.model.node_order import put_in_order

#: No scale is smaller: its inverse has to be a float32 too.
LEAST_SCALE = 1e-30

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Parameters:
    """Scale and zero point of an activation: x = (q - zero point) scale."""

    scale: np.float32
    point: NDArray[np.generic]


def activation_parameters(bounds: Range, rules: Int8) -> Parameters:
    """Those that cover a range, and zero exactly."""
    dtype = np.dtype(rules.activations)
    info = np.iinfo(dtype)
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    if rules.symmetric:
        high = max(-low, high)
        low = -high
        scale = np.float32(max(high / info.max, LEAST_SCALE) if info.min < 0 else max(2 * high / 255, LEAST_SCALE))
        return Parameters(scale, np.asarray(0 if info.min < 0 else 128, dtype))
    scale = np.float32(max((high - low) / (info.max - info.min), LEAST_SCALE))
    point = np.clip(np.round(info.min - low / float(scale)), info.min, info.max)
    return Parameters(scale, np.asarray(point).astype(dtype))


def weight_scales(values: NDArray[np.generic], axis: int | None, bits: int) -> NDArray[np.float32]:
    """The scale of each index of an axis (of all together with None), by the largest magnitude; zero stays zero."""
    others = None if axis is None else tuple(a for a in range(values.ndim) if a != axis)
    largest = np.abs(values).max(axis=others)
    return np.asarray(np.maximum(largest / (2 ** (bits - 1) - 1), LEAST_SCALE), np.float32)


def rounded(values: NDArray[np.generic], scales: NDArray[np.float32], axis: int | None, bits: int) -> Floats:
    """Integers of a weight under symmetric scales, as float64."""
    most = 2 ** (bits - 1) - 1
    return np.clip(np.round(values.astype(np.float64) / _along(scales, axis, values.ndim)), -most, most)


def _along(scales: NDArray[np.float32], axis: int | None, rank: int) -> Floats:
    wide = np.asarray(scales, np.float64)
    return wide if axis is None else wide.reshape([-1 if a == axis else 1 for a in range(rank)])


@dataclass
class Writer:
    """Writes a placement into a copy of a model. `shifts` is added to biases, [channels] by the layer's output."""

    model: Model
    placement: Placement
    parameters: Mapping[str, Parameters]  # by leader
    rules: Int8
    per_channel: bool = True
    shifts: Mapping[str, Floats] = field(default_factory=dict)
    scales: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # of weights, by the layer's output

    def write(self) -> Model:
        """The model with integers."""
        result = self.model.copy()
        self._graph = result.graph
        self._names = {t.name for node in result.walk() for t in (*node.inputs, *node.outputs)}
        self._weights: dict[tuple[int, int, bytes], gs.Variable] = {}
        tensors = {t.name: t for node in result.graph.nodes for t in node.outputs}
        tensors |= {t.name: t for t in result.graph.inputs}
        self._constants: dict[str, tuple[gs.Constant, gs.Constant]] = {}
        nodes = {node.outputs[0].name: node for node in result.graph.nodes if node.outputs}
        self._shift(nodes)
        for name in self.placement.nodes:
            self._products(nodes[name])
        for name in self.placement.tensors:
            self._activation(tensors[name])
        put_in_order(result.graph)
        result.graph.cleanup(remove_unused_node_outputs=False)
        result.invalidate_shapes()
        return result

    def _name(self, text: str) -> str:
        """A name that nothing has."""
        name, number = text, 0
        while name in self._names:
            number += 1
            name = f"{text}_{number}"
        self._names.add(name)
        return name

    def _shift(self, nodes: Mapping[str, gs.Node]) -> None:
        """Move biases in floating point; what is quantised afterwards is the moved one."""
        for name, shift in self.shifts.items():
            place = bias_place(nodes[name])
            assert place is not None
            bias = nodes[name].inputs[place]
            moved = (bias.values.astype(np.float64) + shift.reshape(_fitting(bias.values.shape, shift.size))).astype(
                np.float32
            )
            nodes[name].inputs[place] = gs.Constant(self._name(f"{bias.name}_moved"), moved)

    def _products(self, node: gs.Node) -> None:
        """Weights of a product, and its bias, as integers."""
        for place in weights_of(node) if node.op in self.rules.products else []:
            axis = channel_axis(node, place)
            channels = self.per_channel and node.inputs[place].values.ndim >= 2
            values = node.inputs[place].values
            if node.op == "MatMul" and (values.ndim > 2 or place == 0):
                channels = False  # runtimes take one scale there
            bias = self._bias(node)
            scales = self.scales.get(node.outputs[0].name) if channels else None
            if scales is None:
                scales = weight_scales(values, axis if channels else None, self.rules.weight_bits)
            if bias is not None:
                source = self.parameters[self.placement.tensors[node.inputs[0].name]].scale
                # The bias is summed in 32 bits: its scale must not be so small that it does not fit.
                need = np.abs(bias.values).astype(np.float64) / (float(source) * 2.0**30)
                scales = np.maximum(scales, (need if channels else need.max()).astype(np.float32))
                product = (np.float64(source) * scales.astype(np.float64)).astype(np.float32)
                node.inputs[2] = self._stored_bias(bias, product)
            node.inputs[place] = self._weight(node.inputs[place], scales, axis if channels else None)

    def _bias(self, node: gs.Node) -> gs.Constant | None:
        if node.op not in ("Conv", "Gemm") or len(node.inputs) < 3 or node.inputs[2].is_empty():
            return None
        return node.inputs[2]

    def _stored_bias(self, bias: gs.Constant, scales: NDArray[np.float32]) -> gs.Variable:
        q = np.round(bias.values.astype(np.float64) / scales.astype(np.float64)).astype(np.int32)
        return self._dequantised(bias.name, q, scales, None, 0)

    def _weight(self, weight: gs.Constant, scales: NDArray[np.float32], axis: int | None) -> gs.Variable:
        key = (id(weight.values), -1 if axis is None else axis, scales.tobytes())
        if key not in self._weights:
            q = rounded(weight.values, scales, axis, self.rules.weight_bits).astype(np.int8)
            self._weights[key] = self._dequantised(weight.name, q, scales, np.zeros(scales.shape, np.int8), axis)
        return self._weights[key]

    def _dequantised(
        self, name: str, q: NDArray[np.generic], scales: NDArray[np.float32], points: NDArray[np.int8] | None,
        axis: int | None,
    ) -> gs.Variable:  # fmt: skip
        inputs = [
            gs.Constant(self._name(f"{name}_quantized"), q),
            gs.Constant(self._name(f"{name}_scale"), np.asarray(scales)),
        ]
        if points is not None:
            inputs.append(gs.Constant(self._name(f"{name}_zero_point"), points))
        result = gs.Variable(self._name(f"{name}_dequantized"), np.float32)
        attrs = {} if axis is None or not scales.ndim else {"axis": axis}
        node = gs.Node("DequantizeLinear", self._name(f"{name}_DequantizeLinear"), attrs, inputs, [result])
        self._graph.nodes.append(node)
        return result

    def _activation(self, tensor: gs.Tensor) -> None:
        """A pair behind a tensor, for those readers that take it in 8 bits."""
        name = tensor.name
        leader = self.placement.tensors[name]
        made = name in self.placement.made
        readers = [n for n in self._graph.nodes if any(t is tensor for t in n.inputs)]
        if not made:
            readers = [n for n in readers if n.outputs[0].name in self.placement.nodes]
        scale, point = self._parameters(leader)
        if made and any(t is tensor for t in self._graph.outputs):
            # The output keeps its name: what comes before the pair takes another.
            inner = gs.Variable(self._name(f"{name}_unquantized"), np.float32)
            maker = tensor.inputs[0]
            maker.outputs[[t is tensor for t in maker.outputs].index(True)] = inner
            before, after = inner, tensor
        else:
            before, after = tensor, gs.Variable(self._name(f"{name}_dequantized"), np.float32)
        middle = gs.Variable(self._name(f"{name}_quantized"), point.values.dtype)
        nodes = [
            gs.Node("QuantizeLinear", self._name(f"{name}_QuantizeLinear"), {}, [before, scale, point], [middle]),
            gs.Node("DequantizeLinear", self._name(f"{name}_DequantizeLinear"), {}, [middle, scale, point], [after]),
        ]
        self._graph.nodes.extend(nodes)
        if after is tensor:
            return
        for node in readers:
            first = 2 if node.op in self.rules.products else len(node.inputs)
            for place, given in enumerate(node.inputs):
                if given is tensor and (made or place < first):
                    node.inputs[place] = after

    def _parameters(self, leader: str) -> tuple[gs.Constant, gs.Constant]:
        if leader not in self._constants:
            own = self.parameters[leader]
            self._constants[leader] = (
                gs.Constant(self._name(f"{leader}_scale"), np.asarray(own.scale)),
                gs.Constant(self._name(f"{leader}_zero_point"), own.point),
            )
        return self._constants[leader]


def bias_place(node: gs.Node) -> int | None:
    """Where a node has a constant bias: a product its third input, an Add its only constant; None without one."""
    if node.op in ("Conv", "Gemm"):
        there = len(node.inputs) > 2 and isinstance(node.inputs[2], gs.Constant)
        return 2 if there else None
    if node.op == "Add":
        places = [p for p, t in enumerate(node.inputs) if isinstance(t, gs.Constant) and t.values.dtype == np.float32]
        return places[0] if len(places) == 1 else None
    return None


def _fitting(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """A shape of a bias's rank that has its channels where the bias has them."""
    place = max((i for i, extent in enumerate(shape) if extent == size), default=-1)
    return tuple(size if i == place else 1 for i in range(len(shape)))
