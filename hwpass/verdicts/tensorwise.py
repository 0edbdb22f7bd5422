"""Exactness tensor by tensor: every operator of one model on the other model's activations.

Deep or chaotic networks amplify the last bit of a sum until outputs differ visibly although every operator agrees, and
an output that is the same for every input shows nothing. Here each node of the candidate is run on the reference's own
(re-indexed) activations, so nothing accumulates; when every node agrees, the outputs agree by induction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.errors import InputError
from hwpass.model.model import Model, bodies
from hwpass.ops import rule_for
from hwpass.runtime.comparison import VARIATION, compare_arrays, spread, tolerance_of
from hwpass.runtime.inputs import is_float
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed
from hwpass.verdicts.divergence import tensor_sizes
from hwpass.verdicts.proof_sides import Side, made_by, run_once

#: Maps a reference tensor to the candidate's indices; None when it has no counterpart.
Reindex = Callable[[str, np.ndarray], np.ndarray | None]

#: Activations held at once; larger models are taken in portions, each of half their weights' bytes at least: for each
#: portion the weights are read again.
PORTION_BYTES = 48 << 20

#: What a tensor is taken to need whose shape cannot be inferred, where no shape can be and where others can.
UNKNOWN_BYTES, LATE_BYTES = 4 << 20, 256 << 10

#: Kinds of operators that compute no sums: on equal inputs their values are equal but for the last bit.
PLAIN = frozenset({"elementwise", "movement", "free"})


@dataclass
class Stepwise:
    """The worst node: `max_rel` is relative to its tensor's magnitude, by channel; `needed` over `tolerance` fails.

    `compared` are the tensors looked at, `varying` those of them whose values could have shown a difference.
    """

    max_abs: float = 0.0
    max_rel: float = 0.0
    tensor: str = ""
    excess: float = 0.0  # the worst difference over its tolerance
    problem: str | None = None
    compared: set[str] = field(default_factory=set)
    varying: set[str] = field(default_factory=set)

    def see(self, name: str, left: np.ndarray, value: np.ndarray, *, sums: bool, rtol: float | None) -> None:
        """Take in one tensor: the reference's entries, and the candidate's."""
        difference = compare_arrays(name, left, value, sums=sums)
        self.compared.add(name)
        tolerance = tolerance_of(difference.dtype, rtol)
        if spread([left.reshape(-1, 1)] if left.ndim < 2 else [left]) > VARIATION * tolerance:
            self.varying.add(name)
        if difference.problem:
            self.tensor, self.problem, self.excess = name, difference.problem, np.inf
            self.max_abs = self.max_rel = np.inf
            return
        excess = difference.needed / tolerance if tolerance else (np.inf if difference.needed else 0.0)
        if excess > self.excess or not self.tensor:
            self.max_abs, self.max_rel, self.tensor, self.excess = difference.max_abs, difference.max_rel, name, excess

    @property
    def passed(self) -> bool:
        """Whether every tensor agrees, and there was one."""
        return self.problem is None and self.excess <= 1 and bool(self.compared)

    @property
    def where(self) -> str:
        """The worst tensor, and what is wrong with it."""
        return f"{self.tensor} ({self.problem or f'relative difference {self.max_rel:.2g}'})"


def stepwise(
    reference: Side,
    candidate: Model,
    feed: Mapping[str, np.ndarray],
    reindex: Reindex,
    threads: int = 1,
    rtol: float | None = None,
) -> Stepwise:
    """Compare every tensor that both models have, each computed from equal inputs.

    Raises InputError when either model does not run.
    """
    graph = candidate.graph
    there = set(reference.names())
    outputs = {t.name for t in graph.outputs}
    # Where a branch went, constants may stand in other shapes that broadcast to the same: what reads them is compared.
    varied = _varied(candidate) | outputs
    order = [name for name in made_by(candidate) if name in there and name in varied]
    producers = {t.name: node for node in graph.nodes for t in node.outputs}
    usable = set(order)
    found = Stepwise()
    try:
        for portion in _portions(candidate, order, feed):
            wanted, asked = set(portion), set[str]()
            values, held = Feed(), Feed()
            while True:
                needed = _needed(wanted, producers, usable)
                new = sorted((needed | wanted) - asked)
                asked.update(new)
                for name, given in (_fetched(reference, new, feed) if new else {}).items():
                    value = reindex(name, given)
                    # What is no number everywhere cannot be handed on; integers are left to be computed.
                    if value is not None and is_float(value.dtype) and np.isfinite(value).all():
                        held[name] = np.asarray(value, order="C")
                    elif name in outputs:
                        values[name] = given
                usable -= asked - held.keys()
                if needed <= usable:
                    break
            seen = {n for n in wanted if n in held or n in values}
            if not seen:
                continue
            kinds = {name: _plain(name, producers, usable) for name in seen}
            for name, value in _cut(candidate, seen, held, feed, threads).items():
                left = held[name] if name in held else reindex(name, values[name])
                if left is None:
                    continue
                found.see(name, left, value, sums=not kinds[name], rtol=rtol)
                if found.problem:
                    return found
        return found
    finally:
        release_memory()


def in_front(candidate: Model, output: str, varying: set[str]) -> bool:
    """Whether a tensor that varies lies on the way to an output."""
    return not varying.isdisjoint(_behind(candidate, output))


def depends(candidate: Model, output: str) -> bool:
    """Whether an input of the model lies on the way to an output."""
    return not {t.name for t in candidate.graph.inputs}.isdisjoint(_behind(candidate, output))


def _varied(candidate: Model) -> set[str]:
    """The tensors that an input of the model has a part in."""
    found = {t.name for t in candidate.graph.inputs}
    for node in candidate.graph.nodes:
        if not found.isdisjoint(_reads(node)) or not node.inputs:  # random numbers have no inputs
            found |= {t.name for t in node.outputs}
    return found


def _behind(candidate: Model, output: str) -> set[str]:
    """An output and every tensor that it is computed from."""
    producers = {t.name: node for node in candidate.graph.nodes for t in node.outputs}
    todo, seen = [output], {output}
    while todo:
        name = todo.pop()
        for source in _reads(producers[name]) if name in producers else ():
            if source not in seen:
                seen.add(source)
                todo.append(source)
    return seen


def _portions(model: Model, order: list[str], feed: Mapping[str, np.ndarray]) -> Iterator[list[str]]:
    sizes = tensor_sizes(model.written(), feed) if len(order) > 1 else {}
    unknown = LATE_BYTES if len(sizes) > len(order) // 2 else UNKNOWN_BYTES
    limit = max(PORTION_BYTES, model.size_bytes() // 2)
    portion: list[str] = []
    size = 0
    for name in order:
        portion.append(name)
        size += sizes.get(name, unknown)
        if size > limit:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _reads(node: gs.Node) -> set[str]:
    """Names that a node reads, its bodies included."""
    names = {t.name for t in node.inputs if t.name and not isinstance(t, gs.Constant)}
    for body in bodies(node):
        names |= {t.name for t in body.outputs}
        for inner in body.nodes:
            names |= _reads(inner)
    return names


def _fetched(reference: Side, names: list[str], feed: Mapping[str, np.ndarray]) -> Feed:
    """The values of tensors; without those that cannot be an output (a sequence, an untyped optional)."""
    try:
        return reference.tensors(names, feed)
    except InputError:
        if len(names) == 1:
            return {}
        half = len(names) // 2
        return {**_fetched(reference, names[:half], feed), **_fetched(reference, names[half:], feed)}


def _needed(wanted: set[str], producers: Mapping[str, gs.Node], usable: set[str]) -> set[str]:
    """The usable tensors nearest in front of the wanted ones."""
    found: set[str] = set()
    seen: set[str] = set()
    todo = [source for name in wanted for source in _reads(producers[name])]
    while todo:
        name = todo.pop()
        if name in seen or name not in producers:
            continue
        seen.add(name)
        if name in usable:
            found.add(name)
        else:
            todo.extend(_reads(producers[name]))
    return found


def _plain(name: str, producers: Mapping[str, gs.Node], usable: set[str]) -> bool:
    """Whether a tensor comes from usable ones without a sum."""
    todo, seen, first = [name], {name}, True
    while todo:
        node = producers.get(todo.pop())
        if node is None:
            continue
        if rule_for(node).kind not in PLAIN or bodies(node):
            return False
        for source in _reads(node):
            if source not in seen and source not in usable:
                seen.add(source)
                todo.append(source)
        first = False
    return not first


def _cut(model: Model, wanted: set[str], held: Feed, feed: Mapping[str, np.ndarray], threads: int) -> Feed:
    """The wanted tensors, each computed from held values of the tensors before it."""
    renamed: dict[str, str] = {}

    def build() -> Model:
        cut = model.copy()
        renamed.update(_cut_apart(cut.graph, wanted, held))
        return cut

    values = run_once(build, {**feed, **held}, threads)
    return {renamed[name]: value for name, value in values.items()}


def _cut_apart(graph: gs.Graph, wanted: set[str], held: Feed) -> dict[str, str]:
    """Make inputs of the held tensors and outputs of the wanted ones; the names of those by the outputs' names."""
    inputs = {t.name: t for t in graph.inputs}
    renamed: dict[str, str] = {}
    outputs = []
    for node in graph.nodes:
        for position, tensor in enumerate(node.outputs):
            if tensor.name not in held and tensor.name not in wanted:
                continue
            if tensor.name not in held:
                outputs.append(tensor)
                renamed[tensor.name] = tensor.name
                continue
            # The tensor itself becomes an input, which bodies that capture it by name see too.
            result = gs.Variable(f"{tensor.name}@made")
            node.outputs[position] = result
            if tensor.name in wanted:
                outputs.append(result)
                renamed[result.name] = tensor.name
            value = held[tensor.name]
            # Extents stay open: a branch that is not taken need not go with those of this feed.
            tensor.dtype, tensor.shape = value.dtype, [f"{tensor.name}.{axis}" for axis in range(value.ndim)]
            inputs[tensor.name] = tensor
    graph.outputs = outputs
    graph.inputs = list(inputs.values())
    graph.cleanup(remove_unused_graph_inputs=True, recurse_subgraphs=False)
    return renamed
