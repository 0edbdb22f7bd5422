"""Weights of large models lie in a file while nobody reads them, and nothing else is different."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

import hwpass
from hwpass.manager import PassManager
from hwpass.proto import adapter, put_aside
from hwpass.workflows.steps import PREPARE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(put_aside, "MODEL_BYTES", 0)
    monkeypatch.setattr(put_aside, "WEIGHT_BYTES", 1)


def mapped(model: hwpass.Model) -> list[gs.Constant]:
    return [t for t in model.constants().values() if isinstance(adapter.held(t), np.memmap)]


@pytest.mark.parametrize("network", ["cnn", "vit"])
def test_a_run_gives_the_same_model(network: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = ROOT / "fixtures" / f"{network}.onnx"
    asked: dict[str, Any] = {"macs": 0.5, "score": "l2"}
    hwpass.run(path, "mobile-cpu", **asked).save(tmp_path / "held.onnx")
    assert not mapped(hwpass.load(path))
    request.getfixturevalue("everything")
    assert mapped(hwpass.load(path))
    hwpass.run(path, "mobile-cpu", **asked).save(tmp_path / "aside.onnx")
    assert (tmp_path / "aside.onnx").read_bytes() == (tmp_path / "held.onnx").read_bytes()


@pytest.mark.usefixtures("everything")
def test_values_types_and_what_is_shared_stay() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((5, 7)).astype(np.float32)
    turned = rng.standard_normal((3, 4)).T
    words = np.asarray(["a", "b"], object)
    constants = [gs.Constant(str(i), v) for i, v in enumerate([values, values, turned, words, np.zeros((0, 2))])]
    put_aside.put_aside(constants)
    assert adapter.held(constants[0]) is not values
    np.testing.assert_array_equal(constants[0].values, values)
    np.testing.assert_array_equal(constants[2].values, turned)
    assert constants[2].values.dtype == np.float64
    assert constants[3].values is words
    assert not constants[0].values.flags.writeable


@pytest.mark.usefixtures("everything")
def test_without_room_the_weights_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *given: object) -> None:
            pass

        def tell(self) -> int:
            return 0

        def seek(self, *where: int) -> int:
            return 0

        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: Full())
    constant = gs.Constant("w", np.ones((4, 4), np.float32))
    held = adapter.held(constant)
    put_aside.put_aside([constant])
    assert adapter.held(constant) is held


@pytest.mark.usefixtures("everything")
def test_a_copy_of_a_mapped_weight_is_put_aside_as_well() -> None:
    """Numpy gives the type of a mapped array to a copy of it, which lies in memory."""
    constant = gs.Constant("w", np.ones((64, 64), np.float32))
    put_aside.put_aside([constant])
    first = adapter.held(constant)
    assert adapter.mapping(first) is not None
    put_aside.put_aside([constant])
    assert adapter.held(constant) is first
    turned = gs.Constant("t", first.copy())
    assert isinstance(adapter.held(turned), np.memmap)
    assert adapter.mapping(adapter.held(turned)) is None
    put_aside.put_aside([turned])
    assert adapter.mapping(adapter.held(turned)) is not None
    np.testing.assert_array_equal(turned.values, first)


@pytest.mark.usefixtures("everything")
def test_weights_that_a_pass_made_are_put_aside() -> None:
    model = PassManager(PREPARE).run(hwpass.load(ROOT / "fixtures" / "vit.onnx"))
    assert model.renewed
    held = [adapter.held(t) for t in model.constants().values()]
    assert all(adapter.mapping(v) is not None for v in held if isinstance(v, np.ndarray) and v.nbytes > 1)
