"""Inputs of a proof exercise the model: whole tables, valid masks and lengths, tokens that differ, several sizes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from hwpass.data.proof_inputs import proof_feeds, proof_inputs, variation
from hwpass.errors import InputError
from hwpass.runtime.inputs import input_specs
from hwpass.runtime.sessions import Feed, open_session, run_session

Shape = list[int | str | None]
N = helper.make_node


def table(rows: int, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def build(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, Shape]],
    weights: dict[str, np.ndarray],
    output: str = "y",
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(output, T.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def feeds_of(model: onnx.ModelProto, seed: int = 0) -> list[Feed]:
    feeds = proof_feeds(model, input_specs(model), seed=seed)
    session = open_session(model)
    for feed in feeds:
        run_session(session, feed)
    return feeds


def values(feeds: list[Feed], name: str) -> np.ndarray:
    return np.concatenate([feed[name].reshape(-1) for feed in feeds])


def test_an_index_goes_over_all_rows_of_the_smallest_table_that_it_reaches() -> None:
    model = build(
        [N("Gather", ["big", "ids"], ["a"]), N("Gather", ["small", "ids"], ["b"]), N("Add", ["a", "b"], ["y"])],
        {"ids": (T.INT64, ["batch", "seq"])},
        {"big": table(400), "small": table(90)},
    )
    feeds = feeds_of(model)
    found = values(feeds, "ids")
    assert found.min() >= 0
    assert found.max() == 89
    assert len(np.unique(found)) > 20
    assert all(len(np.unique(row)) > 1 for feed in feeds for row in feed["ids"])


def test_an_index_is_followed_through_casts_shapes_sums_and_pieces() -> None:
    """Row x + 3 of 50 rows: x is at most 46; the other piece of the concatenation has the table to itself."""
    nodes = [
        N("Cast", ["a"], ["a1"], to=T.INT64),
        N("Unsqueeze", ["a1", "one"], ["a2"]),
        N("Unsqueeze", ["b", "one"], ["b2"]),
        N("Add", ["a2", "three"], ["a3"]),
        N("Concat", ["a3", "b2"], ["ab"], axis=1),
        N("Gather", ["t", "ab"], ["y"]),
    ]
    model = build(
        nodes,
        {"a": (T.INT32, ["n"]), "b": (T.INT64, ["n"])},
        {"t": table(50), "one": np.array([1]), "three": np.array(3)},
    )
    feeds = feeds_of(model)
    assert values(feeds, "a").max() == 46
    assert values(feeds, "b").max() == 49


def test_tables_in_bodies_count() -> None:
    body = helper.make_graph(
        [N("Gather", ["inner", "ids"], ["t"])], "b", [], [helper.make_tensor_value_info("t", T.FLOAT, None)],
        [numpy_helper.from_array(table(30), "inner")],
    )  # fmt: skip
    other = helper.make_graph(
        [N("Gather", ["outer", "ids"], ["e"])], "e", [], [helper.make_tensor_value_info("e", T.FLOAT, None)]
    )
    model = build(
        [N("If", ["flag"], ["y"], then_branch=body, else_branch=other)],
        {"ids": (T.INT64, ["n"]), "flag": (T.BOOL, [])},
        {"outer": table(700)},
    )
    assert values(feeds_of(model), "ids").max() == 29


@pytest.mark.parametrize("op", ["GatherElements", "GatherND", "OneHot", "ScatterND"])
def test_every_operator_that_picks_rows_bounds_its_index(op: str) -> None:
    rows = 21
    weights = {"t": table(rows), "depth": np.array(rows), "two": np.array([0, 1], np.float32), "one": np.array([-1])}
    weights["u"] = table(1, 6)[0]
    if op == "GatherElements":
        nodes = [N(op, ["t", "ids"], ["y"], axis=0)]
        shape: Shape = ["n", 6]
    elif op == "GatherND":
        nodes, shape = [N(op, ["t", "ids"], ["y"])], ["n", 1]
    elif op == "OneHot":
        nodes, shape = [N(op, ["ids", "depth", "two"], ["y"])], ["n"]
    else:
        nodes = [N("Unsqueeze", ["ids", "one"], ["i"]), N("Unsqueeze", ["u", "zero"], ["v"])]
        nodes.append(N(op, ["t", "i", "v"], ["y"]))
        weights["zero"] = np.array([0])
        shape = [1]
    model = build(nodes, {"ids": (T.INT64, shape)}, weights)
    found = values(feeds_of(model), "ids")
    assert found.max() == rows - 1
    assert found.min() >= 0


def test_an_index_into_a_tensor_that_another_input_sizes_stays_inside() -> None:
    model = build(
        [N("Gather", ["x", "edges"], ["y"], axis=0)],
        {"x": (T.FLOAT, ["nodes", 5]), "edges": (T.INT64, [2, "edges_count"])},
        {},
    )
    feeds = feeds_of(model)
    assert all(feed["edges"].max() == len(feed["x"]) - 1 for feed in feeds)


def test_an_embedding_of_the_runtime_bounds_its_inputs() -> None:
    weights = {"w": table(77), "p": table(40), "s": table(2), "g": np.ones(6, np.float32), "b": np.zeros(6, np.float32)}
    node = N("EmbedLayerNormalization", ["ids", "types", "w", "p", "s", "g", "b"], ["y", "m"], domain="com.microsoft")
    model = build(
        [node], {"ids": (T.INT32, ["n", "s"]), "types": (T.INT32, ["n", "s"])}, weights, domains=("com.microsoft",)
    )
    feeds = feeds_of(model)
    assert values(feeds, "ids").max() == 76
    assert set(values(feeds, "types").tolist()) == {0, 1}


def test_masks_hide_some_in_one_draw_and_none_in_another() -> None:
    nodes = [
        N("Gather", ["t", "ids"], ["h"]),
        N("Cast", ["attention_mask"], ["m"], to=T.FLOAT),
        N("Unsqueeze", ["m", "last"], ["mm"]),
        N("Mul", ["h", "mm"], ["y"]),
    ]
    model = build(
        nodes,
        {"ids": (T.INT64, ["batch", "seq"]), "attention_mask": (T.INT64, ["batch", "seq"])},
        {"t": table(33), "last": np.array([-1])},
    )
    masks = [feed["attention_mask"] for feed in feeds_of(model)]
    assert any((mask == 0).any() for mask in masks)
    assert any(mask.all() for mask in masks)
    for mask in masks:
        assert set(np.unique(mask)) <= {0, 1}
        assert mask.sum(axis=1).min() >= 1
        assert (np.diff(mask, axis=1) <= 0).all()  # what is hidden is the end


def test_a_mask_is_known_by_its_use() -> None:
    nodes = [
        N("Cast", ["valid"], ["c"], to=T.BOOL),
        N("Unsqueeze", ["c", "last"], ["cc"]),
        N("Where", ["cc", "x", "low"], ["y"]),
    ]
    model = build(
        nodes,
        {"x": (T.FLOAT, ["batch", "seq", 4]), "valid": (T.INT64, ["batch", "seq"])},
        {"last": np.array([-1]), "low": np.array(-9, np.float32)},
    )
    for feed in feeds_of(model):
        assert set(np.unique(feed["valid"])) <= {0, 1}
        assert feed["valid"][:, 0].all()


def test_lengths_are_between_one_and_what_they_describe() -> None:
    nodes = [
        N("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        N("LSTM", ["xt", "w", "r", "", "lens"], ["", "h"], hidden_size=3),
        N("Identity", ["h"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((1, 12, 4)).astype(np.float32),
        "r": rng.standard_normal((1, 12, 3)).astype(np.float32),
    }
    model = build(nodes, {"x": (T.FLOAT, ["batch", "time", 4]), "lens": (T.INT32, ["batch"])}, weights)
    feeds = feeds_of(model)
    for feed in feeds:
        assert feed["lens"].min() >= 1
        assert feed["lens"].max() == feed["x"].shape[1] or len(feed["lens"]) == 1
    assert any((feed["lens"] < feed["x"].shape[1]).any() for feed in feeds)


def test_a_number_that_the_model_asks_for_is_given_and_another() -> None:
    nodes = [N("Equal", ["sr", "rate"], ["c"]), N("Where", ["c", "x", "zero"], ["y"])]
    model = build(
        nodes,
        {"x": (T.FLOAT, ["n", 4]), "sr": (T.INT64, [])},
        {"rate": np.array(16000), "zero": np.array(0, np.float32)},
    )
    rates = [int(feed["sr"]) for feed in feeds_of(model)]
    assert 16000 in rates
    assert len(set(rates)) == 2


def test_a_number_that_does_not_run_is_given_up() -> None:
    """Rows of 7 for the number that is wanted; for others a shape that 7, 14 and 21 numbers do not have."""

    def branch(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_y", T.FLOAT, None)
        return helper.make_graph([N("Reshape", ["x", name], [f"{name}_y"])], name, [], [out])

    then, other = branch("seven"), branch("five")
    nodes = [N("Equal", ["k", "wanted"], ["c"]), N("If", ["c"], ["y"], then_branch=then, else_branch=other)]
    weights = {"wanted": np.array(3), "seven": np.array([-1, 7]), "five": np.array([-1, 5])}
    model = build(nodes, {"x": (T.FLOAT, ["n", 7]), "k": (T.INT64, [])}, weights)
    assert {int(feed["k"]) for feed in feeds_of(model)} == {3}


def test_floats_are_normal_once_and_between_zero_and_one_once() -> None:
    model = build([N("Relu", ["x"], ["y"])], {"x": (T.FLOAT, ["batch", 3, 8, 8])}, {})
    feeds = feeds_of(model)
    assert feeds[0]["x"].min() < -1
    assert 0 <= feeds[1]["x"].min() < feeds[1]["x"].max() <= 1
    assert feeds[2]["x"].max() > 200
    assert sorted(len(feed["x"]) for feed in feeds) == [1, 2, 3]


def test_bytes_are_left_out_where_outputs_are_not_finite() -> None:
    model = build([N("Exp", ["x"], ["e"]), N("Exp", ["e"], ["y"])], {"x": (T.FLOAT, [1, 3, 4, 4])}, {})
    feeds = feeds_of(model)
    assert len(feeds) == 3
    assert all(feed["x"].max() < 10 for feed in feeds)


def test_the_same_seed_gives_the_same_feeds() -> None:
    model = build(
        [N("Gather", ["t", "ids"], ["h"]), N("Add", ["h", "x"], ["y"])],
        {"ids": (T.INT64, ["n"]), "x": (T.FLOAT, ["n", 6])},
        {"t": table(60)},
    )
    one, same, other = feeds_of(model, 3), feeds_of(model, 3), feeds_of(model, 4)
    assert all(np.array_equal(a[k], b[k]) for a, b in zip(one, same, strict=True) for k in a)
    assert not all(np.array_equal(a[k], b[k]) for a, b in zip(one, other, strict=True) for k in a)


def test_the_outputs_of_the_original_come_with_the_feeds() -> None:
    model = build([N("Relu", ["x"], ["y"])], {"x": (T.FLOAT, ["n", 4])}, {})
    made = proof_inputs(model, input_specs(model))
    for feed, outputs, dims in zip(made.feeds, made.outputs, made.sizes, strict=True):
        assert np.array_equal(outputs["y"], np.maximum(feed["x"], 0))
        assert dims == {"n": len(feed["x"])}


def test_an_output_that_stays_constant_is_tried_to_be_moved() -> None:
    """Nothing under 4 passes; standard normal values and those of [0, 1] hardly get there."""
    nodes = [N("Sub", ["x", "four"], ["d"]), N("Relu", ["d"], ["y"])]
    model = build(nodes, {"x": (T.FLOAT, [1, 10])}, {"four": np.array(5, np.float32)})
    made = proof_inputs(model, input_specs(model))
    assert variation(made.outputs)["y"] > 1e-3


def test_variation_sees_constants_along_any_axis() -> None:
    rng = np.random.default_rng(0)
    channels = np.broadcast_to(rng.standard_normal((1, 5, 1, 1)), (2, 5, 3, 3))
    assert variation([{"y": channels}, {"y": channels[:1]}])["y"] < 1e-12
    assert variation([{"y": rng.standard_normal((2, 5, 3, 3))}])["y"] > 0.1
    assert variation([{"y": np.zeros((2, 2))}])["y"] == 0


def test_when_nothing_runs_the_message_says_what_was_tried() -> None:
    model = build([N("Reshape", ["x", "s"], ["y"])], {"x": (T.FLOAT, ["n", "h"])}, {"s": np.array([-1, 999_999])})
    with pytest.raises(InputError, match=r"input 'x' \[n, h\].*tried: n = 1.*h = 1 to .*masks of.*with calib") as e:
        proof_feeds(model, input_specs(model))
    assert "\n" not in str(e.value)


def test_inputs_tied_by_their_batch_are_sized_together() -> None:
    """Frames [?, ?, 4] beside a state [2, ?, 3]: the second axis of the state is the batch, under no name."""
    rng = np.random.default_rng(0)
    nodes = [
        N("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        N("Split", ["state", "halves"], ["h", "c"], axis=0),
        N("LSTM", ["xt", "w", "r", "", "", "h", "c"], ["", "y"], hidden_size=3),
    ]
    weights = {
        "w": rng.standard_normal((1, 12, 4)).astype(np.float32),
        "r": rng.standard_normal((1, 12, 3)).astype(np.float32),
        "halves": np.array([1, 1]),
    }
    model = build(nodes, {"x": (T.FLOAT, [None, None, 4]), "state": (T.FLOAT, [2, None, 3])}, weights)
    feeds = feeds_of(model)
    assert all(feed["x"].shape[0] == feed["state"].shape[1] for feed in feeds)
    assert len({feed["x"].shape[0] for feed in feeds}) > 1


def test_a_mask_is_known_behind_picked_positions() -> None:
    """As exporters write causal masks: the mask's entries picked by positions, and put into a choice of scores."""
    places = np.stack(np.meshgrid(np.arange(2), np.arange(6), indexing="ij"), -1)
    nodes = [
        N("Cast", ["a"], ["c"], to=T.BOOL),
        N("GatherND", ["c", "places"], ["picked"]),
        N("Where", ["picked", "x", "low"], ["y"]),
    ]
    model = build(
        nodes, {"x": (T.FLOAT, [2, 6]), "a": (T.INT64, [2, 6])}, {"places": places, "low": np.array(-9, np.float32)}
    )
    assert set(values(feeds_of(model), "a").tolist()) == {0, 1}
