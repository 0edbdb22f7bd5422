"""The model as an intermediate representation: a graphsurgeon graph with what ONNX keeps beside it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper
from onnx_graphsurgeon.logger import G_LOGGER

from hwpass.figures import brief, counted
from hwpass.files.whole_files import whole
from hwpass.model.aliases import check_apart
from hwpass.model.reading import read
from hwpass.model.soundness import require_sound
from hwpass.model.sources import Source
from hwpass.proto.canonical import canonical
from hwpass.proto.exporting import exported, value_info
from hwpass.proto.gc_pause import collection_paused
from hwpass.proto.kept import Kept, keep
from hwpass.proto.materialise import materialise_constants
from hwpass.proto.put_aside import put_aside
from hwpass.proto.shapes import with_shapes
from hwpass.proto.sparse import make_sparse, sparse_bytes
from hwpass.proto.streaming import contiguous, large_constants, mapped_files, write_single
from hwpass.runtime.memory import release_memory

if TYPE_CHECKING:
    from hwpass.runtime.sessions import ModelLike

#: A protobuf message cannot be larger than 2 GiB; weights beyond this share go to a file beside the model.
PROTO_LIMIT = 1_900_000_000

#: What `Model.stamp` tells of a model that hwpass made; the keys in its metadata begin with "hwpass.".
STAMPS = ("version", "source_sha256", "target", "budget", "plan_sha256", "verdicts")


@dataclass
class Model:
    """An ONNX model: `graph` holds nodes, constants and variables; the rest is what the proto carries besides.

    Constant nodes are turned into initialisers and local functions are inlined when a model is loaded, so
    passes meet one form only. Constants are NumPy arrays (memory-mapped when they were external data). `source` is
    what was loaded, exactly as it was given: the path of a file, bytes (also those of a stream), or a proto. `renewed`
    are inner tensors that compute something else by now than under this name in `source`, though no output does.
    `principal` are inner tensors of attention whose dimensions of a head stand in the order of their size, with the
    axis that they stand along. `sparse` are constants that are written as sparse tensors.
    """

    graph: gs.Graph
    sha256: str
    path: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    domain: str = ""
    model_version: int = 0
    doc_string: str = ""
    source: ModelLike | None = field(default=None, repr=False)
    kept: Kept = field(default_factory=Kept, repr=False)
    renewed: frozenset[str] = field(default=frozenset(), repr=False)
    principal: Mapping[str, int] = field(default_factory=dict, repr=False)
    sparse: frozenset[str] = field(default=frozenset(), repr=False)

    def __repr__(self) -> str:
        return brief(self, self.path or self.graph.name, counted(len(self.graph.nodes), "node"), f"opset {self.opset}")

    @property
    def opset(self) -> int:
        """The version of the standard operator set."""
        return int(self.graph.opset)

    @property
    def nodes(self) -> list[gs.Node]:
        """The nodes of the main graph in a topological order."""
        return list(self.graph.nodes)

    @classmethod
    def load(cls, source: Source, *, allow_external: bool = False) -> Model:
        """Load a model from a path, bytes, a binary stream or a `ModelProto` (which is left as it is).

        External data is read from the model's own folder, with `allow_external` from anywhere. Raises InputError when
        there is no sound model that ONNX Runtime loads to be had from `source`, in one line that says why.
        """
        found = read(source, allow_external)
        sparse = frozenset(tensor.values.name for tensor in found.proto.graph.sparse_initializer)
        functions = bool(found.proto.functions)
        proto = canonical(found.proto, found.name, found.own)
        if functions:
            require_sound(proto, found.home, found.name)
        kept = keep(proto)
        with quiet(), collection_paused():
            graph = gs.import_onnx(proto)
        # The imported entries are views that would keep the whole protobuf, weights included, alive.
        graph.import_domains = [helper.make_opsetid(entry.domain, entry.version) for entry in proto.opset_import]
        model = cls(
            graph=graph,
            sha256=found.sha256,
            path=found.name,
            metadata={entry.key: entry.value for entry in proto.metadata_props},
            domain=proto.domain,
            model_version=proto.model_version,
            doc_string=proto.doc_string,
            source=found.source,
            kept=kept,
            sparse=sparse,
        )
        for scope in model.scopes():
            materialise_constants(scope, found.home, found.name)
        _rename_generated(model)
        _restore_shapes(model, proto)
        del found, proto
        release_memory()
        put_aside(list(model.constants().values()))
        return model

    def walk(self) -> Iterator[gs.Node]:
        """Every node in execution order; those of a body come before the node that has the body."""
        return _walk(self.graph)

    def scopes(self) -> Iterator[gs.Graph]:
        """The main graph and then every subgraph inside it."""
        yield self.graph
        yield from self.graph.subgraphs(recursive=True)

    def copy(self) -> Model:
        """A copy whose graph may be edited freely; the arrays of constants are shared until replaced."""
        with collection_paused():
            graph = self.graph.copy()
        # Graphsurgeon's copy forgets who made the model.
        graph.producer_name, graph.producer_version = self.graph.producer_name, self.graph.producer_version
        return replace(self, graph=graph, metadata=dict(self.metadata))

    def constants(self) -> dict[str, gs.Constant]:
        """The constants that some node or output uses, bodies included, by name."""
        found: dict[str, gs.Constant] = {}
        for node in self.walk():
            for tensor in node.inputs:
                if isinstance(tensor, gs.Constant):
                    found[tensor.name] = tensor
        for tensor in self.graph.outputs:
            if isinstance(tensor, gs.Constant):
                found[tensor.name] = tensor
        return found

    def parameter_count(self) -> int:
        """Elements of all constants that are neither int64 nor bool: weights, quantised ones included."""
        total = 0
        for tensor in self.constants().values():
            if np.dtype(tensor.dtype) not in (np.dtype(np.int64), np.dtype(bool)):
                total += int(np.prod(tensor.shape, dtype=np.int64))
        return total

    def size_bytes(self) -> int:
        """Bytes of all constants: the size of the file to within the few kilobytes that name the nodes."""
        return sum(
            sparse_bytes(tensor.values) if name in self.sparse else constant_bytes(tensor)
            for name, tensor in self.constants().items()
        )

    def proto(self) -> onnx.ModelProto:
        """The model as a protobuf: the same model gives the same bytes."""
        return self._exported(hollow=False)

    def written(self) -> onnx.ModelProto:
        """The model as a file describes it: with the shapes of inner tensors, and without data of large constants."""
        return with_shapes(self._exported(hollow=True))

    def _exported(self, hollow: bool) -> onnx.ModelProto:
        proto = exported(self.graph, self.graph.import_domains, self.kept.attributes, hollow)
        self.kept.restore(proto.graph)
        make_sparse(proto.graph, self.sparse, self.constants() if self.sparse else {})
        proto.domain, proto.model_version, proto.doc_string = self.domain, self.model_version, self.doc_string
        for key, value in sorted(self.metadata.items()):
            entry = proto.metadata_props.add()
            entry.key, entry.value = key, value
        return proto

    def stamp(self, **facts: Any) -> None:
        """Write into the metadata how the model was made: `STAMPS` says what can be told.

        Text is kept as it is, anything else becomes JSON of one spelling; None takes an earlier fact away.
        """
        for key, value in facts.items():
            if key not in STAMPS:
                raise TypeError(f"{key} is no fact of a stamp; choose among {', '.join(STAMPS)}")
            self.metadata.pop(f"hwpass.{key}", None)
            if value is not None:
                text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
                self.metadata[f"hwpass.{key}"] = text

    def interface(self) -> onnx.ModelProto:
        """A proto of the inputs and outputs alone, as the file declares them, without nodes or weights."""
        made = onnx.ModelProto()
        made.graph.input.extend(value_info(t) for t in self.graph.inputs)
        made.graph.output.extend(value_info(t) for t in self.graph.outputs)
        replace(self.kept, listed=False, quantization=()).restore(made.graph)
        return made

    def save(self, path: str | os.PathLike[str], check: Callable[[Path], None] | None = None) -> None:
        """Write the model whole or not at all; weights go to `<name>.data` beside it above 2 GB.

        `check` is called with the path of the finished draft, its weights beside it, before the files get their
        names: what it raises leaves nothing behind. Raises InputError when the folder does not exist or cannot be
        written to, or the disk is full.
        """
        sources = {self.path, *mapped_files(self.constants().values())} - {"", "model"}
        check_apart([path, f"{path}.data"], sources)
        with whole(path) as draft:
            self.write(draft)
            if check is not None:
                check(draft)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the model as `save` does, in a folder of one's own where no reader looks while it is made."""
        path = Path(path)
        if self.size_bytes() <= PROTO_LIMIT:
            with open(path, "wb") as stream:
                write_single(self.written(), large_constants(self.constants()), stream)
        else:
            _write_external(self, path.parent, path.name, path.name + ".data")

    def store(self, folder: str | os.PathLike[str], name: str = "model.onnx") -> Path:
        """Write the graph and its weights as two files: a form that a session opens without a copy in memory."""
        return _write_external(self, Path(folder), name, name + ".data")

    def invalidate_shapes(self) -> None:
        """Forget recorded shapes of intermediate tensors: they are derived facts, and stale after a rewrite."""
        kept = {id(tensor) for tensor in [*self.graph.inputs, *self.graph.outputs]}
        for scope in self.scopes():
            for node in scope.nodes:
                for tensor in node.outputs:
                    if isinstance(tensor, gs.Variable) and id(tensor) not in kept:
                        tensor.shape = None
                        tensor.dtype = None


