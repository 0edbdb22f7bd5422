"""A pass with a planted bug in a pipeline of nine, and a bug in one group of prune-channels: the proof after each pass
stops at it, bisection names it, and the reproducer shows it on a small graph."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from click.testing import CliRunner, Result

import hwpass
from hwpass.command.cli import main
from hwpass.context import Context
from hwpass.errors import ProofError
from hwpass.manager import _PASSES, Pass, PassResult
from hwpass.model.model import Model
from hwpass.runtime.sessions import open_session, run_session
from hwpass.surgery.cut import _Cutter
from hwpass.workflows.bisect import bisect
from hwpass.workflows.replay import replay

FIXTURES = Path(__file__).parents[2] / "fixtures"
RESNET, CNN = FIXTURES / "resnet_se.onnx", FIXTURES / "cnn.onnx"

NINE = (
    "fold,fuse-bn,rotate-streams,rotate-heads,sharpen-for-a-test,fold-redundant,"
    "prune-channels{macs=0.6x,score=l2},lower-norms,verify"
)


@dataclass(frozen=True)
class Sharpen(Pass):
    """Claims to change no value, and makes the weights of the middle convolution larger."""

    name = "sharpen-for-a-test"

    def run(self, model: Model, context: Context) -> PassResult:
        convolutions = [node for node in model.graph.nodes if node.op == "Conv"]
        node = convolutions[len(convolutions) // 2]
        node.inputs[1] = gs.Constant(f"{node.inputs[1].name}_sharp", node.inputs[1].values * np.float32(1.25))
        return PassResult(model, True)


@dataclass(frozen=True)
class Trips(Pass):
    """Raises where a graph has a pooling behind a convolution."""

    name = "trips-for-a-test"

    def run(self, model: Model, context: Context) -> PassResult:
        for node in model.graph.nodes:
            if node.op == "GlobalAveragePool" and node.i().op in ("Relu", "Add", "Conv"):
                raise KeyError("no such thing")
        return PassResult(model, False)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (Sharpen, Trips):
        monkeypatch.setitem(_PASSES, cls.name, cls)


@pytest.fixture
def rolled(monkeypatch: pytest.MonkeyPatch) -> str:
    """The cut gives one layer the weights of its remaining channels in another order: the layer's name."""
    name, sound = "/3/Conv", _Cutter._slice_constants

    def slice_constants(self: _Cutter, node: Any) -> None:
        widths = [tensor.shape[0] for tensor in node.gs.inputs[1:2] if tensor.shape]
        sound(self, node)
        if node.name == name and node.gs.inputs[1].shape[0] < widths[0]:
            weight = node.gs.inputs[1]
            node.gs.inputs[1] = gs.Constant(f"{weight.name}_rolled", np.roll(weight.values, 1, axis=0))

    monkeypatch.setattr(_Cutter, "_slice_constants", slice_constants)
    return name


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def same_outputs(original: Path, seed: int = 0) -> Any:
    """A check: whether a model gives what the original gives, on random inputs."""
    rng = np.random.default_rng(seed)
    session = open_session(original)
    feed = {
        value.name: rng.standard_normal([size if isinstance(size, int) else 2 for size in value.shape], np.float32)
        for value in session.get_inputs()
    }
    wanted = run_session(session, feed)

    def check(path: Path) -> bool:
        found = run_session(open_session(path), feed)
        return all(np.allclose(wanted[name], found[name], rtol=1e-3, atol=1e-3) for name in wanted)

    return check


def shown_again(folder: Path, step: str) -> onnx.ModelProto:
    """Replay a reproducer within ten seconds, by itself; its graph of at most ten nodes."""
    start = time.monotonic()
    ended = command("replay", folder)
    assert time.monotonic() - start < 10
    assert ended.exit_code == 5, ended.output
    assert f"it fails the same way: {step}" in ended.output
    graph = onnx.load(folder / "model.onnx")
    assert len(graph.graph.node) <= 10
    return graph


def test_a_bug_in_one_of_nine_passes_is_found_by_the_proof_after_each(tmp_path: Path) -> None:
    ended = command(
        "run", RESNET, "--target", "mobile-cpu", "--pipeline", NINE, "--verify-each", "--reproducer", tmp_path / "less",
        "--keep-last-good", tmp_path / "good.onnx", "-o", tmp_path / "out.onnx",
    )  # fmt: skip
    assert ended.exit_code == 5
    assert ended.stderr.startswith("hwpass: sharpen-for-a-test is not exact")
    assert "(in pass sharpen-for-a-test, after fold, fuse-bn, rotate-streams, rotate-heads)" in ended.stderr
    assert f"reproducer in {tmp_path / 'less'} (1 node, pipeline sharpen-for-a-test)" in ended.stderr
    assert not (tmp_path / "out.onnx").exists()
    assert same_outputs(RESNET)(tmp_path / "good.onnx")
    shown_again(tmp_path / "less", "sharpen-for-a-test")
    facts = json.loads((tmp_path / "less" / "bundle.json").read_text())
    assert facts["pipeline"] == "sharpen-for-a-test"
    assert facts["seed"] == 0
    assert facts["versions"]["onnxruntime"]


