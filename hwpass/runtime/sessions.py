"""ONNX Runtime sessions: opened cheaply, run with plain arrays, closed without leaving memory behind.

Memory decides the shape of this module. Measured on a ResNet-50 of 102 MB (ONNX Runtime 1.32, one thread): a
session opened from serialised bytes peaks 307 to 365 MB above the model itself; one opened from a small graph
file whose weights lie in a second file, which ONNX Runtime maps, peaks at 172 MB and stays at 124 MB.
Protobuf never frees a replaced field before the whole message dies, so the weights are written straight from
the model, which is not touched.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper

from hwpass.errors import InputError
from hwpass.files.temporary import TemporaryFolder
from hwpass.proto.empty_axes import free_empty_axes, has_empty_axes, runs_empty
from hwpass.proto.external import Home, TrustedPath, external, mapped
from hwpass.proto.value_kinds import tensors_of
from hwpass.runtime.memory import map_large_blocks, trim

__all__ = [
    "Feed",
    "Level",
    "ModelLike",
    "StoredModel",
    "load_problem",
    "one_line",
    "open_session",
    "run_session",
    "weight_bytes",
]

Feed = dict[str, np.ndarray]
"""Values by input or output name."""

ModelLike = onnx.ModelProto | bytes | Path
"""A model in memory, serialised, or in a file."""

Level = Literal["none", "lean", "all"]
"""What ONNX Runtime does to the graph: nothing; all but a second copy of the weights of convolutions in blocks of
channels, which takes three times their memory; or all. Only what runs often gains by all, and by an arena: that keeps
up to twice what activations take, and all of it while a single output is held."""

_LEVELS = {"none": "ORT_DISABLE_ALL", "lean": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}

IN_MEMORY_BYTES = 8 << 20
"""Models whose weights are smaller than this are serialised in one piece: the copy costs less than a file."""

FOLDED_BYTES = 2 << 20
"""Larger constants are computed when a model runs, and not held: masks and tables of a window transformer, which
exporters write as a few operators, are several times the model. ONNX Runtime 1.23 does not know the entry."""

EXTERNAL_BYTES = 4096
"""Smaller tensors stay in the graph, where shape inference sees the values (reshape targets, axes)."""

_RAW_TYPES = {"tensor(bfloat16)": (TensorProto.BFLOAT16, ml_dtypes.bfloat16)}


def one_line(problem: BaseException | str, limit: int = 300) -> str:
    """What ONNX Runtime or the checker said, in one line, without codes, temporary paths and stack."""
    text = str(problem)
    if not text.strip() and isinstance(problem, BaseException):
        text = type(problem).__name__
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)
    text = re.sub(r"Load model from \S+ failed:\s*", "", text)
    text = re.sub(r"\S*/onnxruntime/\S+:\d+ ", "", text)  # the source line inside ONNX Runtime
    text = re.split(r"\n\s*Stacktrace|\n==> ", text)[0]
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all initialisers and constants of the main graph, from their shapes: nothing is serialised."""
    tensors = list(model.graph.initializer)
    tensors += [tensor for node in model.graph.node if (tensor := _constant(node)) is not None]
    return sum(_tensor_bytes(tensor) for tensor in tensors)


class StoredModel:
    """A model in a temporary folder, weights beside the graph; sessions open from it without another copy.

    Use it as a context manager. The folder goes when it closes; sessions opened before stay usable. A
    `folder` of the caller's own stays.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None, name: str = "model") -> None:
        self._folder = None
        if folder is None:
            self._folder = TemporaryFolder()
            folder = self._folder.path
        self.path = folder / f"{name}.onnx"
        try:
            with open(folder / f"{name}.weights", "wb") as weights:
                self.graph = _with_external_weights(model, weights, f"{name}.weights")
            free_empty_axes(self.graph)
            self.path.write_bytes(self.graph.SerializeToString())
        except OSError as error:
            self.close()
            reason = error.strerror or error
            raise InputError(
                f"the folder {folder.parent if self._folder else folder} cannot hold the model: {reason}; "
                "make room or set TMPDIR"
            ) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> StoredModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            self._folder.cleanup()

    def open_session(
        self, *, outputs: Sequence[str] | None = None, threads: int = 1, level: Level = "all"
    ) -> ort.InferenceSession:
        """A session; `outputs` replaces the graph's outputs by any tensors of the main graph."""
        path = self.path
        if outputs is not None:
            graph = onnx.ModelProto()
            graph.CopyFrom(self.graph)
            known = {value.name: value for value in self.graph.graph.output}
            del graph.graph.output[:]
            for name in outputs:  # without a type: ONNX Runtime infers it
                graph.graph.output.append(known.get(name, onnx.ValueInfoProto(name=name)))
            path = self.path.with_name("outputs.onnx")
            path.write_bytes(graph.SerializeToString())
        return _open(str(path), threads, level, name=self.graph.graph.name or "the model")


