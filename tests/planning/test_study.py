"""A job: pipelines on one model that share the study of its channels, and when that may not be shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwpass.context import Context
from hwpass.errors import BudgetError
from hwpass.manager import PassManager
from hwpass.model.model import Model
from hwpass.planning.plan import Plan
from hwpass.planning.study import Study, StudyOptions
from hwpass.workflows.job import Attempt, Job

ROOT = Path(__file__).parents[2]
RESNET = ROOT / "fixtures/resnet_se.onnx"


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The score of every study that is made."""
    made: list[str] = []
    study = Study.of

    def counted(model: Model, target: Any, context: Context, options: StudyOptions, *more: Any) -> Study:
        made.append(options.score)
        return study(model, target, context, options, *more)

    monkeypatch.setattr(Study, "of", counted)
    return made


def few() -> dict[str, np.ndarray]:
    with np.load(ROOT / "fixtures/calib.npz") as data:
        return {"image": data["image"][:32]}


def manager(text: str) -> PassManager:
    return PassManager.parse(text)


def planned(attempt: Attempt) -> Plan:
    assert attempt.context.findings.last is not None
    return attempt.context.findings.last.plan


def test_attempts_on_a_prepared_model_share_one_study(studies: list[str]) -> None:
    job = Job(RESNET, target="server-cpu", calib=few())
    job.prepare(manager("fold,fuse-bn"))
    halves = [job.attempt(manager(f"prune-channels{{macs={share}x}}")) for share in (0.9, 0.85)]
    assert studies == ["auto"]
    alone = Job(RESNET, target="server-cpu", calib=few()).attempt(manager("fold,fuse-bn,prune-channels{macs=0.85x}"))
    assert planned(halves[1]) == planned(alone)
    assert planned(halves[0]) != planned(halves[1])
    report = job.result(halves[1], unproved=True).report
    assert [step.name for step in report.passes] == ["fold", "fuse-bn", "prune-channels{macs=0.85x}"]
    assert report.budget == {"macs": "0.85x"}


def test_a_study_survives_a_budget_that_cannot_be_met(studies: list[str]) -> None:
    job = Job(RESNET, target="server-cpu")
    with pytest.raises(BudgetError):
        job.attempt(manager("prune-channels{latency=0.001x,score=l2}"))
    job.attempt(manager("prune-channels{latency=0.9x,score=l2}"))
    assert len(studies) == 1


def test_other_options_need_another_study(studies: list[str]) -> None:
    job = Job(RESNET, target="server-cpu")
    for options in ("score=l1", "score=l2", "score=l2,align=4", "score=l2,min-channels=9", "score=l2,keep=*Gemm*"):
        job.attempt(manager(f"prune-channels{{macs=0.8x,{options}}}"))
    assert len(studies) == 5


def test_a_model_that_was_pruned_is_another_model(studies: list[str]) -> None:
    job = Job(RESNET, target="server-cpu")
    twice = job.attempt(manager("prune-channels{macs=0.8x,score=l2},prune-channels{macs=0.8x,score=l2}"))
    assert len(studies) == 2
    assert twice.records[1].changed
    once = job.attempt(manager("prune-channels{macs=0.8x,score=l2}"))
    assert twice.model.parameter_count() < once.model.parameter_count()
