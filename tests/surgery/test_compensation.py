"""Statistics, curves and compensation on the bundled networks: what they are for is accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from sketch import Sketch

import hwpass
from hwpass.coupling.groups import couple
from hwpass.data import segments
from hwpass.data.segments import Segments
from hwpass.errors import InputError
from hwpass.manager import PassManager
from hwpass.planning.consumers import Consumer, consumers, weight_gram
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs
from hwpass.runtime.sessions import open_session, run_session
from hwpass.workflows.run import execute

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    found: np.ndarray = np.load(FIXTURES / "calib.npz")["image"][:256]
    return found


def _agreement(model: hwpass.Model, images: np.ndarray) -> float:
    """Share of images on which a model and the original name the same class."""
    dense = run_session(open_session(FIXTURES / "resnet_se.onnx"), {"image": images})["logits"]
    pruned = run_session(open_session(model.proto()), {"image": images})["logits"]
    return float((dense.argmax(1) == pruned.argmax(1)).mean())


def test_compensation_keeps_what_pruning_alone_loses(images: np.ndarray) -> None:
    test = np.load(FIXTURES / "test.npz")["image"][:500]
    source = FIXTURES / "resnet_se.onnx"
    plain = execute(source, "fold,fuse-bn,prune-channels{macs=0.5x,score=l2},verify", target="server-cpu", calib=images)
    mended = execute(
        source, "fold,fuse-bn,prune-channels{macs=0.5x,score=l2},compensate,verify", target="server-cpu", calib=images
    )
    assert mended.report.verdicts.exactness is not None
    assert mended.report.verdicts.exactness.passed
    assert mended.report.ratio.macs == plain.report.ratio.macs
    assert _agreement(plain.model, test) < 0.6
    assert _agreement(mended.model, test) > 0.85


def test_compensate_does_not_fire_without_data() -> None:
    text = "fold,fuse-bn,prune-channels{macs=0.5x,score=l2},compensate,verify"
    result = execute(FIXTURES / "cnn.onnx", text, target="server-cpu")
    assert [p.changed for p in result.report.passes if p.name == "compensate"] == [False]


def test_compensate_wants_a_pruned_model() -> None:
    with pytest.raises(hwpass.UsageError, match="after prune-channels"):
        execute(FIXTURES / "cnn.onnx", "fold,compensate", target="server-cpu")


def test_consumers_have_positive_energies_and_the_same_bytes_twice(images: np.ndarray) -> None:
    model = PassManager.parse("fold,fuse-bn").run(hwpass.load(FIXTURES / "mobilenet.onnx"))
    coupling = couple(model)
    data = load_calibration({"image": images[:64]}, input_specs(model.interface()))
    first, second = (consumers(coupling, data) for _ in range(2))
    assert first
    for one, other in zip(first, second, strict=True):
        assert isinstance(one, Consumer)
        assert isinstance(other, Consumer)
        assert one.energy > 0
        assert one.sensitivity > 0
        assert one.sensitivity == other.sensitivity
        np.testing.assert_array_equal(one.covariance, other.covariance)
        np.testing.assert_allclose(one.gram(), one.gram().T)


def test_weight_gram_of_a_dense_convolution() -> None:
    model = PassManager.parse("fold,fuse-bn").run(hwpass.load(FIXTURES / "cnn.onnx"))
    node = [n for n in couple(model).nodes if n.product is not None and n.op == "Conv"][1]
    weight = node.value(1)
    assert weight is not None
    gram = weight_gram(node, weight.shape[1], np.arange(weight.shape[1]))
    assert gram is not None
    expected = np.einsum("oikl,ojkl->ij", weight.astype(np.float64), weight.astype(np.float64))
    np.testing.assert_allclose(gram, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["resnet_se", "densenet", "vit"])
def test_segments_give_the_outputs_of_the_whole(name: str, images: np.ndarray) -> None:
    model = hwpass.load(FIXTURES / f"{name}.onnx")
    feeds = [{"image": images[:8]}, {"image": images[8:16]}]
    whole = [run_session(open_session(model.proto()), feed)["logits"] for feed in feeds]
    count = len(model.graph.nodes)
    with Segments(model, feeds) as running:
        for stop in [*range(0, count, max(1, count // 7)), count]:
            running.advance(stop, keep=["logits"])
        for wanted, found in zip(whole, running.value("logits"), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_activations_that_find_no_room_are_one_line(images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy says it with an error that has no number."""

    def partly(*_: object) -> None:
        raise OSError("147456 requested and 8192 written")

    monkeypatch.setattr(segments, "MEMORY_BYTES", 0)
    monkeypatch.setattr(segments, "open", partly, raising=False)
    model = hwpass.Model.load(FIXTURES / "cnn.onnx")
    with (
        pytest.raises(InputError, match=r"no room in the folder .* 8192 written; make room or set TMPDIR"),
        Segments(model, [{"image": images[:32]}]) as running,
    ):
        running.advance(3)


