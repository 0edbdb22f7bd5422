"""Folders of pictures and of WAV files as calibration data."""

from __future__ import annotations

import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sketch import Sketch

import hwpass
from hwpass.runtime.calibration import check_statements, load_calibration
from hwpass.runtime.inputs import InputSpec, StatedInput

UNIT = StatedInput(range=(0.0, 1.0))


def image(shape: tuple[int | str, ...], dtype: Any = np.float32, stated: StatedInput | None = UNIT) -> InputSpec:
    return InputSpec("x", np.dtype(dtype), shape, stated)


def read(folder: Path, spec: InputSpec) -> list[NDArray[Any]]:
    return [feed["x"] for feed in load_calibration(folder, [spec]).batches(64)]


def paint(path: Path, pixels: Any, mode: str | None = None) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    found = Image.fromarray(np.asarray(pixels, np.uint8))
    (found.convert(mode) if mode else found).save(path)


@pytest.fixture
def striped(tmp_path: Path) -> Path:
    """Eight rows of sixteen: red on the left, green in the middle, blue on the right; then one of a single colour."""
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :4, 0], pixels[:, 4:12, 1], pixels[:, 12:, 2] = 255, 255, 255
    paint(tmp_path / "p" / "b" / "one.png", pixels)
    paint(tmp_path / "p" / "c" / "two.PNG", np.full((8, 16, 3), (51, 102, 204)))
    (tmp_path / "p" / "notes.txt").write_text("no picture")
    (tmp_path / "p" / ".hidden.png").write_text("no picture")
    return tmp_path / "p"


def test_a_picture_is_cut_to_the_models_size_around_its_middle(striped: Path) -> None:
    (found,) = read(striped, image(("N", 3, 8, 8)))
    assert found.shape == (2, 3, 8, 8)
    assert found.dtype == np.float32
    assert np.array_equal(found[0], np.broadcast_to(np.asarray([0, 1, 0])[:, None, None], (3, 8, 8)))
    assert found[1].mean(axis=(1, 2)) == pytest.approx([0.2, 0.4, 0.8])


def test_a_picture_is_scaled_to_cover_the_model(striped: Path) -> None:
    (found,) = read(striped, image(("N", 3, 8, 24)))
    assert found[0, :, :, 0] == pytest.approx(np.broadcast_to(np.asarray([1, 0, 0])[:, None], (3, 8)))
    assert found[0, :, :, -1] == pytest.approx(np.broadcast_to(np.asarray([0, 0, 1])[:, None], (3, 8)))


def test_channels_last_and_means_of_each_channel(striped: Path) -> None:
    stated = StatedInput(mean=(0.2, 0.4, 0.5), std=(1.0, 1.0, 0.5))
    (found,) = read(striped, image(("N", 8, 8, 3), stated=stated))
    assert found.shape == (2, 8, 8, 3)
    assert found[1, 0, 0] == pytest.approx([0, 0, 0.6], abs=1e-6)


def test_grey_models_and_models_of_bytes(striped: Path) -> None:
    (grey,) = read(striped, image(("N", 1, 8, 8)))
    assert grey[1, 0, 0, 0] == pytest.approx((0.299 * 51 + 0.587 * 102 + 0.114 * 204) / 255, abs=0.005)
    (whole,) = read(striped, image(("N", 8, 8, 3), np.uint8, None))
    assert whole.dtype == np.uint8
    assert whole[1, 0, 0].tolist() == [51, 102, 204]
    (signed,) = read(striped, image(("N", 3, 8, 8), np.int8, None))
    assert signed[1, :, 0, 0].tolist() == [-77, -26, 76]


def test_a_model_of_any_size_gets_pictures_of_their_own(striped: Path) -> None:
    paint(striped / "z.png", np.zeros((10, 12, 3)))
    found = read(striped, image(("N", 3, "h", "w")))
    assert [part.shape for part in found] == [(2, 3, 8, 16), (1, 3, 10, 12)]


@pytest.mark.parametrize(
    ("spec", "error", "why"),
    [
        (image(("N", 3, 8, 8), stated=None), hwpass.UsageError, "how pixels become numbers is not stated"),
        (image(("N", 16)), hwpass.InputError, "is no image"),
        (image(("N", 3, 8, 8), stated=StatedInput(std=(1.0, 2.0))), hwpass.UsageError, "2 numbers for 3 channels"),
    ],
)
def test_what_cannot_be_read_so(spec: InputSpec, error: type[Exception], why: str, striped: Path) -> None:
    with pytest.raises(error, match=why) as caught:
        read(striped, spec)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_picture_is_named(striped: Path) -> None:
    whole = (striped / "c" / "two.PNG").read_bytes()
    (striped / "c" / "two.PNG").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(hwpass.InputError, match=r"p/two.PNG: not a picture that can be read"):
        read(striped, image(("N", 3, 8, 8)))


