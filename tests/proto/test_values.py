"""Types and values in the many ways of valid models: read, computed the same, kept bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from forms import FLOAT, RNG, N, X, Y, agree, feed, kept, layers, listed, model, outputs, pruned, vi, weight
from onnx import AttributeProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

import hwpass
from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.passes.verify import Verify
from hwpass.workflows.compare import verify_models


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
    named = N("ZipMap", ["p"], ["scores"], domain="ai.onnx.ml", classlabels_int64s=[7, 8])
    nodes = [N("Gemm", ["x", "a"], ["h"]), N("Relu", ["h"], ["r"]), N("MatMul", ["r", "b"], ["l"]),
             N("Softmax", ["l"], ["p"]), named]  # fmt: skip
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
    assert verify_models(proto, proto, None, Verify(rtol=1e-4)).verdicts is not None


@pytest.mark.parametrize("make", [sequences, maps])
def test_channels_are_scored_where_an_output_is_no_tensor(make: Callable[[], ModelProto]) -> None:
    ratio = hwpass.run(make(), "server-cpu", size=0.7, align=1).report.ratio
    assert ratio.macs is not None
    assert ratio.macs < 0.8


def test_a_loop_may_carry_a_sequence(tmp_path: Path) -> None:
    carried = helper.make_tensor_sequence_value_info("s", FLOAT, None)
    grown = helper.make_tensor_sequence_value_info("t", FLOAT, None)
    count, go, on = vi("i", (), TensorProto.INT64), vi("go", (), TensorProto.BOOL), vi("on", (), TensorProto.BOOL)
    steps = [N("SequenceInsert", ["s", "x"], ["t"]), N("Identity", ["go"], ["on"])]
    body = helper.make_graph(steps, "body", [count, go, carried], [on, grown])
    nodes = [N("SequenceEmpty", [], ["none"], dtype=FLOAT), N("Loop", ["trips", "", "none"], ["all"], body=body),
             N("ConcatFromSequence", ["all"], ["y"], axis=0)]  # fmt: skip
    trips = numpy_helper.from_array(np.array(3, np.int64), "trips")
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
    ends = vi("x", ("N", count)), vi("y", ("N", count))
    proto = model(nodes, [numpy_helper.from_array(values, "w")], ends[:1], ends[1:], 19, 9)
    written = kept(proto, tmp_path)
    assert written.graph.initializer[0] == proto.graph.initializer[0]


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4])
@pytest.mark.parametrize("count", [3, 5000])
def test_weights_of_half_a_byte(dtype: Any, count: int, tmp_path: Path) -> None:
    values = (np.arange(count) % 7).astype(dtype)
    nodes = [N("DequantizeLinear", ["w", "s"], ["f"]), N("Add", ["x", "f"], ["y"])]
    weights = [numpy_helper.from_array(values, "w"), numpy_helper.from_array(np.array(0.1, np.float32), "s")]
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
    kept(model(nodes, [numpy_helper.from_array(np.array(0.5, np.float32), "top")], outputs=[vi("y")]), tmp_path)


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


@pytest.mark.parametrize(
    ("opset", "attributes"), [(7, {"spatial": 0}), (8, {"spatial": 0}), (15, {"training_mode": 1})]
)
def test_batch_norm_in_other_forms_is_left_alone(opset: int, attributes: dict[str, Any]) -> None:
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
