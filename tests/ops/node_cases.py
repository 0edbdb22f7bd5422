"""The ONNX standard's own node tests, with products around the operator so that its axes can be thinned.

Every case becomes several models. Inputs are either constants with the case's own values, or live: computed by one
product along each axis. The axes of every output are read by products, one after the other, or summed, which notices
removed channels that are not zero.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference.ops import op_pool_common

Array = NDArray[Any]

#: More elements than this are no test of a rule.
LARGEST = 200_000

_IMAGE = np.linspace(-1, 1, 2 * 4 * 5 * 5, dtype=np.float32).reshape(2, 4, 5, 5)
_REGIONS = np.asarray([[0, 0, 3, 3], [1, 1, 4, 4], [0, 1, 2, 3]], np.float32)

#: Operators whose cases the standard lacks, or has for a single channel only: a node and values for its inputs.
EXTRA: list[tuple[str, dict[str, Any], list[Any], int]] = [
    ("GlobalLpPool", {"p": 2}, [_IMAGE], 17),
    ("MaxRoiPool", {"pooled_shape": [2, 2]}, [_IMAGE, np.pad(_REGIONS, ((0, 0), (1, 0)))], 17),
    ("Multinomial", {"sample_size": 4, "seed": 1.0}, [np.zeros((2, 5), np.float32)], 17),
    ("RandomNormal", {"shape": [3, 4], "seed": 1.0}, [], 17),
    ("RandomUniform", {"shape": [3, 4], "seed": 1.0}, [], 17),
    ("RandomNormalLike", {"seed": 1.0}, [np.ones((3, 4), np.float32)], 17),
    ("RandomUniformLike", {"seed": 1.0}, [np.ones((3, 4), np.float32)], 17),
    ("Conv", {"group": 2}, [_IMAGE, _IMAGE.reshape(-1)[:48].reshape(6, 2, 2, 2), np.ones(6, np.float32)], 17),
    ("GridSample", {}, [_IMAGE, np.linspace(-1, 1, 36, dtype=np.float32).reshape(2, 3, 3, 2)], 17),
    ("RoiAlign", {"output_height": 2, "output_width": 2}, [_IMAGE, _REGIONS, np.asarray([0, 1, 1])], 17),
    ("Resize", {"mode": "nearest"}, [_IMAGE, None, np.asarray([1, 1, 2, 2], np.float32)], 17),
    ("Resize", {"mode": "linear"}, [_IMAGE, None, None, np.asarray([2, 4, 7, 3])], 17),
    ("Upsample", {"mode": "nearest"}, [_IMAGE, np.asarray([1, 1, 2, 2], np.float32)], 9),
    ("ReverseSequence", {"time_axis": 1, "batch_axis": 0}, [_IMAGE, np.asarray([4, 2])], 17),
    ("CumSum", {}, [_IMAGE, np.asarray(2)], 17),
    ("ConvInteger", {}, [_IMAGE.astype(np.uint8), np.ones((3, 4, 2, 2), np.uint8), np.asarray(1, np.uint8)], 17),
    ("QLinearConv", {}, [np.arange(200, dtype=np.uint8).reshape(2, 4, 5, 5), np.asarray(0.02, np.float32),
                         np.asarray(120, np.uint8), np.arange(48, dtype=np.int8).reshape(3, 4, 2, 2),
                         np.asarray([0.01, 0.02, 0.03], np.float32), np.asarray([1, 2, 3], np.int8),
                         np.asarray(0.5, np.float32), np.asarray(99, np.uint8), np.asarray([5, 6, 7], np.int32)], 17),
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A node with values for its inputs, in the order of the node's inputs; None where an input is left out."""

    name: str
    node: onnx.NodeProto
    types: tuple[onnx.TypeProto | None, ...]
    values: tuple[Any, ...]
    outputs: tuple[tuple[str, onnx.TypeProto, Any], ...]  # name, type, value (None where unknown)
    opsets: tuple[tuple[str, int], ...]

    @property
    def operator(self) -> tuple[str, str]:
        """Domain and operator."""
        return str(self.node.domain), str(self.node.op_type)