def test_without_the_library_the_message_says_what_to_install(striped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(hwpass.UsageError, match=r"pip install 'hwpass\[pictures\]'"):
        read(striped, image(("N", 3, 8, 8)))


def test_what_is_said_of_arrays_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 3, 8, 8), np.float32))
    for data in (tmp_path, tmp_path / "x.npy", np.zeros((4, 3, 8, 8), np.float32)):
        with pytest.raises(hwpass.UsageError, match="taken as they are"):
            check_statements(data, [image(("N", 3, 8, 8))])


def test_a_run_on_pictures(tmp_path: Path) -> None:
    """Pictures through `--calib` give what the same arrays give."""
    rng = np.random.default_rng(0)
    s = Sketch()
    x = s.input(["N", 3, 16, 16], name="x")
    s.output(s.conv(s.op("Relu", s.conv(x, 32, 3, kernel=3)), 4, 32))
    pixels = rng.integers(0, 256, (24, 16, 16, 3), np.uint8)
    for number, one in enumerate(pixels):
        paint(tmp_path / "p" / f"{number:02}.png", one)
    arrays = (np.moveaxis(pixels, 3, 1) / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    asked: dict[str, Any] = {"macs": 0.5, "distill": "off"}
    path = tmp_path / "m.onnx"
    path.write_bytes(s.model().SerializeToString())
    drawn = hwpass.run(path, "mobile-cpu", calib=tmp_path / "p", input="mean=0.5,std=0.25", **asked)
    given = hwpass.run(path, "mobile-cpu", calib=arrays.astype(np.float32), **asked)
    assert drawn.plan is not None
    assert given.plan is not None
    assert [g.kept for g in drawn.plan.groups] == [g.kept for g in given.plan.groups]
    assert not any("synthetic" in text for text in drawn.report.warnings)


def sound(path: Path, frames: Any, width: int = 2, channels: int = 1) -> None:
    path.parent.mkdir(exist_ok=True)
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(channels)
        stream.setsampwidth(width)
        stream.setframerate(16000)
        stream.writeframes(np.asarray(frames, {1: "<u1", 2: "<i2", 4: "<i4"}[width]).tobytes())


def test_sounds_are_cut_into_pieces(tmp_path: Path) -> None:
    sound(tmp_path / "s" / "a.wav", np.arange(10) * 1000)
    sound(tmp_path / "s" / "b.wav", [16384, -16384])
    (found,) = read(tmp_path / "s", InputSpec("x", np.dtype(np.float32), ("N", 4)))
    assert found == pytest.approx(np.asarray([[0, 1, 2, 3], [4, 5, 6, 7]]) * 1000 / 32768) or len(found) == 3
    assert found[2] == pytest.approx([0.5, -0.5, 0, 0])
    (channelled,) = read(tmp_path / "s", InputSpec("x", np.dtype(np.float32), ("N", 1, 4)))
    assert channelled.shape == (3, 1, 4)


def test_widths_channels_and_the_range_of_sounds(tmp_path: Path) -> None:
    sound(tmp_path / "s" / "a.wav", [[128, 255], [0, 0]], width=1, channels=2)
    sound(tmp_path / "s" / "b.wav", [1 << 30, -(1 << 30)], width=4)
    spec = InputSpec("x", np.dtype(np.float32), ("N", "T"), StatedInput(range=(0.0, 2.0)))
    (found,) = read(tmp_path / "s", spec)
    assert found == pytest.approx(np.asarray([[1 + 127 / 256, 0], [1.5, 0.5]]))


def test_sounds_that_cannot_be_read(tmp_path: Path) -> None:
    spec = InputSpec("x", np.dtype(np.float32), ("N", "T"))
    sound(tmp_path / "s" / "a.wav", [])
    with pytest.raises(hwpass.InputError, match=r"s/a.wav: no sound"):
        read(tmp_path / "s", spec)
    (tmp_path / "s" / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(hwpass.InputError, match=r"s/a.wav: not a WAV file"):
        read(tmp_path / "s", spec)
    with pytest.raises(hwpass.InputError, match="is no sound"):
        read(tmp_path / "s", InputSpec("x", np.dtype(np.float32), ("N", 2, "T")))
    with pytest.raises(hwpass.InputError, match="files for one input"):
        load_calibration(tmp_path / "s", [spec, InputSpec("y", np.dtype(np.float32), ("N", 4))])
    paint(tmp_path / "s" / "a.png", np.zeros((8, 8, 3)))
    with pytest.raises(hwpass.InputError, match="pictures and WAV files in one folder"):
        read(tmp_path / "s", image(("N", 3, 8, 8)))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(hwpass.InputError, match=r"no \.npy files, pictures, WAV files or text"):
        load_calibration(tmp_path, [image(("N", 3, 8, 8), stated=None)])
