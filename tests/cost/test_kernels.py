"""Kernels and their work: layers counted by hand, and the closed form against the pruned model coupled again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import build, programs
from hypothesis import given, settings
from oracle import random_keep
from sketch import Sketch

from hwpass.cost import prediction
from hwpass.cost.kernels import Kernels
from hwpass.cost.prediction import Cost
from hwpass.cost_models import load_target
from hwpass.coupling.groups import Coupling, couple
from hwpass.model.model import Model
from hwpass.surgery.cut import prune

FIXTURES = Path(__file__).parents[2] / "fixtures"
FUSION = [["Conv", "BatchNormalization", "activation"], ["Conv", "activation"], ["Gemm", "activation"]]


def kernels(s: Sketch, fusion: list[list[str]] | None = None) -> Kernels:
    return Kernels(couple(Model.load(s.model())), FUSION if fusion is None else fusion)


def macs(s: Sketch) -> list[float]:
    """Per kernel of the dense model, products only. Dynamic batches are analysed at one sample."""
    found = kernels(s)
    own = found.work(found.dense[None, :]).macs[0]
    return [float(m) for m in own if m]


def test_convolutions_by_hand() -> None:
    """Image 4 x 4. 3 -> 6, 3 x 3: 6 * 3 * 9 * 16. Depthwise: 6 * 9 * 16. 4 groups of 2 -> 3, 1 x 1: 12 * 2 * 16."""
    s = Sketch()
    h = s.conv(s.conv(s.input(["N", 3, 4, 4]), 6, 3, kernel=3), 6, 1, kernel=3, group=6)
    s.output(s.conv(s.conv(h, 8, 6), 12, 2, group=4))
    assert macs(s) == [6 * 3 * 9 * 16, 6 * 9 * 16, 8 * 6 * 16, 12 * 2 * 16]


def test_a_strided_convolution_counts_its_outputs() -> None:
    """Stride 2 on 4 x 4 leaves 2 x 2 positions; 2 x 2 taps: 5 * 3 * 4 * 4."""
    s = Sketch()
    s.output(s.op("Conv", s.input(["N", 3, 4, 4]), s.weight(5, 3, 2, 2), strides=[2, 2]))
    assert macs(s) == [5 * 3 * 4 * 4]
    found = kernels(s)
    assert found.stride[0] == 4
    assert found.taps[0] == 4


def test_a_transposed_convolution_counts_its_inputs() -> None:
    """Each of 4 x 4 input positions meets each of 2 x 2 taps: 16 * 4 * 3 * 5."""
    s = Sketch()
    s.output(s.op("ConvTranspose", s.input(["N", 3, 4, 4]), s.weight(3, 5, 2, 2), strides=[2, 2]))
    assert macs(s) == [16 * 4 * 3 * 5]


def test_products_by_hand() -> None:
    """Gemm [2, 8] x [8, 6]; MatMul [2, 6] x [6, 3]; rows [1, 5, 4] x [4, 6]; of activations [1, 5, 6] x [1, 6, 5]."""
    s = Sketch()
    s.output(s.linear(s.op("Gemm", s.input([2, 8]), s.weight(6, 8), transB=1), 6, 3))
    assert macs(s) == [2 * 8 * 6, 2 * 6 * 3]
    s = Sketch()
    h = s.linear(s.input([1, 5, 4]), 4, 6)
    s.output(s.op("MatMul", h, s.op("Transpose", h, perm=[0, 2, 1])))
    assert macs(s) == [5 * 4 * 6, 5 * 6 * 5]
    s = Sketch()
    s.output(s.op("Einsum", s.input([2, 5, 4]), s.weight(7, 4), equation="btc,oc->bto"))
    assert macs(s) == [2 * 5 * 4 * 7]


def test_attention_products_count_their_heads() -> None:
    """3 heads of 5 x 4 by 4 x 5: 3 * 5 * 4 * 5."""
    s = Sketch()
    q, k = s.input([1, 3, 5, 4]), s.input([1, 3, 4, 5])
    s.output(s.op("MatMul", q, k))
    assert macs(s) == [3 * 5 * 4 * 5]


def test_a_recurrent_layer_is_two_kernels() -> None:
    """LSTM, 7 steps of 2 samples, 5 -> 6: inputs 4 * 6 * 5 * 14 and, step by step, states 4 * 6 * 6 * 14."""
    s = Sketch()
    y = s.ops("LSTM", s.input([7, 2, 5]), s.weight(1, 24, 5), s.weight(1, 24, 6), count=1, hidden_size=6)[0]
    s.output(y)
    found = kernels(s)
    work = found.work(found.dense[None, :])
    assert work.macs[0].tolist() == [4 * 6 * 5 * 14, 4 * 6 * 6 * 14]
    assert work.kind[1] == "recurrent"


def test_bytes_by_hand() -> None:
    """Conv 3 -> 6 on 4 x 4, fp32: reads 3 * 16 * 4, writes 6 * 16 * 4, weights 6 * 3 * 4 and 6 * 4 of bias."""
    s = Sketch()
    s.output(s.conv(s.input(["N", 3, 4, 4]), 6, 3, bias=True))
    found = kernels(s)
    work = found.work(found.dense[None, :])
    assert work.read[0].tolist() == [3 * 16 * 4]
    assert work.written[0].tolist() == [6 * 16 * 4]
    assert work.weights[0].tolist() == [6 * 3 * 4 + 6 * 4]
    assert found.size(found.values(found.dense[None, :]))[0] == 6 * 3 * 4 + 6 * 4


def test_a_fused_kernel_reads_and_writes_once() -> None:
    s = Sketch()
    h = s.op("Relu", s.batch_norm(s.conv(s.input(["N", 3, 4, 4]), 6, 3), 6))
    s.output(s.conv(h, 2, 6))
    found = kernels(s)
    assert found.op.tolist() == ["Conv+BatchNormalization+Relu", "Conv"]
    work = found.work(found.dense[None, :])
    assert work.read[0].tolist() == [3 * 16 * 4, 6 * 16 * 4]
    assert work.written[0].tolist() == [6 * 16 * 4, 2 * 16 * 4]
    # Batch norm and activation: one operation each per element behind the product.
    assert work.elements[0].tolist() == [2 * 6 * 16, 0]


def test_a_tensor_with_two_readers_is_not_fused_away() -> None:
    s = Sketch()
    h = s.conv(s.input(["N", 3, 4, 4]), 6, 3)
    s.output(s.conv(s.op("Add", s.op("Relu", h), h), 2, 6))
    assert kernels(s).op.tolist() == ["Conv", "Relu", "Add", "Conv"]


def test_an_output_of_the_model_is_not_fused_away() -> None:
    s = Sketch()
    h = s.conv(s.input(["N", 3, 4, 4]), 6, 3)
    s.output(h, s.op("Relu", h))
    assert kernels(s).op.tolist() == ["Conv", "Relu"]


def test_the_longest_chain_wins() -> None:
    s = Sketch()
    s.output(s.op("Relu", s.batch_norm(s.conv(s.input(["N", 3, 4, 4]), 6, 3), 6)))
    short_first = [["Conv", "BatchNormalization"], ["Conv", "BatchNormalization", "Relu"]]
    assert kernels(s, short_first).op.tolist() == ["Conv+BatchNormalization+Relu"]
    assert kernels(s, []).op.tolist() == ["Conv", "BatchNormalization", "Relu"]


def test_peak_activations_by_hand() -> None:
    """x 3, a 6, b 8, y 2 channels of 64 bytes: a and b together are the most that live at once."""
    s = Sketch()
    s.output(s.conv(s.conv(s.conv(s.input([1, 3, 4, 4]), 6, 3), 8, 6), 2, 8))
    found = kernels(s)
    assert found.live.peak(found.values(found.dense[None, :]))[0] == (6 + 8) * 64


def test_a_residual_keeps_its_stem_alive() -> None:
    """While the branch's second layer runs: stem 6, hidden 8 and its output 6."""
    s = Sketch()
    stem = s.conv(s.input([1, 3, 4, 4]), 6, 3)
    branch = s.conv(s.conv(stem, 8, 6), 6, 8)
    s.output(s.conv(s.op("Add", stem, branch), 2, 6))
    found = kernels(s)
    assert found.live.peak(found.values(found.dense[None, :]))[0] == (6 + 8 + 6) * 64


