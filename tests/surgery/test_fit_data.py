"""How much a fit gets: rows by what an output is made of, memory by whether there are data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sketch import Sketch

import hwpass
from hwpass.context import Context
from hwpass.coupling.groups import couple
from hwpass.manager import PassManager
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs
from hwpass.surgery.compensation import Compensation
from hwpass.surgery.cut import prune
from hwpass.surgery.fit_data import GROUPED_BYTES, HELD, HELD_WITHOUT_DATA, dense_rows, feeds, held_bytes, rows_for

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.mark.parametrize(
    ("columns", "groups", "expected"),
    [
        (16, 1, 8192),  # half of the most
        (200, 1, 12800),  # 64 each
        (900, 1, 16384),
        (9, 8, 8192),
        (9, 960, GROUPED_BYTES // (4 * 9 * 960)),  # 1456
        (9, 10**6, 1024),
    ],
)
def test_rows_go_by_the_columns(columns: int, groups: int, expected: int) -> None:
    assert rows_for(columns, groups, 16384) == expected


def test_a_run_without_data_holds_little() -> None:
    data = load_calibration({"x": np.zeros((4, 2), np.float32)}, input_specs(_small().interface()))
    assert held_bytes(Context(calibration=data)) == HELD
    assert held_bytes(Context()) == HELD_WITHOUT_DATA


def test_the_last_batches_judge_and_come_from_all_over() -> None:
    data = load_calibration({"x": np.arange(40, dtype=np.float32).reshape(20, 2)}, input_specs(_small().interface()))
    order = [int(feed["x"][0, 0]) // 2 for feed in feeds(data, 1, 20)]
    assert order[-4:] == [4, 9, 14, 19]
    assert sorted(order) == list(range(20))


def test_rows_of_the_original_serve_every_plan() -> None:
    """A fit against rows that were taken before gives the weights of one that takes its own."""
    model = PassManager.parse("fold,fuse-bn").run(hwpass.load(FIXTURES / "cnn.onnx"))
    coupling = couple(model)
    with np.load(FIXTURES / "calib.npz") as file:
        data = load_calibration({"image": file["image"][:96]}, input_specs(model.interface()))
    taken = dense_rows(coupling, data, Context(), samples=96, rows=2048)
    for share in (0.5, 0.75):
        keep = np.ones(int(coupling.component.max()) + 1, bool)
        for group in coupling.groups:
            keep[group.components[int(share * group.width) :]] = False
        found = []
        for dense in (None, taken):
            surgery = prune(coupling, keep)
            worker = Compensation(coupling, surgery, Context(), samples=96, rows=2048, dense=dense)
            gains = worker.run(data)
            assert sum(after for _, _, after in gains) < 0.7 * sum(before for _, before, _ in gains)
            found.append([t.values for t in surgery.model.constants().values()])
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other)


def _small() -> hwpass.Model:
    s = Sketch()
    s.output(s.op("Relu", s.input(["n", 2], "x")))
    return hwpass.Model.load(s.model())
