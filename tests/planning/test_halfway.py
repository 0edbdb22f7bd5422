"""Widths by curves that are taken again on the way, and by trying plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sketch import Sketch

import hwpass
from hwpass.context import Context
from hwpass.cost_models import load_target
from hwpass.errors import UsageError
from hwpass.model.model import Model
from hwpass.passes.prune_channels import PruneChannels
from hwpass.planning import candidates as halfway
from hwpass.planning.allocation import Allocation
from hwpass.planning.candidates import Chooser, distance, fewer, others, outputs, sparse
from hwpass.planning.consumers import macs_of
from hwpass.planning.study import Study, StudyOptions
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import InputSpec
from hwpass.surgery.cut import Surgery

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(scope="module")
def chooser() -> Chooser:
    """A chooser for the depthwise fixture, with a part of its calibration data."""
    model = Model.load(FIXTURES / "mobilenet.onnx")
    with np.load(FIXTURES / "calib.npz") as data:
        images = data["image"][:128]
    context = Context(target=load_target("server-cpu"))
    context.calibration = load_calibration(images, [InputSpec("image", np.dtype(np.float32), ("n", 1, 28, 28))])
    assert context.target is not None
    study = Study.of(model, context.target, context, StudyOptions())

    def cut(allocation: Allocation) -> Surgery:
        return PruneChannels()._cut(study, context, allocation)

    return Chooser(study, cut, context)


def limit(chooser: Chooser, share: float) -> dict[str, float]:
    return {"latency": share * chooser.study.cost.base["latency"]}


def error(chooser: Chooser, allocation: Allocation) -> float:
    """What a plan roughly costs, on data of the fit and others."""
    data = chooser.study.data
    assert data is not None
    surgery = chooser._rough(allocation, sparse(data))
    assert surgery is not None
    wanted, found = (outputs(m, data, 1) for m in (chooser.study.model, surgery.model))
    return distance(wanted, found)


def test_what_is_tried_is_never_worse_than_the_first_curves(chooser: Chooser) -> None:
    """A third of the latency is far: what the first curves add up to is wrong there."""
    once, again = (chooser.choose(limit(chooser, 0.33), rounds).allocation for rounds in (1, 2))
    assert once.met
    assert again.met
    assert error(chooser, again) < 1.02 * error(chooser, once)


def test_curves_taken_again_are_tried_by_themselves_and_between(chooser: Chooser) -> None:
    data = chooser.study.data
    assert data is not None
    some = sparse(data)
    latest, between = chooser._on_the_way(limit(chooser, 0.33), 2, some, chooser._dense(some), 1)
    for first, last, mean in zip(chooser.study.curves, latest.curves, between.curves, strict=True):
        np.testing.assert_allclose(mean, (first + last) / 2)
    assert latest.allocation.met
    assert between.allocation.met
    assert any(abs(first - last).max() > 0.01 for first, last in zip(chooser.study.curves, latest.curves, strict=True))


def test_every_optimum_is_tried_where_that_is_cheap(chooser: Chooser) -> None:
    data = chooser.study.data
    assert data is not None
    some = sparse(data)
    every = chooser._on_the_way(limit(chooser, 0.33), 2, some, chooser._dense(some))
    best = chooser._on_the_way(limit(chooser, 0.33), 2, some, chooser._dense(some), 1)
    assert len(best) == 2 < len(every)


def test_the_plan_that_does_better_is_kept(chooser: Chooser) -> None:
    """Whichever came first."""
    data = chooser.study.data
    assert data is not None
    good, bad = (chooser.choose(limit(chooser, share), 1) for share in (0.6, 0.3))
    for order in ([good, bad], [bad, good]):
        assert chooser._nearer(order, sparse(data)) is good


def test_misleading_curves_are_found_out(chooser: Chooser) -> None:
    """Curves that take three groups to be free: a plan that needs none does better, and is kept."""
    study = chooser.study
    misled = replace(study, curves=[c * (1e-6 if number < 3 else 1) for number, c in enumerate(study.curves)])
    limits = limit(chooser, 0.4)
    found = replace(chooser, study=misled).choose(limits, 2).allocation
    assert found.met
    by_curves = misled.allocator(limits, chooser.context).run()
    by_norms = replace(chooser, study=misled)._others(limits)[0].allocation
    kept, right, wrong = (error(chooser, allocation) for allocation in (found, by_norms, by_curves))
    assert kept < 1.05 * right
    assert right < 0.5 * wrong


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def retaken(*_: Any) -> None:
        pytest.fail("curves were taken again")

    monkeypatch.setattr(Study, "retaken", retaken)


@pytest.mark.usefixtures("forbidden")
@pytest.mark.parametrize(
    ("share", "rounds", "change"),
    [
        (0.85, 2, lambda study: study),  # near
        (0.4, 1, lambda study: study),
        (0.4, 2, lambda study: replace(study, options=StudyOptions(score="l2"))),
        (0.4, 2, lambda study: replace(study, calibration=None)),
        (1e-4, 2, lambda study: study),  # cannot be met
    ],
)
def test_when_once_is_enough(chooser: Chooser, share: float, rounds: int, change: Callable[[Study], Study]) -> None:
    study = change(chooser.study)
    choice = replace(chooser, study=study).choose(limit(chooser, share), rounds)
    assert choice.curves is study.curves
    assert choice.allocation.met == (share > 0.01)


@pytest.mark.usefixtures("forbidden")
def test_costly_models_are_done_in_one_round_unasked(chooser: Chooser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halfway, "AFFORDABLE", 1.0)
    found = chooser.choose(limit(chooser, 0.4))
    assert found.allocation.widths.tolist() == chooser.choose(limit(chooser, 0.4), 1).allocation.widths.tolist()


@pytest.mark.usefixtures("forbidden")
def test_plans_are_compared_where_curves_are_not_taken_again(chooser: Chooser, monkeypatch: pytest.MonkeyPatch) -> None:
    """The few data of the comparison are affordable, those of curves are not."""
    study = chooser.study
    macs = sum(macs_of(node) for node in study.coupling.nodes)
    assert study.data is not None
    monkeypatch.setattr(halfway, "CHEAP", 0.0)
    monkeypatch.setattr(halfway, "AFFORDABLE", macs * (len(sparse(study.data, macs)) - 1))
    limits = limit(chooser, 0.4)
    misled = replace(study, curves=[c * (1e-6 if number < 3 else 1) for number, c in enumerate(study.curves)])
    found = replace(chooser, study=misled).choose(limits).allocation
    by_norms = [choice.allocation.widths.tolist() for choice in chooser._others(limits)]
    assert found.widths.tolist() in by_norms


def test_losses_add_up_over_the_way(chooser: Chooser) -> None:
    """Curves taken again start from what getting there cost, and bound widths by what is left."""
    study, context = chooser.study, chooser.context
    half = study.allocator(limit(chooser, 0.6), context).run()
    data = study.data
    assert data is not None
    surgery = chooser._rough(half, sparse(data))
    assert surgery is not None
    again = chooser._retaken(study, half, sparse(data))
    assert again is not None
    assert again.widest == half.widths.tolist()
    for before, after, width in zip(study.curves, again.curves, half.widths, strict=True):
        spent = before[len(before) - 1 - int(width)]
        assert after[0] == pytest.approx(spent)
        # What is gone already costs next to nothing more.
        assert after[len(after) - 1 - int(width)] <= spent + 0.05 * (after[-1] - spent) + 1e-6


def test_another_coupling_is_refused(chooser: Chooser) -> None:
    data = chooser.study.data
    assert data is not None
    other = Model.load(FIXTURES / "cnn.onnx")
    keep = np.ones(int(chooser.study.coupling.component.max()) + 1, bool)
    assert chooser.study.retaken(other, keep, data, chooser.context) is None


def test_a_part_of_the_data_and_the_rest() -> None:
    """Small data are taken whole; the judges of larger ones are batches that the fit leaves out."""
    spec = [InputSpec("x", np.dtype(np.float32), ("n", 1))]
    for count, every in ((100, 1), (128, 2), (1024, 4)):
        data = load_calibration(np.arange(count, dtype=np.float32).reshape(count, 1), spec)
        some = sparse(data)
        assert some.every == every
        taken, left = ({float(v) for b in d.batches() for v in b["x"][:, 0]} for d in (some, others(some)))
        assert not taken & left or every == 1
        assert sparse(data, halfway.MANY / len(some)).every == every
        assert sparse(data, 1.01 * halfway.MANY / len(some)).every == (1 if every == 1 else 2 * every)
        assert fewer(some, halfway.CHEAP / len(some)) is some
        assert len(fewer(some, 1.01 * halfway.CHEAP / len(some))) == max(len(some) // 4, 16)
    fixed = load_calibration(np.zeros((128, 1), np.float32), [InputSpec("x", np.dtype(np.float32), (128, 1))])
    assert len(list(others(sparse(fixed)).batches())) == 1


def test_distance_by_hand() -> None:
    """Per output: squares of (1, 1) over squares of (-1, 1) is 1; the integer output does not count."""
    wanted = [[np.asarray([[1.0], [3.0]])]]
    assert distance(wanted, wanted) == 0
    assert distance(wanted, [[np.asarray([[2.0], [2.0]])]]) == pytest.approx(1.0)
    assert distance(wanted, [[np.asarray([[np.nan], [2.0]])]]) == np.inf


def test_outputs_are_those_of_floating_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without integers, as rows; few of many values; a scalar is one value."""
    s = Sketch()
    x = s.input(["N", 3])
    y = s.op("Relu", x)
    s.output(y, s.op("ReduceSum", y, keepdims=0))
    s.output(s.op("ArgMax", y, axis=1), dtype=7)
    data = load_calibration(np.ones((4, 3), np.float32), [InputSpec(x, np.dtype(np.float32), ("N", 3))])
    model = Model.load(s.model())
    assert [[v.shape for v in batch] for batch in outputs(model, data, 1)] == [[(4, 3), (1, 1)]]
    monkeypatch.setattr(halfway, "VALUES", 8)
    assert [[v.shape for v in batch] for batch in outputs(model, data, 1)] == [[(4, 2), (1, 1)]]


def test_rounds_below_none_are_refused() -> None:
    with pytest.raises(UsageError, match=r"rounds=-1"):
        hwpass.run(FIXTURES / "cnn.onnx", "server-cpu", pipeline="prune-channels{macs=0.5x,score=l2,rounds=-1}")
