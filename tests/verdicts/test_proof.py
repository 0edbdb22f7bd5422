"""The proof: what every leg sees, what is not proved, and what is proved again before a file gets its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper
from sketch import Sketch

import hwpass
from hwpass import Context, Pass, PassManager, PassResult, VerdictError
from hwpass.cost_models import load_target
from hwpass.model.model import Model
from hwpass.planning.stages import Effect
from hwpass.proto.interface import Interface
from hwpass.runtime.comparison import compare_arrays, compare_outputs, spread
from hwpass.runtime.sessions import open_session
from hwpass.verdicts.proof import Prover
from hwpass.verdicts.proof_sides import AsGiven, InMemory
from hwpass.workflows.job import Job


def layers(width: int = 32, seed: int = 0) -> Sketch:
    """x[N, 3, 8, 8] -> conv -> relu -> conv -> relu -> conv, not yet an output."""
    s = Sketch(seed=seed)
    h = s.op("Relu", s.conv(s.input(["N", 3, 8, 8]), width, 3, 3, bias=True))
    h = s.op("Relu", s.conv(h, width, width, 3, bias=True))
    s.output(s.conv(h, 5, width))
    return s


def run(model: onnx.ModelProto, pipeline: str, **options: bool) -> hwpass.Result:
    return hwpass.run(model, "server-cpu", pipeline=pipeline, **options)  # type: ignore[arg-type]


def legs(result: hwpass.Result) -> list[tuple[str, str]]:
    exact = result.report.verdicts.exactness
    assert exact is not None
    return [(leg.name, leg.state) for leg in exact.legs]


PRUNE = "prune-channels{macs=0.6x,score=l2,align=1}"


@dataclass(frozen=True)
class Meddle(Pass):
    """Changes the largest constant of a model, in place."""

    name = "meddle-for-a-test"
    by: float = 0.5

    def run(self, model: Model, context: Context) -> PassResult:
        tensor = max(model.constants().values(), key=lambda t: t.values.size)
        tensor.values = tensor.values * np.float32(1 + self.by)
        return PassResult(model, True)


def meddling(effect: Effect) -> Pass:
    """The same pass with another promise."""
    return type("Meddling", (Meddle,), {"effect": effect})()  # type: ignore[no-any-return]


def proved(model: onnx.ModelProto, *steps: Pass, text: str = "") -> Context:
    """The context that passes and then `verify` leave."""
    context = Context(target=load_target("server-cpu"))
    PassManager([*PassManager.parse(text).steps, *steps, *PassManager.parse("verify").steps]).run(
        hwpass.load(model), context
    )
    return context


# --- the legs


def test_a_run_names_its_legs() -> None:
    assert legs(run(layers().model(), f"fold,{PRUNE},verify")) == [("preparation", "passed"), ("removal", "passed")]
    again = run(layers().model(), f"{PRUNE},fold-redundant,{PRUNE.replace('0.6', '0.7')},verify")
    assert [name for name, _ in legs(again)][:2] == ["preparation", "removal"]
    assert legs(again)[-1] == ("removal", "passed")
    assert again.plan is None


def test_two_removals_are_proved_one_after_the_other() -> None:
    result = run(layers().model(), f"{PRUNE},{PRUNE.replace('0.6', '0.7')},verify")
    assert legs(result) == [("preparation", "passed"), ("removal", "passed"), ("removal", "passed")]
    assert result.report.ratio.macs is not None
    assert 0.25 < result.report.ratio.macs <= 0.43
    assert len(result.report.groups) == 4


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_pass_that_changes_values_and_says_it_does_not_is_found(place: str) -> None:
    steps = PassManager.parse(PRUNE).steps
    order = (meddling("exact"), *steps) if place == "before" else (*steps, meddling("exact"))
    with pytest.raises(VerdictError, match=r"exactness failed.*meddle-for-a-test"):
        proved(layers().model(), *order)


def test_what_says_nothing_of_its_values_is_not_proved() -> None:
    context = proved(layers().model(), meddling("any"), text=PRUNE)
    assert context.findings.proof is not None
    assert context.findings.proof.state == "not judged"
    assert "what meddle-for-a-test did is not proved" in str(context.findings.proof)


def test_a_refit_is_proved_by_its_twin() -> None:
    context = proved(layers().model(), meddling("refit"), text=PRUNE)
    proof = context.findings.proof
    assert proof is not None
    assert [(leg.name, leg.state) for leg in proof.legs] == [
        ("preparation", "passed"), ("removal", "passed"), ("refit", "passed"),
    ]  # fmt: skip


def test_weights_that_change_with_nothing_removed_before_are_not_proved() -> None:
    proof = proved(layers().model(), meddling("refit")).findings.proof
    assert proof is not None
    assert proof.state == "not judged"


def test_an_input_or_output_that_changes_fails() -> None:
    def sessions(*models: onnx.ModelProto) -> list[Interface]:
        return [Interface.of(open_session(model)) for model in models]

    one, other, third = layers().model(), layers().model(), layers().model()
    other.graph.input[0].name = other.graph.node[0].input[0] = "renamed"
    third.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 9
    third.graph.output[0].type.tensor_type.ClearField("shape")
    given, renamed, longer = sessions(one, other, third)
    assert given.broken_by(given) is None
    assert "renamed" in str(given.broken_by(renamed))
    assert "instead of [None, 3, 8, 8]" in str(given.broken_by(longer))
    with_default = given._replace(defaults=("volume",))
    assert "'volume', which has a default value, is gone" in str(with_default.broken_by(given))
    assert given.broken_by(with_default) is None


# --- what is not proved is said


@pytest.mark.parametrize(
    ("pipeline", "reason"),
    [
        (PRUNE, "the pipeline has no verify"),
        (f"verify,{PRUNE}", "prune-channels ran after verify"),
        (f"{PRUNE},verify{{exact=false}}", "compares without proving"),
    ],
)
def test_a_pipeline_that_proves_nothing_needs_to_be_told_so(pipeline: str, reason: str) -> None:
    with pytest.raises(VerdictError, match=reason):
        run(layers().model(), pipeline)
    result = run(layers().model(), pipeline, unproved=True)
    assert [warning for warning in result.report.warnings if reason in warning]


@pytest.mark.parametrize("rtol", [float("nan"), float("inf"), 0.5])
def test_a_tolerance_that_accepts_anything_proves_nothing(rtol: float) -> None:
    with pytest.raises(hwpass.HwpassError) as caught:
        hwpass.run(layers().model(), "server-cpu", macs=0.6, score="l2", rtol=rtol)
    assert isinstance(caught.value, hwpass.UsageError | VerdictError)


def test_behind_a_wide_absolute_tolerance_single_tensors_are_looked_at() -> None:
    result = hwpass.run(layers().model(), "server-cpu", macs=0.6, score="l2", atol=1e6)
    assert [w for w in result.report.warnings if "for each of" in w]
    feeds = [{"x1": np.random.default_rng(i).standard_normal((2, 3, 8, 8)).astype(np.float32)} for i in range(2)]
    work, wrong = prover(layers().model(), feeds), hwpass.load(layers(seed=1).model())
    work.atol = 1e6
    leg = work.compare("rewriting", work.given, InMemory("", lambda: wrong, 1), wrong, lambda _, value: value)
    assert leg.state == "failed"


# --- a context may be used again


def test_a_context_serves_one_model_after_the_other() -> None:
    first, second = layers(), layers(16, seed=1)
    context = Context(target=load_target("server-cpu"), original=first.model())
    manager = PassManager.parse(f"fold,{PRUNE},verify")
    manager.run(hwpass.load(first.model()), context)
    PassManager.parse("fold,verify").run(hwpass.load(second.model()), context)
    assert context.findings.proof is not None
    assert context.findings.proof.state == "passed"
    assert not context.findings.pruned
    manager.run(hwpass.load(first.model()), context)
    assert context.findings.proof.state == "passed"


# --- comparing


def test_large_columns_do_not_cover_small_ones() -> None:
    """Boxes of thousands beside scores below one, in rows and in columns."""
    rng = np.random.default_rng(0)
    boxes, scores = rng.uniform(0, 4000, (2, 50, 4)), rng.uniform(0, 1, (2, 50, 3))
    wanted = np.concatenate([boxes, scores], axis=2).astype(np.float32)
    off = wanted.copy()
    off[..., 4:] += 0.08
    turns: tuple[Callable[[np.ndarray], np.ndarray], ...] = (lambda a: a, lambda a: np.swapaxes(a, 1, 2))
    for turn in turns:
        assert compare_arrays("y", turn(wanted), turn(off)).needed > 1e-3
        rounded = turn(wanted) * np.float32(1 + 1e-6)
        assert compare_arrays("y", turn(wanted), rounded).needed < 1e-5


def test_spread_is_over_cases_and_positions_within_a_channel() -> None:
    row = np.asarray([[0.1, 0.9]])
    assert spread([row, row]) == 0
    assert spread([row, row[:, ::-1]]) == pytest.approx(0.8 / 0.9)
    assert spread([np.asarray([1.0, 2.0])]) == 0
    assert spread([np.asarray([1.0, 2.0]), np.asarray([2.0, 2.0])]) == 0.5
    assert spread([np.zeros(3)]) == 0
    assert spread([np.asarray(["a"])]) == float("inf")
    assert spread([np.ones((1, 2)), np.ones((1, 3))]) == 0


def test_what_does_not_vary_shows_nothing() -> None:
    ones = [{"y": np.ones((1, 4), np.float32)}]
    assert compare_outputs(ones, ones)["y"].silent()
    some = [{"y": np.arange(4, dtype=np.float32).reshape(2, 2)}]
    assert not compare_outputs(some, some)["y"].silent()


def saturated(error: float = 0.0) -> onnx.ModelProto:
    """A network whose output is one constant on all inputs: a sum of 1e4, clipped."""
    s = Sketch()
    h = s.op("Relu", s.linear(s.input(["N", 8]), 8, 32))
    h = s.op("Add", s.linear(h, 32, 4), s.const(1e4))
    s.output(s.op("Clip", h, s.const(0.0), s.const(1.0 + error)))
    return s.model()


def test_behind_a_constant_output_the_tensors_in_front_are_looked_at() -> None:
    result = hwpass.run(saturated(), "server-cpu", macs=0.6, score="l2", align=1)
    assert [w for w in result.report.warnings if "hardly varies" in w]
    assert ("removal", "passed") in legs(result)


def test_an_output_with_nothing_that_varies_in_front_is_not_passed() -> None:
    s = Sketch()
    x = s.input(["N", 8])
    h = s.op("Mul", x, s.const(0.0))
    s.output(s.linear(s.op("Relu", s.linear(h, 8, 32)), 32, 4))
    with pytest.raises(VerdictError, match="same for every input tried"):
        hwpass.run(s.model(), "server-cpu", macs=0.6, score="l2", align=1)


def prover(given: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> Prover:
    return Prover(AsGiven("the file", given, 1), feeds, None, 1e-9, 1)


def chaotic(scale: float, turn: Callable[[np.ndarray], np.ndarray] = lambda w: w) -> onnx.ModelProto:
    """x -> scale * W x -> sin, ten times over: amplifies whatever differs."""
    s = Sketch()
    x = s.input(["N", 6])
    weight = turn(s.rng.standard_normal((6, 6)))
    for _ in range(10):
        x = s.op("Sin", s.op("Mul", s.op("MatMul", x, s.const(weight)), s.const(scale)))
    s.output(x)
    return s.model()


def test_amplified_rounding_is_told_from_a_wrong_value() -> None:
    feeds = [{"x1": np.random.default_rng(i).standard_normal((4, 6)).astype(np.float32)} for i in range(2)]

    def judged(other: onnx.ModelProto) -> str:
        work = prover(chaotic(9.0), feeds)
        model = hwpass.load(other)
        right = InMemory("the other", lambda: model, 1)
        return work.compare("rewriting", work.given, right, model, lambda _, value: value).state

    # The last bit of every weight, which the output shows as differences of its own magnitude, and one per cent of one.
    assert judged(chaotic(9.0, lambda w: w * (1 + 5e-8))) == "passed"

    def one_off(weight: np.ndarray) -> np.ndarray:
        return weight + 0.01 * np.eye(6)

    assert judged(chaotic(9.0, one_off)) == "failed"


def test_integers_that_rounding_decides_are_looked_at_closely() -> None:
    """Which of two equal sums is the larger is a matter of rounding; which of two different ones is not."""

    def choice(gap: float, nudge: float) -> onnx.ModelProto:
        s = Sketch()
        x = s.input(["N", 3])
        weight = np.asarray(s.rng.standard_normal((3, 1))) @ np.ones((1, 2))
        weight[:, 1] += gap
        h = s.op("MatMul", x, s.const(weight * (1 + np.asarray([0.0, nudge]))))
        s.output(s.op("ArgMax", h, axis=1, keepdims=0), dtype=TensorProto.INT64)
        return s.model()

    feeds = [{"x1": np.random.default_rng(i).standard_normal((64, 3)).astype(np.float32)} for i in range(2)]

    def judged(one: onnx.ModelProto, other: onnx.ModelProto) -> str:
        work, model = prover(one, feeds), hwpass.load(other)
        right = InMemory("the other", lambda: model, 1)
        return work.compare("rewriting", work.given, right, model, lambda _, value: value).state

    assert judged(choice(0.0, 0.0), choice(0.0, 1e-7)) == "passed"
    assert judged(choice(0.1, 0.0), choice(-0.1, 0.0)) == "failed"


# --- the bytes


def test_a_file_is_run_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(layers().model(), f"{PRUNE},verify")
    target = tmp_path / "out.onnx"
    target.write_bytes(b"what was there")

    def wrong(proto: onnx.ModelProto, constants: object, stream: object) -> None:
        proto = result.model.proto()
        tensor = max(proto.graph.initializer, key=lambda t: len(t.raw_data))
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
        stream.write(proto.SerializeToString())  # type: ignore[attr-defined]

    with monkeypatch.context() as patched:
        patched.setattr("hwpass.model.model.write_single", wrong)
        with pytest.raises(VerdictError, match="not the model that was proved"):
            result.save(target)
        patched.setattr("hwpass.model.model.write_single", lambda proto, constants, stream: stream.write(b"\0" * 9))
        with pytest.raises(VerdictError, match="does not run"):
            result.save(target)
    assert target.read_bytes() == b"what was there"
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    result.save(target)
    assert onnx.load(target).graph.node


def test_the_original_runs_from_its_own_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the loader gets wrong is seen, whether or not a pass changes anything."""
    path = tmp_path / "model.onnx"
    onnx.save(layers().model(), path)
    load = gs.import_onnx

    def careless(proto: onnx.ModelProto) -> gs.Graph:
        graph = load(proto)
        node = next(node for node in graph.nodes if node.op == "Relu")
        node.op, node.attrs = "LeakyRelu", {"alpha": 0.3}
        return graph

    monkeypatch.setattr(gs, "import_onnx", careless)
    for pipeline in (f"{PRUNE},verify", "verify", "fold,verify"):
        with pytest.raises(VerdictError, match=r"the file as given against .*first different tensor: relu"):
            run(path, pipeline)  # type: ignore[arg-type]


def test_sequences_and_maps_are_compared() -> None:
    s = layers()
    s.nodes.append(helper.make_node("SequenceConstruct", [s.outputs[0].name, s.nodes[1].output[0]], ["both"]))
    s.outputs.append(helper.make_tensor_sequence_value_info("both", TensorProto.FLOAT, None))
    given, other = s.model(), s.model()
    weight = max(other.graph.initializer, key=lambda t: len(t.raw_data))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.1), weight.name))
    feeds = [{"x1": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}]
    one, two = (AsGiven("", model, 1).outputs(feeds) for model in (given, other))
    assert set(one[0]) >= {"both[0]", "both[1]"}
    assert compare_outputs(one, two)["both[0]"].needed > 0.01


def test_a_job_remembers_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(layers().model(), path)
    assert Job(path, target="server-cpu").context.original == path
    data = path.read_bytes()
    assert Job(data, target="server-cpu").context.original == data
