"""What a run is watched with: limits, files, printed differences, proofs after each pass, and the last good model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import pytest
from faults import LAYERS, SUBJECTS
from planted import Fault, planted

import hwpass
from hwpass.command.cli import main
from hwpass.context import Context
from hwpass.errors import InputError, UsageError
from hwpass.instruments.limits import PassLimit
from hwpass.instruments.printing import PrintAfter
from hwpass.instruments.recording import KeepLastGood
from hwpass.instruments.verify_each import VerifyEach
from hwpass.manager import Pass, PassManager, PassResult
from hwpass.model.model import Model

FIXTURES = Path(__file__).parents[2] / "fixtures"
RESNET = FIXTURES / "resnet_se.onnx"
PIPELINE = "fold,fuse-bn,prune-channels{macs=0.6x,score=l2},lower-norms,verify"


@dataclass(frozen=True)
class Half(Pass):
    """Edits a weight in place, and then fails."""

    name = "half-for-a-test"

    def run(self, model: Model, context: Context) -> PassResult:
        node = next(node for node in model.graph.nodes if node.op == "Conv")
        node.inputs[1] = gs.Constant("halved", node.inputs[1].values / 2)
        raise InputError("half way")


def target() -> Context:
    from hwpass.cost_models import load_target

    return Context(target=load_target("mobile-cpu"))


def test_a_run_that_is_watched_gives_the_same_bytes(tmp_path: Path) -> None:
    plain = hwpass.run(RESNET, "mobile-cpu", pipeline=PIPELINE)
    watched = hwpass.run(
        RESNET, "mobile-cpu", pipeline=PIPELINE, verify_each=True, print_after="change", save_after=tmp_path / "saved",
        keep_last_good=tmp_path / "good.onnx", reproducer=tmp_path / "less", pass_limit=9,
    )  # fmt: skip
    assert plain.model.proto().SerializeToString() == watched.model.proto().SerializeToString()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]


def test_files_after_passes_are_numbered_and_are_the_models(tmp_path: Path) -> None:
    hwpass.run(RESNET, "mobile-cpu", pipeline=PIPELINE, save_after=tmp_path / "a" / "b")
    saved = sorted((tmp_path / "a" / "b").iterdir())
    assert [path.name for path in saved] == ["02-fuse-bn.onnx", "03-prune-channels.onnx"]
    operators = [{node.op_type for node in onnx.load(path).graph.node} for path in (RESNET, *saved)]
    assert ["BatchNormalization" in found for found in operators] == [True, False, False]
    sizes = [path.stat().st_size for path in saved]
    assert sizes[1] < 0.8 * sizes[0]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no folder can be made there"):
        hwpass.run(RESNET, "mobile-cpu", pipeline="fold,verify", save_after=tmp_path / "file")


def test_a_limit_counts_passes_that_may_change_the_model() -> None:
    limited = hwpass.run(RESNET, "mobile-cpu", pipeline=PIPELINE, pass_limit=2)
    assert [(step.name.partition("{")[0], step.skipped) for step in limited.report.passes] == [
        ("fold", None), ("fuse-bn", None), ("prune-channels", "the limit is 2"), ("lower-norms", "the limit is 2"),
        ("verify", None),
    ]  # fmt: skip
    assert "pass_limit=2: prune-channels, lower-norms did not run" in limited.report.warnings
    assert limited.report.ratio.macs == 1
    further = hwpass.run(RESNET, "mobile-cpu", pipeline=PIPELINE, pass_limit=3).report.ratio.macs
    assert further is not None
    assert further < 0.7
    with pytest.raises(UsageError, match="give 0 or more"):
        PassLimit(-1)


def test_differences_are_printed_for_those_passes_that_were_asked_for() -> None:
    def told(*names: str) -> list[str]:
        lines: list[str] = []
        PassManager.parse(PIPELINE, instruments=[PrintAfter(names, lines.append)]).run(Model.load(RESNET), target())
        return [line.partition(" (")[0] for line in lines if not line.startswith(" ")]

    every = [f"after {name}" for name in ("fold", "fuse-bn", "prune-channels", "lower-norms", "verify")]
    assert told("all") == every
    assert told("change") == ["after fuse-bn", "after prune-channels"]
    assert told("fold", "change") == ["after fold", "after fuse-bn", "after prune-channels"]
    with pytest.raises(UsageError, match="no such pass runs; choose all, change or "):
        told("fuse_bn")


def test_the_last_good_model_is_the_one_before_a_pass_that_failed_half_way(tmp_path: Path) -> None:
    keep = KeepLastGood(tmp_path / "good.onnx")
    steps = [*PassManager.parse("fold,fuse-bn").steps, Half()]
    with pytest.raises(InputError, match="half way") as caught:
        PassManager(steps, instruments=[keep]).run(Model.load(RESNET), target())
    wanted = PassManager.parse("fold,fuse-bn").run(Model.load(RESNET), target())
    assert caught.value.last_good.proto().SerializeToString() == wanted.proto().SerializeToString()
    assert {t.name for t in onnx.load(tmp_path / "good.onnx").graph.initializer} == set(wanted.constants())


def test_what_a_judge_refuses_has_no_last_good_model(tmp_path: Path) -> None:
    with pytest.raises(hwpass.VerdictError, match="fidelity failed") as caught:
        hwpass.run(
            RESNET, "mobile-cpu", pipeline=PIPELINE.replace("verify", "verify{fidelity=cosine>=1}"),
            keep_last_good=tmp_path / "good.onnx", reproducer=tmp_path / "less",
        )  # fmt: skip
    assert caught.value.last_good is None
    assert list(tmp_path.iterdir()) == []


#: Faults of each kind of pass, with the pass that has to be named.
NAMED = {
    "fold": "fold", "fuse-bn": "fuse-bn", "fold-redundant": "fold-redundant", "rotate-streams": "rotate-streams",
    "rotate-heads": "rotate-heads", "lower-norms": "lower-norms", "compensate": "compensate",
    "surgery": "prune-channels", "share-rows": "share-rows",
}  # fmt: skip
CHOSEN = [(name, fault) for layer, name in NAMED.items() for fault in LAYERS[layer][:2]]


@pytest.mark.parametrize(("name", "fault"), CHOSEN, ids=lambda value: str(value))
def test_the_proof_after_each_pass_names_the_one_with_the_fault(name: str, fault: Fault, tmp_path: Path) -> None:
    subject = SUBJECTS[fault.subject]
    watched = dataclasses.replace(subject, options={**subject.options, "verify_each": True})
    watched.write(tmp_path)
    with planted(fault), pytest.raises(hwpass.HwpassError) as caught:
        watched.run(tmp_path / "given.onnx")
    assert f"in pass {name}," in "".join(caught.value.__notes__)


def test_sound_passes_are_proved_one_by_one(tmp_path: Path) -> None:
    subject = SUBJECTS["refit_transformer"]
    watched = dataclasses.replace(subject, options={**subject.options, "verify_each": True})
    watched.write(tmp_path)
    found = watched.run(tmp_path / "given.onnx").report
    changing = [step.name.partition("{")[0] for step in found.passes if step.changed]
    assert {"rotate-streams", "prune-channels", "compensate", "lower-norms"} <= set(changing)
    assert list(found.notes["verify-each"]) == [f"{number} {name}" for number, name in enumerate(changing, 1)]
    assert all(str(outcome).startswith("exact: ") for outcome in found.notes["verify-each"].values())


def test_a_pass_that_claims_nothing_is_not_judged(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Anything(Half):
        effect = "any"

        def run(self, model: Model, context: Context) -> PassResult:
            node = next(node for node in model.graph.nodes if node.op == "Conv")
            node.inputs[1] = gs.Constant("halved", node.inputs[1].values / 2)
            return PassResult(model, True)

    check, context = VerifyEach(), target()
    PassManager([Anything()], instruments=[check]).run(Model.load(RESNET), context)
    assert [proof.state for _, proof in check.proofs] == ["not judged"]
    assert "not proved" in str(context.findings.notes["verify-each"]["1 half-for-a-test"])


@pytest.mark.parametrize("option", ["verify_each", "pass_limit", "save_after"])
def test_a_search_cannot_be_watched(option: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"verify_each": True, "pass_limit": 3, "save_after": tmp_path / "saved"}
    with pytest.raises(UsageError, match=f"{option} watches one pipeline"):
        hwpass.run(RESNET, "mobile-cpu", metric="json:loads", max_drop=0.1, **{option: given[option]})


def test_an_instrument_that_is_asked_for_in_python_and_one_on_the_command_line_are_the_same() -> None:
    names = {parameter.name for parameter in main.commands["run"].params}
    assert {"verify_each", "print_after", "save_after", "pass_limit", "reproducer", "keep_last_good"} <= names
    assert "timing" in names
