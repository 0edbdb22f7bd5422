"""Norms without a mean are priced as the file will have them: several kernels where the runtime does not fuse those."""

from __future__ import annotations

from pathlib import Path

import pytest

import hwpass
from hwpass.cost.prediction import Cost
from hwpass.cost_models import load_target
from hwpass.coupling.groups import couple
from hwpass.model.model import Model
from hwpass.ops.rules.normalization import LOWERED, MEANLESS

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.mark.parametrize("target", ["server-cpu", "server-cpu-avx2", "mobile-cpu", "mobile-gpu"])
def test_a_run_predicts_what_its_file_is_priced_at(target: str, tmp_path: Path) -> None:
    run = hwpass.run(FIXTURES / "vit.onnx", target, latency=0.4, score="l2", compensate="off", dim=["batch=1"])
    run.save(tmp_path / "pruned.onnx")
    written = Model.load(tmp_path / "pruned.onnx")
    assert MEANLESS not in {node.op for node in written.graph.nodes}
    found = Cost(couple(written, {"batch": 1}), load_target(target)).base["latency"]
    assert run.report.after.latency_ms == pytest.approx(1e3 * found, rel=0.04)


def test_what_a_runtime_fuses_is_one_kernel() -> None:
    chains = {name: [list(c) for c in load_target(name).fusion] for name in ("server-cpu", "mobile-cpu")}
    assert list(LOWERED) in chains["server-cpu"]
    assert list(LOWERED) not in chains["mobile-cpu"]


def test_the_steps_are_those_that_lower_norms_writes() -> None:
    run = hwpass.run(FIXTURES / "vit.onnx", "server-cpu", latency=0.5, score="l2", compensate="off")
    nodes = list(run.model.graph.nodes)
    starts = [node for node in nodes if node.op == LOWERED[0]]
    assert starts
    for node in starts:
        chain = [node]
        while len(chain) < len(LOWERED):
            (after,) = chain[-1].outputs[0].outputs
            chain.append(after)
        assert [n.op for n in chain] == list(LOWERED)
