"""Residual streams behind layer normalisation: centred and turned without a trace, thinned exactly."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import build, programs
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ROUNDING, TOLERANCE, _sensitivity, difference, feeds_of, run
from sketch import Sketch

import hwpass
from hwpass.context import Context
from hwpass.coupling.groups import couple
from hwpass.coupling.residual_streams import streams
from hwpass.manager import PassManager
from hwpass.model.model import Model
from hwpass.passes.verify import Verify
from hwpass.workflows.compare import verify_models

WIDTH = 16
TOKENS = 5


def turned(proto: onnx.ModelProto, limit: float = TOLERANCE) -> tuple[Model, bool]:
    """The model behind rotate-streams and whether it fired; with and without lower-norms the outputs must stay."""
    feeds = feeds_of(proto, 0)
    wanted = run(proto, feeds)
    context = Context()
    manager = PassManager.parse("rotate-streams")
    model = manager.run(Model.load(proto), context)
    lowered = PassManager.parse("lower-norms").run(model, context, further=True)
    assert not any(node.op == "SimplifiedLayerNormalization" for node in lowered.nodes)
    for candidate in (model, lowered):
        for feed, one, other in zip(feeds, wanted, run(candidate.proto(), feeds), strict=True):
            for place, (a, b) in enumerate(zip(one, other, strict=True)):
                error = difference(a, b)
                assert error <= limit or error <= ROUNDING * _sensitivity(proto, feed, place)
    return model, manager.records[0].changed


class PreNorm(Sketch):
    """A residual stream [N, TOKENS, WIDTH] with blocks that read it through layer normalisation."""

    def norm(self, x: str, bias: bool = True, width: int = WIDTH) -> str:
        """With a scale far from one."""
        scale, shift = self.positive(width), self.weight(width, fan=1)
        if self.opset >= 17:
            return self.op("LayerNormalization", x, scale, *([shift] if bias else []), epsilon=1e-3)
        centred = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
        square = self.op("Mul", centred, centred) if bias else self.op("Pow", centred, self.const(2.0))
        variance = self.op("Add", self.op("ReduceMean", square, axes=[-1]), self.const(1e-3))
        y = self.op("Mul", scale, self.op("Div", centred, self.op("Sqrt", variance)))
        return self.op("Add", shift, y) if bias else y

    def linear(self, x: str, inputs: int, outputs: int, bias: bool = True) -> str:
        """MatMul, and Add."""
        y = self.op("MatMul", x, self.weight(inputs, outputs, fan=inputs))
        return self.op("Add", self.weight(outputs, fan=1), y) if bias else y

    def start(self) -> str:
        """What a product of the input writes."""
        return self.linear(self.input(["N", TOKENS, 3]), 3, WIDTH)

    def block(self, x: str, read: str) -> str:
        """A hidden layer beside the stream, reading one of its norms."""
        hidden = self.op("Relu", self.linear(read, WIDTH, 24))
        return self.op("Add", x, self.linear(hidden, 24, WIDTH))

    def finish(self, x: str) -> onnx.ModelProto:
        """A last norm and a product."""
        self.output(self.linear(self.norm(x), WIDTH, 4))
        return self.model()


def varied(seed: int) -> onnx.ModelProto:
    """A random pre-norm network: class tokens, positions, layer scale, several readers, images, pooling, masks."""
    r = random.Random(seed)
    s = PreNorm(opset=r.choice([13, 17, 18, 20]), seed=seed)
    if r.random() < 0.3:
        image = s.conv(s.input(["N", 3, 4, 4]), WIDTH, 3, 3, bias=r.random() < 0.5, strides=[2, 2])
        x, tokens = s.op("Transpose", s.op("Reshape", image, s.const([0, WIDTH, 4])), perm=[0, 2, 1]), 4
    else:
        x, tokens = s.start(), TOKENS
    if r.random() < 0.5:
        x = s.op("Add", x, s.weight(*([1] if r.random() < 0.5 else []), tokens, WIDTH, fan=1))
    if r.random() < 0.3:
        first = s.op("Slice", x, s.const([0]), s.const([1]), s.const([1]))
        x, tokens = s.op("Concat", first, x, axis=1), tokens + 1
    for _ in range(r.randint(1, 3)):
        read = s.norm(x, bias=r.random() < 0.7)
        hidden = s.op(r.choice(["Relu", "Sigmoid"]), s.linear(read, WIDTH, 24, r.random() < 0.5))
        if r.random() < 0.4:
            hidden = s.op("Mul", hidden, s.linear(read, WIDTH, 24, r.random() < 0.5))
        branch = s.linear(hidden, 24, WIDTH, r.random() < 0.6)
        if r.random() < 0.4:
            branch = s.op("Mul", *r.sample([branch, s.positive(WIDTH)], 2))
        if r.random() < 0.2:
            branch = s.op("Mul", branch, s.const(0.5))
        if r.random() < 0.3:
            seen = s.const(r.choices([True, False], k=tokens), bool)
            branch = s.op("Where", s.op("Unsqueeze", seen, s.const([1])), branch, s.const(0.0))
        x = s.op(*r.choice([("Add", x, branch), ("Add", branch, x), ("Sub", x, branch)]))
    if r.random() < 0.3:
        x = s.axes_op("ReduceMean", x, [1], since=18)
    last = s.norm(x)
    if r.random() < 0.4:
        last = s.op("Identity", last)
    s.output(s.linear(last, WIDTH, 4, r.random() < 0.7))
    return s.model()


@settings(max_examples=18)
@given(st.integers(0, 10**6))
def test_any_pre_norm_network_is_turned_and_thinned_exactly(seed: int) -> None:
    """The verdict of `run` compares the original with the prepared model, and the twin with the pruned one."""
    proto = varied(seed)
    model, changed = turned(proto)
    assert changed
    assert max(couple(model).groups, key=lambda group: len(group.layers)).width == WIDTH
    result = hwpass.run(proto, "server-cpu", channels=0.5, score="l2", align=1)
    assert result.report.verdicts.exactness is not None
    assert result.report.verdicts.exactness.passed
    assert not any(node.op in ("LayerNormalization", "SimplifiedLayerNormalization") for node in result.model.nodes)


@settings(max_examples=60)
@given(programs())
def test_any_random_graph_keeps_its_outputs(program: tuple[Any, ...]) -> None:
    turned(build(program))


def test_the_random_networks_vary() -> None:
    """The property above is not empty."""
    seen: Counter[str] = Counter()
    for seed in range(40):
        proto = varied(seed)
        seen.update({node.op_type for node in proto.graph.node})
        seen["no bias"] += any(len(n.input) == 2 for n in proto.graph.node if n.op_type == "LayerNormalization")
    assert min(seen[op] for op in ("Conv", "Concat", "Sub", "ReduceMean", "Mul", "Where", "Identity", "no bias")) >= 3


def test_rotation_needs_fewer_channels() -> None:
    """A stream in which two directions across all channels carry everything is left with those two."""
    s = PreNorm()
    mixing = np.linalg.qr(np.random.default_rng(0).standard_normal((WIDTH, WIDTH)))[0][:2]
    entry = (np.random.default_rng(1).standard_normal((3, 2)) @ mixing).astype(np.float32)
    x = s.op("MatMul", s.input(["N", TOKENS, 3]), s.const(entry))
    proto = s.finish(x)
    result = hwpass.run(proto, "server-cpu", channels=2 / WIDTH, score="l2", align=1, compensate="off")
    fidelity = result.report.verdicts.fidelity
    assert fidelity is not None
    (output,) = fidelity.outputs.values()
    assert output["rel_l2"] is not None
    assert output["rel_l2"] < 1e-5


def test_a_bias_behind_the_norm_goes_into_a_matmul_without_one() -> None:
    s = PreNorm()
    x = s.start()
    s.output(s.op("MatMul", s.norm(x), s.weight(WIDTH, 4)))
    model, changed = turned(s.model())
    assert changed
    assert [node.op for node in model.nodes][-2:] == ["MatMul", "Add"]


def test_without_products_alone_behind_the_norm_it_is_centred_only() -> None:
    """A norm whose stream stays as wide as it was is a LayerNormalization again."""
    s = PreNorm()
    x = s.start()
    normed = s.norm(x)
    s.output(s.linear(s.op("Relu", normed), WIDTH, 4))
    proto = s.model()
    context = Context()
    model = PassManager.parse("rotate-streams,lower-norms").run(Model.load(proto), context)
    assert Counter(node.op for node in model.nodes) == Counter(n.op_type for n in proto.graph.node)
    assert turned(proto)[1]
    result = hwpass.run(proto, "server-cpu", channels=0.5, score="l2", align=1)
    assert "LayerNormalization" not in {node.op for node in result.model.nodes}


def test_the_standard_operator_where_there_is_one() -> None:
    s = PreNorm(opset=23)
    proto = s.finish(s.start())
    result = hwpass.run(proto, "server-cpu", channels=0.5, score="l2", align=1)
    assert "RMSNormalization" in {node.op for node in result.model.nodes}
    assert "Pow" not in {node.op for node in result.model.nodes}


def test_norms_written_out_as_before_operator_set_17() -> None:
    s = PreNorm(opset=13)
    x = s.start()
    x = s.block(x, s.norm(x))
    x = s.block(x, s.norm(x, bias=False))
    proto = s.finish(x)
    model, changed = turned(proto)
    assert changed
    assert Counter(node.op for node in model.nodes)["SimplifiedLayerNormalization"] == 3
    assert not {"Sub", "ReduceMean"} & {node.op for node in model.nodes}


def test_norms_written_out_are_left_where_the_stream_is_not_fit() -> None:
    """One stream is turned; the other, which a Relu reads, keeps its norm as it was."""
    s = PreNorm(opset=13)
    x = s.start()
    s.output(s.linear(s.op("Relu", x), WIDTH, 4), s.linear(s.norm(x), WIDTH, 4))
    y = s.linear(s.norm(s.linear(s.input(["N", TOKENS, 3]), 3, WIDTH)), WIDTH, 4)
    s.output(y)
    model, changed = turned(s.model())
    assert changed
    assert Counter(node.op for node in model.nodes)["ReduceMean"] == 2
    assert Counter(node.op for node in model.nodes)["SimplifiedLayerNormalization"] == 1


def test_a_refitted_writer_of_a_stream_that_stays_as_wide() -> None:
    """Fits to centred outputs are centred, but for rounding, so that it can be a layer normalisation again."""
    s = PreNorm(opset=18)
    hidden = s.op("Relu", s.linear(s.input(["N", TOKENS, 3]), 3, 24))
    s.output(s.linear(s.op("Relu", s.norm(s.linear(hidden, 24, WIDTH))), WIDTH, 4))
    proto = s.model()
    stays = [n.name for n in proto.graph.node if n.op_type == "MatMul"][1]
    data = {"x1": np.random.default_rng(0).standard_normal((64, TOKENS, 3)).astype(np.float32)}
    result = hwpass.run(proto, "server-cpu", channels=0.5, calib=data, align=1, keep=[stays])
    assert "LayerNormalization" in {node.op for node in result.model.nodes}
    assert result.report.verdicts.exactness is not None
    assert result.report.verdicts.exactness.passed


@pytest.mark.parametrize("opset", [13, 18, 23])
def test_the_structure_of_a_tuned_model_is_proved_against_its_plan(opset: int) -> None:
    """Scales and biases of lowered norms are found again, of a thinned stream and of one that stayed."""
    s = PreNorm(opset=opset)
    x = s.start()
    y = s.linear(s.op("Relu", s.norm(s.linear(s.input(["N", TOKENS, 3]), 3, WIDTH))), WIDTH, 4)
    s.output(y)
    proto = s.finish(s.block(x, s.norm(x)))
    stays = [n.name for n in proto.graph.node if n.op_type == "MatMul"][1]
    result = hwpass.run(proto, "server-cpu", channels=0.5, score="l2", align=1, keep=[stays])
    assert ("LayerNormalization" in {node.op for node in result.model.nodes}) == (opset >= 17)
    assert result.plan is not None
    rng = np.random.default_rng(0)
    pruned = result.model.proto()
    for tensor in pruned.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 1:
            new = (values * rng.uniform(0.5, 1.5, values.shape)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(new, tensor.name))
    found = verify_models(proto, pruned, result.plan, Verify(rtol=1e-4), unproved=True)
    exact = found.verdicts.exactness
    assert exact is not None
    # The structure is, and the weights are the tuner's own.
    assert exact.state == "not judged"
    assert "tuned" in exact.note
    assert [(leg.name, leg.state) for leg in exact.legs if leg.name in ("centring", "refit")] == [
        *([("centring", "passed")] if opset >= 17 else []),
        ("refit", "passed"),
    ]


def test_norms_of_the_models_own_are_left() -> None:
    s = PreNorm()
    x = s.op("SimplifiedLayerNormalization", s.start(), s.positive(WIDTH), axis=-1, epsilon=1e-3)
    s.output(s.linear(x, WIDTH, 4))
    manager = PassManager.parse("rotate-streams,lower-norms")
    manager.run(Model.load(s.model()))
    assert not any(record.changed for record in manager.records)


def refused(proto: onnx.ModelProto) -> str:
    """Why the pass does not fire on the first norm: the outputs stay, and so does the model."""
    assert not turned(proto)[1]
    return unfit_reason(proto)


def unfit_reason(proto: onnx.ModelProto) -> str:
    """Why no stream is found behind the first norm."""
    from hwpass.surgery.rotation import without_means

    model = Model.load(proto)
    norms = without_means(model)
    coupling = couple(model)
    found, unfit = streams(coupling, [node for node in coupling.nodes if id(node.gs) in norms])
    assert not found
    return unfit[0][1]


def test_a_product_that_reads_without_a_norm() -> None:
    s = PreNorm()
    x = s.start()
    s.output(s.linear(x, WIDTH, 4))
    assert "MatMul reads it" in refused(s.finish(x))


def test_a_nonlinear_reader() -> None:
    s = PreNorm()
    x = s.start()
    s.output(s.linear(s.op("Relu", x), WIDTH, 4))
    assert "Relu reads it" in refused(s.finish(x))


def test_a_stream_that_is_an_output() -> None:
    s = PreNorm()
    x = s.start()
    s.output(x)
    assert refused(s.finish(x)).startswith("the model's output")


def test_a_norm_over_several_positions_at_once() -> None:
    """Each of the positions has a mean of its own, which the norm does not subtract."""
    s = PreNorm()
    x = s.op("Reshape", s.start(), s.const([0, 1, TOKENS * WIDTH]))
    normed = s.norm(x, width=TOKENS * WIDTH)
    s.output(s.linear(normed, TOKENS * WIDTH, 4))
    assert "several positions" in refused(s.model())


def test_the_same_number_for_all_channels() -> None:
    """The mean it shifts is gone, and with it what the sum would have had of it."""
    s = PreNorm()
    x = s.op("Add", s.start(), s.input(["N", TOKENS, 1]))
    assert refused(s.finish(x))


def test_post_norm() -> None:
    s = PreNorm()
    x = s.norm(s.start())
    x = s.norm(s.block(x, x))
    s.output(s.linear(x, WIDTH, 4))
    proto = s.model()
    turned(proto)
    assert hwpass.run(proto, "server-cpu", macs=0.8, score="l2", align=1).report.verdicts.exactness.passed  # type: ignore[union-attr]


def test_a_depthwise_writer() -> None:
    s = PreNorm()
    image = s.conv(s.conv(s.input(["N", 3, 4, 4]), WIDTH, 3), WIDTH, 1, group=WIDTH)
    x = s.op("Transpose", image, perm=[0, 2, 3, 1])
    assert "in groups" in refused(s.finish(x))


def test_a_table_with_other_uses() -> None:
    """Embeddings tied to the output layer: the output layer reads them as they are."""
    s = PreNorm()
    table = s.weight(7, WIDTH, fan=1)
    tokens = s.input(["N", TOKENS], dtype=onnx.TensorProto.INT64)
    x = s.op("Gather", table, tokens)
    normed = s.linear(s.norm(x), WIDTH, WIDTH)
    s.output(s.op("MatMul", normed, s.op("Transpose", table, perm=[1, 0])))
    assert unfit_reason(s.model())


def test_a_stream_of_unknown_rank() -> None:
    s = PreNorm()
    x = s.linear(s.input(None), 3, WIDTH)
    assert unfit_reason(s.finish(s.block(x, s.norm(x)))) == "the rank of an input is unknown"


def test_a_divisor_per_channel() -> None:
    s = PreNorm()
    assert "differently" in refused(s.finish(s.op("Div", s.start(), s.positive(WIDTH))))


def test_a_body_that_hands_the_stream_on() -> None:
    """What an If makes of it is read without a norm."""
    s = PreNorm()
    x = s.start()
    branches = []
    for shift in (0.5, -0.5):
        value = onnx.numpy_helper.from_array(np.full(WIDTH, shift, np.float32), f"shift{shift}")
        add = onnx.helper.make_node("Add", [x, value.name], [f"sum{shift}"])
        result = onnx.helper.make_tensor_value_info(f"sum{shift}", onnx.TensorProto.FLOAT, None)
        branches.append(onnx.helper.make_graph([add], f"branch{shift}", [], [result], [value]))
    condition = s.op("Greater", s.input([1]), s.const([0.0]))
    s.output(s.op("If", condition, then_branch=branches[0], else_branch=branches[1]))
    assert refused(s.finish(x))


def test_a_scale_for_some_of_the_readers() -> None:
    """What the norm reads is scaled, and what another norm reads is not."""
    s = PreNorm()
    x = s.start()
    s.output(s.linear(s.norm(x), WIDTH, 4))
    scaled = s.op("Mul", x, s.positive(WIDTH))
    assert refused(s.finish(scaled))


def test_a_shared_layer_behind_different_norms() -> None:
    """One weight read through two norms with scales of their own becomes two."""
    s = PreNorm()
    x = s.start()
    shared = s.weight(WIDTH, WIDTH)
    x = s.op("Add", x, s.linear(s.op("Relu", s.op("MatMul", s.norm(x), shared)), WIDTH, WIDTH))
    s.output(s.op("MatMul", s.norm(x), shared))
    turned(s.model())
