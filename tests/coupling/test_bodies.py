"""Data passes where layers lie in bodies: what cannot be tapped is scored by norms or left as it is, and no error."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

import hwpass
from hwpass.coupling.groups import couple
from hwpass.data.activation_statistics import mean_squares
from hwpass.model.model import Model
from hwpass.planning.consumers import Consumer, consumers
from hwpass.planning.scores.activation import tapped
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import InputSpec, input_specs

N = helper.make_node
C = 8
RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    made: np.ndarray = (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return made


def out(name: str, shape: list[int | str] | None = None, kind: int = T.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def hidden(name: str, source: str, prefix: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Two layers on a tensor of C channels: their middle is made and read inside of a body."""
    nodes = [
        N("Conv", [source, f"{prefix}_w"], [f"{prefix}_h"], name=f"{prefix}_first"),
        N("Relu", [f"{prefix}_h"], [f"{prefix}_r"]),
        N("Conv", [f"{prefix}_r", f"{prefix}_v"], [name], name=f"{prefix}_second"),
    ]
    weights = {f"{prefix}_w": weight(C, C, 1, 1), f"{prefix}_v": weight(4, C, 1, 1)}
    return nodes, [numpy_helper.from_array(v, k) for k, v in weights.items()]


def branch(prefix: str, source: str = "r", inner: list[onnx.NodeProto] | None = None) -> onnx.GraphProto:
    nodes, weights = hidden(f"{prefix}_y", source, prefix)
    return helper.make_graph([*(inner or []), *nodes], prefix, [], [out(f"{prefix}_y")], weights)


def model(kind: str) -> onnx.ModelProto:
    nodes = [
        N("Conv", ["x", "w"], ["c"], name="first", pads=[1] * 4),
        N("Relu", ["c"], ["r"]),
        N("ReduceMean", ["x"], ["s"], keepdims=0),
        N("Greater", ["s", "zero"], ["flag"]),
    ]
    extra: list[onnx.TensorProto] = []
    if kind == "If":
        nodes.append(N("If", ["flag"], ["z"], then_branch=branch("t"), else_branch=branch("e")))
    elif kind == "nested If":
        inner = [N("If", ["flag"], ["q"], then_branch=branch("tt"), else_branch=branch("te"))]
        then = helper.make_graph([*inner, N("Neg", ["q"], ["t_y"])], "t", [], [out("t_y")])
        nodes.append(N("If", ["flag"], ["z"], then_branch=then, else_branch=branch("e")))
    elif kind == "Loop":
        layers, extra = hidden("step", "r", "b")
        body = helper.make_graph(
            [*layers, N("Add", ["sum_in", "step"], ["sum_out"]), N("Identity", ["go"], ["go_out"])], "body",
            [out("i", [], T.INT64), out("go", [], T.BOOL), out("sum_in", ["N", 4, 6, 6])],
            [out("go_out", [], T.BOOL), out("sum_out", ["N", 4, 6, 6])],
        )  # fmt: skip
        nodes += [N("Conv", ["r", "u"], ["start"], name="start"), N("Loop", ["two", "", "start"], ["z"], body=body)]
    else:
        layers, extra = hidden("step", "r", "b")
        body = helper.make_graph(
            [*layers, N("Add", ["sum_in", "step"], ["sum_out"]), N("Identity", ["row"], ["row_out"])], "body",
            [out("sum_in", ["N", 4, 6, 6]), out("row", [2])], [out("sum_out", ["N", 4, 6, 6]), out("row_out", [2])],
        )  # fmt: skip
        nodes.append(N("Conv", ["r", "u"], ["start"], name="start"))
        nodes.append(N("Scan", ["start", "rows"], ["z", "rest"], body=body, num_scan_inputs=1))
    nodes.append(N("Conv", ["z", "last"], ["y"], name="last"))
    values = {
        "w": weight(C, 3, 3, 3), "u": weight(4, C, 1, 1), "last": weight(5, 4, 1, 1), "zero": np.float32(0),
        "two": np.array(2), "rows": weight(3, 2),
    }  # fmt: skip
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()]
    graph = helper.make_graph(nodes, "g", [out("x", ["N", 3, 6, 6])], [out("y", ["N", 5, 6, 6])], [*weights, *extra])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


KINDS = ("If", "nested If", "Loop", "Scan")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", [False, True])
def test_layers_in_bodies_prune_under_default_options(kind: str, data: bool) -> None:
    calib = {"x": np.random.default_rng(1).standard_normal((12, 3, 6, 6)).astype(np.float32)} if data else None
    result = hwpass.run(model(kind), target="server-cpu", macs=0.6, align=1, calib=calib)
    assert result.report.verdicts.exactness is not None
    assert result.report.verdicts.exactness.passed
    assert result.report.ratio.macs is not None
    assert result.report.ratio.macs <= 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_layers_in_bodies_prune_by_activations(kind: str) -> None:
    calib = {"x": np.random.default_rng(1).standard_normal((6, 3, 6, 6)).astype(np.float32)}
    result = hwpass.run(model(kind), target="server-cpu", macs=0.6, align=1, calib=calib, score="activation")
    assert result.report.verdicts.exactness is not None
    assert result.report.verdicts.exactness.passed


def test_readers_in_bodies_are_scored_by_norms_and_those_of_captured_tensors_by_data() -> None:
    coupling = couple(Model.load(model("If")))
    data = load_calibration({"x": RNG.standard_normal((6, 3, 6, 6)).astype(np.float32)}, specs(model("If")))
    found = {reader.node.name: reader for reader in consumers(coupling, data) if isinstance(reader, Consumer)}
    assert np.array_equal(found["t_second"].covariance, np.eye(C))
    captured = found["t_first"].covariance
    assert not np.allclose(captured, np.diag(np.diag(captured)))
    assert found["t_second"].sensitivity == found["e_first"].sensitivity > 0


def test_only_tensors_of_the_main_graph_are_looked_at() -> None:
    assert set(tapped(couple(Model.load(model("nested If"))))) == {"x", "r", "z"}


def test_tensors_that_cannot_be_handed_out_are_left_out() -> None:
    loaded = Model.load(model("If"))
    data = load_calibration({"x": RNG.standard_normal((6, 3, 6, 6)).astype(np.float32)}, specs(model("If")))
    found = mean_squares(loaded, {"r": 1, "t_r": 1, "z": 1, "nowhere": 1}, data)
    assert set(found) == {"r", "z"}


def specs(made: onnx.ModelProto) -> list[InputSpec]:
    return input_specs(made)
