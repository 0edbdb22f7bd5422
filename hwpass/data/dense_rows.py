"""Rows of what the layers of a model give, at sampled positions: taken in one pass of the whole model.

A refit sets a pruned model against them. They belong to the original, so that they serve any number of plans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwpass.data.row_table import Room, RowTable
from hwpass.data.sampled_rows import Ints, image_rows, last_axis_rows, sample
from hwpass.data.taps import tapped_session
from hwpass.model.model import Model
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, StoredModel, run_session

#: Bytes of rows of one tensor that wait before they are put aside.
PORTION = 1 << 17


@dataclass(frozen=True)
class Wish:
    """Rows of a layer that are wanted: about `rows` of `tensor`, whose channels lie along axis 1 or -1, and those of
    the tensors `beside` at the same positions, where they have the same shape."""

    tensor: str
    axis: int
    rows: int
    beside: tuple[str, ...] = ()


@dataclass
class _Taken:
    """Rows of a layer in the order of the batches, and where they lie."""

    wish: Wish
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    where: list[tuple[Ints, ...]] = field(default_factory=list)
    tables: dict[str, RowTable] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerRows:
    """Rows of a layer, batch by batch, at the positions that are left where entries of axes beside its channels' go.

    `shapes` and `where` are as they are then: per batch the shape of the tensor, and sample and place of each row.
    """

    shapes: Sequence[tuple[int, ...]]
    where: Sequence[tuple[Ints, ...]]
    _taken: _Taken
    _starts: Sequence[int]
    _left: Sequence[NDArray[np.bool_] | None]

    def has(self, tensor: str) -> bool:
        """Whether there are rows of a tensor beside the layer's own."""
        return tensor in self._taken.tables

    def rows(self, number: int, tensor: str = "") -> NDArray[np.float32]:
        """Rows of a batch, [rows, channels]: of the layer's own tensor, or of one beside it."""
        table = self._taken.tables[tensor or self._taken.wish.tensor]
        found = table[self._starts[number] : self._starts[number + 1]]
        left = self._left[number]
        return found if left is None else found[left]


class DenseRows:
    """Rows of many layers of a model, by the numbers that their wishes have."""

    def __init__(
        self,
        model: Model,
        wishes: Mapping[int, Wish],
        batches: Iterable[Feed],
        samples: int,
        *,
        room: Room,
        threads: int = 1,
        seed: int = 0,
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Run the model over batches of `samples` samples in all; what `room` does not hold goes to files.

        Layers whose tensors cannot be handed out are left out.
        """
        self.wishes = wishes
        self._taken = {number: _Taken(wish) for number, wish in wishes.items()}
        self._room = room
        self._samples = max(samples, 1)
        self._random = np.random.default_rng(seed)
        given = {t.name for t in model.graph.inputs}
        made = {t.name for node in model.graph.nodes for t in node.outputs}
        wanted = [name for wish in wishes.values() for name in (wish.tensor, *wish.beside)]
        try:
            with StoredModel(model.proto()) as stored:
                names = [name for name in dict.fromkeys(wanted) if name in made and name not in given]
                session, _ = tapped_session(stored, names, threads)
                for number, feed in enumerate(batches, 1):
                    progress(f"the original's outputs, batch {number}")
                    values: Feed = {**feed, **(run_session(session, feed) if session is not None else {})}
                    for taken in self._taken.values():
                        self._take(taken, values)
                    del values
                del session
        finally:
            release_memory()
        for taken in self._taken.values():
            for table in taken.tables.values():
                table.finish()

    def has(self, number: int) -> bool:
        """Whether there are rows of a layer."""
        return bool(self._taken[number].tables) if number in self._taken else False

    def layer(self, number: int, kept: Mapping[int, NDArray[np.bool_]] | None = None) -> LayerRows:
        """The rows of a layer; `kept` masks entries of axes, beside that of the channels, that are removed."""
        taken = self._taken[number]
        channels = taken.wish.axis
        starts = [0, *accumulate(len(places[0]) for places in taken.where)]
        if not kept:
            return LayerRows(taken.shapes, taken.where, taken, starts, [None] * len(taken.where))
        shapes, where, left = [], [], []
        for shape, places in zip(taken.shapes, taken.where, strict=True):
            axes = [a for a in range(len(shape)) if a != channels % len(shape)]
            stays = np.ones(len(places[0]), bool)
            for axis, place in zip(axes, places, strict=True):
                stays &= kept[axis][place] if axis in kept else True
            now = [np.cumsum(kept[a])[p] - 1 if a in kept else p for a, p in zip(axes, places, strict=True)]
            where.append(tuple(place[stays] for place in now))
            left.append(stays)
            shapes.append(tuple(int(kept[a].sum()) if a in kept else size for a, size in enumerate(shape)))
        return LayerRows(shapes, where, taken, starts, left)

    def _take(self, taken: _Taken, values: Mapping[str, np.ndarray]) -> None:
        wish = taken.wish
        own = values.get(wish.tensor)
        if own is None or own.ndim < 2:
            return
        image: Sequence[int] = own.shape[2:] if wish.axis == 1 else own.shape[1:-1]
        places = sample(own.shape[0], image, -(-wish.rows // self._samples), self._random)
        rows_of = image_rows if wish.axis == 1 else last_axis_rows
        first = not taken.where
        taken.shapes.append(own.shape)
        taken.where.append(places)
        for name in (wish.tensor, *wish.beside):
            value: Any = values.get(name)
            if value is None or value.shape != own.shape:
                taken.tables.pop(name, None)
            elif first or name in taken.tables:
                table = taken.tables.setdefault(name, RowTable(room=self._room, portion=PORTION))
                table.add(rows_of(value, places))
