"""Scopes, inputs and functions in the many ways of valid models: read, computed the same, their interface kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forms import N, X, agree, feed, kept, layers, listed, model, outputs, pruned, session, vi, weight
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

import hwpass
from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.passes.verify import Verify
from hwpass.workflows.compare import verify_models


def test_bodies_may_use_one_name_for_different_tensors(tmp_path: Path) -> None:
    def branch(tag: str, inner: bool) -> GraphProto:
        nodes = [N("Conv", ["r", "w"], ["h"], name=f"conv_{tag}"), N("Add", ["h", "k"], ["g"])]
        if inner:
            factors = [numpy_helper.from_array(np.array(n, np.float32), "k2") for n in (2, 3)]
            deeper = [helper.make_graph([N("Mul", ["g", "k2"], ["o"])], f"{tag}{n}", [], [vi("o", None)], [factor])
                      for n, factor in zip((2, 3), factors, strict=True)]  # fmt: skip
            nodes.append(N("If", ["flag"], ["q"], then_branch=deeper[0], else_branch=deeper[1]))
        else:
            nodes.append(N("Neg", ["g"], ["q"]))
        weights = [weight("w", 4, 32, 1, 1), weight("k", 4, 1, 1)]
        return helper.make_graph(nodes, tag, [], [vi("q", None)], weights)

    nodes, weights = layers()
    choice = N("If", ["flag"], ["y"], then_branch=branch("yes", True), else_branch=branch("no", False))
    nodes[2:] = [N("ReduceMean", ["x"], ["m"], keepdims=0), N("Greater", ["m", "zero"], ["flag"]), choice]
    proto = model(nodes, [weights[0], numpy_helper.from_array(np.array(0, np.float32), "zero")])
    x = np.random.default_rng(1).standard_normal((2, 3, 6, 6)).astype(np.float32)
    for shift in (-1, 1):
        kept(proto, tmp_path, {"x": x + np.float32(shift)})
    loaded = Model.load(proto)
    assert len(loaded.constants()) == 8  # w1 and zero, w and k of each branch, k2 of each inner branch
    names = [t.name for scope in loaded.scopes() for node in scope.nodes for t in node.outputs]
    assert len(set(names)) == len(names)
    result = hwpass.run(proto, "server-cpu", size=0.9, score="l2", align=1)
    for shift in (-1, 1):
        given = {"x": x + np.float32(shift)}
        assert agree(outputs(proto, given), outputs(result.model.proto(), given))


def test_a_body_input_may_have_the_name_of_another_bodys(tmp_path: Path) -> None:
    def loop(tag: str, op: str) -> NodeProto:
        nodes = [N(op, ["s"], ["t"]), N("Identity", ["go"], ["on"])]
        body = helper.make_graph(
            nodes, tag, [vi("i", (), TensorProto.INT64), vi("go", (), TensorProto.BOOL), vi("s", None)],
            [vi("on", (), TensorProto.BOOL), vi("t", None)],
        )  # fmt: skip
        return N("Loop", ["trips", "", tag], [f"{tag}_out"], name=tag, body=body)

    nodes = [N("Neg", ["x"], ["a"]), loop("a", "Exp"), N("Relu", ["a_out"], ["b"]), loop("b", "Tanh"),
             N("Identity", ["b_out"], ["y"])]  # fmt: skip
    kept(model(nodes, [numpy_helper.from_array(np.array(2, np.int64), "trips")], outputs=[vi("y")]), tmp_path)


def test_ir_3_lists_its_weights_among_the_inputs(tmp_path: Path) -> None:
    proto = listed(model(*layers(), opset=8, ir=3))
    assert kept(proto, tmp_path).ir_version == 4
    assert [v.name for v in pruned(proto, tmp_path).graph.input] == ["x"]
    assert verify_models(proto, proto, None, Verify(rtol=1e-4)).verdicts is not None


def test_an_exporter_may_list_all_weights_among_the_inputs(tmp_path: Path) -> None:
    proto = listed(model(*layers()))
    written = kept(proto, tmp_path)
    assert {v.name for v in written.graph.input} == {"x", "w1", "w2"}
    small = pruned(proto, tmp_path)
    shapes = {t.name: list(t.dims) for t in small.graph.initializer}
    assert {v.name for v in small.graph.input} == {"x", *shapes}
    (width,) = {dims[0] for dims in shapes.values()} - {4}
    assert width < 32
    assert sorted(shapes.values()) == [[4, width, 1, 1], [width, 3, 3, 3]]
    Model.load(tmp_path / "pruned.onnx")


def test_an_input_with_a_default_value_stays_one(tmp_path: Path) -> None:
    nodes, weights = layers()
    nodes[2].output[0] = "z"
    nodes.append(N("Mul", ["z", "volume"], ["y"]))
    default = numpy_helper.from_array(np.full(1, 2, np.float32), "volume")
    proto = model(nodes, [*weights, default], inputs=[X, vi("volume", (1,))])
    for written in (kept(proto, tmp_path), pruned(proto, tmp_path)):
        assert [v.name for v in written.graph.input] == ["x", "volume"]
        assert [v.name for v in session(written).get_overridable_initializers()] == ["volume"]
        given = feed(proto) | {"volume": np.full(1, -3, np.float32)}
        assert agree(outputs(proto, given), outputs(written, given))


def test_the_standard_domain_may_be_written_out(tmp_path: Path) -> None:
    nodes, weights = layers()
    for node in nodes:
        node.domain = "ai.onnx"
    proto = model(nodes, weights)
    kept(proto, tmp_path)
    pruned(proto, tmp_path)
    proto.opset_import[0].domain = "ai.onnx"
    kept(proto, tmp_path)
    assert [(e.domain, e.version) for e in Model.load(proto).proto().opset_import] == [("", 17)]


def reference(node: NodeProto, attribute: str, name: str, kind: int) -> NodeProto:
    made = node.attribute.add()
    made.name, made.ref_attr_name, made.type = attribute, name, kind
    return node


def called(op: str, **attributes: Any) -> tuple[list[NodeProto], list[TensorProto]]:
    nodes, weights = layers()
    nodes[1] = N(op, ["c"], ["r"], name="act", domain="own", **attributes)
    return nodes, weights


@pytest.mark.parametrize(("given", "slope"), [({}, 0.5), ({"slope": 0.25}, 0.25)])
def test_a_function_has_default_attributes(given: dict[str, float], slope: float, tmp_path: Path) -> None:
    leaky = reference(N("LeakyRelu", ["a"], ["b"]), "alpha", "slope", AttributeProto.FLOAT)
    act = helper.make_function("own", "Act", ["a"], ["b"], [leaky], [helper.make_opsetid("", 17)],
                               attribute_protos=[helper.make_attribute("slope", 0.5)])  # fmt: skip
    proto = model(*called("Act", **given), domains={"own": 1}, functions=[act])
    kept(proto, tmp_path)
    assert Model.load(proto).nodes[1].attrs == {"alpha": slope}
    pruned(proto, tmp_path)


def test_a_function_hands_on_an_attribute_that_it_was_not_given(tmp_path: Path) -> None:
    """The inner function's default holds then, and the operator's own where there is none."""
    kind, version = AttributeProto.FLOAT, [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    leaky = reference(N("LeakyRelu", ["a"], ["b"]), "alpha", "slope", kind)
    elu = reference(N("Elu", ["b"], ["c"]), "alpha", "other", kind)
    inner = helper.make_function("own", "Inner", ["a"], ["c"], [leaky, elu], version, attributes=["other"],
                                 attribute_protos=[helper.make_attribute("slope", 0.5)])  # fmt: skip
    call = reference(N("Inner", ["a"], ["b"], domain="own"), "slope", "given", kind)
    outer = helper.make_function("own", "Outer", ["a"], ["b"], [call], version, attributes=["given"])
    for given, slope in (({}, 0.5), ({"given": 0.125}, 0.125)):
        proto = model(*called("Outer", **given), domains={"own": 1}, functions=[outer, inner])
        kept(proto, tmp_path)
        assert Model.load(proto).nodes[1].attrs == {"alpha": slope}
        assert Model.load(proto).nodes[2].attrs == {}


def test_a_function_may_be_of_another_operator_set(tmp_path: Path) -> None:
    for old in (11, 13):
        nodes = [N("Tanh", ["a"], ["s"]), N("Add", ["s", "a"], ["b"])]
        act = helper.make_function("own", "Act", ["a"], ["b"], nodes, [helper.make_opsetid("", old)])
        proto = model(*called("Act"), domains={"own": 1}, functions=[act])
        kept(proto, tmp_path)
        pruned(proto, tmp_path)


def test_a_function_that_the_standard_and_onnx_runtime_read_differently_is_refused() -> None:
    """Until operator set 13, Softmax was over all axes but the first."""
    act = helper.make_function("own", "Act", ["a"], ["b"], [N("Softmax", ["a"], ["b"])], [helper.make_opsetid("", 11)])
    with pytest.raises(InputError, match="another operator set"):
        Model.load(model(*called("Act"), domains={"own": 1}, functions=[act]))


def test_functions_are_called_in_bodies(tmp_path: Path) -> None:
    act = helper.make_function("own", "Act", ["a"], ["b"], [N("Neg", ["a"], ["t"]), N("Abs", ["t"], ["b"])],
                               [helper.make_opsetid("", 17)])  # fmt: skip
    bodies = [helper.make_graph([N("Act", ["z"], ["o"], domain="own")], tag, [], [vi("o", None)]) for tag in "ab"]
    nodes, weights = layers()
    nodes[2].output[0] = "z"
    nodes += [N("ReduceMean", ["x"], ["m"], keepdims=0), N("Greater", ["m", "m"], ["flag"]),
              N("If", ["flag"], ["y"], then_branch=bodies[0], else_branch=bodies[1])]  # fmt: skip
    written = kept(model(nodes, weights, domains={"own": 1}, functions=[act]), tmp_path)
    assert not written.functions


def test_a_function_that_calls_itself_is_refused() -> None:
    act = helper.make_function("own", "Act", ["a"], ["b"], [N("Act", ["a"], ["b"], domain="own")],
                               [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)])  # fmt: skip
    with pytest.raises(InputError, match="Act"):
        Model.load(model(*called("Act"), domains={"own": 1}, functions=[act]))