def open_session(
    model: ModelLike, *, threads: int = 1, level: Level = "all", folder: Path | None = None
) -> ort.InferenceSession:
    """Open a CPU session with denormals flushed to zero; `folder` is where a proto's external data lies.

    Inputs with an axis of 0, as some exporters write a batch of any size, take any size. Drop the session and call
    `release_memory` when done. Raises `InputError` with one line of what ONNX Runtime said when the model does not
    load.
    """
    if isinstance(model, Path):
        if not model.is_file():
            raise InputError(f"{model}: there is no such file")
        if not utf8(model):
            raise InputError(f"{model}: ONNX Runtime takes names in UTF-8 only; rename it")
        session = _open(str(model), threads, level, name=str(model), values=_outside(model))
        return open_session(onnx.load(model), threads=threads, level=level) if runs_empty(session) else session
    if isinstance(model, bytes):
        session = _open(model, threads, level, name="the model")
        empty = runs_empty(session)
        return open_session(onnx.ModelProto.FromString(model), threads=threads) if empty else session
    if folder is not None:
        name = model.graph.name or "the model"
        free_empty_axes(model)
        return _open(bytes(model.SerializeToString()), threads, level, name=name, folder=folder)
    if weight_bytes(model) < IN_MEMORY_BYTES and not has_empty_axes(model):
        return _open(_serialised(model), threads, level, name=model.graph.name or "the model")
    with StoredModel(model) as stored:
        return stored.open_session(threads=threads, level=level)


def run_session(session: ort.InferenceSession, feed: Mapping[str, np.ndarray]) -> Feed:
    """Run once; outputs by name. Of sequences and maps each tensor stands by itself, as `name[0]` or `name['key']`.

    Raises `InputError` with one line of what ONNX Runtime said when the run fails.
    """
    wanted = session.get_outputs()
    try:
        if any(value.type in _RAW_TYPES for value in (*session.get_inputs(), *wanted)):
            results = session.run_with_ort_values(None, _ort_values(session, feed))
            values = [_array(value) for value in results]
        else:
            values = session.run(None, dict(feed))
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:  # pybind11 types without a common base of their own
        raise InputError(f"the model does not run: {one_line(error)}") from error
    return {
        name: tensor
        for item, value in zip(wanted, values, strict=True)
        for name, tensor in tensors_of(item.name, value)
    }


def load_problem(model: bytes | Path) -> str | None:
    """What ONNX Runtime says against a model, from its own bytes; None when it loads.

    Nothing is optimised, so that nothing is computed: folding could take any time and memory. The session is closed.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    values = _outside(model) if isinstance(model, Path) else {}
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    try:
        # A name that is no UTF-8 cannot be handed over; the bytes can.
        given = model if isinstance(model, bytes) else str(model) if utf8(model) else model.read_bytes()
        ort.InferenceSession(given, options,
                             providers=["CPUExecutionProvider"])  # fmt: skip
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:  # pybind11 types without a common base of their own
        return str(error) or type(error).__name__
    finally:
        trim()
    return None


def utf8(path: Path) -> bool:
    """Whether a path can be handed to a library that wants it in UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _outside(path: Path) -> dict[str, ort.OrtValue]:
    """Weights outside the folder of a model that may have them there: ONNX Runtime does not read them itself."""
    if not isinstance(path, TrustedPath):
        return {}
    proto = onnx.load(str(path), load_external_data=False)
    home = Home(path, anywhere=True)
    return {
        tensor.name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(mapped(tensor, home, str(path)), tensor.data_type)
        for tensor in proto.graph.initializer
        if external(tensor)
    }