@cache
def cases() -> tuple[Case, ...]:
    """Every case of a single node, expanded functions left out."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), _small_pools():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    named = (c for c in found if "_expanded" not in c.name)
    made = [_standard(c) for c in named if c.model is not None and len(c.model.graph.node) == 1]
    return (*made, *map(_extra, EXTRA))


@contextmanager
def _small_pools() -> Iterator[None]:
    """Zeros for what the standard's cases expect of pools over volumes: seconds of loops, for values unread here."""
    slow = op_pool_common.pool

    def quick(padded: Array, x: Any, kernel: Any, strides: Any, out: Any, *rest: Any, **more: Any) -> Array:
        if prod(out) > 10_000:
            return np.zeros([*x[:2], *out], padded.dtype)
        return np.asarray(slow(padded, x, kernel, strides, out, *rest, **more))

    with patch.object(op_pool_common, "pool", quick):
        yield


def _standard(test: Any) -> Case:
    graph = test.model.graph
    node = graph.node[0]
    ins, outs = test.data_sets[0]
    types = {v.name: v.type for v in graph.input}
    values = {v.name: _plain(a) for v, a in zip(graph.input, ins, strict=False)}
    given = {v.name: _plain(a) for v, a in zip(graph.output, outs, strict=False)}
    return Case(
        test.name,
        node,
        tuple(types.get(n) for n in node.input),
        tuple(values.get(n) for n in node.input),
        tuple((v.name, v.type, given.get(v.name)) for v in graph.output),
        # Before 6, a Cast (which the tests add) named its type by text.
        tuple((o.domain, max(o.version, 6) if not o.domain else o.version) for o in test.model.opset_import),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return value


def _extra(entry: tuple[str, dict[str, Any], list[Any], int]) -> Case:
    op, attributes, values, opset = entry
    return computed(f"extra_{op.lower()}", op, attributes, values, 1, (("", opset),))


def computed(
    name: str,
    op: str,
    attributes: dict[str, Any],
    values: Sequence[Any],
    count: int,
    opsets: tuple[tuple[str, int], ...],
) -> Case:
    """A case of one's own: the outputs are what ONNX Runtime computes."""
    names = ["" if value is None else f"i{number}" for number, value in enumerate(values)]
    results = [f"o{number}" for number in range(count)]
    node = helper.make_node(op, names, results, domain=opsets[-1][0], **attributes)
    types = tuple(None if v is None else _type(v) for v in values)
    inputs = [helper.make_value_info(n, t) for n, t in zip(names, types, strict=True) if t is not None]
    graph = helper.make_graph([node], name, inputs, [onnx.ValueInfoProto(name=n) for n in results])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(*o) for o in opsets], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = session.run(None, {n: v for n, v in zip(names, values, strict=True) if v is not None})
    outputs = tuple((n, _type(v), v) for n, v in zip(results, given, strict=True))
    return Case(name, node, types, tuple(values), outputs, opsets)


def _type(value: Array) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