def test_many_plans_at_once() -> None:
    """3 -> a -> b -> 2 on 16 positions: 16 * (3 a + a b + 2 b)."""
    s = Sketch()
    s.output(s.conv(s.conv(s.conv(s.input([1, 3, 4, 4]), 6, 3), 8, 6), 2, 8))
    widths = np.asarray([[6, 8], [3, 8], [1, 1], [4, 5]], np.float64)
    total = kernels(s).work(widths).macs.sum(axis=1)
    assert total.tolist() == [16 * (3 * a + a * b + 2 * b) for a, b in widths]


def again(coupling: Coupling, seed: int) -> tuple[Kernels, np.ndarray, Kernels] | None:
    """Kernels of a model with the widths of a random plan, and those of the model that the plan makes."""
    keep = random_keep(coupling, seed)
    surgery = prune(coupling, keep)
    if not surgery.modified:
        return None
    widths = np.asarray([[keep[g.components].sum() for g in coupling.groups]], np.float64)
    return Kernels(coupling, FUSION), widths, Kernels(couple(Model.load(surgery.model.proto())), FUSION)


@settings(max_examples=100)
@given(programs(12))
def test_the_closed_form_is_the_work_of_the_pruned_model(program: tuple[Any, ...]) -> None:
    found = again(couple(Model.load(build(program))), program[2])
    if found is None:
        return
    closed, widths, pruned = found
    work, real = closed.work(widths), pruned.work(pruned.dense[None, :])
    assert work.macs.sum() == real.macs.sum()
    if work.op.tolist() != real.op.tolist():
        return  # a Slice that became a Gather, or extents that are scaled
    for name in ("macs", "read", "written", "elements", "groups", "m", "n", "k"):
        assert np.array_equal(getattr(work, name), getattr(real, name)), name
    values, after = closed.values(widths), pruned.values(pruned.dense[None, :])
    assert closed.live.peak(values) == pruned.live.peak(after)
    # Indices of a Gather and sizes of a Split are not weights.
    weights = [all(np.dtype(t.dtype).kind not in "iu" for t in n.gs.inputs if hasattr(t, "values"))
               for n in (k.nodes[0] for k in pruned.kernels)]  # fmt: skip
    assert np.array_equal(work.weights[:, weights], real.weights[:, weights])


