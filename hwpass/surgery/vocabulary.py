"""Tables that tokens are looked up in: rows that nobody looks up, equal rows held once, and the way back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.model.model import Model
from hwpass.ops.rule import Array
from hwpass.runtime.inputs import InputSpec
from hwpass.runtime.texts import role_of

#: Tables that would be smaller by less are left alone.
WORTH = 64 << 10

#: Multiply-adds of a search for nearest rows; beyond, rows are compared by random projections.
WORK = 1e11

#: Rows that are compared at a time.
STEP = 4096

#: What hands token ids on as they are, by its first input.
HANDS_ON = ("Cast", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class Table:
    """A constant whose rows are looked up by computed ids and that nothing else reads; `inputs` are where the ids come
    from, None where that is more than an input as it is."""

    constant: gs.Constant
    readers: tuple[gs.Node, ...]
    inputs: tuple[str, ...] | None

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return int(np.prod(self.constant.shape[1:])) * int(np.dtype(self.constant.dtype).itemsize)

    def saved(self, rows: int) -> int:
        """Bytes that go where so many rows are left, with a number for every row there was."""
        return (int(self.constant.shape[0]) - rows) * self.row_bytes - 4 * int(self.constant.shape[0])


def tables(model: Model) -> Iterator[Table]:
    """Every table of the main graph, in order."""
    inner = {id(node) for node in model.graph.nodes}
    readers: dict[int, list[gs.Node]] = {}
    held: dict[int, gs.Constant] = {}
    for node in model.walk():
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant):
                readers.setdefault(id(tensor), []).append(node)
                held[id(tensor)] = tensor
    outputs = {id(tensor) for tensor in model.graph.outputs}
    for key, nodes in readers.items():
        constant = held[key]
        looked_up = all(id(node) in inner and _looks_up(node, constant) for node in nodes)
        if looked_up and key not in outputs and len(constant.shape) > 1:
            sources = [_source(model, node.inputs[1]) for node in nodes]
            inputs = None if None in sources else tuple(dict.fromkeys(name for name in sources if name))
            yield Table(constant, tuple(nodes), inputs)


def _looks_up(node: gs.Node, constant: gs.Constant) -> bool:
    """Whether a node picks rows of the constant by computed ids."""
    return (
        node.op == "Gather" and node.inputs[0] is constant and int(node.attrs.get("axis", 0)) == 0
        and not isinstance(node.inputs[1], gs.Constant)
    )  # fmt: skip


def _source(model: Model, tensor: gs.Tensor) -> str | None:
    """The input of the model whose values a tensor holds."""
    given = {id(t): str(t.name) for t in model.graph.inputs}
    while id(tensor) not in given:
        if len(tensor.inputs) != 1 or tensor.inputs[0].op not in HANDS_ON:
            return None
        tensor = tensor.inputs[0].inputs[0]
    return given[id(tensor)]


def vocabularies(model: Model, specs: Iterable[InputSpec]) -> list[Table]:
    """Tables that token ids of the model's inputs are looked up in: not those of positions and token types, whose rows
    mean something to inputs that samples do not show."""
    ids = {spec.name for spec in specs if role_of(spec) == "ids"}
    return [table for table in tables(model) if table.inputs and ids.issuperset(table.inputs)]


def nearest(values: Array, kept: NDArray[np.bool_], goals: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For every row the number of one that is left, [rows]: its own where it is kept, else that of the goal whose
    direction is nearest. By distance the shortest rows, which say least, would be nearest to most."""
    rows = values.reshape(len(values), -1).astype(np.float32)
    ends, others = np.flatnonzero(goals), np.flatnonzero(~kept)
    width = int(max(16, WORK / max(len(ends) * len(others), 1)))
    if width < rows.shape[1]:
        rows = rows @ np.random.default_rng(0).normal(0, width**-0.5, (rows.shape[1], width)).astype(np.float32)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    found = np.arange(len(rows))
    for start in range(0, len(others), STEP):
        part = others[start : start + STEP]
        found[part] = ends[np.argmax(rows[part] @ rows[ends].T, axis=1)]
    return found


def share_rows(model: Model) -> bool:
    """Hold equal rows of tables once, behind a table of numbers. Whether anything changed."""
    changed = False
    for table in tables(model):
        values = table.constant.values
        known: dict[bytes, int] = {}
        first: list[int] = []
        numbers = np.zeros(len(values), np.int32)
        for place, row in enumerate(values):
            key = blake2b(row.tobytes(), digest_size=16).digest()
            if key not in known:
                known[key] = len(first)
                first.append(place)
            numbers[place] = known[key]
        if table.saved(len(first)) < WORTH:
            continue
        constant = gs.Constant(table.constant.name, np.ascontiguousarray(values[first]))
        places = gs.Constant(f"{constant.name}_numbers", numbers)
        for node in table.readers:
            number = gs.Variable(f"{node.outputs[0].name}_number", np.int32)
            at = next(index for index, other in enumerate(model.graph.nodes) if other is node)
            model.graph.nodes.insert(
                at, gs.Node("Gather", f"{node.name}_number", {}, [places, node.inputs[1]], [number])
            )
            node.inputs[0], node.inputs[1] = constant, number
        changed = True
    return changed


def spread_rows(model: Model) -> Model:
    """A model whose tables have all their rows again, under their own names: what `share_rows` made of it undone."""
    model = model.copy()
    for node in model.graph.nodes:
        maker = node.inputs[1].inputs[0] if node.op == "Gather" and node.inputs[1].inputs else None
        if maker is None or maker.op != "Gather" or len(maker.inputs) != 2:
            continue
        rows, numbers = node.inputs[0], maker.inputs[0]
        if isinstance(rows, gs.Constant) and isinstance(numbers, gs.Constant) and len(numbers.shape) == 1:
            if numbers.name != f"{rows.name}_numbers":
                continue
            node.inputs[0] = gs.Constant(rows.name, rows.values[numbers.values])
            node.inputs[1] = maker.inputs[1]
    model.graph.cleanup(remove_unused_node_outputs=False)
    return model
