"""What a model takes and loses after every pass that changed it."""

from __future__ import annotations

from pathlib import Path

import pytest

import hwpass
from hwpass.reporting.renderers.html import page
from hwpass.workflows.job import Result

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
    rows = result.report.measured_rows()
    assert rows[0][1:6] == ("1x",) * 5
    assert "After each pass" in page(result.report)
