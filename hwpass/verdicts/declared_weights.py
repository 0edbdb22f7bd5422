"""Whether a pass that masked or factored weights did what it declares, and nothing besides.

Nothing here goes through what chose the masks or the factors: zeros and patterns are counted in the operator's own
layout, products are multiplied out anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.model.model import Model
from hwpass.ops import rule_for
from hwpass.surgery.declared import Factors, MaskedWeight, Masks, Place

#: How far the product of two factors may be from the one declared, over the largest entry: products of float32 are
#: rounded once for each term.
PRODUCT = 1e-5


def broken_masks(before: Model, after: Model, masks: Masks) -> str | None:
    """What of a declaration of masks does not hold, in one line; None where all of it does."""
    old, new = list(before.walk()), list(after.walk())
    if len(old) != len(new):
        return f"there are {len(new)} nodes, and there were {len(old)}"
    seen = set()
    for one, other in zip(old, new, strict=True):
        problem = _differs(one, other, masks.refitted | masks.by_place.keys())
        if problem is not None:
            return problem
        for place, was, values in _changed(one, other):
            mask = masks.by_place.get(place)
            if mask is None:
                continue
            seen.add(place)
            problem = _mask_broken(mask, other, values)
            if problem is None and place not in masks.refitted and not _same(was[mask.kept], values[mask.kept]):
                problem = "its remaining values are others, and are not said to be refitted"
            if problem is not None:
                return f"{other.op} {other.name}: {problem}"
    unseen = masks.by_place.keys() - seen
    return f"there is no weight at {min(unseen)[0]!r}" if unseen else None


def filled(after: Model, masks: Masks) -> str | None:
    """Which masks a later model breaks, in one line; what has no such weight any more is not said to."""
    for node in after.walk():
        for position, tensor in enumerate(node.inputs):
            mask = masks.by_place.get(_place(node, position))
            if mask is not None and isinstance(tensor, gs.Constant) and tensor.values.shape == mask.shape:
                problem = _mask_broken(mask, node, tensor.values)
                if problem is not None:
                    return f"{node.op} {node.name}: {problem}"
    return None


def _mask_broken(mask: MaskedWeight, node: gs.Node, values: NDArray[Any]) -> str | None:
    if values.shape != mask.shape:
        return f"its weight has the shape {list(values.shape)}, and its mask {list(mask.shape)}"
    kept = mask.kept
    wrong = int(np.count_nonzero(values[~kept]))
    if wrong:
        return f"{wrong} values at masked places are not zero"
    return pattern_broken(node, values, kept, mask.pattern)


def pattern_broken(node: gs.Node, values: NDArray[Any], kept: NDArray[np.bool_], pattern: str) -> str | None:
    """Whether a weight breaks its pattern, counted along the reduction axis of the operator, in one line."""
    if pattern == "unstructured":
        return None
    inputs, outputs = reduction_axes(node)
    if ":" in pattern:
        n, m = (int(part) for part in pattern.split(":"))
        rows = np.moveaxis(values, inputs, -1)
        if rows.shape[-1] % m:
            return f"{rows.shape[-1]} inputs are no multiple of {m}"
        most = int(np.count_nonzero(rows.reshape(*rows.shape[:-1], -1, m), axis=-1).max(initial=0))
        return None if most <= n else f"{most} of {m} consecutive inputs differ from zero, not {n} at most"
    height, width = (int(part) for part in pattern.split("x"))
    table = np.moveaxis(kept, (outputs, inputs), (-2, -1))
    if table.shape[-2] % height or table.shape[-1] % width:
        return f"blocks of {pattern} do not divide its {table.shape[-2]} outputs and {table.shape[-1]} inputs"
    shape = (*table.shape[:-2], table.shape[-2] // height, height, table.shape[-1] // width, width)
    count = table.reshape(shape).sum(axis=(-3, -1))
    part = int(((count > 0) & (count < height * width)).sum())
    return f"{part} blocks of {pattern} are kept in part" if part else None


def reduction_axes(node: gs.Node) -> tuple[int, int]:
    """The axes of a product's weight that its inputs and its outputs lie along."""
    if node.op == "Conv":
        return 1, 0
    if node.op == "Gemm":
        return (1, 0) if node.attrs.get("transB", 0) else (0, 1)
    outputs = rule_for(node).weight_out(node)
    return 1 - outputs, outputs


def with_weights_of(before: Model, after: Model, places: frozenset[Place]) -> Model:
    """A copy of the model before whose constants at these places are those of the model after."""
    twin = before.copy()
    constants = {
        _place(node, position): tensor
        for node in after.walk()
        for position, tensor in enumerate(node.inputs)
        if isinstance(tensor, gs.Constant) and node.outputs
    }
    for node in twin.walk():
        count = len(node.inputs)
        for position in range(count + 1):
            place = _place(node, position)
            if place not in places or place not in constants:
                continue
            made = gs.Constant(f"{place[0]}_declared_{position}", constants[place].values)
            if position < count:
                node.inputs[position] = made
            else:
                node.inputs.append(made)
    return twin


def _place(node: gs.Node, position: int) -> Place:
    return (str(node.outputs[0].name) if node.outputs else "", position)


