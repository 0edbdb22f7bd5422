"""A torch module goes in, a smaller proven ONNX model comes out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import hwpass  # noqa: E402
from hwpass.errors import InputError, UsageError  # noqa: E402
from hwpass.runtime.sessions import open_session, run_session  # noqa: E402
from hwpass.torch.exporting import as_arrays  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter's own


def network() -> Any:
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(32, 48, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 5),
    )  # fmt: skip


def images(count: int = 64) -> Any:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_a_module_is_exported_pruned_proved_and_written(tmp_path: Path) -> None:
    module = network().train()
    module[3].eval()
    path = tmp_path / "small.onnx"
    result = hwpass.export(
        module, images(1), "server-cpu", path, macs=0.5, calib=images(), distill="off", input_names=["image"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    assert [part.training for part in module] == [True, True, True, False, True, True, True, True, True]
    assert result.report.verdicts.exactness is not None
    assert result.report.verdicts.exactness.passed
    assert result.report.ratio.macs is not None
    assert result.report.ratio.macs <= 0.5
    model = onnx.load(path)
    assert [entry.name for entry in model.graph.input] == ["image"]
    found = run_session(open_session(model), {"image": images(3).numpy()})
    assert next(iter(found.values())).shape == (3, 5)


def test_without_a_budget_that_removes_it_is_the_module() -> None:
    module = network()
    result = hwpass.export(module, images(2), "server-cpu", macs=1.0, score="l2", distill="off")
    session = open_session(result.model.proto())
    name = result.model.interface().graph.input[0].name
    found = next(iter(run_session(session, {name: images(2).numpy()}).values()))
    with torch.no_grad():
        wanted = module.eval()(images(2)).numpy()
    assert np.abs(found - wanted).max() < 1e-5


class Two(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A module of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 24), torch.nn.Linear(24, 2)

    def forward(self, x: Any, y: Any) -> Any:
        return self.second(torch.relu(self.first(x) + y))


def test_batches_with_labels_are_calibration_data() -> None:
    def batches() -> Iterator[Any]:
        for _ in range(8):
            yield torch.rand(8, 4), torch.rand(8, 24), torch.zeros(8, dtype=torch.int64)

    result = hwpass.export(
        Two(), (torch.rand(8, 4), torch.rand(8, 24)), "server-cpu", channels=0.5, calib=list(batches()), distill="off",
        input_names=["x", "y"], dynamic_shapes=({0: torch.export.Dim("n")}, {0: torch.export.Dim("n")}),
    )  # fmt: skip
    assert result.report.verdicts.fidelity is not None


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (None, None),
        ("calib.npz", "calib.npz"),
        ({"x": torch.ones(2)}, {"x": [1.0, 1.0]}),
        (torch.ones(2, requires_grad=True), {"x": [1.0, 1.0]}),
        ([torch.ones(1), (torch.ones(1), 7)], [{"x": [1.0]}, {"x": [1.0]}]),
    ],
)
def test_tensors_become_arrays(data: Any, wanted: Any) -> None:
    found = as_arrays(data, ["x"])
    if isinstance(wanted, list):
        found = list(found)
    as_lists = (
        [{k: v.tolist() for k, v in feed.items()} for feed in found] if isinstance(wanted, list)
        else {k: v.tolist() for k, v in found.items()} if isinstance(wanted, dict) else found
    )  # fmt: skip
    assert as_lists == wanted


def test_what_cannot_be_exported_is_one_line() -> None:
    class Branches(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match="export: torch cannot export Branches: ") as error:
        hwpass.export(Branches(), torch.rand(3), "server-cpu", latency=0.5)
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match=r"a function is no torch\.nn\.Module"):
        hwpass.export(lambda x: x, torch.rand(3), "server-cpu", latency=0.5)
