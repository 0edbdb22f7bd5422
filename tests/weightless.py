"""Architectures without their weights (`fixtures/zoo`): loaded, and filled with random ones, the same every time."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, numpy_helper

FOLDER = Path(__file__).parent.parent / "fixtures" / "zoo"

#: Inputs that have to be positive (variances) or should be near one (scales), by operator.
VARIANCES = {("BatchNormalization", 4)}
SCALES = {("BatchNormalization", 1), ("LayerNormalization", 1), ("InstanceNormalization", 1), ("GroupNormalization", 1)}


def architectures() -> list[str]:
    """The names of the bundled architectures."""
    return sorted(path.name.removesuffix(".onnx.gz") for path in FOLDER.glob("*.onnx.gz"))


def load(name: str, seed: int = 0) -> ModelProto:
    """An architecture with random weights: of unit gain, variances and scales about one, biases small."""
    model = onnx.load_from_string(gzip.decompress((FOLDER / f"{name}.onnx.gz").read_bytes()))
    rng = np.random.default_rng(seed)
    for graph in _graphs(model.graph):
        near_one = {n.input[p] for n in graph.node for op, p in VARIANCES | SCALES
                    if n.op_type == op and p < len(n.input)}  # fmt: skip
        for tensor in graph.initializer:
            if _stripped(tensor):
                values = _values(tuple(tensor.dims), tensor.name in near_one, rng)
                tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return model


def _stripped(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and prod(tensor.dims) > 0 and not (
        tensor.raw_data or tensor.float_data
    )  # fmt: skip


def _values(shape: tuple[int, ...], near_one: bool, rng: np.random.Generator) -> np.ndarray:
    if near_one:
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) < 2:
        return rng.normal(0.0, 0.1, shape)
    # The larger of the two outer axes is taken for the outputs: the rest is what a unit sums over.
    return rng.normal(0.0, np.sqrt(max(shape[0], shape[-1]) / prod(shape)), shape)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
