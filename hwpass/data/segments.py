"""Run a model a few nodes at a time over many inputs, keeping between steps only what later nodes read.

This is what lets weights be corrected layer by layer, each on what the corrected layers before it really compute, at
the price of one forward pass in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.files.temporary import TemporaryFolder
from hwpass.files.whole_files import spilling
from hwpass.model.model import Model, quiet
from hwpass.model.node_order import reads
from hwpass.runtime.sessions import Feed, open_session, run_session
from hwpass.spans import span

#: Activations kept in memory, where nobody says how many; beyond this they go to a temporary folder.
MEMORY_BYTES = 16 << 20


@dataclass(frozen=True)
class _Filed:
    """An array in a file of its own."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """The array, mapped."""
        return np.memmap(self.path, self.dtype, "r", shape=self.shape)


class Segments:
    """A model, its inputs in batches, and a cursor over the nodes of its main graph."""

    def __init__(
        self,
        model: Model,
        batches: Iterable[Mapping[str, np.ndarray]],
        threads: int = 1,
        room: int | None = None,
    ) -> None:
        """`room` is how many bytes of activations are kept in memory, about."""
        self.model = model
        self._room = MEMORY_BYTES if room is None else room
        self.threads = threads
        self.nodes = list(model.graph.nodes)
        self.cursor = 0
        self._folder = TemporaryFolder()
        self._held = 0
        self._count = 0
        self._free: dict[int, list[Path]] = {}  # files that nobody reads any more, by their sizes
        self._values: dict[str, list[np.ndarray | _Filed]] = {}
        self._last = self._last_reads()
        for batch in batches:
            for name, value in batch.items():
                self._values.setdefault(name, []).append(self._stored(value))
        self.batches = len(next(iter(self._values.values()))) if self._values else 0

    def close(self) -> None:
        """Forget all values."""
        self._values.clear()
        self._folder.cleanup()

    def __enter__(self) -> Segments:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def value(self, name: str) -> Sequence[np.ndarray]:
        """A tensor that is live at the cursor, batch by batch."""
        return _Batches(self._values[name])

    def live(self, name: str) -> bool:
        """Whether a tensor is known at the cursor."""
        return name in self._values

    def names(self) -> set[str]:
        """The tensors that are known at the cursor."""
        return set(self._values)

    @span("pruned inputs")
    def advance(self, stop: int, keep: Sequence[str] = ()) -> None:
        """Run the nodes before `stop`, and drop what no node from there on reads, `keep` excepted."""
        nodes = self.nodes[self.cursor : stop]
        self.cursor = max(self.cursor, stop)
        made = [t.name for node in nodes for t in node.outputs if t.name]
        wanted = [name for name in made if self._last.get(name, -1) >= stop or name in keep]
        if wanted:
            self._run(nodes, wanted)
        for name in list(self._values):
            if self._last.get(name, -1) < stop and name not in keep:
                self._drop(name)

    def _last_reads(self) -> dict[str, int]:
        last: dict[str, int] = {}
        for index, node in enumerate(self.nodes):
            for name in reads(node):
                last[name] = index
        for tensor in self.model.graph.outputs:
            last[tensor.name] = len(self.nodes)
        return last

    def _run(self, nodes: list[gs.Node], wanted: list[str]) -> None:
        made = {t.name for node in nodes for t in node.outputs}
        inputs = sorted({n for node in nodes for n in reads(node) if n not in made and n in self._values})
        session = open_session(self._graph(nodes, inputs, wanted), threads=self.threads)
        results: dict[str, list[np.ndarray | _Filed]] = {name: [] for name in wanted}
        for number in range(self.batches):
            feed: Feed = {name: np.asarray(self.value(name)[number], order="C") for name in inputs}
            for name, value in run_session(session, feed).items():
                results[name].append(self._stored(value))
        self._values.update(results)

    def _graph(self, nodes: list[gs.Node], inputs: list[str], outputs: list[str]) -> bytes:
        """The nodes as a model of their own."""
        made: dict[str, gs.Tensor] = {}

        def tensor(old: gs.Tensor) -> gs.Tensor:
            if isinstance(old, gs.Constant):
                return made.setdefault(old.name, gs.Constant(old.name, old.values))
            return made.setdefault(old.name, gs.Variable(old.name)) if old.name else gs.Variable.empty()

        copies = [
            gs.Node(
                node.op,
                node.name,
                dict(node.attrs),
                [tensor(t) for t in node.inputs],
                [tensor(t) for t in node.outputs],
                node.domain,
            )
            for node in nodes
        ]
        for name in inputs:
            value = self.value(name)[0]
            variable = made.setdefault(name, gs.Variable(name))
            variable.dtype = value.dtype
            variable.shape = [f"{name}.{axis}" for axis in range(value.ndim)]
        source = self.model.graph
        graph = gs.Graph(
            copies,
            [made[name] for name in inputs],
            [made[name] for name in outputs],
            opset=source.opset,
            import_domains=source.import_domains,
            ir_version=source.ir_version,
        )
        with quiet():
            return bytes(gs.export_onnx(graph, do_type_check=False).SerializeToString())

    def _stored(self, value: np.ndarray) -> np.ndarray | _Filed:
        if self._held + value.nbytes <= self._room or value.nbytes < 1 << 16 or value.dtype.hasobject:
            self._held += value.nbytes
            return value
        # Pages that are there are written again at half the price of new ones.
        free = self._free.get(value.nbytes)
        path = free.pop() if free else self._folder.path / f"{self._count}.raw"
        self._count += not free
        with spilling(), open(path, "r+b" if path.exists() else "wb") as stream:
            stream.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        return _Filed(path, value.shape, value.dtype)

    def _drop(self, name: str) -> None:
        for value in self._values.pop(name):
            if isinstance(value, _Filed):
                self._free.setdefault(value.nbytes, []).append(value.path)
            else:
                self._held -= value.nbytes


class _Batches(Sequence[np.ndarray]):
    """Arrays, those in files mapped only while they are looked at: what stays mapped counts as memory."""

    def __init__(self, held: Sequence[np.ndarray | _Filed]) -> None:
        self.held = held

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, number: Any) -> Any:
        value = self.held[number]
        return value.read() if isinstance(value, _Filed) else value
