"""What public objects print as: one short line that says something, and never an array or a whole model."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from sketch import Sketch

import hwpass
from hwpass.context import Context
from hwpass.cost_models import load_target
from hwpass.manager import PassManager
from hwpass.passes.verify import Verify
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs
from hwpass.workflows.compare import verify_models
from hwpass.workflows.inspect import coupled
from hwpass.workflows.job import Job
from hwpass.workflows.profile import profile_model

LONGEST = 200


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """One of each public object, about a model with many layers and long names."""
    s = Sketch()
    x = h = s.input(["N", 16])
    for _ in range(12):
        h = s.op("Relu", s.linear(h, 16, 16))
    s.output(h)
    proto = s.model()
    for node in proto.graph.node:
        node.name = f"/a/name/of/a/layer/that/is/rather/long/{node.name}"
    calib = {x: np.random.default_rng(0).random((64, 16), np.float32)}
    target = load_target("mobile-cpu")
    job = Job(proto, target=target, calib=calib)
    attempt = job.attempt(PassManager.parse("fold,prune-channels{macs=0.7x,score=l2},verify"))
    result = job.result(attempt)
    context = attempt.context
    manager = PassManager.parse("fold,verify")
    manager.run(job.prepared.model, Context(target=target))
    return {
        "Model": job.prepared.model,
        "Plan": result.plan,
        "Context": context,
        "PassManager": manager,
        "PassResult": hwpass.PassResult(job.prepared.model, True, context.findings.last),
        "Result": result,
        "Report": result.report,
        "Findings": context.findings,
        "Pruned": context.findings.last,
        "Stage": context.findings.stages[0],
        "Proof": context.findings.proof,
        "Fidelity": context.findings.fidelity,
        "ReadBack": context.findings.read_back,
        "Shared": context.shared,
        "Study": context.shared.study,
        "Calibration": load_calibration(calib, input_specs(proto)),
        "Coupling": coupled(proto),
        "Group": coupled(proto).groups[0],
        "Target": target,
        "Job": job,
        "Attempt": attempt,
        "SweepReport": hwpass.sweep(proto, target, points=[0.8], budget="macs", score="l2", compensate="off"),
        "Profile": profile_model(proto, target),
        "RunOptions": hwpass.RunOptions(latency="0.6x", keep=["a" * 90, "b"], calib=calib),
        "Comparison": verify_models(proto, result.model.proto(), result.plan, Verify()),
        "PruneChannels": PassManager.parse("prune-channels{keep=" + "|".join(["a" * 40] * 20) + "}").steps[0],
    }


NAMES = (
    "Model Plan Context PassManager PassResult Result Report Findings Pruned Stage Proof Fidelity ReadBack Shared Study"
    " Calibration Coupling Group Target Job Attempt SweepReport Profile Comparison PruneChannels RunOptions"
).split()


@pytest.mark.parametrize("name", NAMES)
def test_one_short_line_that_says_something(name: str, made: dict[str, Any]) -> None:
    text = repr(made[name])
    assert len(text) < LONGEST, text[:2000]
    assert "\n" not in text
    assert "array(" not in text
    assert text.startswith(name)
    assert not text.endswith(" object>")
    assert " at 0x" not in text
    assert len(text) > len(name) + 2


def test_every_public_class_is_among_them(made: dict[str, Any]) -> None:
    classes = {name for name in hwpass.__all__ if inspect.isclass(getattr(hwpass, name))}
    apart = {name for name in classes if issubclass(getattr(hwpass, name), Exception)} | {"Pass", "Instrument"}
    assert classes - apart <= set(NAMES)
    assert set(NAMES) == set(made)
