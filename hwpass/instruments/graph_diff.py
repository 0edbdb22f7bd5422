"""What differs between two graphs, as a few lines that people can read: nodes, attributes, shapes, initialisers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.figures import counted, shown
from hwpass.model.model import Model, bodies

#: Nodes of a kind that are shown, and elements of a small initialiser of whole numbers that are written out.
MOST, FEW = 40, 8


#: What tells that a node of one graph is a node of the other; None where it has no such mark.
Key = Callable[[str, gs.Node], "tuple[str, ...] | None"]


@dataclass(frozen=True)
class NodeText:
    """A node as text, part by part; constants that come out alike are taken to be equal."""

    title: str
    inputs: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...]
    outputs: tuple[str, ...]

    @property
    def line(self) -> str:
        """The node in one line."""
        given = "".join(f" {name}={value}" for name, value in self.attributes)
        return f"{self.title} ({', '.join(self.inputs)}){given} -> {', '.join(self.outputs)}"


@dataclass(frozen=True)
class GraphDiff:
    """Nodes that only one of two graphs has, and those that both have in different forms, each in its graph's order.

    A node is known by its first output, or by its operator and name where a pass gave it other outputs.
    """

    counts: tuple[int, int]  # nodes before and after
    weights: tuple[int, int]  # bytes of all constants before and after
    removed: tuple[NodeText, ...]
    added: tuple[NodeText, ...]
    changed: tuple[tuple[NodeText, NodeText], ...]

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.changed)

    @property
    def summary(self) -> str:
        """How much differs, in one line."""
        kinds = (("removed", self.removed), ("added", self.added), ("changed", self.changed))
        told = ", ".join(f"{len(found)} {kind}" for kind, found in kinds if found) or "nothing changed"
        sizes = f"{counted(self.counts[0], 'node')} -> {self.counts[1]}"
        return f"{told}; {sizes}; weights {self.weights[0]:,} -> {self.weights[1]:,} bytes"

    def lines(self, most: int = MOST) -> Iterator[str]:
        """The difference, line by line: `-` was, `+` is new, `~` has changed, and what of it. At most `most` nodes of
        each kind."""
        for sign, nodes in (("-", self.removed), ("+", self.added)):
            for node in nodes[:most]:
                yield f"{sign} {node.line}"
            if len(nodes) > most:
                yield f"{sign} and {counted(len(nodes) - most, 'node')} more"
        for old, new in self.changed[:most]:
            yield f"~ {new.title}" + ("" if old.title == new.title else f" (was {old.title})")
            yield from _changes("input", old.inputs, new.inputs)
            names = sorted({name for node in (old, new) for name, _ in node.attributes})
            before, after = dict(old.attributes), dict(new.attributes)
            for name in names:
                if before.get(name) != after.get(name):
                    yield f"    {name}: {before.get(name, 'none')} -> {after.get(name, 'none')}"
            yield from _changes("output", old.outputs, new.outputs)
        if len(self.changed) > most:
            yield f"~ and {counted(len(self.changed) - most, 'node')} more"


def graph_diff(before: Model, after: Model) -> GraphDiff:
    """Compare two models node by node, bodies included; shapes are those that the graphs have recorded."""
    old, new = _nodes(before), _nodes(after)
    pairs = _paired(old, new)
    texts: dict[int, str] = {}
    told_old, told_new = ([_told(path, node, texts) for path, node in nodes] for nodes in (old, new))
    paired_old, paired_new = {a for a, _ in pairs}, {b for _, b in pairs}
    changed = [(told_old[a], told_new[b]) for a, b in pairs if not _alike(told_old[a], told_new[b])]
    return GraphDiff(
        (len(old), len(new)),
        (before.size_bytes(), after.size_bytes()),
        tuple(node for place, node in enumerate(told_old) if place not in paired_old),
        tuple(node for place, node in enumerate(told_new) if place not in paired_new),
        tuple(changed),
    )


def _nodes(model: Model) -> list[tuple[str, gs.Node]]:
    """Every node with the path of the bodies around it, in order."""

    def inside(graph: gs.Graph, path: str) -> Iterator[tuple[str, gs.Node]]:
        for node in graph.nodes:
            yield path, node
            for number, body in enumerate(bodies(node)):
                yield from inside(body, f"{path}{node.name or node.outputs[0].name}[{number}]/")

    return list(inside(model.graph, ""))


def _paired(old: Sequence[tuple[str, gs.Node]], new: Sequence[tuple[str, gs.Node]]) -> list[tuple[int, int]]:
    """Places of the nodes that are one and the same in both graphs, in the order of the later one."""
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    keys: tuple[Key, ...] = (_whole_key, _output_key, _name_key)
    for key in keys:
        places: dict[tuple[str, ...], list[int]] = {}
        for place, (path, node) in enumerate(old):
            if place not in taken and (found := key(path, node)) is not None:
                places.setdefault(found, []).append(place)
        for place, (path, node) in enumerate(new):
            if place in pairs or (found := key(path, node)) is None:
                continue
            if len(candidates := places.get(found, [])) == 1 and candidates[0] not in taken:
                pairs[place] = candidates[0]
                taken.add(candidates[0])
    return [(pairs[place], place) for place in sorted(pairs)]


def _whole_key(path: str, node: gs.Node) -> tuple[str, ...] | None:
    return (path, node.op, node.name, node.outputs[0].name) if node.outputs and node.name else None


def _output_key(path: str, node: gs.Node) -> tuple[str, ...] | None:
    return (path, node.op, node.outputs[0].name) if node.outputs else None


def _name_key(path: str, node: gs.Node) -> tuple[str, ...] | None:
    return (path, node.op, node.name) if node.name else None


def _told(path: str, node: gs.Node, texts: dict[int, str]) -> NodeText:
    attributes = tuple((name, _value(value)) for name, value in sorted(node.attrs.items()) if not _is_body(value))
    title = f"{node.op} {path}{node.name}".rstrip()
    inputs = tuple(_input(tensor, texts) for tensor in node.inputs)
    return NodeText(title, inputs, attributes, tuple(_output(tensor) for tensor in node.outputs))


def _is_body(value: Any) -> bool:
    return isinstance(value, gs.Graph)


def _value(value: Any) -> str:
    if isinstance(value, gs.Tensor):
        return str(value.name)
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, list | tuple):
        return shown("[" + ", ".join(map(_value, value)) + "]", 60)
    return f"{value:.6g}" if isinstance(value, float) else shown(str(value), 60)


def _input(tensor: gs.Tensor, texts: dict[int, str]) -> str:
    if not isinstance(tensor, gs.Constant):
        return str(tensor.name) or "none"
    if id(tensor) not in texts:
        texts[id(tensor)] = f"{tensor.name} {_array(np.asarray(tensor.values))}"
    return texts[id(tensor)]


def _array(values: np.ndarray) -> str:
    """An array by its shape and norm, or its elements where they are few and whole."""
    shape = "[" + ", ".join(map(str, values.shape)) + "]"
    if values.dtype.kind in "iub" and values.size <= FEW:
        return f"= {values.tolist()}"
    if values.dtype.kind in "iubf":
        with np.errstate(over="ignore", invalid="ignore"):
            norm = float(np.sqrt(np.square(values, dtype=np.float64).sum()))
        return f"{values.dtype} {shape} norm {norm:.6g}"
    return f"{values.dtype} {shape}"


def _output(tensor: gs.Tensor) -> str:
    if tensor.shape is None:
        return str(tensor.name)
    return f"{tensor.name} [{', '.join(str(size) for size in tensor.shape)}]"


def _alike(old: NodeText, new: NodeText) -> bool:
    """Whether nothing differs; a shape that was merely forgotten is no difference."""
    same = (old.title, old.inputs, old.attributes) == (new.title, new.inputs, new.attributes)
    return same and len(old.outputs) == len(new.outputs) and not list(_changes("", old.outputs, new.outputs))


def _changes(kind: str, old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """What differs among inputs or outputs. Shapes are derived: one that a side does not know says nothing."""
    for place in range(max(len(old), len(new))):
        was = old[place] if place < len(old) else "none"
        now = new[place] if place < len(new) else "none"
        forgotten = (
            kind != "input" and was.partition(" [")[0] == now.partition(" [")[0] and ("[" in was) != ("[" in now)
        )
        if was != now and not forgotten:
            yield f"    {kind} {place}: {was} -> {now}"
