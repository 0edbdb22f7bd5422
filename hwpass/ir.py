"""The model as an intermediate representation: a graphsurgeon graph with what ONNX keeps beside it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from hwpass.aliases import check_apart
from hwpass.collection import collection_paused
from hwpass.errors import InputError
from hwpass.files import Source, inlined, materialise_constants, read
from hwpass.order import graphs, ordered
from hwpass.streaming import mapped_files, write_single
from hwpass.whole_files import whole

#: A protobuf message cannot be larger than 2 GiB; weights beyond this share go to a file beside the model.
PROTO_LIMIT = 1_900_000_000

#: Types that ONNX packs several to a byte.
NARROW = frozenset({"uint4", "int4", "float4_e2m1fn", "uint2", "int2"})


@dataclass
class Model:
    """An ONNX model: `graph` holds nodes, constants and variables; the rest is what the proto carries besides.

    Constant nodes are turned into initialisers and local functions are inlined when a model is loaded, so
    passes meet one form only. Constants are NumPy arrays (memory-mapped when they were external data).
    """

    graph: gs.Graph
    sha256: str
    path: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    domain: str = ""
    model_version: int = 0
    doc_string: str = ""

    @property
    def opset(self) -> int:
        """The version of the standard operator set."""
        return int(self.graph.opset)

    @property
    def nodes(self) -> list[gs.Node]:
        """The nodes of the main graph in a topological order."""
        return list(self.graph.nodes)

    @classmethod
    def load(cls, source: Source) -> Model:
        """Load a model from a path, bytes, a binary stream or a `ModelProto` (which is left as it is).

        Raises InputError when there is no model to be had from `source`, in one line that says why.
        """
        proto, folder, name, digest = read(source)
        proto = ordered(inlined(proto, name), name)
        if not any(entry.domain in ("", "ai.onnx") for entry in proto.opset_import):
            raise InputError(f"{name}: no opset_import for the standard ONNX operators; not a usable model")
        with quiet(), collection_paused():
            graph = gs.import_onnx(proto)
        # The imported entries are views that would keep the whole protobuf, weights included, alive.
        graph.import_domains = [helper.make_opsetid(entry.domain, entry.version) for entry in proto.opset_import]
        model = cls(
            graph=graph,
            sha256=digest,
            path=name,
            metadata={entry.key: entry.value for entry in proto.metadata_props},
            domain=proto.domain,
            model_version=proto.model_version,
            doc_string=proto.doc_string,
        )
        for scope in model.scopes():
            materialise_constants(scope, folder, name)
        _rename_generated(model)
        _restore_shapes(model, proto)
        _restore_types(model, proto)
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
        return Model(
            graph, self.sha256, self.path, dict(self.metadata), self.domain, self.model_version,
            self.doc_string,
        )  # fmt: skip

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
        return sum(constant_bytes(tensor) for tensor in self.constants().values())

    def proto(self) -> onnx.ModelProto:
        """The model as a protobuf: the same model gives the same bytes."""
        with quiet(), self._packed():
            proto: onnx.ModelProto = gs.export_onnx(self.graph, do_type_check=False)
        self._hoist(proto)
        proto.domain, proto.model_version, proto.doc_string = self.domain, self.model_version, self.doc_string
        for key, value in sorted(self.metadata.items()):
            entry = proto.metadata_props.add()
            entry.key, entry.value = key, value
        return proto

    @contextmanager
    def _packed(self) -> Iterator[None]:
        """Have types of less than a byte exported as ONNX packs them: the exporter gives each element a byte."""
        narrow = [t for t in self.constants().values() if str(t.dtype) in NARROW and isinstance(t._values, np.ndarray)]
        values = [t._values for t in narrow]
        for tensor in narrow:
            tensor._values = LazyValues(numpy_helper.from_array(tensor._values, tensor.name))
        try:
            yield
        finally:
            for tensor, held in zip(narrow, values, strict=True):
                tensor._values = held

    def _hoist(self, proto: onnx.ModelProto) -> None:
        """Store a constant that several bodies read once, in the main graph: the exporter gives each a copy."""
        homes: dict[str, set[int]] = {}
        tensors: dict[str, set[int]] = {}
        for scope in self.scopes():
            for node in scope.nodes:
                for tensor in node.inputs:
                    if isinstance(tensor, gs.Constant):
                        homes.setdefault(tensor.name, set()).add(id(scope))
                        tensors.setdefault(tensor.name, set()).add(id(tensor))
        shared = {name for name, where in homes.items() if len(where) > 1 and len(tensors[name]) == 1}
        if not shared:
            return
        kept = {t.name for t in proto.graph.initializer}
        for body in islice(graphs(proto.graph), 1, None):
            inner = [t for t in body.initializer if t.name not in shared]
            for tensor in body.initializer:
                if tensor.name in shared - kept:
                    proto.graph.initializer.add().CopyFrom(tensor)
                    kept.add(tensor.name)
            if len(inner) < len(body.initializer):
                copies = [TensorProto.FromString(t.SerializeToString()) for t in inner]
                del body.initializer[:]
                body.initializer.extend(copies)

    def interface(self) -> onnx.ModelProto:
        """A proto of the inputs and outputs alone, without nodes or weights."""
        inputs = [OnnxExporter.export_value_info_proto(t, False) for t in self.graph.inputs]
        outputs = [OnnxExporter.export_value_info_proto(t, False) for t in self.graph.outputs]
        made: onnx.ModelProto = helper.make_model(helper.make_graph([], "interface", inputs, outputs))
        return made

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model whole or not at all; weights go to `<name>.data` beside it above 2 GB.

        Raises InputError when the folder does not exist or cannot be written to, or the disk is full.
        """
        sources = {self.path, *mapped_files(self)} - {"", "model"}
        check_apart([path, f"{path}.data"], sources)
        with whole(path) as draft:
            if self.size_bytes() <= PROTO_LIMIT:
                with open(draft, "wb") as stream:
                    write_single(self, stream)
            else:
                _write_external(self, draft.parent, draft.name, draft.name + ".data")

    def store(self, folder: Path, name: str = "model.onnx") -> Path:
        """Write the graph and its weights as two files: a form that a session opens without a copy in memory."""
        return _write_external(self, folder, name, name + ".data")

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
        if tensor.shape is None and kind.HasField("shape"):
            sizes = kind.shape.dim
            tensor.shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in sizes]


