"""What can be computed once and for all in a graph, bounded before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from onnx import AttributeProto, TensorProto, helper

from hwpass.proto.exporting import Exporter, tensor_proto, value_info

#: Rounds of inference and computing for each scope: one knows the sizes that depend on what the one before computed.
ROUNDS = 48

#: Products of constants are computed up to this many elements of input and output: about a second at most.
HEAVY_INPUT, HEAVY_OUTPUT = 1 << 22, 1 << 18

#: Results in all that are larger than what they are made of, and bytes computed in all, as multiples of the limit.
GROWTH, WORK = 64, 1 << 12

#: Sessions tried for one scope when an operator among many cannot be run.
ATTEMPTS = 64

_NUMPY = frozenset({
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL, TensorProto.STRING,
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
})  # fmt: skip


@dataclass
class Folding:
    """Folds the constants of one graph and its bodies, in place.

    A result of more than `limit` bytes is computed only when it is no larger than a constant that goes for it. How
    large a result is must be known from the shapes before it is computed; loops, conditionals and what `excluded`
    names are left alone, and so is, of large constants, what `heavy` says takes long. `rare` are attributes that graphs
    do not hold (`hwpass.proto.kept`).
    """

    graph: gs.Graph
    limit: int
    excluded: Callable[[gs.Node], bool]
    heavy: Callable[[gs.Node], bool]
    rare: Mapping[str, Mapping[str, AttributeProto]]
    failed: set[int] = field(default_factory=set)
    rounds: dict[int, int] = field(default_factory=dict)
    grown: int = 0
    worked: int = 0

    def run(self) -> bool:
        """Fold what can be; whether there was anything."""
        changed = False
        for scope in (self.graph, *self.graph.subgraphs(recursive=True)):
            ends = {id(t) for t in scope.outputs}
            while self.rounds.get(id(scope), 0) < ROUNDS:
                self.rounds[id(scope)] = self.rounds.get(id(scope), 0) + 1
                known, computed = _shapes(scope, ends), self._compute(scope, ends)
                changed |= known or computed
                if not known and not computed:
                    break
        return changed

    def _compute(self, scope: gs.Graph, ends: set[int]) -> bool:
        candidates = self._candidates(scope, ends)
        if not candidates:
            return False
        found = self._inferred(candidates)
        chosen = self._chosen(candidates, found)
        inside = {id(node) for node in chosen}
        wanted = [
            tensor
            for node in chosen
            for tensor in node.outputs
            if tensor.name and any(id(reader) not in inside for reader in tensor.outputs)
        ]
        values = self._values(chosen, wanted) if wanted else {}
        for node in chosen:
            results = [t for t in node.outputs if t.name in values]
            if results:
                node.outputs.clear()
            for tensor in results:
                tensor.to_constant(values[tensor.name])
        _drop(scope, chosen)
        return bool(values)

    def _candidates(self, scope: gs.Graph, ends: set[int]) -> list[gs.Node]:
        """Nodes of constants, and of what such nodes make, in order."""
        made: set[int] = set()
        found = []
        for node in scope.nodes:
            if (
                node.outputs
                and any(t.name for t in node.inputs)
                and all(isinstance(t, gs.Constant) or id(t) in made or not t.name for t in node.inputs)
                and not any(isinstance(value, gs.Graph) for value in node.attrs.values())
                and not any(id(t) in ends for t in node.outputs)
                and id(node) not in self.failed
                and not self.excluded(node)
            ):
                found.append(node)
                made |= {id(t) for t in node.outputs if t.name}
        return found

    def _model(self, nodes: Sequence[gs.Node], outputs: Sequence[gs.Tensor]) -> tuple[onnx.ModelProto, dict[str, Any]]:
        """The nodes as a model whose large constants are inputs, and the values of those."""
        exporter = Exporter(self.graph, self.rare)
        versions = {entry.domain: entry.version for entry in self.graph.import_domains}
        constants = {t.name: t for node in nodes for t in node.inputs if isinstance(t, gs.Constant)}
        model = helper.make_model(
            helper.make_graph([], "constants", [], []),
            opset_imports=[helper.make_opsetid(*entry) for entry in versions.items()],
            ir_version=max(self.graph.ir_version or 4, 4),
        )
        feed: dict[str, Any] = {}
        for tensor in constants.values():
            values = tensor.values
            if values.nbytes >= 1 << 16 and values.dtype.kind in "biuf" and values.dtype.isbuiltin:
                model.graph.input.append(value_info(tensor))
                feed[tensor.name] = np.asarray(values, order="C")
            else:
                model.graph.initializer.append(tensor_proto(tensor))
        model.graph.node.extend(map(exporter.node, nodes))
        model.graph.output.extend(onnx.ValueInfoProto(name=t.name) for t in outputs)
        return model, feed

    def _inferred(self, nodes: Sequence[gs.Node]) -> dict[str, int]:
        """Bytes of the results whose type and shape can be inferred, by name."""
        model, _ = self._model(nodes, ())
        try:
            # Without values of computed tensors: to have those, ONNX would make tensors of any size.
            inferred = onnx.shape_inference.infer_shapes(model)
        except Exception:  # nodes that do not fit their schemas, though ONNX Runtime runs them; types differ
            return {}
        sizes = {}
        for value in inferred.graph.value_info:
            kind = value.type.tensor_type
            dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
            if kind.elem_type in _NUMPY and kind.HasField("shape") and min(dims, default=0) >= 0:
                sizes[value.name] = prod(dims) * np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).itemsize
        return sizes

    def _chosen(self, nodes: Sequence[gs.Node], sizes: dict[str, int]) -> list[gs.Node]:
        """The candidates whose results are small enough, and can be had of such results."""
        candidates = {id(node) for node in nodes}
        chosen: list[gs.Node] = []
        made: set[int] = set()
        for node in nodes:
            inputs = [t for t in node.inputs if t.name]
            if not all(isinstance(t, gs.Constant) or id(t) in made for t in inputs):
                continue
            given = [int(t.values.nbytes) if isinstance(t, gs.Constant) else sizes.get(t.name, -1) for t in inputs]
            if node.op == "NonZero" and min(given) >= 0:
                # Its extent is that of its input at most, eight bytes for each axis of each element.
                rank = inputs[0].values.ndim if isinstance(inputs[0], gs.Constant) else 8
                size = 8 * rank * given[0]
            else:
                results = [sizes.get(t.name) for t in node.outputs if t.name]
                if None in results:
                    continue
                size = sum(r for r in results if r is not None)
            if self.heavy(node) and (sum(given) > 4 * HEAVY_INPUT or size > 4 * HEAVY_OUTPUT):
                continue
            grows = size > self.limit
            if grows and not self._replaces(inputs, given, size, sizes, candidates):
                continue
            if self.worked + size > WORK * self.limit or (
                size > sum(given) and self.grown + size > GROWTH * self.limit
            ):
                continue
            self.worked += size
            self.grown += size if size > sum(given) else 0
            chosen.append(node)
            made |= {id(t) for t in node.outputs if t.name}
        return chosen

    def _replaces(
        self, inputs: Sequence[gs.Tensor], given: Sequence[int], size: int, sizes: Mapping[str, int],
        candidates: set[int],
    ) -> bool:  # fmt: skip
        """Whether a large result takes the place of a constant that is as large, and that nothing else reads."""
        for tensor, there in zip(inputs, given, strict=True):
            if there < size or not all(id(reader) in candidates for reader in tensor.outputs):
                continue
            large = [r for r in tensor.outputs if any(sizes.get(t.name, 0) > self.limit for t in r.outputs)]
            if len({id(reader) for reader in large}) == 1:
                return True
        return False

    def _values(self, nodes: Sequence[gs.Node], wanted: Sequence[gs.Tensor]) -> dict[str, Any]:
        """Values by name. What cannot be run is found by halves and left alone from then on."""
        found: dict[str, Any] = {}
        waiting, attempts = [list(wanted)], 0
        while waiting and attempts < ATTEMPTS:
            attempts += 1
            outputs = waiting.pop()
            try:
                found |= self._run(_needed(nodes, outputs), outputs)
            except (KeyboardInterrupt, SystemExit):
                raise
            except Exception:  # pybind11 types without a common base of their own
                if len(outputs) == 1:
                    self.failed |= {id(node) for node in outputs[0].inputs}
                else:
                    waiting += [outputs[: len(outputs) // 2], outputs[len(outputs) // 2 :]]
        self.failed |= {id(node) for outputs in waiting for t in outputs for node in t.inputs}
        return found

    def _run(self, nodes: Sequence[gs.Node], outputs: Sequence[gs.Tensor]) -> dict[str, Any]:
        model, feed = self._model(nodes, outputs)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [t.name for t in outputs]
        values = dict(zip(names, session.run(names, feed), strict=True))
        # A session's own memory goes with it.
        return {name: np.array(value) for name, value in values.items() if isinstance(value, np.ndarray | np.generic)}


def _needed(nodes: Sequence[gs.Node], outputs: Sequence[gs.Tensor]) -> list[gs.Node]:
    wanted = {id(t) for t in outputs}
    kept = []
    for node in reversed(nodes):
        if any(id(t) in wanted for t in node.outputs):
            kept.append(node)
            wanted |= {id(t) for t in node.inputs}
    return kept[::-1]


def _drop(scope: gs.Graph, nodes: Sequence[gs.Node]) -> None:
    """Take out the nodes whose results nothing reads any more, last first."""
    gone = set()
    for node in reversed(nodes):
        if not any(t.outputs for t in node.outputs):
            node.outputs.clear()
            node.inputs.clear()
            gone.add(id(node))
    if gone:
        scope.nodes = [node for node in scope.nodes if id(node) not in gone]


def _shapes(scope: gs.Graph, ends: set[int]) -> bool:
    """Turn what reads known extents of a shape into constants: Shape, Size, and a Gather or Slice of a Shape."""
    known = []
    for node in scope.nodes:
        if len(node.outputs) != 1 or id(node.outputs[0]) in ends or node.domain or not node.inputs:
            continue
        value = _known(node)
        if value is not None:
            output = node.outputs[0]
            node.outputs.clear()
            output.to_constant(value)
            known.append(node)
    _drop(scope, known)
    return bool(known)


def _known(node: gs.Node) -> np.ndarray | None:
    source = node.inputs[0]
    if node.op == "Size":
        dims = source.shape if isinstance(source, gs.Variable) else None
        if dims is not None and all(_extent(d) for d in dims):
            return np.asarray(prod(dims), np.int64)
        return None
    extents = _extents(node) if node.op == "Shape" else None
    if node.op in ("Gather", "Slice") and len(source.inputs) == 1 and source.inputs[0].op == "Shape":
        whole = _extents(source.inputs[0])
        extents = None if whole is None else _picked(node, whole)
    if extents is None or not all(_extent(d) for d in np.asarray(extents, object).reshape(-1)):
        return None
    return np.asarray(extents, np.int64)


def _extent(dim: object) -> bool:
    return isinstance(dim, int | np.integer) and int(dim) > 0


def _extents(shape: gs.Node) -> np.ndarray | None:
    """What a Shape gives, as objects: extents that are not known are names or None."""
    source = shape.inputs[0]
    if not isinstance(source, gs.Variable) or source.shape is None or source.type != "tensor_type":
        return None
    dims = list(source.shape)[shape.attrs.get("start", 0) : shape.attrs.get("end", len(source.shape))]
    made = np.empty(len(dims), object)
    made[:] = dims
    return made


def _picked(node: gs.Node, extents: np.ndarray) -> np.ndarray | None:
    given = node.inputs[1:]
    if not all(isinstance(t, gs.Constant) for t in given):
        return None
    if node.op == "Gather":
        index = given[0].values
        if np.any(index < -len(extents)) or np.any(index >= len(extents)):
            return None
        return np.asarray(extents[index], object)
    if given:
        numbers = [[int(v) for v in t.values.reshape(-1)] for t in given]
    else:
        numbers = [node.attrs.get(key, []) for key in ("starts", "ends", "axes")]
    starts, ends, axes, steps = (*numbers, [], [])[:4] if len(numbers) < 4 else numbers
    if len(starts) != 1 or len(ends) != 1 or list(axes) not in ([], [0], [-1]) or list(steps) not in ([], [1]):
        return None
    return extents[starts[0] : ends[0]]
