"""Files in and out: models from anywhere, external data, constants as arrays, and text that appears whole."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


def check_writable(target: Path) -> None:
    """Raise InputError when a file cannot be created at `target`."""
    folder = target.parent
    if not folder.is_dir():
        raise InputError(f"{target}: the folder {folder} does not exist; create it first")
    if target.is_dir():
        raise InputError(f"{target}: is a folder; name a file")
    if target.exists() and not target.is_file():
        # The file that is put in its place would take the device's name away from everybody.
        raise InputError(f"{target}: is a device or a pipe, not a file; name a file, or - for standard output")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{target}: cannot write there ({error.strerror}); choose another folder") from None


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise InputError when a file cannot be put at `target`, or when what is done to write it fails (a full disk)."""
    check_writable(target)
    try:
        yield
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error}); choose another folder") from error


@contextmanager
def spilling() -> Iterator[None]:
    """Raise InputError when the folder for temporary files has no room for what is put aside there."""
    try:
        yield
    except OSError as error:
        # NumPy's own is without a number where it could not write all of an array.
        if error.errno not in (None, errno.ENOSPC, errno.EDQUOT):
            raise
        reason = error.strerror or error
        raise InputError(f"no room in the folder {tempfile.gettempdir()}: {reason}; make room or set TMPDIR") from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all."""
    target = Path(path)
    with writing(target):
        descriptor, draft = tempfile.mkstemp(dir=target.parent, prefix=".hwpass-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.chmod(draft, 0o644)
            os.replace(draft, target)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise


def read(source: Source) -> tuple[onnx.ModelProto, Path | None, str, str, onnx.ModelProto | bytes | Path]:
    """The proto, the folder of its external data, a name for messages, the SHA-256 of what was read, and what was
    given: a file's path, or the bytes of what can be read only once."""
    if isinstance(source, onnx.ModelProto):
        digest = hashlib.sha256(source.SerializeToString(deterministic=True)).hexdigest()
        return source, None, "model", digest, source
    given: bytes | Path
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
            given = path if path.is_file() else data
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    else:
        name, data = str(getattr(source, "name", "stdin")), source.read()
    if not data:
        raise InputError(f"{name}: the file is empty")
    if not isinstance(source, str | os.PathLike):
        given = data
    digest = hashlib.sha256(data).hexdigest()
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
    return proto, folder, name, digest, given


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
