"""Models from anywhere: a file, bytes, a stream or a proto, checked before anything is made of them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError

from hwpass.errors import InputError
from hwpass.model.soundness import require_runnable, require_sound
from hwpass.model.sources import Source
from hwpass.proto.external import Home, TrustedPath, external
from hwpass.proto.toposort import graphs, ordered

__all__ = ["Read", "Source", "read"]


@dataclass(frozen=True)
class Read:
    """A model as it was found. `own` says whether nobody else holds `proto`, so that it may be changed.

    `source` is what was given: the path of a file, the bytes of what can be read only once, or the proto.
    """

    proto: onnx.ModelProto
    home: Home
    name: str
    sha256: str
    source: onnx.ModelProto | bytes | Path
    own: bool


def read(source: Source, allow_external: bool = False) -> Read:
    """Read a model and require that it is sound and that ONNX Runtime takes it. Raises InputError."""
    allow_external = allow_external or isinstance(source, TrustedPath)
    if isinstance(source, onnx.ModelProto):
        return _given(source)
    home = Home(None)
    if isinstance(source, bytes):
        name, data = "model", source
    elif isinstance(source, str | os.PathLike):
        name, path = os.fspath(source), Path(source)
        data = _file(path)
        if os.path.isfile(path):
            home = Home(path, allow_external)
    else:
        name, data = str(getattr(source, "name", "stdin")), source.read()
    if not data:
        raise InputError(f"{name}: the file is empty")
    digest = hashlib.sha256(data).hexdigest()
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, RecursionError):
        raise InputError(f"{name}: not an ONNX model, or cut short; export it again") from None
    given: bytes | Path = data if home.path is None else home.path
    del data
    _require_graph(proto, name)
    require_sound(proto, home, name)
    proto = ordered(proto, name)
    if home.path is not None and _leads_outside(proto, home):
        given = TrustedPath(home.path)
    require_runnable(given, proto, name, digest)
    return Read(proto, home, name, digest, given, True)


def _given(proto: onnx.ModelProto) -> Read:
    name, home = "model", Home(None)
    _require_graph(proto, name)
    require_sound(proto, home, name)
    whole = ordered(proto, name)
    try:
        data = proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError):
        raise InputError(f"{name}: larger than 2 GB; save it with its weights beside it and name the file") from None
    digest = hashlib.sha256(data).hexdigest()
    require_runnable(data, whole, name, digest)
    return Read(whole, home, name, digest, proto, whole is not proto)


def _file(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name the .onnx file in it")
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason})") from None


def _require_graph(proto: onnx.ModelProto, name: str) -> None:
    if not proto.HasField("graph") or not proto.graph.node:
        raise InputError(f"{name}: not an ONNX model (no graph with nodes in it)")


def _leads_outside(proto: onnx.ModelProto, home: Home) -> bool:
    """Whether data lies where ONNX Runtime does not go."""
    tensors = [t for graph in graphs(proto.graph) for t in graph.initializer if external(t)]
    locations = {entry.value for t in tensors for entry in t.external_data if entry.key == "location"}
    return not all(home.holds(location) for location in locations)
