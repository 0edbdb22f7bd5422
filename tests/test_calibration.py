"""Calibration data: what is accepted, how it is batched, and each refusal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwpass.calibration import load_calibration
from hwpass.errors import InputError
from hwpass.inputs import InputSpec

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
    refused(
        {"image": np.zeros((2, 1, 4, 4), np.uint8)}, IMAGE, "is uint8, the model wants float32; .*scale it"
    )
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
    refused(tmp_path, r"no \.npy files in this folder")
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
