"""A kind of hardware from outside: one class, named by a target's file."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributions import distribution, python

from hwpass.plugins import COST_MODELS

ROOT = Path(__file__).parents[2]
CNN = ROOT / "fixtures/cnn.onnx"

ABACUS = """
from hwpass.cost_models import CostModel{also}

class Abacus(CostModel):
    '''A bead per multiply-accumulate.'''

    def latency(self, work):
        return work.macs / self.peak(work)
"""

TARGET = """
name = "abacus"
description = "ten beads on a wire"
model = "Abacus"
runtime = "by hand"
align = 1
overhead_us = 0.0
fusion = []

[peak]
fp32 = 0.001

[memory.table]
bandwidth_gbs = 1.0

[energy]
mac_pj = { fp32 = 1.0 }

[sources]
align = "assumed"
overhead_us = "assumed"
fusion = "assumed"
peak = "assumed"
memory = "assumed"
energy = "assumed"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "abacus.toml").write_text(TARGET)
    return tmp_path


@pytest.mark.parametrize("entry", ["abacus = {module}:Abacus", "abacus = {module}"])
def test_a_target_names_a_kind_from_outside(entry: str, folder: Path) -> None:
    text = ABACUS.format(also=", register")
    if ":" not in entry:
        text = text.replace("\nclass", "\n@register\nclass")
    distribution(folder, "wires", text, {COST_MODELS: entry})
    done = python(folder, "-m", "hwpass", "profile", str(CNN), "--target", "abacus.toml")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "abacus" in done.stdout


def test_a_kind_that_was_left_out_is_named_with_the_reason(folder: Path) -> None:
    text = ABACUS.format(also="").replace("latency", "seconds")
    distribution(folder, "wires", text, {COST_MODELS: "Abacus = {module}:Abacus"})
    done = python(folder, "-m", "hwpass", "profile", str(CNN), "--target", "abacus.toml")
    assert done.returncode == 3
    first, last = done.stderr.splitlines()
    assert first.startswith("hwpass: distribution wires: ")
    assert first.endswith("cost model Abacus has no method latency")
    assert "expected one of " in last
    assert "CachedSimdCpu" in last
    assert last.endswith("has no method latency")
