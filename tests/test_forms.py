"""The many ways to write a valid model: each is read, computes the same, and keeps its interface when it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

import hwpass
from hwpass.errors import InputError
from hwpass.ir import Model
from hwpass.recheck import verify_models

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


def test_bodies_may_use_one_name_for_different_tensors(tmp_path: Path) -> None:
    def branch(tag: str, inner: bool) -> GraphProto:
        nodes = [N("Conv", ["r", "w"], ["h"], name=f"conv_{tag}"), N("Add", ["h", "k"], ["g"])]
        if inner:
            deeper = [helper.make_graph([N("Mul", ["g", "k2"], ["o"])], f"{tag}{n}", [], [vi("o", None)],
                                        [numpy_helper.from_array(np.float32(n), "k2")]) for n in (2, 3)]  # fmt: skip
            nodes.append(N("If", ["flag"], ["q"], then_branch=deeper[0], else_branch=deeper[1]))
        else:
            nodes.append(N("Neg", ["g"], ["q"]))
        weights = [weight("w", 4, 32, 1, 1), weight("k", 4, 1, 1)]
        return helper.make_graph(nodes, tag, [], [vi("q", None)], weights)

    nodes, weights = layers()
    nodes[2:] = [N("ReduceMean", ["x"], ["m"], keepdims=0), N("Greater", ["m", "zero"], ["flag"]),
                 N("If", ["flag"], ["y"], then_branch=branch("yes", True), else_branch=branch("no", False))]  # fmt: skip
    proto = model(nodes, [weights[0], numpy_helper.from_array(np.float32(0), "zero")])
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
    kept(model(nodes, [numpy_helper.from_array(np.int64(2), "trips")], outputs=[vi("y")]), tmp_path)


def listed(proto: ModelProto) -> ModelProto:
    for tensor in proto.graph.initializer:
        proto.graph.input.append(vi(tensor.name, tuple(tensor.dims)))
    return proto


def test_ir_3_lists_its_weights_among_the_inputs(tmp_path: Path) -> None:
    proto = listed(model(*layers(), opset=8, ir=3))
    assert kept(proto, tmp_path).ir_version == 4
    assert [v.name for v in pruned(proto, tmp_path).graph.input] == ["x"]
    assert verify_models(proto, proto, None, "verify{rtol=0.0001}").verdicts is not None


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


@pytest.mark.parametrize("layout", ["flat", "by axis"])
@pytest.mark.parametrize("place", ["initializer", "constant"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_sparse_weights_keep_their_type(layout: str, place: str, dtype: Any, tmp_path: Path) -> None:
    dense = np.zeros((4, 16), dtype)
    where = np.asarray([[0, 1], [1, 3], [3, 15]], np.int64)
    dense[tuple(where.T)] = [1, -2, 0.5]
    index = where if layout == "by axis" else where @ np.asarray([16, 1])
    values = numpy_helper.from_array(dense[tuple(where.T)], "s")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(index.astype(np.int64), "s_index"), [4, 16])
    nodes = [N("Cast", ["s"], ["f"], to=FLOAT), N("MatMul", ["x", "f"], ["y"])]
    if place == "constant":
        nodes.insert(0, N("Constant", [], ["s"], sparse_value=sparse))
    proto = model(nodes, [], inputs=[vi("x", ("N", 4))], outputs=[vi("y", ("N", 16))])
    if place == "initializer":
        proto.graph.sparse_initializer.append(sparse)
    loaded = Model.load(proto)
    (found,) = loaded.constants().values()
    assert found.values.dtype == dtype
    assert np.array_equal(found.values, dense)
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    assert np.allclose(outputs(loaded.proto(), {"x": x})[0], x @ dense.astype(np.float32))


def sequences() -> ModelProto:
    nodes, weights = layers()
    nodes.append(N("SequenceConstruct", ["y", "y"], ["s"]))
    entry = helper.make_tensor_sequence_value_info("s", FLOAT, ["N", "C", 6, 6])
    return model(nodes, weights, outputs=[Y, entry])


def maps() -> ModelProto:
    entry = ValueInfoProto(name="scores")
    kind = entry.type.sequence_type.elem_type.map_type
    kind.key_type, kind.value_type.tensor_type.elem_type = TensorProto.INT64, FLOAT
    nodes = [N("Gemm", ["x", "a"], ["h"]), N("Relu", ["h"], ["r"]), N("MatMul", ["r", "b"], ["l"]),
             N("Softmax", ["l"], ["p"]), N("ZipMap", ["p"], ["scores"], domain="ai.onnx.ml", classlabels_int64s=[7, 8])]  # fmt: skip
    weights = [weight("a", 8, 32, dead=1), weight("b", 32, 2)]
    return model(nodes, weights, inputs=[vi("x", ("N", 8))], outputs=[entry], domains={"ai.onnx.ml": 1})


def optionals() -> ModelProto:
    nodes, weights = layers()
    nodes.append(N("Optional", ["y"], ["o"]))
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, ["N", 4, 6, 6]))
    return model(nodes, weights, outputs=[Y, helper.make_value_info("o", kind)])


def inner_sequences() -> ModelProto:
    nodes, weights = layers()
    nodes[2].output[0] = "z"
    nodes += [N("SequenceConstruct", ["z", "z"], ["s"]), N("ConcatFromSequence", ["s"], ["y"], axis=1)]
    proto = model(nodes, weights, outputs=[vi("y", ("N", 8, 6, 6))])
    proto.graph.value_info.append(helper.make_tensor_sequence_value_info("s", FLOAT, ["N", 4, 6, 6]))
    return proto


@pytest.mark.parametrize("make", [sequences, maps, optionals, inner_sequences])
def test_values_that_are_not_tensors_keep_their_types(make: Callable[[], ModelProto], tmp_path: Path) -> None:
    proto = make()
    onnx.checker.check_model(proto, full_check=True)
    kept(proto, tmp_path)
    result = hwpass.run(proto, "server-cpu", size=0.6, score="l2", align=1)
    result.save(tmp_path / "pruned.onnx")
    assert list(onnx.load(tmp_path / "pruned.onnx").graph.output) == list(proto.graph.output)
    given = feed(proto)
    assert agree(outputs(proto, given), outputs(tmp_path / "pruned.onnx", given))
    assert verify_models(proto, proto, None, "verify{rtol=0.0001}").verdicts is not None


def test_a_loop_may_carry_a_sequence(tmp_path: Path) -> None:
    carried = helper.make_tensor_sequence_value_info("s", FLOAT, None)
    grown = helper.make_tensor_sequence_value_info("t", FLOAT, None)
    body = helper.make_graph(
        [N("SequenceInsert", ["s", "x"], ["t"]), N("Identity", ["go"], ["on"])], "body",
        [vi("i", (), TensorProto.INT64), vi("go", (), TensorProto.BOOL), carried], [vi("on", (), TensorProto.BOOL), grown],
    )  # fmt: skip
    nodes = [N("SequenceEmpty", [], ["none"], dtype=FLOAT), N("Loop", ["trips", "", "none"], ["all"], body=body),
             N("ConcatFromSequence", ["all"], ["y"], axis=0)]  # fmt: skip
    trips = numpy_helper.from_array(np.int64(3), "trips")
    written = kept(model(nodes, [trips], outputs=[vi("y")]), tmp_path)
    (loop,) = (n for n in written.graph.node if n.op_type == "Loop")
    assert loop.attribute[0].g.input[2].type == carried.type


@pytest.mark.parametrize("size", [0, -1, 1])
def test_odd_sizes_of_axes_are_kept_as_they_were_written(size: int, tmp_path: Path) -> None:
    entries = [vi("x", (size, 3, 6, 6)), vi("y", (size, 4, 6, 6))]
    proto = model(*layers(), inputs=entries[:1], outputs=entries[1:])
    Model.load(proto).save(tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    assert [written.graph.input[0], written.graph.output[0]] == entries


CONSTANTS: list[tuple[dict[str, Any], Any]] = [
    ({"value_float": 0.5}, np.float32(0.5)),
    ({"value_floats": [1.0, 2.0]}, np.asarray([1, 2], np.float32)),
    ({"value_int": 3}, np.int64(3)),
    ({"value_ints": [1, 2]}, np.asarray([1, 2])),
    ({"value_string": "téxt"}, np.asarray("téxt", object)),
    ({"value_strings": ["a", "b"]}, np.asarray(["a", "b"], object)),
    ({"value": numpy_helper.from_array(np.zeros((0, 3), np.float32))}, np.zeros((0, 3), np.float32)),
]


@pytest.mark.parametrize(("attribute", "wanted"), CONSTANTS)
def test_constants_of_every_form(attribute: dict[str, Any], wanted: Any, tmp_path: Path) -> None:
    nodes, weights = layers()
    nodes.append(N("Constant", [], ["k"], **attribute))
    wanted = np.asarray(wanted)
    entry = vi("k", wanted.shape, helper.np_dtype_to_tensor_dtype(wanted.dtype))
    proto = model(nodes, weights, outputs=[Y, entry])
    kept(proto, tmp_path)
    found = outputs(tmp_path / "out.onnx", feed(proto))[1]
    assert found.tolist() == wanted.tolist()
    pruned(proto, tmp_path)


@pytest.mark.parametrize(
    "dtype",
    [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2,
     ml_dtypes.float8_e5m2fnuz, np.float16, np.float64],
)  # fmt: skip
@pytest.mark.parametrize("count", [3, 2000])
def test_weights_of_rare_types_keep_their_bits(dtype: Any, count: int, tmp_path: Path) -> None:
    values = np.linspace(-2, 2, count).astype(dtype)
    nodes = [N("Cast", ["w"], ["f"], to=FLOAT), N("Add", ["x", "f"], ["y"])]
    proto = model(nodes, [numpy_helper.from_array(values, "w")], [vi("x", ("N", count))], [vi("y", ("N", count))], 19, 9)
    written = kept(proto, tmp_path)
    assert written.graph.initializer[0] == proto.graph.initializer[0]


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4])
@pytest.mark.parametrize("count", [3, 5000])
def test_weights_of_half_a_byte(dtype: Any, count: int, tmp_path: Path) -> None:
    values = (np.arange(count) % 7).astype(dtype)
    nodes = [N("DequantizeLinear", ["w", "s"], ["f"]), N("Add", ["x", "f"], ["y"])]
    weights = [numpy_helper.from_array(values, "w"), numpy_helper.from_array(np.float32(0.1), "s")]
    proto = model(nodes, weights, [vi("x", ("N", count))], [vi("y", ("N", count))], 21, 10)
    written = kept(proto, tmp_path)
    assert written.graph.initializer[0] == proto.graph.initializer[0]


def test_text_as_a_weight(tmp_path: Path) -> None:
    nodes, weights = layers()
    table = numpy_helper.from_array(np.asarray([f"wörd {n}" for n in range(400)], object), "words")
    nodes += [N("ArgMax", ["y"], ["k"], axis=1, keepdims=0), N("Gather", ["words", "k"], ["z"])]
    proto = model(nodes, [*weights, table], outputs=[Y, vi("z", ("N", 6, 6), TensorProto.STRING)])
    kept(proto, tmp_path)


def test_nodes_need_no_names(tmp_path: Path) -> None:
    nodes, weights = layers()
    for node in nodes:
        node.name = ""
    proto = model(nodes, weights)
    kept(proto, tmp_path)
    pruned(proto, tmp_path)


def test_two_nodes_of_one_name_are_refused_as_onnx_runtime_does() -> None:
    nodes, weights = layers()
    for node in nodes:
        node.name = "same"
    with pytest.raises(InputError, match="same"):
        Model.load(model(nodes, weights))


def test_inputs_and_outputs_in_every_relation(tmp_path: Path) -> None:
    """An unused input, outputs that are an input, a weight, and another output."""
    nodes, weights = layers()
    proto = model(nodes, weights, [X, vi("idle", (2,))], [Y, X, vi("w2", (4, 32, 1, 1)), Y, vi("r", ("N", 32, 6, 6))])
    loaded = Model.load(proto)
    given = feed(proto)
    loaded.save(tmp_path / "out.onnx")
    assert agree(outputs(proto, given), outputs(tmp_path / "out.onnx", given))
    written = onnx.load(tmp_path / "out.onnx")
    assert list(written.graph.output) == list(proto.graph.output)
    assert list(written.graph.input) == list(proto.graph.input)


def test_optional_inputs_and_outputs_may_be_left_out(tmp_path: Path) -> None:
    nodes = [N("Clip", ["x", "", "top"], ["c"]), N("Dropout", ["c", "", ""], ["d", ""]), N("Relu", ["d"], ["y"])]
    kept(model(nodes, [numpy_helper.from_array(np.float32(0.5), "top")], outputs=[vi("y")]), tmp_path)


def test_empty_lists_of_attributes_keep_their_type(tmp_path: Path) -> None:
    node = N("ReduceSum", ["x"], ["y"], keepdims=1)
    node.attribute.append(AttributeProto(name="axes", type=AttributeProto.INTS))
    proto = model([node], [], outputs=[vi("y", None)], opset=11)
    loaded = Model.load(proto)
    written = loaded.proto().graph.node[0]
    assert {a.name: a.type for a in written.attribute}["axes"] == AttributeProto.INTS


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 15, 18, 20, 22, 24])
def test_every_operator_set(opset: int, tmp_path: Path) -> None:
    proto = model(*layers(), opset=opset, ir=3 if opset < 9 else 10)
    if opset < 9:
        listed(proto)
    kept(proto, tmp_path)
    assert pruned(proto, tmp_path).opset_import[0].version == opset


@pytest.mark.parametrize(("opset", "attributes"), [(7, {"spatial": 0}), (8, {"spatial": 0}), (15, {"training_mode": 1})])
def test_batch_norm_in_other_forms_is_left_alone(opset: int, attributes: dict[str, int]) -> None:
    nodes, weights = layers()
    shape = (32, 6, 6) if "spatial" in attributes else (32,)
    weights += [numpy_helper.from_array(RNG.uniform(0.5, 1.5, shape).astype(np.float32), name) for name in "sbmv"]
    outs = ["n", "m2", "v2"] if "training_mode" in attributes else ["n"]
    nodes[1:2] = [N("BatchNormalization", ["c", *"sbmv"], outs, **attributes), N("Relu", ["n"], ["r"], name="relu")]
    proto = model(nodes, weights, opset=opset, ir=4)
    result = hwpass.PassManager.parse("fold,fuse-bn").run(Model.load(proto), hwpass.Context())
    assert [n.op for n in result.nodes] == ["Conv", "BatchNormalization", "Relu", "Conv"]
    given = feed(proto)
    assert agree(outputs(proto, given), outputs(result.proto(), given))