def _rename_generated(model: Model) -> None:
    """Rename shapes that ONNX Runtime's optimiser made: doing so again, it trips over the names it gave."""
    for name, tensor in model.constants().items():
        if name.startswith(("gemm_input_shape", "gemm_output_shape")):
            tensor.name = f"kept_{name}"


def _restore_shapes(model: Model, proto: onnx.ModelProto) -> None:
    """Give outputs the shapes that they are declared with: graphsurgeon prefers their entries in `value_info`, which
    some quantisers write without one."""
    for tensor, declared in zip(model.graph.outputs, proto.graph.output, strict=True):
        kind = declared.type.tensor_type
        if tensor.shape is None and kind.HasField("shape") and isinstance(tensor, gs.Variable):
            sizes = kind.shape.dim
            tensor.shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in sizes]


def _walk(graph: gs.Graph) -> Iterator[gs.Node]:
    for node in graph.nodes:
        for body in bodies(node):
            yield from _walk(body)
        yield node


def bodies(node: gs.Node) -> list[gs.Graph]:
    """The subgraphs of an If, Loop or Scan, in a fixed order."""
    return [value for _, value in sorted(node.attrs.items()) if isinstance(value, gs.Graph)]


@contextmanager
def quiet() -> Iterator[None]:
    """Graphsurgeon reports what it meets on standard output; what matters of it is reported by us."""
    severity = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.CRITICAL
    try:
        yield
    finally:
        G_LOGGER.severity = severity


def constant_bytes(tensor: gs.Constant) -> int:
    """Bytes of one constant, without loading it."""
    itemsize = np.dtype(tensor.dtype).itemsize if not isinstance(tensor.dtype, int) else 1
    return int(np.prod(tensor.shape, dtype=np.int64)) * itemsize


def _write_external(model: Model, scratch: Path, name: str, data: str) -> Path:
    """Write the proto and its weights as two files, streaming the weights one by one."""
    # Weights of bodies stay in the proto: not every runtime looks for them elsewhere.
    constants = large_constants(model.constants())
    proto = model.written()
    with open(scratch / data, "wb") as stream:
        for tensor in proto.graph.initializer:
            if tensor.name not in constants or tensor.HasField("raw_data"):
                continue
            stream.seek(-stream.tell() % 4096, io.SEEK_CUR)
            start = stream.tell()
            stream.write(contiguous(constants[tensor.name].values))
            tensor.data_location = TensorProto.EXTERNAL
            length = stream.tell() - start
            for label, text in (("location", data), ("offset", str(start)), ("length", str(length))):
                entry = tensor.external_data.add()
                entry.key, entry.value = label, text
    draft = scratch / name
    draft.write_bytes(proto.SerializeToString(deterministic=True))
    return draft