def test_samples_of_different_widths_are_fitted_on() -> None:
    rng = np.random.default_rng(0)
    low = rng.normal(size=(16, 4, 1, 1)) @ np.ones((1, 1)) + 0.05 * rng.normal(size=(16, 4, 3, 3))
    weights = {"w": low, "v": rng.normal(size=(8, 16, 3, 3)), "u": rng.normal(size=(8, 6))}
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        net (float[n, 4, h, w0] x) => (float[n, m, 6] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w)
            b = Relu (a)
            c = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (b, v)
            d = ReduceMean <keepdims = 0> (c, axes)
            e = Transpose <perm = [0, 2, 1]> (d)
            y = MatMul (e, u)
        }""")
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([2]), "axes"))
    feeds = [{"x": rng.normal(size=(8, 4, 6, width)).astype(np.float32)} for width in (9, 5, 12, 7)]
    text = "fold,prune-channels{channels=0.5x,align=1},compensate,verify"
    result = execute(hwpass.load(model), text, target="server-cpu", calib=feeds)
    assert [p.changed for p in result.report.passes if p.name == "compensate"] == [True]


def test_layers_whose_rows_were_thinned_are_fitted_on_the_rows_that_stayed() -> None:
    """Channels that a product from the left makes are rows of the products behind it."""
    s = Sketch(seed=3)
    x = s.input(["n", 8, 16], "x")
    rows = s.op("MatMul", s.weight(24, 8), x)  # [n, 24, 16]
    wide = s.op("Relu", s.op("MatMul", rows, s.weight(16, 48)))
    back, beside = s.op("MatMul", wide, s.weight(48, 16)), s.op("MatMul", rows, s.weight(16, 16))
    s.output(s.op("MatMul", s.weight(4, 24), s.op("Relu", s.op("Add", back, beside))))
    inputs = np.random.default_rng(0).standard_normal((128, 8, 16)).astype(np.float32)
    wanted = run_session(open_session(s.model()), {"x": inputs})
    errors = []
    for compensate in ("", "compensate,"):
        text = f"fold,prune-channels{{macs=0.5x,score=l2,align=1}},{compensate}verify"
        result = execute(s.model(), text, target="server-cpu", calib={"x": inputs[:96]})
        assert 24 in {g.before for g in result.report.groups if g.after < g.before}
        found = run_session(open_session(result.model.proto()), {"x": inputs})
        errors.append(sum(float(np.square(found[k] - wanted[k]).sum()) for k in wanted))
    assert errors[1] < 0.99 * errors[0]


def _huge(scale: float) -> hwpass.Model:
    """Two layers, the first of which multiplies by `scale`."""
    s = Sketch()
    h = s.op("MatMul", s.input(["N", 4], "x"), s.const(scale * np.eye(4, 6)))
    s.output(s.linear(s.op("Relu", h), 6, 3))
    return hwpass.Model.load(s.model())


@pytest.mark.parametrize("value", [1e25, 1e38])
@pytest.mark.parametrize("score", ["activation", "auto"])
def test_activations_without_a_meaning_are_refused_by_name(score: str, value: float) -> None:
    """1e25 squared is beyond single precision; 1e38 times a hundred is itself."""
    x = np.full((8, 4), value, np.float32)
    with pytest.raises(InputError, match=r"these samples give tensor '\w+' values of (1e\+|inf)"):
        hwpass.run(_huge(100.0), target="mobile-cpu", macs="0.7x", calib={"x": x}, score=score, compensate="off")


def test_a_refit_of_values_that_overflow_leaves_the_weights() -> None:
    s = Sketch()
    s.output(s.linear(s.op("Relu", s.linear(s.input(["N", 4], "x"), 4, 6)), 6, 3))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32) * np.float32(1e30)
    model = hwpass.Model.load(s.model())
    result = hwpass.run(model, target="mobile-cpu", macs="0.7x", calib={"x": x}, score="l2", compensate="auto")
    assert all(np.isfinite(t.values).all() for t in result.model.constants().values())


def test_a_refit_stays_within_a_budget_of_size() -> None:
    # Layers without a bias: one for each of many outputs would take what the budget does not leave.
    rng = np.random.default_rng(0)
    s = Sketch()
    x = s.input([1, 6])
    x = s.op("Relu", s.op("Gemm", x, s.weight(6, 16)))
    s.output(s.op("Gemm", x, s.weight(16, 128)))
    data = rng.standard_normal((256, 6)).astype(np.float32)
    result = hwpass.run(s.model(), "mobile-cpu", size=0.7, align=1, calib={s.model().graph.input[0].name: data})
    assert result.report.ratio.size is not None
    assert result.report.ratio.size <= 0.7
    assert any(p.changed for p in result.report.passes if p.name == "compensate")


def test_a_refit_within_a_budget_of_size_leaves_shared_weights_shared() -> None:
    rng = np.random.default_rng(0)
    s = Sketch()
    x = name = s.input([1, 3, 6, 6])
    shared = s.weight(24, 24, 3, 3)
    x = s.op("Relu", s.conv(x, 24, 3))
    for _ in range(2):
        x = s.op("Relu", s.op("Conv", x, shared, pads=[1, 1, 1, 1]))
    s.output(s.conv(x, 5, 24))
    data = {name: rng.standard_normal((64, 3, 6, 6)).astype(np.float32)}
    result = hwpass.run(s.model(), "mobile-cpu", size=0.7, align=1, calib=data)
    assert result.report.ratio.size is not None
    assert result.report.ratio.size <= 0.7
