"""What a model takes and loses after every pass that changed it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sketch import Sketch

import hwpass
from hwpass.context import Context
from hwpass.cost.prediction import Cost
from hwpass.cost_models import load_target
from hwpass.coupling.groups import couple
from hwpass.instruments.measure_each import MeasureEach
from hwpass.manager import PassManager
from hwpass.model.model import Model
from hwpass.planning.analyses import priced_as_it_is
from hwpass.reporting.renderers.html import page
from hwpass.reporting.renderers.markdown import Markdown
from hwpass.reporting.words import MEASURED
from hwpass.workflows.job import Result
from hwpass.workflows.run import execute

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(scope="module")
def result() -> Result:
    return hwpass.run(
        FIXTURES / "cnn.onnx", "server-cpu", latency=0.5, calib=FIXTURES / "calib.npz", distill="off", effort="quick",
        measure_each=True,
    )  # fmt: skip


def test_there_is_a_row_for_the_model_as_given_and_each_pass_that_changed_it(result: Result) -> None:
    changed = [item.name for item in result.report.passes if item.changed]
    assert [row.after for row in result.report.measured] == ["as given", *changed]
    assert len(changed) >= 2


def test_the_ends_are_those_of_the_report(result: Result) -> None:
    first, last = result.report.measured[0], result.report.measured[-1]
    before, after = result.report.before, result.report.after
    for row, whole in ((first, before), (last, after)):
        assert (row.params, row.size_bytes) == (whole.params, whole.size_bytes)
        assert row.macs == pytest.approx(whole.macs)
        assert row.latency_ms == pytest.approx(whole.latency_ms)
    assert first.rel_l2 is None
    assert last.rel_l2 is not None
    assert first.activation_bytes is not None
    assert last.activation_bytes is not None
    assert last.activation_bytes < first.activation_bytes


def test_compensation_brings_the_outputs_nearer(result: Result) -> None:
    lost = {row.after.partition("{")[0]: row.rel_l2 for row in result.report.measured}
    assert lost["prune-channels"] is not None
    assert lost["compensate"] is not None
    assert lost["compensate"] < 0.5 * lost["prune-channels"]


def test_pages_show_the_rows(result: Result) -> None:
    headings, rows = result.report.measured_table()
    assert headings == MEASURED
    assert rows[0] == ("as given", *["1x"] * 6, "-")
    assert "After each pass" in page(result.report)
    assert "## After each pass" in Markdown().page(result.report)


def test_costs_after_each_pass_are_there_unasked(result: Result) -> None:
    plain = hwpass.run(
        FIXTURES / "cnn.onnx", "server-cpu", latency=0.5, calib=FIXTURES / "calib.npz", distill="off", effort="quick"
    )
    assert plain.report.measured == [row.model_copy(update={"rel_l2": None}) for row in result.report.measured]
    assert plain.report.measured_table()[0] == MEASURED[:-1]
    ratio = plain.report.ratio
    assert ratio.activations is not None
    assert ratio.peak_activations is not None
    assert ratio.activations < 1


def test_a_run_that_changes_nothing_shows_no_rows() -> None:
    s = Sketch()
    s.output(s.op("Relu", s.conv(s.input(["N", 3, 6, 6]), 4, 3)))
    found = execute(s.model(), "fold,verify", target="server-cpu")
    assert [row.after for row in found.report.measured] == ["as given"]
    assert found.report.measured_table() == ((), [])


def test_activations_by_hand() -> None:
    """An image of 3 x 6 x 6, and 4 x 6 x 6 behind a convolution that the Relu is a part of, 4 bytes each."""
    s = Sketch()
    s.output(s.op("Relu", s.conv(s.input([1, 3, 6, 6]), 4, 3)))
    found = execute(s.model(), "fold,verify", target="server-cpu").report.measured[0]
    assert (found.activation_bytes, found.peak_activation_bytes) == (7 * 36 * 4, 7 * 36 * 4)
    assert found.macs == 3 * 4 * 36


@pytest.mark.parametrize("name", ["cnn", "densenet", "mobilenet", "resnet_se", "vit"])
def test_costs_without_channels_are_those_with_them(name: str) -> None:
    model, target = Model.load(FIXTURES / f"{name}.onnx"), load_target("mobile-cpu")
    plain, whole = priced_as_it_is(model, target, Context()), Cost(couple(model), target)
    assert plain.base == pytest.approx(whole.base)
    assert plain.activations(plain.dense) == pytest.approx(whole.activations(whole.dense))


@pytest.mark.parametrize("name", ["densenet", "mobilenet", "resnet_se", "vit"])
def test_costs_of_a_plan_are_those_of_the_model_that_it_leaves(name: str) -> None:
    """The row of a cut is priced by the plan; what comes behind it, by the model."""
    context = Context(target=load_target("mobile-cpu"))
    manager = PassManager.parse("prune-channels{macs=0.6x,score=l2}", instruments=[MeasureEach(compare=False)])
    model = manager.run(Model.load(FIXTURES / f"{name}.onnx"), context)
    row, cost = context.findings.measured[-1], Cost(couple(model), load_target("mobile-cpu"))
    assert (row.activations, row.peak) == pytest.approx(cost.activations(cost.dense))
    assert (row.macs, row.latency) == pytest.approx((cost.base["macs"], cost.base["latency"]))