@pytest.mark.parametrize("name", ["cnn", "densenet", "mobilenet", "resnet_se", "vit"])
def test_the_closed_form_on_trained_nets(name: str) -> None:
    found = again(couple(Model.load(FIXTURES / f"{name}.onnx")), 3)
    assert found is not None
    closed, widths, pruned = found
    costs = Cost(closed.coupling, load_target("server-cpu"))(widths)
    assert costs["macs"] == pruned.work(pruned.dense[None, :]).macs.sum()
    assert costs["size"] == pytest.approx(pruned.model.size_bytes(), rel=2e-3)


def test_plans_cost_the_same_one_by_one_or_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large model's plans are evaluated in small batches; no plan's cost depends on its neighbours."""
    model = Model.load(FIXTURES / "mobilenet.onnx")
    coupling = couple(model)
    cost = Cost(coupling, load_target("mobile-cpu"))
    generator = np.random.default_rng(5)
    widths = np.ceil(cost.dense * generator.uniform(0.1, 1, (37, len(cost.dense))))
    together = cost(widths)
    monkeypatch.setattr(prediction, "VALUES", 5 * cost.kernels.products)
    few = Cost(coupling, load_target("mobile-cpu"))
    sizes: list[int] = []
    evaluate = few._evaluate
    monkeypatch.setattr(few, "_evaluate", lambda w, m: sizes.append(len(w)) or evaluate(w, m))  # type: ignore[func-returns-value]
    for metric, values in few(widths).items():
        np.testing.assert_allclose(values, together[metric], rtol=1e-12)
    assert sizes == [5] * 7 + [2]
