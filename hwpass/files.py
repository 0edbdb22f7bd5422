"""Files in: models from anywhere, external data, constants as arrays."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, helper, inliner, numpy_helper

from hwpass.errors import InputError

Source = str | os.PathLike[str] | bytes | onnx.ModelProto | BinaryIO


def read(source: Source) -> tuple[onnx.ModelProto, Path | None, str, str]:
    """The proto, the folder of its external data, a name for messages, and the SHA-256 of what was read."""
    if isinstance(source, onnx.ModelProto):
        return source, None, "model", hashlib.sha256(source.SerializeToString(deterministic=True)).hexdigest()
    folder: Path | None = None
    if isinstance(source, bytes):
        name, data = "model", source
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        name, folder = str(source), path.parent
        if not path.exists():
            raise InputError(f"{path}: no such file")
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name the .onnx file in it")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    else:
        name, data = str(getattr(source, "name", "stdin")), source.read()
    if not data:
        raise InputError(f"{name}: the file is empty")
    digest = hashlib.sha256(data)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise InputError(f"{name}: not an ONNX model, or cut short; export it again") from None
    del data
    if not proto.HasField("graph") or not proto.graph.node:
        raise InputError(f"{name}: not an ONNX model (no graph with nodes in it)")
    for tensor in external_tensors(proto):
        location = external_data_helper.ExternalDataInfo(tensor).location
        if folder is None or not (folder / location).is_file():
            raise InputError(f"{name}: its external data file {location} is missing; put it beside the model")
    return proto, folder, name, digest.hexdigest()


def external_tensors(proto: onnx.ModelProto) -> list[TensorProto]:
    """The initialisers whose data is in a file beside the model."""
    return [t for t in proto.graph.initializer if external_data_helper.uses_external_data(t)]


def inlined(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with its local functions inlined. Raises InputError."""
    if not proto.functions:
        return proto
    try:
        inlined: onnx.ModelProto = inliner.inline_local_functions(proto)
        return inlined
    except Exception as error:
        raise InputError(f"{name}: its local functions cannot be inlined: {str(error).splitlines()[0]}") from None


def materialise_constants(scope: gs.Graph, folder: Path | None, name: str) -> None:
    """Turn Constant nodes into initialisers and lazily held protos into arrays, in place."""
    kept = []
    for node in scope.nodes:
        if node.op == "Constant" and node.domain in (None, "", "ai.onnx"):
            value = _constant_value(node)
            if value is not None:
                output = node.outputs[0]
                node.outputs.clear()
                output.to_constant(value)
                continue
        kept.append(node)
    outputs = {id(tensor) for tensor in scope.outputs}
    scope.nodes = kept
    seen: set[int] = set()
    for node in kept:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant) and id(tensor) not in seen:
                seen.add(id(tensor))
                _materialise(tensor, folder, name)
    for position, tensor in enumerate(scope.outputs):
        # A constant may not be a graph output in every runtime: pass it through an Identity.
        if isinstance(tensor, gs.Constant) and id(tensor) in outputs:
            _materialise(tensor, folder, name)
            output = gs.Variable(tensor.name, dtype=tensor.dtype, shape=list(tensor.shape))
            tensor.name += "_value"
            scope.nodes.append(gs.Node("Identity", name=tensor.name, inputs=[tensor], outputs=[output]))
            scope.outputs[position] = output


def _constant_value(node: gs.Node) -> NDArray[Any] | Any | None:
    attributes = node.attrs
    if "value" in attributes:
        return attributes["value"]._values
    for key, dtype in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64),
                       ("value_ints", np.int64)):  # fmt: skip
        if key in attributes:
            return np.asarray(attributes[key], dtype=dtype)
    return None


def _materialise(tensor: gs.Constant, folder: Path | None, name: str) -> None:
    values = tensor._values
    if isinstance(values, np.ndarray):
        return
    proto = getattr(values, "tensor", None)
    if isinstance(proto, TensorProto):
        if external_data_helper.uses_external_data(proto):
            tensor._values = _mapped(proto, folder, name)
        else:
            tensor._values = numpy_helper.to_array(proto)
        tensor.data_location = None
        if tensor._values.dtype != np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type)):
            tensor.export_dtype = proto.data_type
    else:
        tensor._values = values.load()


def _mapped(proto: TensorProto, folder: Path | None, name: str) -> NDArray[Any]:
    """External data as a read-only memory map, so that a model larger than memory can still be loaded."""
    info = external_data_helper.ExternalDataInfo(proto)
    assert folder is not None
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type))
    shape = tuple(proto.dims)
    path = folder / info.location
    if proto.data_type in (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1):
        return np.asarray(numpy_helper.to_array(proto, base_dir=str(folder)))
    count = int(np.prod(shape, dtype=np.int64))
    offset = int(info.offset or 0)
    if offset + count * dtype.itemsize > path.stat().st_size:
        raise InputError(f"{name}: external data {info.location} is too short for {proto.name}")
    if count == 0:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