def test_without_it_the_proof_at_the_end_refuses_and_the_reproducer_names_the_pass(tmp_path: Path) -> None:
    with pytest.raises(ProofError, match="exactness failed") as caught:
        hwpass.run(RESNET, "mobile-cpu", pipeline=NINE, reproducer=tmp_path / "less")
    assert "pipeline sharpen-for-a-test" in str(caught.value)
    shown_again(tmp_path / "less", "sharpen-for-a-test")


def test_a_bug_that_is_mended_does_not_fail_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProofError):
        hwpass.run(RESNET, "mobile-cpu", pipeline="fold,sharpen-for-a-test,verify", reproducer=tmp_path / "less")
    monkeypatch.setattr(Sharpen, "run", lambda self, model, context: PassResult(model, False))
    assert replay(tmp_path / "less").outcome == "it does not fail any more"
    assert command("replay", tmp_path / "less").exit_code == 0
    monkeypatch.setattr(Sharpen, "run", lambda self, model, context: [].pop())
    found = replay(tmp_path / "less")
    assert not found.same
    assert "it fails in another way: sharpen-for-a-test: IndexError" in found.outcome


def test_bisection_names_the_pass_of_nine() -> None:
    found = bisect(RESNET, "mobile-cpu", same_outputs(RESNET), pipeline=NINE)
    assert [(s.name, s.place, s.of) for s in found.passes] == [("sharpen-for-a-test", 5, 8)]
    assert found.groups == ()
    assert found.runs <= 5
    assert found == bisect(RESNET, "mobile-cpu", same_outputs(RESNET), pipeline=NINE)


def test_bisection_by_a_command(tmp_path: Path) -> None:
    (tmp_path / "check.py").write_text(
        "import sys, onnx\n"
        "names = {t.name for t in onnx.load(sys.argv[1]).graph.initializer}\n"
        "sys.exit(any(name.endswith('_sharp') for name in names))\n"
    )
    ended = command(
        "bisect", RESNET, "--target", "mobile-cpu", "--pipeline", NINE, "--json", tmp_path / "found.json",
        "--check", f"{sys.executable} {tmp_path / 'check.py'} {{model}}",
    )  # fmt: skip
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.startswith("the first pass after which the check fails: sharpen-for-a-test (5 of 8) (")
    data = json.loads((tmp_path / "found.json").read_text())
    assert [suspect["name"] for suspect in data["passes"]] == ["sharpen-for-a-test"]
    assert f"({data['runs']} runs of the check)" in ended.stdout


def test_a_bug_in_one_group_is_found_by_all_three(rolled: str, tmp_path: Path) -> None:
    pipeline = "fold,fuse-bn,prune-channels{macs=0.5x,score=l2},lower-norms,verify"
    with pytest.raises(ProofError, match="prune-channels is not exact") as caught:
        hwpass.run(CNN, "mobile-cpu", pipeline=pipeline, verify_each=True, reproducer=tmp_path / "less")
    assert "(in pass prune-channels, after fold, fuse-bn)" in str(caught.value)
    shown_again(tmp_path / "less", "prune-channels")

    def sound(path: Path) -> bool:
        return not any(t.name.endswith("_rolled") for t in onnx.load(path).graph.initializer)

    found = bisect(CNN, "mobile-cpu", sound, pipeline=pipeline)
    assert [(s.name, s.place, s.of) for s in found.passes] == [("prune-channels", 3, 4)]
    (group,) = found.groups
    assert (group.name, group.place) == (rolled, 2)


def test_an_exception_gets_a_reproducer_too(tmp_path: Path) -> None:
    with pytest.raises(KeyError) as caught:
        hwpass.run(RESNET, "mobile-cpu", pipeline="fold,fuse-bn,trips-for-a-test", reproducer=tmp_path / "less")
    assert any("reproducer in" in note for note in caught.value.__notes__)
    graph = shown_again(tmp_path / "less", "trips-for-a-test")
    assert [node.op_type for node in graph.graph.node][-1] == "GlobalAveragePool"
    assert len(graph.graph.node) == 2