def _restore_types(model: Model, proto: onnx.ModelProto) -> None:
    """Give nodes back their attributes that are types, which graphsurgeon leaves out: an Optional has one."""
    found = {
        (node.output[0], attribute.name): attribute.tp
        for graph in graphs(proto.graph)
        for node in graph.node
        for attribute in node.attribute
        if attribute.type == onnx.AttributeProto.TYPE_PROTO
    }
    for node in model.walk() if found else ():
        for (output, name), kind in found.items():
            if node.outputs and node.outputs[0].name == output:
                node.attrs[name] = kind


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
    inner = {t.name for body in model.graph.subgraphs(recursive=True) for t in body.tensors().values()}
    constants = {key: tensor for key, tensor in model.constants().items() if key not in inner}
    small = {key: tensor for key, tensor in constants.items() if constant_bytes(tensor) < 1024}
    held = {key: tensor._values for key, tensor in constants.items() if key not in small}
    places: dict[str, tuple[int, int]] = {}
    with open(scratch / data, "wb") as stream:
        for key, values in held.items():
            stream.seek(-stream.tell() % 4096, io.SEEK_CUR)
            start = stream.tell()
            np.asarray(values, order="C").tofile(stream)
            places[key] = (start, stream.tell() - start)
    try:
        for key in held:
            constants[key]._values = np.zeros((0,), held[key].dtype)
        proto = model.proto()
    finally:
        for key, values in held.items():
            constants[key]._values = values
    for tensor in proto.graph.initializer:
        if tensor.name in places:
            offset, length = places[tensor.name]
            del tensor.dims[:]
            tensor.dims.extend(held[tensor.name].shape)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for label, text in (("location", data), ("offset", str(offset)), ("length", str(length))):
                entry = tensor.external_data.add()
                entry.key, entry.value = label, text
    draft = scratch / name
    draft.write_bytes(proto.SerializeToString(deterministic=True))
    return draft