def _open(
    model: str | bytes,
    threads: int,
    level: Level,
    name: str,
    folder: Path | None = None,
    values: Mapping[str, ort.OrtValue] | None = None,
) -> ort.InferenceSession:
    map_large_blocks()
    # Without VNNI, products of uint8 and int8 saturate in pairs, so that results depend on what a channel's
    # neighbours are. The mode that does not is refused for some models that share weights.
    for exact in (True, False):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        # Thousands of short runs: threads that wait actively would take as much processor time as the work does.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.x64quantprecision", str(int(exact)))
        options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(FOLDED_BYTES))
        if folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        if values:
            options.add_external_initializers(list(values), list(values.values()))
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[level])
        options.enable_cpu_mem_arena = options.enable_mem_pattern = level == "all"
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            break
        except (KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:  # pybind11 types without a common base of their own
            if exact and "AddInitialized" in str(error):
                continue
            raise InputError(f"{name}: ONNX Runtime cannot load it: {one_line(error)}") from error
    del model
    trim()  # what loading left over is as large as the model
    return session


def _serialised(model: onnx.ModelProto) -> bytes:
    _refuse_detached_weights(model.graph.initializer)
    return bytes(model.SerializeToString())


def _refuse_detached_weights(tensors: Any) -> None:
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise InputError(
                f"the values of {tensor.name!r} are in another file; load the model with its external data"
            )


def _with_external_weights(model: onnx.ModelProto, weights: BinaryIO, location: str) -> onnx.ModelProto:
    """A copy of the model without its large tensors, which go to `weights` one at a time."""
    _refuse_detached_weights(model.graph.initializer)
    copy = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        if hasattr(value, "add"):
            for item in value:
                getattr(copy, field.name).add().CopyFrom(item)
        else:
            setattr(copy, field.name, value)
    source, target = model.graph, copy.graph
    target.name = source.name
    for tensor in source.initializer:
        _store(tensor, target.initializer.add(), weights, location)
    for node in source.node:
        constant = _constant(node)
        if constant is not None and _tensor_bytes(constant) >= EXTERNAL_BYTES:
            stored = target.initializer.add()
            _store(constant, stored, weights, location)
            stored.name = node.output[0]
        else:
            target.node.add().CopyFrom(node)
    for field in ("sparse_initializer", "input", "output", "value_info", "quantization_annotation"):
        for item in getattr(source, field):
            getattr(target, field).add().CopyFrom(item)
    return copy


def _store(tensor: TensorProto, target: TensorProto, weights: BinaryIO, location: str) -> None:
    if _tensor_bytes(tensor) < EXTERNAL_BYTES or tensor.data_type == TensorProto.STRING:
        target.CopyFrom(tensor)
        return
    data = tensor.raw_data if tensor.HasField("raw_data") else numpy_helper.to_array(tensor).tobytes()
    offset = -(-weights.tell() // 4096) * 4096  # whole pages, so that the file can be mapped
    weights.seek(offset)
    weights.write(data)
    target.name, target.data_type = tensor.name, tensor.data_type
    target.dims.extend(tensor.dims)
    target.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(len(data)))):
        entry = target.external_data.add()
        entry.key, entry.value = key, value


def _constant(node: onnx.NodeProto) -> TensorProto | None:
    """The tensor of a `Constant` node, if it has one."""
    if node.op_type != "Constant":
        return None
    return next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)


def _tensor_bytes(tensor: TensorProto) -> int:
    if tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        return 0
    itemsize = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    return int(np.prod(tensor.dims, dtype=np.int64)) * itemsize


def _ort_values(session: ort.InferenceSession, feed: Mapping[str, np.ndarray]) -> dict[str, ort.OrtValue]:
    types = {value.name: value.type for value in session.get_inputs()}
    values = {}
    for name, array in feed.items():
        if types.get(name) in _RAW_TYPES:
            code, _ = _RAW_TYPES[types[name]]
            bits = np.asarray(array, order="C").view(np.uint16)
            values[name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, code)
        else:
            values[name] = ort.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"))
    return values


def _array(value: ort.OrtValue) -> Any:
    """The array of an `OrtValue`, also for types that NumPy lacks."""
    kind = value.data_type()
    if kind not in _RAW_TYPES:
        return value.numpy()
    dtype = np.dtype(_RAW_TYPES[kind][1])
    shape = tuple(value.shape())
    data = ctypes.string_at(value.data_ptr(), int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(shape)
