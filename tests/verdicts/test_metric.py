"""Task metrics: loaded from the current folder, evaluated, and each way to go wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from hwpass.errors import UsageError
from hwpass.verdicts.task_metric import evaluate_metric, task_metric


def linear() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", T.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", T.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.ones((4, 3), np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


METRICS = """
import numpy as np
constant = 3
def accuracy(predict):
    return (predict({"x": np.ones((2, 4), np.float32)})["y"].shape == (2, 3)) * 0.5
def text(predict): return "much"
def nan(predict): return float("nan")
def fails(predict): raise KeyError("labels")
def misfeeds(predict): return predict({"x": np.ones((2, 9), np.float32)})
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(name: str, text: str) -> None:
        Path(f"{name}.py").write_text(text)

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("user_"):
            del sys.modules[name]


def test_a_metric_of_the_current_folder(here: Callable[[str, str], None]) -> None:
    here("user_metrics", METRICS)
    assert evaluate_metric(task_metric("user_metrics:accuracy"), linear()) == 0.5
    failures = {
        "text": "metric text returned a str, not a number",
        "nan": "returned nan; a finite number is needed",
        "fails": "metric fails raised KeyError: 'labels'",
        "misfeeds": "metric misfeeds: the model does not run",
    }
    for name, message in failures.items():
        with pytest.raises(UsageError, match=message) as caught:
            evaluate_metric(task_metric(f"user_metrics:{name}"), linear())
        assert "\n" not in str(caught.value)


def test_metrics_that_cannot_be_loaded(here: Callable[[str, str], None]) -> None:
    here("user_broken", "raise RuntimeError('two\\nlines')")
    here("user_needy", "import no_such_dependency")
    here("user_fine", METRICS)
    failures = {
        "accuracy": "write it as package.module:function",
        "user_nowhere:f": "there is no module 'user_nowhere'",
        "user_broken:f": "importing user_broken raised RuntimeError: two lines",
        "user_needy:f": "user_needy needs 'no_such_dependency', which is not installed",
        "user_fine:other": "user_fine has no 'other'",
        "user_fine:constant": "'constant' is a int, not a function",
    }
    for spec, message in failures.items():
        with pytest.raises(UsageError, match=message):
            task_metric(spec)
