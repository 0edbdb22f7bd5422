"""Outputs are never inputs, nor each other; they appear whole, all together, where links lead, with the right modes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from networks import network

import hwpass
from hwpass.command.cli import main
from hwpass.errors import InputError
from hwpass.files import whole_files
from hwpass.files.whole_files import together, whole, write_text

ROOT = Path(__file__).parents[2]
TARGET = (ROOT / "cost_models/targets/mobile-cpu.toml").read_text(encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model, its plan, a target, data in a file and in a folder, and a metric."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "m.onnx")
    Path("t.toml").write_text(TARGET, encoding="utf-8")
    np.savez("c.npz", x=np.ones((4, 8), np.float32))
    Path("data").mkdir()
    np.save("data/x.npy", np.ones((4, 8), np.float32))
    Path("mine.py").write_text("def fn(predict): return 1.0\n", encoding="utf-8")
    Path("plan.json").write_text(
        json.dumps({"schema": 1, "model_sha256": "", "prepare": "", "groups": []}), encoding="utf-8"
    )
    return tmp_path


def call(text: str, status: int) -> Result:
    result = CliRunner().invoke(main, text.split())
    assert result.exit_code == status, result.output
    return result


RUN = "run m.onnx --target t.toml --score l2 --compensate off --macs 0.7x "

ALIASES = {
    "the model": (RUN + "-o m.onnx", "MODEL"),
    "another spelling": (RUN + "-o ./data/../m.onnx", "MODEL"),
    "an absolute path": (RUN + "--json {here}/m.onnx", "MODEL"),
    "a link to the model": (RUN + "-o soft.onnx", "MODEL"),
    "a hard link to the model": (RUN + "--report hard.onnx", "MODEL"),
    "through a linked folder": (RUN + "-o folder/m.onnx", "MODEL"),
    "the target": (RUN + "--json t.toml", "--target"),
    "the data": (RUN + "--calib c.npz --plan c.npz", "--calib"),
    "a file of the folder of data": (RUN + "--calib data --json data/x.npy", "--calib"),
    "the module of the metric": (RUN + "--metric mine:fn --json mine.py", "--metric"),
    "two outputs": (RUN + "-o o.onnx --json o.onnx", "--output"),
    "two outputs by another spelling": (RUN + "--json o --report data/../o", "--json"),
    "two outputs by a link that dangles": (RUN + "--json dangling --report nowhere", "--json"),
    "the weights of a large model": (RUN + "-o o.onnx --json o.onnx.data", "the weights of --output"),
    "the plan applied": ("apply plan.json m.onnx -o plan.json", "PLAN"),
    "the model applied to": ("apply plan.json m.onnx -o o.onnx --json hard.onnx", "MODEL"),
    "the model looked at": ("groups m.onnx --json soft.onnx", "MODEL"),
    "the model profiled": ("profile m.onnx --target t.toml --json m.onnx", "MODEL"),
    "a model that is timed": ("bench m.onnx hard.onnx --json m.onnx", "MODEL"),
    "the table of a sweep": ("sweep m.onnx --target t.toml --score l2 --csv m.onnx", "MODEL"),
    "a model of a sweep": ("sweep m.onnx --target t.toml --points 0.5 -o data --csv data/m-latency-0.5x.onnx", "--csv"),
    "the model among those of a sweep": ("sweep m.onnx --target t.toml --points 0.25 -o data", "MODEL"),
}


@pytest.mark.parametrize("name", ALIASES)
def test_an_output_is_refused_that_is_an_input_or_another_output(name: str, here: Path) -> None:
    os.symlink("m.onnx", "soft.onnx")
    os.link("m.onnx", "hard.onnx")
    os.symlink("../m.onnx", "data/m-latency-0.25x.onnx")
    os.symlink(here, "folder")
    os.symlink("nowhere", "dangling")
    arguments, says = ALIASES[name]
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    result = call(arguments.format(here=here), 2)
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_an_output_is_refused_that_is_the_external_data_of_the_model(here: Path) -> None:
    onnx.save(network(64), "big.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    result = call("run big.onnx --target t.toml --macs 0.7x --json weights.bin", 2)
    assert "MODEL" in result.stderr
    with pytest.raises(InputError, match="was read from there"):
        hwpass.load("big.onnx").save("weights.bin")


def test_an_output_is_refused_where_standard_output_goes(here: Path) -> None:
    command = [sys.executable, "-m", "hwpass", *(RUN + "--json r.txt").split()]
    with open("r.txt", "wb") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, check=False, env=environment())
    assert done.returncode == 2
    assert b"standard output goes there" in done.stderr
    with open("m.onnx", "rb") as stream:
        command = [sys.executable, "-m", "hwpass", *RUN.replace("m.onnx", "-").split(), "-o", "m.onnx"]
        done = subprocess.run(command, stdin=stream, capture_output=True, check=False, env=environment())
    assert done.returncode == 2
    assert b"standard input" in done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_python_does_not_save_over_the_source_either(here: Path) -> None:
    os.symlink("m.onnx", "soft.onnx")
    before = Path("m.onnx").read_bytes()
    result = hwpass.run("m.onnx", "mobile-cpu", macs=0.7, score="l2", compensate="off")
    for place in ("m.onnx", Path("data/../m.onnx"), "soft.onnx"):
        with pytest.raises(InputError, match="was read from there"):
            result.save(place)
    assert Path("m.onnx").read_bytes() == before
    result.save(here / "other.onnx")
    assert Path("other.onnx").is_file()


def test_a_link_keeps_its_place_and_what_it_leads_to_is_replaced(here: Path) -> None:
    Path("data/old.onnx").write_bytes(b"old")
    os.symlink("data/old.onnx", "out.onnx")
    os.symlink("data/new.json", "report.json")  # dangles
    call(RUN + "-o out.onnx --json report.json", 0)
    assert Path("out.onnx").is_symlink()
    assert Path("report.json").is_symlink()
    onnx.checker.check_model("data/old.onnx")
    assert json.loads(Path("data/new.json").read_text(encoding="utf-8"))["schema"] == 1
    assert sorted(os.listdir("data")) == ["new.json", "old.onnx", "x.npy"]


def test_new_files_follow_the_umask_and_replaced_ones_keep_their_mode(here: Path) -> None:
    Path("old.json").write_text("old", encoding="utf-8")
    os.chmod("old.json", 0o604)
    before = os.umask(0o027)
    try:
        call(RUN + "-o out.onnx --json old.json --plan p.json", 0)
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE(os.stat(name).st_mode) for name in ("out.onnx", "old.json", "p.json")}
    assert modes == {"out.onnx": 0o640, "old.json": 0o604, "p.json": 0o640}


def test_all_outputs_appear_or_none(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing last rename takes the others back: old files return, new ones go."""
    Path("out.onnx").write_bytes(b"old")
    replace, renamed = os.replace, []

    def third_fails(source: str, target: str) -> None:
        if Path(target).name == "p.json":
            raise OSError(28, "No space left on device")
        renamed.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", third_fails)
    result = call(RUN + "-o out.onnx --json new.json --plan p.json --report r.html", 3)
    assert "p.json: cannot be written (No space left on device)" in result.stderr
    assert "out.onnx" in renamed
    assert Path("out.onnx").read_bytes() == b"old"
    assert sorted(os.listdir()) == ["c.npz", "data", "m.onnx", "mine.py", "out.onnx", "plan.json", "t.toml"]


