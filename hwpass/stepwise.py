"""Exactness tensor by tensor: every operator of one model on the other model's activations.

Deep or chaotic networks amplify the last bit of a sum until outputs differ visibly although every operator agrees.
Here each node of the candidate is run on the reference's own (re-indexed) activations, so nothing accumulates; when
every node agrees, the outputs agree by induction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.comparison import compare_arrays
from hwpass.inputs import is_float
from hwpass.ir import Model
from hwpass.sessions import Feed, open_session, release_memory, run_session
from hwpass.temporary import TemporaryFolder

#: Maps a reference tensor to the candidate's indices; None when it has no counterpart.
Reindex = Callable[[str, np.ndarray], np.ndarray | None]

#: Activations held at once; larger models are taken in portions.
PORTION_BYTES = 256 << 20


@dataclass(frozen=True)
class Stepwise:
    """The worst node: `max_rel` is relative to the tensor's largest magnitude; `compared` counts tensors."""

    max_abs: float
    max_rel: float
    tensor: str
    compared: int
    problem: str | None = None


def stepwise(
    reference: Model, candidate: Model, feed: Mapping[str, np.ndarray], reindex: Reindex, threads: int = 1
) -> Stepwise:
    """Compare every floating-point tensor that both models have, each computed from equal inputs.

    Raises InputError when either model does not run.
    """
    shared = [name for name in _floats(candidate) if name in set(_floats(reference))]
    worst = Stepwise(0.0, 0.0, "", 0)
    compared = 0
    try:
        values = _values(reference, shared, feed, threads)
        held: Feed = {}
        for name, value in values.items():
            mapped = reindex(name, value) if is_float(value.dtype) else None
            if mapped is not None and np.isfinite(mapped).all():
                held[name] = np.asarray(mapped, order="C")
        del values
        for portion in _portions(candidate, held):
            for name, value in _cut(candidate, portion, held, feed, threads).items():
                difference = compare_arrays(name, held[name], value)
                compared += 1
                if difference.problem:
                    return Stepwise(np.inf, np.inf, name, compared, difference.problem)
                if difference.max_rel > worst.max_rel:
                    worst = Stepwise(difference.max_abs, difference.max_rel, name, compared)
        return Stepwise(worst.max_abs, worst.max_rel, worst.tensor, compared)
    finally:
        release_memory()


def _floats(model: Model) -> list[str]:
    """Tensors that nodes of the main graph make, in order."""
    return [t.name for node in model.graph.nodes for t in node.outputs if t.name]


def _values(model: Model, names: list[str], feed: Mapping[str, np.ndarray], threads: int) -> Feed:
    exposed = model.copy()
    made = {t.name: t for node in exposed.graph.nodes for t in node.outputs}
    exposed.graph.outputs = [made[name] for name in names]
    return _run(exposed, feed, threads)


def _portions(model: Model, held: Feed) -> list[set[str]]:
    portions: list[set[str]] = [set()]
    size = 0
    for node in model.graph.nodes:
        for tensor in node.outputs:
            if tensor.name in held:
                if size > PORTION_BYTES:
                    portions.append(set())
                    size = 0
                portions[-1].add(tensor.name)
                size += held[tensor.name].nbytes
    return [p for p in portions if p]


def _cut(model: Model, wanted: set[str], held: Feed, feed: Mapping[str, np.ndarray], threads: int) -> Feed:
    """The wanted tensors, each computed from held values of the tensors before it."""
    cut = model.copy()
    graph = cut.graph
    inputs = {t.name: t for t in graph.inputs}
    renamed: dict[str, str] = {}
    outputs = []
    for node in graph.nodes:
        for position, tensor in enumerate(node.outputs):
            if tensor.name not in held:
                continue
            # The tensor itself becomes an input, which bodies that capture it by name see too.
            result = gs.Variable(f"{tensor.name}@made")
            node.outputs[position] = result
            if tensor.name in wanted:
                outputs.append(result)
                renamed[result.name] = tensor.name
            value = held[tensor.name]
            tensor.dtype, tensor.shape = value.dtype, list(value.shape)
            inputs[tensor.name] = tensor
    graph.outputs = outputs
    graph.inputs = list(inputs.values())
    graph.cleanup(remove_unused_graph_inputs=True, recurse_subgraphs=False)
    names = {t.name for t in graph.inputs}
    values = _run(cut, {k: v for k, v in {**feed, **held}.items() if k in names}, threads)
    return {renamed[name]: value for name, value in values.items()}


def _run(model: Model, feed: Mapping[str, np.ndarray], threads: int) -> Feed:
    with TemporaryFolder() as folder:
        session = open_session(model.store(folder), threads=threads, optimise=False)
        try:
            return run_session(session, feed)
        finally:
            del session
