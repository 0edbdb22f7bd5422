"""A model's graph as a torch function: what is trained, kept, computed once, written back, refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model
from torch_cases import by_runtime, gap, graph_of

import hwpass.ops.rule as rule_module
from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.ops import NoFunction, Rule
from hwpass.ops.rule import register
from hwpass.torch.graph import TorchGraph, missing

FIXTURES = Path(__file__).parents[2] / "fixtures"
RNG = np.random.default_rng(0)


def f(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def model_of(text: str, opset: int = 17, **constants: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """A model of ONNX's text form with initialisers besides."""
    proto = parse_model(f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]> {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return proto


CNN = """net (float[2, 3, 8, 8] x) => (float[2, 5] y, float[2, 4, 4, 4] z) {
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (x, w, b)
    n = BatchNormalization (c, scale, shift, mean, var)
    r = Relu (n)
    z = Resize <mode = "linear"> (r, , scales)
    g = GlobalAveragePool (z)
    s = Flatten (g)
    y = Gemm <transB = 1> (s, v, d)
}"""


def cnn() -> onnx.ModelProto:
    return model_of(
        CNN, w=f(4, 3, 3, 3), b=f(4), scale=f(4), shift=f(4), mean=f(4), var=np.abs(f(4)), v=f(5, 4), d=f(5),
        scales=np.asarray([1, 1, 1, 1], np.float32),
    )  # fmt: skip


def test_what_is_trained_are_weights_and_no_statistics_or_extents() -> None:
    graph = TorchGraph(Model.load(cnn()))
    assert set(graph.parameters) == {"w", "b", "scale", "shift", "v", "d"}
    assert all(isinstance(p, torch.nn.Parameter) for p in graph.parameters.values())


def test_masks_and_scales_of_quantised_tensors_are_not_trained() -> None:
    mask = np.where(np.tri(4) > 0, 0, -100).astype(np.float32)
    proto = model_of(
        """net (float[2, 4, 4] x) => (float[2, 4, 4] y) {
            a = Add (x, mask)
            q = QuantizeLinear <axis = 2> (a, scales, points)
            p = DequantizeLinear <axis = 2> (q, scales, points)
            y = Add (p, bias)
        }""",
        mask=mask, scales=np.abs(f(4)), points=np.zeros(4, np.uint8), bias=f(4),
    )  # fmt: skip
    model = Model.load(proto)
    assert set(TorchGraph(model).parameters) == {"bias"}
    assert set(TorchGraph(model, ["mask"]).parameters) == {"mask"}
    with pytest.raises(InputError, match="'points' is no floating-point constant"):
        TorchGraph(model, ["points"])


def test_every_weight_gets_a_finite_gradient_which_finite_differences_confirm() -> None:
    graph = TorchGraph(Model.load(cnn()))
    feed = {"x": torch.from_numpy(f(2, 3, 8, 8))}

    def loss() -> Any:
        return sum(y.square().sum() for y in graph(feed).values())

    loss().backward()
    for name, parameter in graph.parameters.items():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        way = torch.from_numpy(f(*parameter.shape))
        with torch.no_grad():
            values = []
            for step in (2e-3, -2e-3):
                parameter.add_(step * way)
                values.append(float(loss()))
                parameter.sub_(step * way)
        slope = (values[0] - values[1]) / 4e-3
        assert slope == pytest.approx(float((parameter.grad * way).sum()), rel=2e-2), name


def test_the_model_is_what_was_trained_once_it_is_written() -> None:
    model = Model.load(cnn())
    graph = TorchGraph(model)
    x = f(2, 3, 8, 8)
    before = by_runtime(model.proto(), {"x": x})
    optimiser = torch.optim.SGD(graph.parameters.values(), lr=0.01)
    sum(y.square().mean() for y in graph({"x": torch.from_numpy(x)}).values()).backward()
    optimiser.step()
    assert gap(by_runtime(model.proto(), {"x": x})[0], before[0]) == 0  # the model has its own weights until then
    graph.write()
    with torch.no_grad():
        after = [y.numpy() for y in graph({"x": x}).values()]
    written = by_runtime(model.proto(), {"x": x})
    assert max(gap(a, b) for a, b in zip(written, after, strict=True)) < 1e-5
    assert gap(written[0], before[0]) > 1e-4


def test_a_shared_constant_stays_one_and_keeps_its_type() -> None:
    proto = model_of(
        "net (float16[2, 4] x) => (float16[2, 4] y) { a = MatMul (x, w) r = Relu (a) y = MatMul (r, w) }",
        w=f(4, 4).astype(np.float16),
    )
    model = Model.load(proto)
    graph = TorchGraph(model)
    assert graph.parameters["w"].dtype == torch.float32  # small steps would be lost in 16 bits
    y = graph({"x": f(2, 4).astype(np.float16)})["y"]
    assert y.dtype == torch.float16
    y.float().square().sum().backward()
    with torch.no_grad():
        graph.parameters["w"].sub_(graph.parameters["w"].grad, alpha=0.1)
    graph.write()
    (initialiser,) = model.proto().graph.initializer
    assert initialiser.data_type == TensorProto.FLOAT16
    assert np.array_equal(numpy_helper.to_array(initialiser),
                          graph.parameters["w"].detach().numpy().astype(np.float16))  # fmt: skip


def test_inner_tensors_are_kept_by_name_and_others_freed() -> None:
    graph = TorchGraph(Model.load(cnn()))
    found = graph({"x": f(2, 3, 8, 8)}, keep=["r", "c"])
    assert list(found) == ["y", "z", "r", "c"]
    assert torch.equal(found["r"], found["z"])
    with pytest.raises(InputError, match="no tensor is named 'nothing'"):
        graph({"x": f(2, 3, 8, 8)}, keep=["nothing"])
    with pytest.raises(InputError, match="no input 'x' is given"):
        graph({})


def test_what_depends_on_no_input_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = model_of(
        """net (float[4] x) => (float[4] y) {
            n = Mul (i, i)
            s = Cast <to = 1> (n)
            y = Mul (x, s)
        }""",
        i=np.arange(4),
    )
    graph = graph_of(proto)
    seen: list[str] = []
    monkeypatch.setattr(Rule, "torch", _noting(seen, Rule.torch))
    for _ in range(2):
        assert graph({"x": np.ones(4, np.float32)})["y"].tolist() == [0, 1, 4, 9]
    assert seen == ["Mul", "Cast", "Mul", "Mul"]
    assert graph({"x": np.ones(4, np.float32)}, keep=["n"])["n"].tolist() == [0, 1, 4, 9]


def _noting(seen: list[str], function: Any) -> Any:
    def noted(self: Rule, node: gs.Node, inputs: list[Any], opset: int) -> Any:
        seen.append(node.op)
        return function(self, node, inputs, opset)

    return noted


BRANCHES = """net (float[2, 3] x, bool c) => (float[2, 3] y) {
    h = MatMul (x, w)
    y = If (c) <
        then_branch = yes () => (float[2, 3] p) { p = Add (h, b) },
        else_branch = no () => (float[2, 3] p) { q = Neg (h) p = Mul (q, b) }
    >
}"""


@pytest.mark.parametrize("condition", [True, False])
def test_the_branch_that_the_condition_chooses_is_taken(condition: bool) -> None:
    proto = model_of(BRANCHES, w=f(3, 3), b=f(3))
    graph, feed = TorchGraph(Model.load(proto)), {"x": f(2, 3), "c": np.asarray(condition)}
    y = graph(feed)["y"]
    assert gap(by_runtime(proto, feed)[0], y.detach().numpy()) < 1e-6
    y.sum().backward()
    assert graph.parameters["w"].grad is not None


LOOP = """net (float[3] x, int64 n) => (float[3] y, float[k, 3] all) {
    y, all = Loop (n, , x) <
        body = round (int64 i, bool go, float[3] s) => (bool on, float[3] t, float[3] u) {
            m = MatMul (s, w)
            t = Tanh (m)
            u = Add (t, x)
            on = Identity (go)
        }
    >
}"""


def test_a_loop_carries_on_and_stacks() -> None:
    proto = model_of(LOOP, w=f(3, 3))
    feed = {"x": f(3), "n": np.asarray(4)}
    graph = graph_of(proto)
    for a, b in zip(by_runtime(proto, feed), graph(feed).values(), strict=True):
        assert gap(a, b.detach().numpy()) < 1e-6


def test_quantisation_hands_the_gradient_straight_on() -> None:
    proto = model_of(
        """net (float[2, 4] x) => (float[2, 3] y) {
            h = MatMul (x, w)
            q = QuantizeLinear (h, s, z)
            r = Relu (h)
            d = DequantizeLinear (q, s, z)
            y = Add (d, r)
        }""",
        w=0.3 * f(4, 3), s=np.asarray(0.05, np.float32), z=np.asarray(120, np.uint8),
    )  # fmt: skip
    graph, feed = TorchGraph(Model.load(proto)), {"x": f(2, 4)}
    y = graph(feed)["y"]
    assert gap(by_runtime(proto, feed)[0], y.detach().numpy()) < 1e-6
    y.sum().backward()
    grad, inside = graph.parameters["w"].grad, feed["x"] @ graph.parameters["w"].detach().numpy()
    wanted = feed["x"].T @ (1.0 + (inside > 0))
    assert np.allclose(grad, wanted, atol=1e-5)


def test_nodes_without_a_function_go_to_the_reference_where_no_gradient_is_lost() -> None:
    text = "net (float[6] x) => (float[k] y, int64[k] n) { h = Mul (x, w) y, , , n = Unique (h) }"
    model = Model.load(model_of(text, w=f(6)))
    assert missing(model) == ["Unique has no torch function"]
    with pytest.raises(NoFunction, match="Unique has no torch function"):
        TorchGraph(model)({"x": f(6)})
    graph = TorchGraph(model, [])
    assert graph({"x": np.ones(6, np.float32)})["n"].sum() == 6


def test_random_numbers_are_refused() -> None:
    model = Model.load(model_of("net (float[6] x) => (float[6] y) { r = RandomNormalLike (x) y = Add (x, r) }"))
    assert missing(model) == ["RandomNormalLike has no torch function"]


@pytest.fixture
def own_rules() -> Iterator[None]:
    before = dict(rule_module.rules())
    yield
    rule_module.rules().clear()
    rule_module.rules().update(before)


def test_an_operator_from_outside_comes_in_one_class(own_rules: None) -> None:
    node = helper.make_node("Doubled", ["h"], ["y"], domain="outside")
    product = helper.make_node("MatMul", ["x", "w"], ["h"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("x", "y")]
    proto = helper.make_model(helper.make_graph([product, node], "g", ends[:1], ends[1:],
                                                [numpy_helper.from_array(f(3, 3), "w")]))  # fmt: skip
    model = Model(gs.import_onnx(proto), "")
    assert missing(model) == ["outside.Doubled has no torch function"]

    @register
    class Doubled(Rule):
        ops = ("Doubled",)
        domain = "outside"

        def torch(self, node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
            return [2 * inputs[0]]

    assert missing(model) == []
    graph, x = TorchGraph(model), f(2, 3)
    y = graph({"x": x})["y"]
    assert np.allclose(y.detach(), 2 * x @ graph.parameters["w"].detach().numpy(), atol=1e-6)
    y.sum().backward()
    assert graph.parameters["w"].grad is not None


@pytest.mark.parametrize("name", ["cnn", "mobilenet", "resnet_se", "vit", "densenet"])
def test_the_networks_of_the_fixtures_are_functions(name: str) -> None:
    model = Model.load(FIXTURES / f"{name}.onnx")
    assert missing(model) == []
    (spec,) = model.graph.inputs
    feed = {spec.name: f(*[d if isinstance(d, int) else 2 for d in spec.shape])}
    graph = TorchGraph(model)
    found = graph(feed)
    for a, b in zip(by_runtime(model.proto(), feed), found.values(), strict=True):
        assert gap(a, b.detach().numpy()) < 1e-5
    sum(y.square().mean() for y in found.values()).backward()
    assert [n for n, p in graph.parameters.items() if p.grad is None or not torch.isfinite(p.grad).all()] == []


def test_nothing_imports_torch_before_a_graph_is_made() -> None:
    code = (
        "import sys, hwpass, hwpass.ops, hwpass.torch.graph as g; from hwpass.ops.rule import rules; rules();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_double_precision_shows_what_rounding_makes_of_a_result() -> None:
    """Against NumPy in float64; single precision is 1e-8 and more away from it."""
    first, second, x = f(32, 64), f(64, 5), f(20, 32)
    text = "m (float[N,32] x) => (float[N,5] y) {h = MatMul(x, first) t = Tanh(h) y = MatMul(t, second)}"
    graph = TorchGraph(Model.load(model_of(text, first=first, second=second)))
    exact = np.tanh(x.astype(np.float64) @ first) @ second.astype(np.float64)
    single = graph({"x": x})["y"].detach().numpy()
    double = graph.double()({"x": x.astype(np.float64)})["y"].detach().numpy()
    assert double.dtype == np.float64
    assert np.abs(double - exact).max() < 1e-12
    assert np.abs(single - exact).max() > 1e-8


def test_models_in_double_precision_run_and_learn() -> None:
    """Float64 is no float of six bits."""
    text = "m (double[N,8] x) => (double[N,3] y) {y = MatMul(x, w)}"
    w, x = f(8, 3).astype(np.float64), f(4, 8).astype(np.float64)
    graph = TorchGraph(Model.load(model_of(text, w=w)))
    found = graph({"x": x})["y"]
    assert np.abs(found.detach().numpy() - x @ w).max() < 1e-14
    found.sum().backward()
    assert graph.parameters["w"].grad.dtype == torch.float64