def _differs(one: gs.Node, other: gs.Node, declared: frozenset[Place] | set[Place]) -> str | None:
    """What makes a node another than it was, besides constants that are declared."""
    where = f"{other.op} {other.name}"
    if (one.op, one.domain or "") != (other.op, other.domain or ""):
        return f"{where} was {one.op} {one.name}"
    if [t.name for t in one.outputs] != [t.name for t in other.outputs]:
        return f"{where}: its outputs have other names"
    if _attributes(one) != _attributes(other):
        return f"{where}: its attributes are others"
    added = range(len(one.inputs), len(other.inputs))
    if len(one.inputs) > len(other.inputs) or any(_place(other, p) not in declared for p in added):
        return f"{where}: it has {len(other.inputs)} inputs, and had {len(one.inputs)}"
    for position, (old, new) in enumerate(zip(one.inputs, other.inputs, strict=False)):
        constant = isinstance(old, gs.Constant)
        if constant != isinstance(new, gs.Constant) or (not constant and old.name != new.name):
            return f"{where}: it reads {new.name!r}, and read {old.name!r}"
        if constant and _place(other, position) not in declared and not _same(old.values, new.values):
            return f"{where}: its input {position} has other values, which is not declared"
    return None


def _attributes(node: gs.Node) -> dict[str, str]:
    """Attributes as text; bodies are walked by themselves."""
    found = {}
    for name, value in node.attrs.items():
        if not isinstance(value, gs.Graph):
            held = value.values if isinstance(value, gs.Tensor) else value
            found[name] = repr(held.tobytes()) if isinstance(held, np.ndarray) else repr(held)
    return found


def _changed(one: gs.Node, other: gs.Node) -> Iterator[tuple[Place, NDArray[Any], NDArray[Any]]]:
    for position, (old, new) in enumerate(zip(one.inputs, other.inputs, strict=False)):
        if isinstance(old, gs.Constant) and isinstance(new, gs.Constant):
            yield _place(other, position), old.values, new.values


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """The same bits."""
    if one is other:
        return True
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()


def broken_factors(before: Model, after: Model, factors: Factors) -> str | None:
    """What of a declaration of factors does not hold, in one line; None where all of it does."""
    old = {n.outputs[0].name: n for n in before.walk() if n.outputs}
    new = {n.outputs[0].name: n for n in after.walk() if n.outputs}
    layers = {layer.output: layer for layer in factors.layers}
    firsts = {layer.first for layer in factors.layers}
    strange = new.keys() - old.keys() - firsts
    if strange or old.keys() - new.keys():
        return f"a node makes {min(strange)!r}" if strange else f"no node makes {min(old.keys() - new.keys())!r}"
    for name, node in new.items():
        if name in firsts:
            continue
        problem = _differs(old[name], node, factors.refitted) if name not in layers else None
        if problem is not None:
            return problem
    for name, layer in layers.items():
        first, second, one = new.get(layer.first), new[name], old[name]
        if first is None or second.inputs[0].name != layer.first or first.inputs[0].name != one.inputs[0].name:
            return f"{one.op} {one.name}: two products of its input do not stand in its place"
        if len(first.inputs) > 2:
            return f"{one.op} {one.name}: its first factor has a bias"
        biases = [[t.name for t in node.inputs[2:]] for node in (one, second)]
        if biases[0] != biases[1] and (name, 2) not in factors.refitted:
            return f"{one.op} {one.name}: its bias is another, which is not declared"
        found = multiplied(first, second)
        if found is None or found.shape != layer.product.shape:
            return f"{one.op} {one.name}: its factors do not multiply to a weight of its shape"
        gap = float(np.abs(found - layer.product).max(initial=0.0))
        if not gap <= PRODUCT * float(np.abs(layer.product).max(initial=0.0)):
            return f"{one.op} {one.name}: its factors multiply to what differs from the declared weight by {gap:.2g}"
    return None


def multiplied(first: gs.Node, second: gs.Node) -> NDArray[np.float64] | None:
    """The weight that two products in a row come to, in the layout of the second; None where they are no such pair."""
    if first.op != second.op or not all(isinstance(n.inputs[1], gs.Constant) for n in (first, second)):
        return None
    a, b = (n.inputs[1].values.astype(np.float64) for n in (first, second))
    if first.op == "MatMul":
        return np.asarray(a @ b)
    if first.op == "Gemm":
        a, b = (w.T if n.attrs.get("transB", 0) else w for w, n in ((a, first), (b, second)))
        return np.asarray((a @ b).T if second.attrs.get("transB", 0) else a @ b)
    if first.op != "Conv" or a.ndim != b.ndim or a.shape[0] != b.shape[1]:
        return None
    # Taps add up: what stands at tap t of the second and tap s of the first is read at s + t.
    window = tuple(i + j - 1 for i, j in zip(a.shape[2:], b.shape[2:], strict=True))
    found = np.zeros((b.shape[0], a.shape[1], *window))
    for tap in np.ndindex(*b.shape[2:]):
        where = tuple(slice(t, t + s) for t, s in zip(tap, a.shape[2:], strict=True))
        found[(slice(None), slice(None), *where)] += np.tensordot(b[(slice(None), slice(None), *tap)], a, axes=1)
    return found


def with_products(before: Model, after: Model, factors: Factors) -> Model:
    """A copy of the model before with the declared weight of each factored layer, and all refitted constants."""
    twin = with_weights_of(before, after, factors.refitted)
    layers = {layer.output: layer for layer in factors.layers}
    for node in twin.walk():
        layer = layers.get(node.outputs[0].name if node.outputs else "")
        if layer is not None:
            values = layer.product.astype(node.inputs[1].values.dtype)
            node.inputs[1] = gs.Constant(f"{layer.output}_product", values)
    return twin
