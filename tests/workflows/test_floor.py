"""A budget that cannot be met names what holds it."""

from __future__ import annotations

from typing import Any

import pytest
from sketch import Sketch

import hwpass
from hwpass.errors import BudgetError


def network() -> bytes:
    s = Sketch()
    x = s.op("Relu", s.op("Gemm", s.input([1, 64]), s.weight(64, 256)))
    x = s.op("Relu", s.op("Gemm", x, s.weight(256, 512)))
    x = s.op("Relu", s.op("Gemm", x, s.weight(512, 64)))
    s.output(s.op("Gemm", x, s.weight(64, 8)))
    model = s.model()
    for node, name in zip(
        [n for n in model.graph.node if n.op_type == "Gemm"], ("first", "wide", "thin", "last"), strict=True
    ):
        node.name = name
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("metric", ["latency", "energy", "macs"])
def test_the_kernel_that_holds_a_budget_is_named_with_its_share(metric: str) -> None:
    asked: dict[str, Any] = {metric: 0.05, "score": "l2", "compensate": "off", "keep": ["first", "wide"]}
    with pytest.raises(BudgetError, match=r"still takes 0\.\d+x.*, (\d+)% of that in wide") as caught:
        hwpass.run(network(), "server-cpu", **asked)
    assert "cannot be met" in str(caught.value)
    if metric == "macs":
        share = 256 * 512 / (64 * 256 + 256 * 512 + 16 * 512 + 16 * 8)  # a step of `thin` is left
        assert f"{share:.0%} of that in wide" in str(caught.value)


def test_memory_is_no_sum_over_kernels() -> None:
    with pytest.raises(BudgetError) as caught:
        hwpass.run(network(), "server-cpu", score="l2", compensate="off", keep=["first", "wide"], memory=0.05)
    assert "of that in" not in str(caught.value)
