"""Calibration data: what is accepted, how it is batched, and each refusal."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwpass.errors import InputError
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import InputSpec
from hwpass.runtime.readers.npz import HELD_BYTES

F = np.dtype(np.float32)
IMAGE = [InputSpec("image", F, ("batch", 1, 4, 4))]
PAIR = [InputSpec("ids", np.dtype(np.int64), ("batch", "seq")), InputSpec("mask", F, ("batch", "seq"))]


def images(count: int = 10) -> np.ndarray:
    return np.arange(count * 16, dtype=np.float32).reshape(count, 1, 4, 4)


def sizes(data: object, specs: list[InputSpec], size: int, name: str = "image") -> list[int]:
    return [len(feed[name]) for feed in load_calibration(data, specs).batches(size)]  # type: ignore[arg-type]


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_is_read_in_batches_and_again(tmp_path: Path, compressed: bool) -> None:
    (np.savez_compressed if compressed else np.savez)(tmp_path / "c.npz", image=images())
    data = load_calibration(tmp_path / "c.npz", IMAGE)
    assert (len(data), data.batch, data.source) == (10, None, "c.npz")
    for _ in range(2):
        parts = [feed["image"] for feed in data.batches(4)]
        assert [len(part) for part in parts] == [4, 4, 2]
        np.testing.assert_array_equal(np.concatenate(parts), images())
    assert [len(feed["image"]) for feed in data.batches(4, limit=5)] == [4, 1]


def test_several_arrays_in_one_npz(tmp_path: Path) -> None:
    ids = np.arange(12, dtype=np.int64).reshape(4, 3)
    np.savez(tmp_path / "c.npz", ids=ids, mask=np.asfortranarray(np.ones((4, 3))))
    (feed,) = load_calibration(tmp_path / "c.npz", PAIR).batches(8)
    np.testing.assert_array_equal(feed["ids"], ids)
    assert feed["mask"].dtype == F


def test_folder_with_one_file_per_input(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.ones((4, 3), np.int32))
    np.save(tmp_path / "mask.npy", np.ones((4, 3), np.float32))
    (feed,) = load_calibration(tmp_path, PAIR).batches(8)
    assert feed["ids"].dtype == np.int64
    (tmp_path / "other.npy").write_bytes((tmp_path / "ids.npy").read_bytes())
    with pytest.raises(InputError, match=r"other\.npy belongs to no input; the inputs are 'ids', 'mask'"):
        load_calibration(tmp_path, PAIR)


def test_folder_of_samples_and_batches_for_a_single_input(tmp_path: Path) -> None:
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", images()[index])
    np.save(tmp_path / "3.npy", images()[3:5])
    parts = [feed["image"] for feed in load_calibration(tmp_path, IMAGE).batches(2)]
    np.testing.assert_array_equal(np.concatenate(parts), images(5))
    assert [len(part) for part in parts] == [2, 2, 1]


def test_iterables_arrays_and_mappings() -> None:
    def feeds() -> Iterator[dict[str, np.ndarray]]:
        yield {"image": images(3)}
        yield {"image": images(1)[0]}

    assert sizes(feeds(), IMAGE, 8) == [4]
    assert sizes(images(), IMAGE, 6) == [6, 4]
    assert sizes({"image": images().astype(np.float64)}, IMAGE, 6) == [6, 4]


def test_lengths_that_differ_are_never_one_batch() -> None:
    feeds = [{"ids": np.ones((2, n), np.int64), "mask": np.ones((2, n), np.float32)} for n in (3, 3, 5)]
    assert [feed["ids"].shape for feed in load_calibration(feeds, PAIR).batches(8)] == [(4, 3), (2, 5)]


def test_a_fixed_batch_decides_the_size() -> None:
    specs = [InputSpec("image", F, (4, 1, 4, 4))]
    assert sizes(images(), specs, 100) == [4, 4]
    with pytest.raises(InputError, match="3 samples, but the model's batch is fixed at 4"):
        load_calibration(images(3), specs)


def test_inputs_without_a_batch_axis_are_the_same_for_all() -> None:
    specs = [
        InputSpec("x", F, ("n", 5)),
        InputSpec("state", F, (2, "n", 3)),
        InputSpec("rate", np.dtype(np.int64), ()),
    ]
    state = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    data = load_calibration({"x": np.ones((4, 5)), "state": state, "rate": np.int64(16000)}, specs)
    feeds = list(data.batches(3))
    np.testing.assert_array_equal(feeds[0]["state"], state[:, :3])
    np.testing.assert_array_equal(feeds[1]["state"], state[:, 3:])
    assert feeds[1]["rate"].shape == ()
    assert feeds[1]["rate"] == 16000
    only = load_calibration({"rate": np.int64(1)}, specs[2:])
    assert len(list(only.batches(4))) == len(only) == 1


def test_refusals_name_what_where_and_the_mend(tmp_path: Path) -> None:
    def refused(data: object, specs: list[InputSpec], message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            load_calibration(data, specs)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)

    np.savez(tmp_path / "calib.npz", image=np.zeros((1024, 3, 4, 4), np.float32))
    refused(
        tmp_path / "calib.npz",
        IMAGE,
        r"^calib\.npz: input 'image' has shape \[1024, 3, 4, 4\], the model wants \[batch, 1, 4, 4\]$",
    )
    refused({"image": np.zeros((4, 4), np.float32)}, IMAGE, r"shape \[4, 4\], the model wants")
    refused({"picture": images()}, IMAGE, "'picture' is no input of the model; the inputs are 'image'")
    refused({"ids": np.ones((2, 3), np.int64)}, PAIR, "input 'mask' is missing")
    refused({"image": np.zeros((2, 1, 4, 4), np.uint8)}, IMAGE, "is uint8, the model wants float32; .*scale it")
    refused({"image": np.zeros((2, 1, 4, 4), object)}, IMAGE, "is object, the model wants float32")
    pair = {"ids": np.ones((2, 3), np.int64), "mask": np.ones((3, 3), np.float32)}
    refused(pair, PAIR, "different numbers of samples: 'ids' 2, 'mask' 3")
    refused({**pair, "mask": np.ones((2, 4), np.float32)}, PAIR, "'seq' is 3 in input 'ids'")
    refused({**pair, "ids": np.ones((2, 3), np.float32)}, PAIR, "'ids' is float32, the model wants int64")
    bad = images()
    bad[7, 0, 0, 0] = np.nan
    refused({"image": bad}, IMAGE, "1 values that are NaN, Inf or beyond float32, the first in row 7")
    big = np.full((1, 1, 4, 4), 1e300)
    refused({"image": big}, IMAGE, "beyond float32")
    wide = [InputSpec("x", np.dtype(np.int32), ("n", 2))]
    refused({"x": np.full((1, 2), 2**40)}, wide, "outside int32")
    refused({"image": images(0)}, IMAGE, "no samples; give at least one")
    refused([], IMAGE, "no samples; give at least one")
    refused([3], IMAGE, "item 0 is a int, not a dict of arrays")
    refused(3, IMAGE, "a int is not an iterable of dicts")
    refused(images(), PAIR, "one array, but the model has 2 inputs")
    refused(images(), [], "the model has no inputs")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    def refused(path: Path, message: str, specs: list[InputSpec] = IMAGE) -> None:
        with pytest.raises(InputError, match=message) as caught:
            load_calibration(path, specs)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "none.npz", "there is no such file or folder")
    refused(tmp_path, r"no \.npy files, pictures, WAV files or text in this folder")
    (tmp_path / "text.npz").write_text("no archive")
    refused(tmp_path / "text.npz", r"not an \.npz")
    np.savez(tmp_path / "objects.npz", image=np.array([{}], dtype=object))
    refused(tmp_path / "objects.npz", "Python objects")
    np.save(tmp_path / "one.npy", images())
    refused(tmp_path / "one.npy", "one array, but the model has 2 inputs", PAIR)
    assert len(load_calibration(tmp_path / "one.npy", IMAGE)) == 10
    content = (tmp_path / "one.npy").read_bytes()
    (tmp_path / "one.npy").write_bytes(content[:-8])
    refused(tmp_path / "one.npy", "shorter than its header says")
    (tmp_path / "one.npy").write_bytes(b"nothing")
    refused(tmp_path / "one.npy", r"cannot be read as \.npy")


def test_a_limit_below_a_fixed_batch_still_gives_one() -> None:
    spec = InputSpec("x", F, (4, 2))
    found = load_calibration(np.zeros((8, 2), F), [spec])
    assert [feed["x"].shape for feed in found.batches(1, limit=1)] == [(4, 2)]
    assert len(list(found.batches(1, limit=5))) == 2


def test_every_few_batches() -> None:
    """Numbers 2, 5, 8, ... of batches of two: samples from all over the data, also with a limit."""
    data = load_calibration(np.arange(24, dtype=np.float32).reshape(24, 1), [InputSpec("x", F, ("batch", 1))])
    some = replace(data, every=3, first=1)
    assert [b["x"].ravel().tolist() for b in some.batches(2)] == [[2, 3], [8, 9], [14, 15], [20, 21]]
    assert len(list(some.batches(2, limit=4))) == 2
    assert len(some) == 8


# --- files that lie


def header(shape: object, descr: str = "<f4", order: bool = False) -> bytes:
    """An .npy header of version 1.0 that says whatever is wanted."""
    text = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def refused(path: Path, specs: list[InputSpec] = IMAGE) -> str:
    with pytest.raises(InputError) as caught:
        for _ in load_calibration(path, specs).batches(4):
            pass
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


SHAPES = ["(99999999, 1, 4, 4)", "(4611686018427387904, 4, 4, 4)", "(-1, 1, 4, 4)", "(3, 1, 4, 4", "(" * 3000, "None"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["npy", "stored", "deflated", "folder"])
def test_a_header_is_not_believed(tmp_path: Path, shape: str, form: str) -> None:
    data = header(shape) + images(2).tobytes()
    if form == "npy":
        path = tmp_path / "c.npy"
        path.write_bytes(data)
    elif form == "folder":
        (tmp_path / "image.npy").write_bytes(data)
        path = tmp_path
    else:
        path = tmp_path / "c.npz"
        kind = zipfile.ZIP_STORED if form == "stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", kind) as archive:
            archive.writestr("image.npy", data)
    message = refused(path)
    assert "write it again" in message
    assert "image.npy" in message or form == "npy"


def test_fortran_order_and_fields_are_no_way_around(tmp_path: Path) -> None:
    (tmp_path / "c.npy").write_bytes(header("(99999999, 1, 4, 4)", order=True))
    assert "shorter than its header says" in refused(tmp_path / "c.npy")
    np.save(tmp_path / "d.npy", np.zeros((2, 1, 4, 4), [("a", "<f4")]))
    assert "'image' is void" in refused(tmp_path / "d.npy")


def test_an_archive_that_swells_is_refused_before_it_is_read(tmp_path: Path) -> None:
    rows = 2 * HELD_BYTES // 64
    archive = zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_DEFLATED)
    with archive, archive.open("image.npy", "w") as out:
        out.write(header(f"({rows}, 1, 4, 4)"))
        for _ in range(4):
            out.write(bytes(1 << 20))
    # What the directory declares is as large as the header says; what is there is not.
    raw = (tmp_path / "c.npz").read_bytes()
    place = raw.rindex(b"PK\x01\x02")
    raw = raw[: place + 24] + (2 * HELD_BYTES + 128).to_bytes(4, "little") + raw[place + 28 :]
    (tmp_path / "c.npz").write_bytes(raw)
    assert "2.1 GB of compressed arrays" in refused(tmp_path / "c.npz")


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_or_damaged_archive_is_refused(tmp_path: Path, cut: float, compressed: bool) -> None:
    noise = np.random.default_rng(0).standard_normal((40, 1, 4, 4)).astype(np.float32)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "c.npz", image=noise)
    raw = bytearray((tmp_path / "c.npz").read_bytes())
    (tmp_path / "short.npz").write_bytes(raw[: int(len(raw) * cut)])
    assert "not an .npz" in refused(tmp_path / "short.npz")
    if compressed:
        place = int(len(raw) * cut)
        raw[place - 20 : place] = bytes(20)
        (tmp_path / "bad.npz").write_bytes(raw)
        assert "cannot be read" in refused(tmp_path / "bad.npz")


def test_passwords_unknown_methods_and_twins_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", image=images())
    raw = (tmp_path / "c.npz").read_bytes()
    for offset, value, words in ((8, 1, "encrypted"), (10, 99, "cannot be read")):
        place = raw.rindex(b"PK\x01\x02")
        (tmp_path / "bad.npz").write_bytes(raw[: place + offset] + bytes([value, 0]) + raw[place + offset + 2 :])
        assert words in refused(tmp_path / "bad.npz")
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        data = header("(1, 1, 4, 4)") + images(1).tobytes()
        archive.writestr("image.npy", data)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("image.npy", data)
    assert "twice" in refused(tmp_path / "t.npz")


def test_members_that_are_no_inputs_are_refused_unread(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("readme.txt", "not an array")
    assert "'readme.txt' is no input of the model; the inputs are 'image'" in refused(tmp_path / "c.npz")


def test_odd_files_in_a_folder_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", images())
    (tmp_path / "b.npy").mkdir()
    assert "b.npy: not a file" in refused(tmp_path)
    (tmp_path / "b.npy").rmdir()
    (tmp_path / "b.npy").symlink_to(tmp_path / "b.npy")
    assert "b.npy: not a file" in refused(tmp_path)
    (tmp_path / "b.npy").unlink()
    os.mkfifo(tmp_path / "b.npy")
    assert "b.npy: not a file" in refused(tmp_path)
    assert "neither a file nor a folder" in refused(tmp_path / "b.npy")
    (tmp_path / "b.npy").unlink()
    (tmp_path / "b.npy").touch()
    assert "b.npy: cannot be read" in refused(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read" in refused(tmp_path / "loop")
    assert "cannot be read" in refused(tmp_path / ("x" * 3000))


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", images())
    data = load_calibration(tmp_path / "c.npy", IMAGE)
    with open(tmp_path / "c.npy", "r+b") as stream:
        stream.truncate(200)
    with pytest.raises(InputError, match=r"c\.npy: has become shorter"):
        list(data.batches(4))


def test_values_that_are_no_arrays_are_refused() -> None:
    class Stubborn:
        def __array__(self, *args: object, **options: object) -> np.ndarray:
            raise RuntimeError("still on\nanother device")

    with pytest.raises(InputError, match="'image' cannot be made an array: still on another device"):
        load_calibration({"image": Stubborn()}, IMAGE)
    with pytest.raises(InputError, match="item 1: 'image' cannot be made an array"):
        load_calibration([{"image": images(1)}, {"image": [[1.0], [1.0, 2.0]]}], IMAGE)
    with pytest.raises(InputError, match="'image' is object"):
        load_calibration({"image": np.full((2, 1, 4, 4), None)}, IMAGE)


# --- batches under other names


STATEFUL = [InputSpec("x", F, ("x.0", "x.1")), InputSpec("state", F, (2, "state.1", 8))]


def test_the_batch_of_a_state_goes_along() -> None:
    state = np.arange(2 * 6 * 8, dtype=np.float32).reshape(2, 6, 8)
    parts = list(load_calibration({"x": np.ones((6, 5), F), "state": state}, STATEFUL).batches(4))
    assert [part["state"].shape for part in parts] == [(2, 4, 8), (2, 2, 8)]
    np.testing.assert_array_equal(np.concatenate([part["state"] for part in parts], axis=1), state)
    feeds = [{"x": np.ones((1, 5), F), "state": state[:, i : i + 1]} for i in range(6)]
    assert [part["state"].shape for part in load_calibration(feeds, STATEFUL).batches(32)] == [(2, 6, 8)]


def test_a_single_state_for_many_samples_means_one_at_a_time() -> None:
    parts = list(load_calibration({"x": np.ones((6, 5), F), "state": np.ones((2, 1, 8), F)}, STATEFUL).batches(32))
    assert len(parts) == 6
    assert all(part["x"].shape == (1, 5) and part["state"].shape == (2, 1, 8) for part in parts)


@pytest.mark.parametrize("value", [1e300, np.nan, -np.inf])
def test_values_beyond_the_models_type_are_refused_by_row(value: float) -> None:
    x = np.zeros((4, 1, 4, 4))
    x[2, 0, 1, 1] = value
    with pytest.raises(InputError, match="the first in row 2"):
        load_calibration({"image": x}, IMAGE)
