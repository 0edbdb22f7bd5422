"""Timing: structure, naming and refusals; no figures are asserted."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper

from hwpass.cost.bench import Timing, _timing, bench
from hwpass.errors import InputError, UsageError


def model(op: str = "Relu", shape: tuple[int | str, ...] = ("n", 3, "h", "w"), kind: int = T.FLOAT) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info("y", kind, list(shape))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_models_and_files_are_timed_in_rounds(tmp_path: Path) -> None:
    onnx.save(model("Tanh"), tmp_path / "tanh.onnx")
    steps: list[tuple[int, int]] = []
    found = bench(
        [model(), tmp_path / "tanh.onnx", model()],
        sessions=2,
        runs=2,
        dims={"h": 8, "w": 8},
        progress=lambda done, total: steps.append((done, total)),
    )
    assert [timing.name for timing in found] == ["small (1)", "tanh", "small (2)"]
    assert steps == [(index, 6) for index in range(1, 7)]
    for timing in found:
        assert 0 < timing.low_ms <= timing.median_ms <= timing.high_ms
        assert timing.ratio_low <= timing.ratio <= timing.ratio_high
    assert found[0].ratio == found[0].ratio_low == found[0].ratio_high == 1


def test_ratios_are_taken_within_rounds() -> None:
    # rounds 4/2, 2/1, 9/3: each round is its own comparison, although the machine's speed changed threefold
    own, first = [[4, 4, 5], [2, 2, 2], [9, 8, 9]], [[2, 2, 2], [1, 1, 7], [3, 3, 3]]
    found = _timing("b", [[ms / 1000 for ms in runs] for runs in own], [[ms / 1000 for ms in runs] for runs in first])
    assert found == Timing("b", 4, 2, 9, ratio=2, ratio_low=2, ratio_high=3, quick_ms=2)


def test_text_inputs_are_timed() -> None:
    (found,) = bench([model("Identity", ("n",), T.STRING)], sessions=1, runs=1)
    assert found.median_ms > 0


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no models"):
        bench([])
    with pytest.raises(UsageError, match="sessions=0: at least one"):
        bench([model()], sessions=0)
    with pytest.raises(UsageError, match="one thread"):
        bench([model()], threads=2, cpu_time=True)
    with pytest.raises(InputError, match="no such file"):
        bench([tmp_path / "none.onnx"])
    (tmp_path / "text.onnx").write_text("no model at all")
    with pytest.raises(InputError, match=r"text\.onnx: not an ONNX model"):
        bench([tmp_path / "text.onnx"])
    with pytest.raises(InputError, match=r"small: cannot be timed: .*NoSuchOperator") as caught:
        bench([model("NoSuchOperator", (1,))], sessions=1, runs=1)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="bfloat16, which cannot be timed"):
        bench([model("Identity", (1,), T.BFLOAT16)], sessions=1, runs=1)
