"""Exported architectures at half their multiply-accumulates, from several exporters and families."""

from __future__ import annotations

import pytest
from weightless import FOLDER, architectures, load

import hwpass


@pytest.mark.parametrize("name", architectures())
def test_half_of_the_macs_exactly(name: str) -> None:
    """Within what rounding widths to the target's channels costs: 0.5 of the MACs at most, and no less than 0.45."""
    report = hwpass.run(load(name), "server-cpu", macs=0.5, score="l2").report
    assert report.verdicts.exactness is not None
    assert report.verdicts.exactness.passed
    assert report.ratio.macs is not None
    assert 0.45 <= report.ratio.macs <= 0.5


def test_what_is_bundled_is_small() -> None:
    assert len(architectures()) >= 8
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 500_000
