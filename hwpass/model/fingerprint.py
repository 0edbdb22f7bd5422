"""What tells two states of a graph apart, without reading its weights."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.model.model import Model
from hwpass.proto import adapter


class Fingerprint:
    """Operators, attributes, wiring and arrays of a model at one time; equal for a copy that nobody edited since.

    Arrays count by their identity: copies share them, and edits replace them. They are held, so that no other array
    gets the identity of one that is gone. What is inferred (shapes of inner tensors) does not count.
    """

    def __init__(self, model: Model) -> None:
        self._arrays: list[Any] = []
        scopes = [(graph.opset, self._tensors(graph.inputs), self._tensors(graph.outputs)) for graph in model.scopes()]
        ends = [[(t.shape and tuple(t.shape), str(t.dtype)) for t in model.graph.inputs]]
        nodes = tuple(
            (
                node.op, node.domain, node.name, self._tensors(node.inputs), tuple(t.name for t in node.outputs),
                tuple((name, self._attribute(value)) for name, value in sorted(node.attrs.items())),
            )
            for node in model.walk()
        )  # fmt: skip
        besides = (model.renewed, tuple(sorted(model.principal.items())), tuple(sorted(model.metadata.items())))
        self._known: Hashable = (tuple(scopes), tuple(map(tuple, ends)), nodes, besides)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fingerprint) and self._known == other._known

    def __hash__(self) -> int:
        return hash(self._known)

    def _tensors(self, tensors: list[gs.Tensor]) -> tuple[tuple[str, int | None], ...]:
        self._arrays += [adapter.held(t) for t in tensors if isinstance(t, gs.Constant)]
        return tuple((t.name, adapter.identity(t)) for t in tensors)

    def _attribute(self, value: Any) -> Hashable:
        if isinstance(value, gs.Graph):  # its nodes are walked by themselves
            return "body"
        if isinstance(value, gs.Constant | np.ndarray):
            self._arrays.append(value)
            return id(value)
        return tuple(map(self._attribute, value)) if isinstance(value, list | tuple) else str(value)