def test_a_report_that_cannot_be_made_leaves_no_model(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hwpass.reporting.renderers import html as html_report

    def broken(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(html_report, "page", broken)
    call(RUN + "-o out.onnx --report r.html", 3)
    assert not Path("out.onnx").exists()
    assert not list(here.glob(".hwpass*"))


def test_files_together_appear_when_all_are_made(here: Path) -> None:
    with together():
        write_text("one", "1")
        write_text("two", "2")
        assert not Path("one").exists()
    assert Path("one").read_text(encoding="utf-8") == "1"
    with pytest.raises(InputError, match="does not exist"), together():
        write_two("one", "no/two")
    assert Path("one").read_text(encoding="utf-8") == "1"
    assert not list(here.glob(".hwpass*"))


def test_a_draft_is_on_the_disk_before_it_has_its_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace, sync = os.replace, whole_files._sync

    def synced(path: Path) -> None:
        order.append("folder" if path.is_dir() else "file")
        sync(path)

    def replaced(source: str, target: str) -> None:
        order.append("rename")
        replace(source, target)

    monkeypatch.setattr(whole_files, "_sync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_text("one", "1")
    assert order == ["file", "rename", "folder"]


def test_the_second_file_of_a_large_model_is_not_put_beside_a_link(here: Path) -> None:
    os.symlink("data/real.onnx", "link.onnx")
    with pytest.raises(InputError, match="name the file itself"):
        write_graph_and_weights("link.onnx")
    assert os.listdir("data") == ["x.npy"]
    write_graph_and_weights("data/real.onnx")
    assert sorted(os.listdir("data")) == ["real.onnx", "real.onnx.data", "x.npy"]


def write_two(*paths: str) -> None:
    for path in paths:
        write_text(path, "3")


def write_graph_and_weights(path: str) -> None:
    with whole(path) as draft:
        draft.write_bytes(b"graph")
        draft.with_name(draft.name + ".data").write_bytes(b"weights")


PLACES = {
    "no folder": ("no/o.json", 3, "does not exist"),
    "a folder": ("data", 3, "is a folder"),
    "a name like a folder's": ("new/", 3, "the name of a folder"),
    "below a file": ("t.toml/o.json", 3, "does not exist"),
    "a device": ("/dev/null", 3, "not a file"),
    "a long name": ("n" * 300, 3, "File name too long"),
    "a long path": ("d/" * 3000 + "o", 3, "File name too long"),
    "a loop of links": ("loop", 3, "leads back to itself"),
    "a read-only place": ("/proc/o.json", 3, "cannot write"),
    "a home that the shell did not name": ("~/o.json", 3, "does not exist"),
    "a zero byte": ("a\0b", 3, "null byte"),
    "nothing": ("", 3, "is a folder"),
}


@pytest.mark.parametrize("option", ["-o", "--json"])
@pytest.mark.parametrize("name", PLACES)
def test_places_that_cannot_be_written_are_named(name: str, option: str, here: Path) -> None:
    os.symlink("loop", "loop")
    place, status, says = PLACES[name]
    before = sorted(os.listdir())
    result = CliRunner().invoke(main, [*RUN.split(), option, place])
    assert result.exit_code == status, result.output
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert sorted(os.listdir()) == before


def test_names_of_odd_bytes_are_written(here: Path) -> None:
    command = [sys.executable.encode(), b"-m", b"hwpass", *(RUN + "--json").encode().split(), b"r\xfe\n.json"]
    done = subprocess.run(command, capture_output=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    assert json.loads(Path(os.fsdecode(b"r\xfe\n.json")).read_text(encoding="utf-8"))["schema"] == 1


def test_a_model_whose_name_the_runtime_cannot_take_is_refused_in_one_line(here: Path) -> None:
    os.rename(b"m.onnx", b"m\xff\n.onnx")
    command = [sys.executable.encode(), b"-m", b"hwpass", *RUN.replace("m.onnx", "{}").encode().split()]
    command = [b"m\xff\n.onnx" if word == b"{}" else word for word in command]
    done = subprocess.run(command, capture_output=True, check=False, env=environment())
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1
    assert b"rename it" in done.stderr


def test_a_folder_for_models_goes_where_nothing_comes_into_it(here: Path) -> None:
    sweep = "sweep m.onnx --target t.toml --score l2 --compensate off --budget macs --points 0.7 -o models "
    call(sweep + "--calib no.npz", 3)
    assert not Path("models").exists()
    call(sweep + "--csv models.csv", 0)
    assert os.listdir("models") == ["m-macs-0.7x.onnx"]


def test_a_report_on_a_model_of_an_odd_name_is_written(here: Path) -> None:
    os.rename(b"m.onnx", b"m\xff.onnx")
    for command in ("groups {} --json -", "profile {} --target t.toml --json -"):
        words = [b"m\xff.onnx" if word == "{}" else word.encode() for word in command.split()]
        done = subprocess.run(
            [sys.executable.encode(), b"-m", b"hwpass", *words], capture_output=True, check=False, env=environment()
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["model"] == "m\\udcff.onnx"
