"""What a leg of the proof compares: a model that can be run, and whose inner tensors can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol
from weakref import finalize

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from hwpass.files.temporary import TemporaryFolder
from hwpass.model.model import Model
from hwpass.ops import traits_of
from hwpass.proto.external import external
from hwpass.proto.interface import Interface
from hwpass.proto.streaming import release_pages
from hwpass.runtime.inputs import is_float
from hwpass.runtime.memory import release_memory, trim
from hwpass.runtime.sessions import (
    IN_MEMORY_BYTES,
    Feed,
    ModelLike,
    StoredModel,
    open_session,
    run_session,
    weight_bytes,
)

Feeds = Sequence[Mapping[str, np.ndarray]]

#: A relative change of weights and inputs that rounding alone makes: two steps of float32.
ROUNDING = 2e-7


class Side(Protocol):
    """One side of a comparison."""

    what: str
    interface: Interface | None  # once it was run

    def outputs(self, feeds: Feeds) -> list[Feed]:
        """Outputs on every feed, in one session that is gone afterwards. Raises InputError."""

    def tensors(self, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> Feed:
        """Inner tensors of the main graph by name, computed without graph optimisation. Raises InputError."""

    def names(self) -> list[str]:
        """The tensors that nodes of the main graph make, in order."""


class AsGiven:
    """A model as it was given, run by ONNX Runtime from its own bytes: nothing of it goes through the loader."""

    def __init__(self, what: str, model: ModelLike, threads: int) -> None:
        self.what = what
        self.model = model
        self.threads = threads
        self.interface: Interface | None = None
        self._held: dict[int, Feed] = {}
        self._apart: StoredModel | None = None
        self._names: list[str] | None = None

    def know(self, session: ort.InferenceSession, feeds: Feeds, outputs: Sequence[Feed]) -> None:
        """Take outputs on feeds that a session of the model has run; the feeds must outlive this."""
        self.interface = Interface.of(session)
        self._held.update(zip(map(id, feeds), outputs, strict=True))

    def outputs(self, feeds: Feeds) -> list[Feed]:
        missing = [feed for feed in feeds if id(feed) not in self._held]
        if missing:
            self.interface, found = _run(self.model, missing, self.threads)
            self._held.update(zip(map(id, missing), found, strict=True))
        return [self._held[id(feed)] for feed in feeds]

    def tensors(self, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> Feed:
        session = self._exposing(names)
        try:
            return run_session(session, feed)
        finally:
            del session

    def _exposing(self, names: Sequence[str]) -> ort.InferenceSession:
        """A session with inner tensors as its outputs. Large weights within the model go to a file once, from which
        every session maps them."""
        if self._apart is None:
            proto, folder = _proto(self.model)
            if weight_bytes(proto) < IN_MEMORY_BYTES or any(map(external, proto.graph.initializer)):
                del proto.graph.output[:]
                proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
                return open_session(proto, threads=self.threads, level="none", folder=folder)
            self._apart = StoredModel(proto)
            finalize(self, self._apart.close)
            del proto
            release_memory()
        return self._apart.open_session(outputs=names, threads=self.threads, level="none")

    def names(self) -> list[str]:
        if self._names is None:
            proto, _ = _proto(self.model)
            self._names = [name for node in proto.graph.node for name in node.output if name]
        return self._names


class InMemory:
    """A model in memory, made when it is asked for and not held in between."""

    def __init__(self, what: str, build: Callable[[], Model], threads: int, *, written: bool = False) -> None:
        """`written` runs the bytes that would be written, not a form made for sessions."""
        self.what = what
        self.build = build
        self.threads = threads
        self.written = written
        self.interface: Interface | None = None
        self._held: dict[int, Feed] = {}

    def outputs(self, feeds: Feeds) -> list[Feed]:
        missing = [feed for feed in feeds if id(feed) not in self._held]
        if missing:
            self._held.update(zip(map(id, missing), self._outputs(missing), strict=True))
        return [self._held[id(feed)] for feed in feeds]

    def _outputs(self, feeds: Feeds) -> list[Feed]:
        # The weights go to a file before the session loads them, so that nothing holds them twice.
        with TemporaryFolder() as folder:
            model = self.build()
            path = written(model, folder) if self.written else model.store(folder)
            release_pages(model.constants().values())
            del model
            release_memory()
            self.interface, found = _run(path, feeds, self.threads)
            return found

    def tensors(self, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> Feed:
        def exposed() -> Model:
            model = self.build().copy()
            # A branch that is never taken may not go with the shapes that the others have: they are left open.
            model.invalidate_shapes()
            made = {t.name: t for node in model.graph.nodes for t in node.outputs}
            model.graph.outputs = [made[name] for name in names]
            return model

        return run_once(exposed, feed, self.threads)

    def names(self) -> list[str]:
        return made_by(self.build())


def made_by(model: Model) -> list[str]:
    """Tensors that nodes of the main graph make, in order."""
    return [t.name for node in model.graph.nodes for t in node.outputs if t.name]


def written(model: Model, folder: Path) -> Path:
    """The model as `Model.save` writes it, in a folder."""
    path = folder / "model.onnx"
    model.write(path)
    return path


def run_once(build: Callable[[], Model], feed: Mapping[str, np.ndarray], threads: int) -> Feed:
    """The outputs of a model, which is not held while it runs, without graph optimisation, on those values of a feed
    that it reads. Raises InputError."""
    with TemporaryFolder() as folder:
        path = build().store(folder)
        release_memory()
        session = open_session(path, threads=threads, level="none")
        read = [value.name for value in session.get_inputs()]
        try:
            return run_session(session, {name: feed[name] for name in read if name in feed})
        finally:
            del session


def nudged(model: Model, seed: int) -> Model:
    """A copy whose floating-point constants are each off by what rounding alone could do."""
    rng = np.random.default_rng(seed)
    moved = model.copy()
    done: dict[int, gs.Constant] = {}
    for node in moved.walk():
        for position, tensor in enumerate(node.inputs):
            if not isinstance(tensor, gs.Constant) or tensor.values.dtype not in (np.float32, np.float64):
                continue
            if position in traits_of(node).settles or position in traits_of(node).extents:
                continue
            if id(tensor) not in done:
                factor = 1 + ROUNDING * rng.uniform(-1, 1, tensor.values.shape)
                values = np.asarray(tensor.values * factor).astype(tensor.values.dtype)
                done[id(tensor)] = gs.Constant(f"{tensor.name}_nudged_{len(done)}", values)
            node.inputs[position] = done[id(tensor)]
    return moved


def nudged_feeds(feeds: Feeds, seed: int) -> list[Feed]:
    """Inputs each off by what rounding alone could do; integers as they are."""
    rng = np.random.default_rng(seed)
    return [
        {
            name: (value * (1 + ROUNDING * rng.uniform(-1, 1, value.shape))).astype(value.dtype)
            if is_float(value.dtype)
            else value
            for name, value in feed.items()
        }
        for feed in feeds
    ]


def _run(model: ModelLike, feeds: Iterable[Mapping[str, np.ndarray]], threads: int) -> tuple[Interface, list[Feed]]:
    session = open_session(model, threads=threads, level="lean")
    try:
        found = []
        for feed in feeds:
            found.append(run_session(session, feed))
            trim()
        return Interface.of(session), found
    finally:
        del session
        release_memory()


def _proto(model: ModelLike) -> tuple[onnx.ModelProto, Path | None]:
    """A proto that may be edited, and the folder that its external data lies in."""
    if isinstance(model, Path):
        return onnx.load(model, load_external_data=False), model.absolute().parent
    if isinstance(model, bytes):
        return onnx.load_from_string(model), None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy, None
