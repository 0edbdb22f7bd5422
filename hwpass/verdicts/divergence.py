"""Where an inexact rewrite goes wrong: the first tensor that differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from hwpass.errors import InputError
from hwpass.proto.shapes import empty
from hwpass.runtime.comparison import RELATIVE_TOLERANCE, compare_arrays
from hwpass.runtime.inputs import is_float
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import ModelLike, StoredModel, run_session

IndexMap = Callable[[str, np.ndarray, np.ndarray], "np.ndarray | None"]
"""`(tensor name, twin's value, pruned value)` to the twin's value at the kept positions, or None."""

CHUNK_BYTES = 128 << 20
"""How many bytes of intermediate tensors are held per model at a time."""

UNKNOWN_BYTES = 4 << 20
"""What a tensor whose shape cannot be inferred is taken to need."""


@dataclass(frozen=True)
class Divergence:
    """The first tensor, in execution order, that is not the same in both models."""

    tensor: str
    node: str
    op_type: str
    detail: str

    def __str__(self) -> str:
        return f"{self.tensor!r}, output of {self.op_type} {self.node!r}: {self.detail}"


def first_divergence(
    twin: ModelLike | Callable[[], ModelLike],
    pruned: ModelLike | Callable[[], ModelLike],
    feed: Mapping[str, np.ndarray],
    index_map: IndexMap,
    *,
    rtol: float = 1e-4,
    atol: float = 1e-9,
    threads: int = 1,
    chunk_bytes: int = CHUNK_BYTES,
) -> Divergence | None:
    """Run both models without optimisation and compare every tensor that bears the same name in both.

    Values are fetched in portions of about `chunk_bytes`. None when no comparable tensor differs. Tensors
    inside subgraphs are not looked at. Raises `InputError` when a model does not load or run.
    """
    try:
        with StoredModel(_proto(twin)) as left, StoredModel(_proto(pruned)) as right:
            shared = _shared_tensors(left.graph, right.graph)
            sizes = tensor_sizes(left.graph, feed)
            for names in _portions(list(shared), sizes, chunk_bytes):
                wanted = _fetch(left, names, feed, threads)
                given = _fetch(right, names, feed, threads)
                for name in names:
                    if name not in wanted or name not in given:
                        continue
                    detail = _detail(name, wanted.pop(name), given.pop(name), index_map, rtol, atol)
                    if detail:
                        node = shared[name]
                        return Divergence(name, node.name, node.op_type, detail)
        return None
    finally:
        release_memory()


def _proto(model: ModelLike | Callable[[], ModelLike]) -> onnx.ModelProto:
    opened = model() if callable(model) else model
    if isinstance(opened, Path):
        return onnx.load(opened)
    return onnx.load_from_string(opened) if isinstance(opened, bytes) else opened


def _shared_tensors(twin: onnx.ModelProto, pruned: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Names of computed tensors of both models with the twin's node, in the twin's order."""
    there = {name for node in pruned.graph.node for name in node.output}
    return {
        name: node
        for node in twin.graph.node
        if node.op_type not in ("Constant", "Shape")
        for name in node.output
        if name and name in there
    }


def tensor_sizes(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Bytes of each tensor for this feed, as far as shape inference knows them; weights may be without data."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        if value.name in feed:
            dims = value.type.tensor_type.shape.dim
            for dim, size in zip(dims, feed[value.name].shape, strict=False):
                dim.dim_value = size
    for tensor in fixed.graph.initializer:
        if empty(tensor):
            tensor.data_location = onnx.TensorProto.EXTERNAL
    del fixed.graph.value_info[:]
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        fixed = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return {}
    sizes = {}
    for value in (*fixed.graph.value_info, *fixed.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            sizes[value.name] = 4 * int(np.prod([dim.dim_value for dim in dims], dtype=np.int64))
    return sizes


def _portions(names: Sequence[str], sizes: Mapping[str, int], limit: int) -> Iterator[list[str]]:
    portion: list[str] = []
    held = 0
    for name in names:
        size = sizes.get(name, UNKNOWN_BYTES)
        if portion and held + size > limit:
            yield portion
            portion, held = [], 0
        portion.append(name)
        held += size
    if portion:
        yield portion


def _fetch(
    model: StoredModel, names: Sequence[str], feed: Mapping[str, np.ndarray], threads: int
) -> dict[str, np.ndarray]:
    try:
        session = model.open_session(outputs=names, threads=threads, level="none")
    except InputError:
        if len(names) == 1:  # a tensor that cannot be an output (a sequence, an untyped optional)
            return {}
        half = len(names) // 2
        first = _fetch(model, names[:half], feed, threads)
        return {**first, **_fetch(model, names[half:], feed, threads)}
    values = run_session(session, feed)
    return {name: value for name, value in values.items() if is_float(value.dtype)}


def _detail(
    name: str, wanted: np.ndarray, given: np.ndarray, index_map: IndexMap, rtol: float, atol: float
) -> str | None:
    kept = index_map(name, wanted, given)
    if kept is None:
        return None
    difference = compare_arrays(name, kept, given, atol=atol)
    if difference.problem:
        return difference.problem
    limit = max(rtol, RELATIVE_TOLERANCE.get(difference.dtype, 0.0))
    if difference.needed <= limit:
        return None
    return f"relative difference {difference.max_rel:.3g} (tolerance {limit:g})"