class _Graph:
    """A model in the making, of the operator sets of a case."""

    def __init__(self, case: Case) -> None:
        self.opset = dict(case.opsets).get("", 17)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.feed: dict[str, Any] = {}
        self.rng = np.random.default_rng(0)
        self._count = 0

    def name(self) -> str:
        self._count += 1
        return f"t{self._count}"

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = self.name()
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"{op}_{output}", **attributes))
        return output

    def constant(self, value: Array) -> str:
        name = self.name()
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def given(self, value: Any, kind: onnx.TypeProto) -> str:
        """An input of the model."""
        name = self.name()
        self.inputs.append(helper.make_value_info(name, kind))
        self.feed[name] = value
        return name

    def product(self, x: str, rank: int, axis: int, before: int, after: int) -> str:
        """One product along an axis."""
        order = list(range(rank))
        order[axis], order[-1] = order[-1], order[axis]
        weight = self.constant((self.rng.standard_normal((before, after)) / np.sqrt(before)).astype(np.float32))
        x = x if axis == rank - 1 else self.op("Transpose", x, perm=order)
        x = self.op("MatMul", x, weight)
        return x if axis == rank - 1 else self.op("Transpose", x, perm=order)

    def live(self, value: Array, kind: onnx.TypeProto, positive: bool) -> str:
        """A tensor of the value's shape and type, every axis of which comes out of a product."""
        small = [3 if size > 1 else 1 for size in value.shape]
        start = self.rng.standard_normal(small).astype(np.float32)
        x = self.given(start, helper.make_tensor_type_proto(TensorProto.FLOAT, small))
        for axis, size in enumerate(value.shape):
            if size > 1:
                x = self.product(x, value.ndim, axis, 3, size)
        code = kind.tensor_type.elem_type
        if positive:
            x = self.op("Sigmoid", x)
        if code == TensorProto.FLOAT:
            return x
        if code == TensorProto.BOOL or value.dtype.kind == "u":
            x = self.op("Relu", x)
        if value.dtype.kind in "iu":
            x = self.op("Mul", x, self.constant(np.asarray(3, np.float32)))
        return self.op("Cast", x, to=code)

    def read(self, name: str, kind: onnx.TypeProto, shape: tuple[int, ...], reader: str) -> None:
        """Read every axis of an output, by layers one after the other or by one sum."""
        x = name
        if kind.tensor_type.elem_type != TensorProto.FLOAT:
            x = self.op("Cast", x, to=TensorProto.FLOAT)
        if reader == "layer":
            for axis, size in enumerate(shape):
                if size > 1:
                    x = self.product(x, len(shape), axis, size, 3)
        elif self.opset >= 13:
            x = self.op("ReduceSum", x, self.constant(np.arange(len(shape))), keepdims=0)
        else:
            x = self.op("ReduceSum", x, axes=list(range(len(shape))), keepdims=0)
        self.out(x, TensorProto.FLOAT)

    def out(self, name: str, code: int) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, code, None))

    def model(self, case: Case) -> onnx.ModelProto:
        opsets = dict(case.opsets)
        opsets.setdefault("", 17)
        graph = helper.make_graph(self.nodes, case.name, self.inputs, self.outputs, self.constants)
        imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        return helper.make_model(graph, opset_imports=imports, ir_version=10 if self.opset < 23 else 12)


def _eligible(value: Any, kind: onnx.TypeProto | None) -> bool:
    """Whether an input can be computed by products."""
    tensor = kind is not None and kind.HasField("tensor_type") and isinstance(value, np.ndarray)
    if not tensor or value.dtype.kind in "OSUc" or not 1 < value.size <= LARGEST:
        return False
    return bool(value.ndim > 0 and max(value.shape) > 1)


def variants(case: Case) -> Iterator[tuple[str, onnx.ModelProto, dict[str, Any]]]:
    """The models of a case with their inputs."""
    able = [i for i, (v, t) in enumerate(zip(case.values, case.types, strict=True)) if _eligible(v, t)]
    choices: list[tuple[str, set[int], bool]] = [("all", set(able), False), ("positive", set(able), True)]
    if len(able) > 1:
        choices += [(f"only {i}", {i}, i % 2 == 1) for i in able[:6]]
    for label, chosen, positive in choices:
        for reader in ("layer", "sum"):
            yield f"{case.name}/{label}/{reader}", *build(case, chosen, positive, reader)


def build(case: Case, chosen: set[int], positive: bool, reader: str) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """One model, with the `chosen` inputs live and the others constant, and its inputs."""
    g = _Graph(case)
    operands = []
    for place, (name, kind, value) in enumerate(zip(case.node.input, case.types, case.values, strict=True)):
        if not name or kind is None:
            operands.append("")
        elif place in chosen:
            operands.append(g.live(value, kind, positive))
        elif isinstance(value, np.ndarray) and value.dtype.kind not in "OSU" and kind.HasField("tensor_type"):
            operands.append(g.constant(value))
        else:
            operands.append(g.given(value, kind))
    node = onnx.NodeProto()
    node.CopyFrom(case.node)
    node.name = "operator"
    del node.input[:]
    node.input.extend(operands)
    g.nodes.append(node)
    for name, kind, value in case.outputs:
        readable = kind.HasField("tensor_type") and isinstance(value, np.ndarray) and value.dtype.kind not in "OSUc"
        if readable and value.ndim and max(value.shape) > 1 and value.size <= LARGEST:
            g.read(name, kind, value.shape, reader)
        else:
            g.outputs.append(helper.make_value_info(name, kind))
    return g.model(case), g.feed
