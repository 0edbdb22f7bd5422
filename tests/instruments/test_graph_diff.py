"""Differences of graphs as text: a golden one for a small graph, and what counts as no difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from graphs import build, programs
from hypothesis import given, settings
from sketch import Sketch

from hwpass.instruments.graph_diff import graph_diff
from hwpass.manager import PassManager
from hwpass.model.model import Model

FUSED = """\
2 removed, 2 changed; 5 nodes -> 3; weights 72 -> 48 bytes
- BatchNormalization BatchNormalization_batchnormalization7 (conv2, w3 float32 [2] norm 1.61164, w4 float32 [2] norm \
1.44794, w5 float32 [2] norm 0.624643, p6 float32 [2] norm 1.45851) -> batchnormalization7
- Identity Identity_identity9 (relu8) -> identity9
~ Conv Conv_conv2
    input 1: w1 float32 [2, 3, 1, 1] norm 0.539165 -> w1_bn_batchnormalization7 float32 [2, 3, 1, 1] norm 0.652194
    input 2: none -> w1_bias_bn_batchnormalization7 float32 [2] norm 1.31902
    output 0: conv2 -> batchnormalization7 [N, 2, 4, 4]
~ Reshape Reshape_reshape11
    input 0: identity9 -> relu8
"""


def network() -> Model:
    s = Sketch()
    x = s.input(["N", 3, 4, 4], name="image")
    x = s.batch_norm(s.conv(x, 2, 3), 2)
    x = s.op("Identity", s.op("Relu", x))
    s.output(s.op("Reshape", x, s.const(np.array([0, -1]))))
    return Model.load(s.model())


def text(before: Model, after: Model, most: int = 40) -> str:
    found = graph_diff(before, after)
    return "".join(f"{line}\n" for line in (found.summary, *found.lines(most)))


def test_what_folding_and_fusing_change() -> None:
    before = network()
    assert text(before, PassManager.parse("fold,fuse-bn").run(before)) == FUSED


def test_attributes_operators_and_small_whole_numbers_are_told() -> None:
    before = network()
    after = before.copy()
    conv, _, relu, _, reshape = after.graph.nodes
    conv.attrs["pads"], conv.attrs["note"] = [1, 1, 1, 1], 0.5
    relu.op = "Tanh"
    reshape.inputs[1].values = np.array([0, 32])
    assert text(before, after) == (
        "1 removed, 1 added, 2 changed; 5 nodes -> 5; weights 72 -> 72 bytes\n"
        "- Relu Relu_relu8 (batchnormalization7) -> relu8\n"
        "+ Tanh Relu_relu8 (batchnormalization7) -> relu8\n"
        "~ Conv Conv_conv2\n"
        "    note: none -> 0.5\n"
        "    pads: [0, 0, 0, 0] -> [1, 1, 1, 1]\n"
        "~ Reshape Reshape_reshape11\n"
        "    input 1: c10 = [0, -1] -> c10 = [0, 32]\n"
    )


def test_values_of_one_norm_and_shape_are_told_apart_by_name_alone() -> None:
    before = network()
    after = before.copy()
    after.graph.nodes[0].inputs[1] = gs.Constant("other", before.graph.nodes[0].inputs[1].values)
    assert [node.title for _, node in graph_diff(before, after).changed] == ["Conv Conv_conv2"]


def test_shapes_that_were_forgotten_are_no_difference() -> None:
    before = PassManager.parse("fold,fuse-bn").run(network())
    after = before.copy()
    after.invalidate_shapes()
    assert not graph_diff(before, after)
    after.graph.outputs[0].shape = ["N", 31]
    assert "output 0: reshape11 [N, 32] -> reshape11 [N, 31]" in text(before, after)


def test_long_differences_are_cut_short() -> None:
    before = network()
    after = before.copy()
    for node in after.graph.nodes:
        node.op = "Abs"
    assert text(before, after, most=1).count("\n") == 5
    assert "- and 4 nodes more\n" in text(before, after, most=1)


@settings(max_examples=15)
@given(programs())
def test_a_graph_does_not_differ_from_its_copy_and_differences_are_of_one_spelling(program: Any) -> None:
    model = Model.load(build(program))
    assert not graph_diff(model, model.copy())
    folded = PassManager.parse("fold,fuse-bn").run(model)
    assert text(model, folded) == text(model, folded)
    assert bool(graph_diff(model, folded)) == (text(model, folded).count("\n") > 1)
