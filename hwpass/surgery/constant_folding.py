"""Constants folded, and what nothing reads removed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime as ort

from hwpass.model.model import Model, quiet
from hwpass.ops import traits_of
from hwpass.proto.folding import Folding
from hwpass.proto.gc_pause import collection_paused
from hwpass.surgery.computed_shapes import Dims, known_shapes, settle

#: Constants of at least this many bytes are compared; smaller ones are not worth it.
MERGED = 4096


def fold(model: Model, limit: int) -> bool:
    """Fold what is no larger than `limit` bytes, or than what it takes the place of; whether anything changed."""
    before = _signature(model)
    ort.set_default_logger_severity(4)
    shapes = known_shapes(model)
    while True:
        start = _signature(model)
        _fold_with(model, limit, shapes)
        if _signature(model) == start:
            break
        # Extents that were computed are constants now, and so more shapes may be known.
        known = known_shapes(model)
        if all(shapes.get(name) == dims for name, dims in known.items()):
            break
        shapes = known
    return _signature(model) != before


def _fold_with(model: Model, limit: int, shapes: Mapping[str, Dims]) -> None:
    """Fold what these shapes and the constants tell."""
    for node in model.graph.nodes:
        for tensor in node.outputs:
            if tensor.name in shapes:
                tensor.shape = shapes[tensor.name]  # what is recorded may be wrong
    with quiet(), collection_paused():
        folding = Folding(model.graph, limit, _kept, _heavy, model.kept.attributes)
        while True:
            # All must be asked: each may give the next round something to do.
            folded = folding.run()
            views, flattened = _fold_weights(model.graph), _flatten_conditionals(model.graph)
            settled = settle(model.graph, shapes)
            if not views and not flattened and not folded and not settled:
                break
        _bypass_identities(model.graph)
        _merge_equal(model)
        model.graph.cleanup(remove_unused_node_outputs=False)


def _kept(node: gs.Node) -> bool:
    """Quantised weights stay quantised, and a random generator is not the constant of its first draw."""
    return not traits_of(node).foldable


def _heavy(node: gs.Node) -> bool:
    return traits_of(node).heavy


def _fold_weights(graph: gs.Graph) -> bool:
    """Weights seen another way, or standardised, before they are used: no larger than what they are made of."""
    folded = False
    for node in graph.nodes:
        if not node.outputs or not node.inputs or not all(isinstance(t, gs.Constant) for t in node.inputs):
            continue
        value = _standardised(node) if node.op == "BatchNormalization" else _view(node)
        if (
            value is None
            or any(t.outputs for t in node.outputs[1:])
            or any(node.outputs[0] is t for t in graph.outputs)
        ):
            continue
        result = node.outputs[0]
        node.outputs.clear()
        node.inputs.clear()
        result.to_constant(value)
        folded = True
    return folded


def _view(node: gs.Node) -> np.ndarray | None:
    """Reshape or Transpose of a weight that nothing else reads."""
    if node.op not in ("Reshape", "Transpose") or len(node.inputs[0].outputs) != 1:
        return None
    weight = node.inputs[0].values
    if node.op == "Transpose":
        return np.transpose(weight, node.attrs.get("perm"))
    target = [int(v) for v in node.inputs[1].values]
    keeps = bool(node.attrs.get("allowzero", 0))
    return np.reshape(weight, [weight.shape[i] if v == 0 and not keeps else v for i, v in enumerate(target)])


def _standardised(node: gs.Node) -> np.ndarray | None:
    """A batch normalisation in training mode over a weight: how weight standardisation is exported."""
    if not node.attrs.get("training_mode", 0):
        return None
    x, scale, bias = (t.values.astype(np.float64) for t in node.inputs[:3])
    others = tuple(a for a in range(x.ndim) if a != 1)
    shape = [1, -1] + [1] * (x.ndim - 2)
    mean, variance = x.mean(axis=others, keepdims=True), x.var(axis=others, keepdims=True)
    normal = (x - mean) / np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
    return np.asarray(normal * scale.reshape(shape) + bias.reshape(shape), node.inputs[0].values.dtype)


def _flatten_conditionals(graph: gs.Graph) -> bool:
    """Put the taken branch of every If with a constant condition in its place; whether there was one."""
    nodes: list[gs.Node] = []
    found = False
    taken = {t.name for node in graph.nodes for t in (*node.inputs, *node.outputs)}
    for node in graph.nodes:
        if node.op != "If" or not node.outputs or not isinstance(node.inputs[0], gs.Constant):
            nodes.append(node)
            continue
        found = True
        outer = {id(t) for n in graph.nodes for t in n.inputs}
        body = node.attrs["then_branch" if bool(node.inputs[0].values.reshape(-1)[0]) else "else_branch"]
        made = {id(t) for inner in body.nodes for t in inner.outputs}
        for inner in body.nodes:
            own = [t for t in inner.inputs if isinstance(t, gs.Constant) and id(t) not in outer]
            for tensor in (*own, *inner.outputs):
                while tensor.name in taken:
                    tensor.name += "_"
                taken.add(tensor.name)
            outer |= {id(t) for t in own}
        nodes.extend(body.nodes)
        results = list(node.outputs)
        node.outputs.clear()
        for source, result in zip(body.outputs, results, strict=True):
            # Given by name to the outer readers; a captured tensor or a constant has no maker inside.
            copy = gs.Node("Identity", name=f"{result.name}_taken", inputs=[source], outputs=[result])
            nodes.append(copy)
            assert id(source) in made or source.name in taken or isinstance(source, gs.Constant)
        node.inputs.clear()
    if found:
        graph.nodes = nodes
    return found


def _bypass_identities(graph: gs.Graph) -> None:
    kept = {id(t) for t in graph.outputs}
    for body in graph.subgraphs(recursive=True):
        # Bodies may name an outer tensor: leave those alone.
        kept |= {id(t) for node in body.nodes for t in node.inputs} | {id(t) for t in body.outputs}
    for node in graph.nodes:
        if node.op != "Identity" or not node.outputs or id(node.outputs[0]) in kept:
            continue
        source, result = node.inputs[0], node.outputs[0]
        for reader in list(result.outputs):
            for position, tensor in enumerate(reader.inputs):
                if tensor is result:
                    reader.inputs[position] = source
        node.outputs.clear()


def _merge_equal(model: Model) -> None:
    """Folding may compute one table several times: equal large constants become one again."""
    seen: dict[tuple[object, ...], list[gs.Constant]] = {}
    for node in model.walk():
        for position, tensor in enumerate(node.inputs):
            if not isinstance(tensor, gs.Constant) or tensor.values.nbytes < MERGED:
                continue
            values = tensor.values
            flat = values.reshape(-1)
            # A few entries tell nearly all constants apart; the rest is compared only when they agree.
            key = (values.shape, values.dtype.str, flat[:8].tobytes(), flat[-8:].tobytes())
            alike = seen.setdefault(key, [])
            first = next((t for t in alike if t is tensor or np.array_equal(t.values, values)), None)
            if first is None:
                alike.append(tensor)
            elif first is not tensor:
                node.inputs[position] = first


def _signature(model: Model) -> tuple[tuple[str, int], ...]:
    """Operators with their inputs, in order: a branch in its If's place is a change though the counts agree."""
    return tuple((node.op, len(node.inputs)) for node in model.walk())
