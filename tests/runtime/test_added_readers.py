"""Readers of data from outside, by the suffix of a file or of a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributions import distribution, python
from sketch import Sketch

from hwpass.plugins import CALIBRATION
from hwpass.runtime.reader import FOLDER, Reader, accepted, readers, register

ROOT = Path(__file__).parents[2]

TEXT = """
import numpy as np
from hwpass.runtime.reader import Reader, register

{decorator}
class Csv(Reader):
    '''A row per sample.'''
    suffixes = (".csv",{more})
    summary = "numbers, a row per sample"

    def {method}(self, path, source, specs):
        {first}
        return [{{specs[0].name: np.loadtxt(path, np.float32, delimiter=",", ndmin=2)}}]
"""


def text(*, decorator: str = "@register", more: str = "", method: str = "read", first: str = "") -> str:
    return TEXT.format(decorator=decorator, more=more, method=method, first=first)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    s = Sketch()
    h = s.op("Relu", s.op("MatMul", s.input(["N", 4]), s.const(rng.normal(size=(4, 32)))))
    s.output(s.op("MatMul", h, s.const(rng.normal(size=(32, 3)))))
    (tmp_path / "m.onnx").write_bytes(s.model().SerializeToString())
    rows = rng.normal(size=(40, 4)).astype(np.float32)
    np.savetxt(tmp_path / "x.csv", rows, delimiter=",")
    np.save(tmp_path / "x.npy", rows)
    return tmp_path


def run(folder: Path, data: str) -> tuple[int, str, str]:
    words = ["run", "m.onnx", "--target", "mobile-cpu", "--macs", "0.5x", "--score", "gram", "--calib", data]
    done = python(folder, "-m", "hwpass", *words, "--plan", "plan.json", "--dry-run")
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("entry", ["csv = {module}", "csv = {module}:Csv"])
def test_a_reader_from_outside_gives_what_a_file_of_ours_gives(entry: str, folder: Path) -> None:
    distribution(folder, "sheets", text(decorator="@register" if entry.endswith("}") else ""), {CALIBRATION: entry})
    plans = []
    for data in ("x.csv", "x.npy"):
        status, _, said = run(folder, data)
        assert status == 0, said
        plans.append((folder / "plan.json").read_text(encoding="utf-8"))
    assert plans[0] == plans[1]
    assert "FILE.csv" in python(folder, "-m", "hwpass", "run", "--help").stdout


def test_without_it_the_file_is_refused(folder: Path) -> None:
    status, _, said = run(folder, "x.csv")
    assert (status, said) == (
        3,
        f"hwpass: x.csv: not an .npz; pass {accepted()}\n",
    )


@pytest.mark.parametrize(
    ("first", "says"),
    [
        ("raise RuntimeError('torn\\npage')", "x.csv: cannot be read by Csv: RuntimeError: torn page"),
        ("raise KeyError", "x.csv: cannot be read by Csv: KeyError: KeyError"),
        ("return None", "x.csv: cannot be read by Csv: TypeError: 'NoneType' object is not iterable"),
        ("return [{'y': [1.0]}]", "x.csv: 'y' is no input of the model"),
        ("return [{specs[0].name: np.zeros((3, 5), np.float32)}]", "x.csv: input 'x1' has shape [3, 5]"),
        ("from hwpass.errors import InputError; raise InputError(f'{source}: torn')", "x.csv: torn"),
    ],
)
def test_what_it_does_wrong_is_one_line(first: str, says: str, folder: Path) -> None:
    distribution(folder, "sheets", text(first=first), {CALIBRATION: "csv = {module}"})
    status, _, said = run(folder, "x.csv")
    assert status == 3
    assert said.count("\n") == 1
    assert said.startswith(f"hwpass: {says}")


def test_one_that_was_left_out_is_named_with_the_reason(folder: Path) -> None:
    distribution(folder, "sheets", text(method="open"), {CALIBRATION: "csv = {module}"})
    status, _, said = run(folder, "x.csv")
    assert status == 3
    assert said.splitlines()[-1].startswith(f"hwpass: x.csv: not an .npz; pass {accepted()}; ")
    assert said.endswith("reader .csv has no method read\n")


def test_a_folder_goes_by_its_suffix_where_that_is_of_a_reader_from_outside(folder: Path) -> None:
    more, first = ' ".store"', "path = path / 'x.csv' if path.is_dir() else path"
    distribution(folder, "sheets", text(more=more, first=first), {CALIBRATION: "csv = {module}"})
    (folder / "d.store").mkdir()
    (folder / "x.csv").rename(folder / "d.store/x.csv")
    assert run(folder, "d.store")[0] == 0
    (folder / "d.npz").mkdir()
    assert run(folder, "d.npz")[2] == "hwpass: d.npz: no .npy files, pictures, WAV files or text in this folder\n"


def test_every_reader_says_what_it_is() -> None:
    assert list(readers()) == [".npy", ".npz", ".txt", FOLDER]
    assert all(cls.summary and cls.__doc__ for cls in readers().values())


@pytest.mark.parametrize("suffixes", [(), ("csv",), (".A",)])
def test_suffixes_are_small_and_have_a_dot(suffixes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="is no suffix"):
        register(type("Odd", (Reader,), {"suffixes": suffixes, "read": lambda self, path, source, specs: []}))
