"""Samples that judge are set apart from all over the data."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from hwpass.runtime.calibration import ENOUGH, Calibration, load_calibration
from hwpass.runtime.inputs import InputSpec

F = np.dtype(np.float32)


@given(
    counts=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    batch=st.sampled_from(["batch", 1, 3, 16]),
    filed=st.booleans(),
)
def test_samples_set_apart_are_all_over_the_data_and_nowhere_else(
    counts: list[int], batch: str | int, filed: bool
) -> None:
    """What is learned from and what judges have no sample in common, and miss none but rests of fixed batches."""
    total = sum(counts)
    assume(total >= (batch if isinstance(batch, int) else 1))
    numbers = np.arange(total, dtype=np.float32).reshape(-1, 1) * np.ones((1, 3), F)
    spec = InputSpec("x", F, (batch, 3))
    with TemporaryDirectory() as folder:
        if filed:  # read from a file, some rows at a time
            np.save(Path(folder) / "x.npy", numbers)
            data = load_calibration(Path(folder), [spec])
        else:
            data = load_calibration([{"x": part} for part in np.split(numbers, np.cumsum(counts)[:-1])], [spec])
        learned, apart = data.split()

        def seen(part: Calibration) -> list[int]:
            found = np.concatenate([feed["x"] for feed in part.batches(16)])
            assert (found == found[:, :1]).all()
            return [int(v) for v in found[:, 0]]

        if apart is None:
            assert learned is data
            assert total < ENOUGH or total // 8 < 16
            return
        assert total >= ENOUGH
        assert len(learned) + len(apart) == total
        left, right = seen(learned), seen(apart)
        assert left == sorted(set(left))
        assert right == sorted(set(right))
        assert not set(left) & set(right)
        rest = 0 if isinstance(batch, str) else 2 * (batch - 1)
        assert total - rest <= len(left) + len(right) <= total
        assert max(np.diff(right), default=0) == 8


def test_only_so_many_are_set_apart() -> None:
    data = load_calibration(np.zeros((8 * 600, 1), F), [InputSpec("x", F, ("n", 1))])
    learned, apart = data.split()
    assert apart is not None
    assert len(apart) <= 512 < len(learned)
    assert load_calibration({"rate": np.int64(1)}, [InputSpec("rate", np.dtype(np.int64), ())]).split()[1] is None
