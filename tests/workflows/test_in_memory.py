"""A run as a step of a program: models and data in memory, and a model in memory out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import network

import hwpass
from hwpass.errors import VerdictError

DATA = np.random.default_rng(4).standard_normal((96, 8)).astype(np.float32)


def run(source: Any, calib: Any = None) -> hwpass.Result:
    return hwpass.run(source, "mobile-cpu", macs=0.5, calib=calib, distill="off", effort="quick")


def test_any_source_gives_the_same_model(tmp_path: Path) -> None:
    proto = network(64)
    onnx.save(proto, tmp_path / "m.onnx")
    sources = [proto, proto.SerializeToString(), tmp_path / "m.onnx", str(tmp_path / "m.onnx"), hwpass.load(proto)]
    found = [run(source).proto() for source in sources]
    assert len({each.graph.SerializeToString(deterministic=True) for each in found}) == 1
    assert proto == network(64)


def test_the_proto_is_what_the_file_would_be(tmp_path: Path) -> None:
    result = run(network(64))
    result.save(tmp_path / "small.onnx")
    assert result.proto() == onnx.load(tmp_path / "small.onnx")
    assert isinstance(result.proto(), onnx.ModelProto)
    onnx.checker.check_model(result.proto(), full_check=True)


def test_a_proto_that_is_not_what_was_proved_is_refused() -> None:
    result = run(network(64))
    weight = next(t for t in result.model.constants().values() if len(t.shape) == 2)
    weight.values = weight.values + 1
    with pytest.raises(VerdictError):
        result.proto()


def batches() -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, 96, 32):
        yield {"x": DATA[start : start + 32]}


class Loader:
    """Batches as a data loader gives them: an object that can be gone through."""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return batches()

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    "form",
    [lambda: DATA, lambda: {"x": DATA}, batches, Loader, lambda: list(batches()), lambda: [{"x": row} for row in DATA]],
    ids=["array", "mapping", "generator", "loader", "batches", "samples"],
)
def test_data_in_any_form_gives_the_same_model(form: Callable[[], Any]) -> None:
    found, wanted = run(network(64), form()), run(network(64), {"x": DATA})
    assert found.proto().graph == wanted.proto().graph
    assert found.report.measured[-1] == wanted.report.measured[-1]
    assert len(found.report.options["calib"].value) < 20  # the kind of data, and no data
