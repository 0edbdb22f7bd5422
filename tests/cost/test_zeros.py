"""Zeros in weights that a target's kernels skip, and sparse tensors, as costs see them."""

from __future__ import annotations

import numpy as np
from sketch import Sketch

from hwpass.cost.prediction import Cost
from hwpass.cost_models import load_target
from hwpass.coupling.groups import couple
from hwpass.manager import PassManager
from hwpass.model.model import Model


def net() -> Model:
    s = Sketch(seed=1)
    x = s.op("Relu", s.op("Conv", s.input([1, 256, 64, 64]), s.weight(256, 256, 3, 3), pads=[1] * 4))
    x = s.op("Flatten", s.op("GlobalAveragePool", s.op("Relu", s.op("Conv", x, s.weight(256, 256, 3, 3)))))
    s.output(s.op("Gemm", x, s.weight(16, 256), transB=1))
    return Model.load(s.model())


def test_a_gpu_with_sparse_units_gains_and_a_cpu_does_not() -> None:
    dense = net()
    sparse = PassManager.parse("prune-weights{pattern=2:4,store=dense}").run(dense)
    ratio = {}
    for name in ("a100", "t4", "server-cpu"):
        one, other = (Cost(couple(model), load_target(name)).base["latency"] for model in (dense, sparse))
        ratio[name] = other / one
    assert ratio["a100"] < 0.8
    assert ratio["t4"] == ratio["server-cpu"] == 1


def test_the_pattern_along_the_outputs_is_no_gain() -> None:
    dense = net()
    for node in dense.graph.nodes:
        if node.op == "Conv":
            values = node.inputs[1].values.copy()
            values[::2] = 0
            node.inputs[1].values = values
    target = load_target("a100")
    assert Cost(couple(dense), target).base["latency"] == Cost(couple(net()), target).base["latency"]


def test_the_size_is_that_of_the_sparse_tensors() -> None:
    model = PassManager.parse("prune-weights{sparsity=0.9,spread=uniform}").run(net())
    assert model.sparse
    size = Cost(couple(model), load_target("server-cpu")).base["size"]
    assert abs(size - model.size_bytes()) < 64
    assert size < 0.2 * net().size_bytes()
    proto = model.proto()
    held = sum(len(t.SerializeToString()) for t in proto.graph.sparse_initializer)
    assert abs(held - sum(model.size_bytes() for _ in "x")) < 0.02 * size + 200
    assert np.isclose(size / net().size_bytes(), 0.17, atol=0.02)
