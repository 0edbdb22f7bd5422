"""`prune-activations`: channels that hardly vary go with their means in the biases, and nothing else does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from sketch import Sketch

from hwpass.context import Context
from hwpass.errors import UsageError
from hwpass.manager import PassManager
from hwpass.model.model import Model
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs

RNG = np.random.default_rng(3)
IMAGES = np.abs(RNG.standard_normal((256, 3, 6, 6))).astype(np.float32)


def net(pads: int = 0) -> onnx.ModelProto:
    """A convolution of 16 channels, of which on images that are never negative 2 are dead behind the Relu, 3 are
    saturated by a Clip and 1 hardly varies; a convolution that reads them; a classifier."""
    s = Sketch(seed=1)
    weight = s.rng.standard_normal((16, 3, 3, 3)).astype(np.float32) / 5
    weight -= weight.mean(axis=(1, 2, 3), keepdims=True)  # the others vary about what is well inside of the bounds
    bias = np.full(16, 2, np.float32)
    weight[:2], bias[:2] = -np.abs(weight[:2]), -0.1
    weight[2:5], bias[2:5] = np.abs(weight[2:5]), 6.5
    weight[5], bias[5] = weight[5] * 1e-4, 0.3
    x = s.op("Clip", s.op("Conv", s.input(["N", 3, 6, 6], "image"), s.const(weight), s.const(bias)),
             s.const(np.float32(0)), s.const(np.float32(6)))  # fmt: skip
    x = s.op("Relu", s.op("Conv", x, s.weight(8, 16, 3, 3), s.weight(8, fan=9), pads=[pads] * 4))
    s.output(s.op("Gemm", s.op("Flatten", s.op("GlobalAveragePool", x)), s.weight(8, 4)))
    return s.model()


def pruned(proto: onnx.ModelProto, text: str) -> tuple[Model, Context, bool]:
    context = Context(original=proto, calibration=load_calibration({"image": IMAGES}, input_specs(proto)))
    manager = PassManager.parse(text)
    model = manager.run(Model.load(proto), context)
    step = next(i for i, record in enumerate(manager.records) if record.name.startswith("prune-activations"))
    return model, context, manager.records[step].changed


def outputs(proto: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": images})[0])


@pytest.mark.parametrize("refit", ["true", "false"])
def test_channels_that_hardly_vary_go(refit: str) -> None:
    proto = net()
    model, context, changed = pruned(proto, f"prune-activations{{refit={refit}}},verify")
    assert changed
    assert model.graph.nodes[0].inputs[1].shape[0] == 10
    more = np.abs(np.random.default_rng(9).standard_normal((64, 3, 6, 6))).astype(np.float32)
    one, other = outputs(proto, more), outputs(model.proto(), more)
    assert np.abs(one - other).max() < 2e-3 * np.abs(one).max()
    assert np.abs(one - other).max() > 0
    proof = context.findings.proof
    assert proof is not None
    assert proof.state == "passed"
    assert [leg.name for leg in proof.legs] == ["preparation", "masks", "masking", "removal", "refit"]
    told: Any = context.findings.notes["prune-activations"]["channels left, by group"]
    assert next(iter(told.values())) == "10 of 16"


def test_before_zero_padding_only_the_dead_go() -> None:
    """A constant that meets padding is none at the border."""
    model, _, changed = pruned(net(pads=1), "prune-activations")
    assert changed
    assert model.graph.nodes[0].inputs[1].shape[0] == 14


def test_most_bounds_what_goes() -> None:
    counts = [
        pruned(net(), f"prune-activations{{most={m}}}")[0].graph.nodes[0].inputs[1].shape[0] for m in (0, 1e-4, 0.4)
    ]
    assert counts[0] >= counts[1] == 10
    assert counts[2] < 10


def test_a_second_run_changes_nothing() -> None:
    model, context, _ = pruned(net(), "prune-activations")
    manager = PassManager.parse("prune-activations")
    again = manager.run(model, context)
    assert not manager.records[-1].changed
    assert again.proto().SerializeToString(deterministic=True) == model.proto().SerializeToString(deterministic=True)


def test_it_does_not_fire_without_data_or_on_what_varies() -> None:
    context = Context()
    manager = PassManager.parse("prune-activations")
    manager.run(Model.load(net()), context)
    assert not manager.records[-1].changed
    assert any("no calibration data" in line for line in context.warnings)
    s = Sketch(seed=1)
    x = s.op("Tanh", s.op("Conv", s.input(["N", 3, 6, 6], "image"), s.weight(8, 3, 3, 3)))
    s.output(s.op("Gemm", s.op("Flatten", s.op("GlobalAveragePool", x)), s.weight(8, 4)))
    assert not pruned(s.model(), "prune-activations")[2]


def test_what_is_an_output_or_mixed_stays() -> None:
    s = Sketch(seed=1)
    weight = np.zeros((8, 3, 3, 3), np.float32)
    weight[4:] = s.rng.standard_normal((4, 3, 3, 3))
    x = s.op("Relu", s.op("Conv", s.input(["N", 3, 6, 6], "image"), s.const(weight)))
    s.output(s.op("Gemm", s.op("Flatten", s.op("GlobalAveragePool", x)), s.weight(8, 4)), x)
    assert not pruned(s.model(), "prune-activations")[2]


def test_channels_may_be_pruned_and_refitted_behind_it() -> None:
    from hwpass.cost_models import load_target

    proto = net()
    context = Context(original=proto, calibration=load_calibration({"image": IMAGES}, input_specs(proto)),
                      target=load_target("server-cpu"))  # fmt: skip
    PassManager.parse("prune-activations,prune-channels{macs=0.8x,align=1,score=l2},compensate,verify").run(
        Model.load(proto), context
    )
    assert context.findings.proof is not None
    assert context.findings.proof.state == "passed"
    assert len(context.findings.pruned) == 2


def test_options_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="give a share of at least 0, less than 1"):
        PassManager.parse("prune-activations{most=1}")
