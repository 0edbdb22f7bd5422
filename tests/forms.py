"""What the tests of forms share: a small network, and demands on what is written of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

import hwpass
from hwpass.model.model import Model

N = helper.make_node
FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(5)
DEAD = np.arange(1, 32, 2)


def weight(name: str, *shape: int, dead: int | None = None) -> TensorProto:
    values = RNG.standard_normal(shape).astype(np.float32) / 4
    if dead is not None:
        np.moveaxis(values, dead, 0)[DEAD] = 0
    return numpy_helper.from_array(values, name)


def vi(name: str, shape: Any = ("N", 3, 6, 6), kind: int = FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, None if shape is None else list(shape))


X, Y = vi("x"), vi("y", ("N", 4, 6, 6))


def layers() -> tuple[list[NodeProto], list[TensorProto]]:
    """conv1 (32 channels, every other one dead) - relu - conv2 (4)."""
    nodes = [N("Conv", ["x", "w1"], ["c"], name="conv1", pads=[1] * 4), N("Relu", ["c"], ["r"], name="relu"),
             N("Conv", ["r", "w2"], ["y"], name="conv2")]  # fmt: skip
    return nodes, [weight("w1", 32, 3, 3, 3, dead=0), weight("w2", 4, 32, 1, 1)]


def model(
    nodes: list[NodeProto], weights: list[TensorProto], inputs: Any = (X,), outputs: Any = (Y,), opset: int = 17,
    ir: int = 8, domains: dict[str, int] | None = None, functions: Any = (),
) -> ModelProto:  # fmt: skip
    graph = helper.make_graph(nodes, "net", list(inputs), list(outputs), weights)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*d) for d in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=list(functions))


def session(source: ModelProto | Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    given = str(source) if isinstance(source, Path) else source.SerializeToString()
    return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def feed(proto: ModelProto) -> dict[str, np.ndarray]:
    made = {}
    for entry in session(proto).get_inputs():
        shape = [d if isinstance(d, int) and d > 0 else 2 for d in entry.shape]
        kind = {"tensor(bool)": bool, "tensor(int64)": np.int64}.get(entry.type, np.float32)
        made[entry.name] = np.random.default_rng(1).standard_normal(shape).astype(kind)
    return made


def outputs(source: ModelProto | Path, given: dict[str, np.ndarray]) -> list[Any]:
    return session(source).run(None, given)  # type: ignore[no-any-return]


def agree(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(agree, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(agree(one[k], other[k]) for k in one)
    if isinstance(one, np.ndarray) and one.dtype.kind == "f":
        return one.shape == other.shape and np.allclose(one, other, rtol=1e-3, atol=1e-5)
    return bool(np.array_equal(one, other))


def kept(proto: ModelProto, tmp_path: Path, given: dict[str, np.ndarray] | None = None) -> ModelProto:
    """Load and save; the file is valid, computes the same and has the same interface."""
    before = proto.SerializeToString(deterministic=True)
    loaded = Model.load(proto)
    assert proto.SerializeToString(deterministic=True) == before, "loading changed what was given"
    given = feed(proto) if given is None else given
    for copy in (loaded, loaded.copy()):
        copy.save(tmp_path / "out.onnx")
        assert agree(outputs(proto, given), outputs(copy.proto(), given))
        assert agree(outputs(proto, given), outputs(tmp_path / "out.onnx", given))
    written = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(written, full_check=True)
    weights = {t.name for t in written.graph.initializer}
    assert list(written.graph.output) == list(proto.graph.output)
    original = {t.name for t in proto.graph.initializer}
    assert [v for v in written.graph.input if v.name not in weights] == [
        v for v in proto.graph.input if v.name not in original
    ]
    again = Model.load(tmp_path / "out.onnx")
    again.save(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()
    return written


def pruned(proto: ModelProto, tmp_path: Path) -> ModelProto:
    """Prune the sixteen dead channels: nothing may change."""
    result = hwpass.run(proto, "server-cpu", size=0.6, score="l2", align=1)
    result.save(tmp_path / "pruned.onnx")
    given = feed(proto)
    assert agree(outputs(proto, given), outputs(tmp_path / "pruned.onnx", given))
    written = onnx.load(tmp_path / "pruned.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert list(written.graph.output) == list(proto.graph.output)
    return written


def listed(proto: ModelProto) -> ModelProto:
    """The model with every weight among its inputs as well."""
    for tensor in proto.graph.initializer:
        proto.graph.input.append(vi(tensor.name, tuple(tensor.dims)))
    return proto
