"""Data beside a model: nothing outside its folder is read unless that is asked for, and what is read has to fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import hwpass
from hwpass.command.cli import main
from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.proto.external import TrustedPath
from hwpass.runtime.sessions import open_session

VALUES = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)


def model(location: str, dims: tuple[int, ...] = (64, 64), **places: str) -> onnx.ModelProto:
    outside = TensorProto(name="w", dims=dims, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **places}.items():
        entry = outside.external_data.add()
        entry.key, entry.value = key, value
    inside = numpy_helper.from_array(VALUES[:, :8].copy(), "v")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="first"), helper.make_node("Relu", ["h"], ["r"]),
             helper.make_node("MatMul", ["r", "v"], ["y"], name="second")]  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 64), ("y", 8))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [outside, inside])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def written(folder: Path, proto: onnx.ModelProto) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def above(tmp_path: Path) -> Path:
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    return written(tmp_path / "model", model("../w.bin"))


def absolute(tmp_path: Path) -> Path:
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    return written(tmp_path / "model", model(str(tmp_path / "w.bin")))


def link(tmp_path: Path) -> Path:
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    path = written(tmp_path / "model", model("inner.bin"))
    os.symlink(tmp_path / "w.bin", path.parent / "inner.bin")
    return path


def linked_folder(tmp_path: Path) -> Path:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "w.bin").write_bytes(VALUES.tobytes())
    path = written(tmp_path / "model", model("inner/w.bin"))
    os.symlink(tmp_path / "other", path.parent / "inner")
    return path


OUTSIDE = [above, absolute, link, linked_folder]


@pytest.mark.parametrize("make", OUTSIDE)
def test_nothing_outside_the_models_folder_is_read(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError, match=r"'w'.*outside.*allow_external=True"):
        Model.load(path)
    with pytest.raises(InputError, match="outside"):
        hwpass.run(path, "server-cpu", macs=0.6, score="l2")


@pytest.mark.parametrize("make", OUTSIDE)
def test_data_from_anywhere_where_that_is_allowed(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    found = hwpass.load(path, allow_external=True)
    assert np.array_equal(found.constants()["w"].values, VALUES)
    assert found.source == path
    assert isinstance(found.source, TrustedPath)
    x = np.ones((2, 64), np.float32)
    wanted = np.maximum(x @ VALUES, 0) @ VALUES[:, :8]
    assert np.allclose(open_session(found.source).run(None, {"x": x})[0], wanted, atol=1e-3)
    result = hwpass.run(path, "server-cpu", macs=0.6, score="l2", align=1, allow_external=True)
    assert result.report.verdicts.exactness is not None


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--target", "server-cpu", "--macs", "0.6x", "--score", "l2", "--dry-run"),
        ("sweep", "--target", "server-cpu", "--budget", "macs", "--points", "0.7", "--score", "l2"),
        ("groups",),
        ("profile", "--target", "server-cpu"),
        ("profile", "--target", "server-cpu", "--measure"),
        ("bench", "--sessions", "1", "--runs", "1"),
    ],
)
def test_commands_read_from_anywhere_where_that_is_allowed(command: tuple[str, ...], tmp_path: Path) -> None:
    path = above(tmp_path)
    refused = CliRunner().invoke(main, [command[0], str(path), *command[1:]])
    assert refused.exit_code == 3, refused.output
    allowed = CliRunner().invoke(main, [command[0], str(path), *command[1:], "--allow-external"])
    assert allowed.exit_code == 0, allowed.output


def test_apply_and_verify_read_from_anywhere_where_that_is_allowed(tmp_path: Path) -> None:
    path = above(tmp_path)
    result = hwpass.run(path, "server-cpu", macs=0.6, score="l2", align=1, allow_external=True)
    assert result.plan is not None
    (tmp_path / "plan.json").write_text(result.plan.to_json())
    result.save(tmp_path / "small.onnx")
    again = ["apply", str(tmp_path / "plan.json"), str(path), "-o", str(tmp_path / "again.onnx"), "--compensate", "off"]
    check = ["verify", str(path), str(tmp_path / "small.onnx"), "--plan", str(tmp_path / "plan.json")]
    for command in (again, check):
        assert CliRunner().invoke(main, command).exit_code == 3
        found = CliRunner().invoke(main, [*command, "--allow-external"])
        assert found.exit_code == 0, found.output


def test_a_cache_of_links_into_one_folder_is_a_models_own(tmp_path: Path) -> None:
    """Model hubs keep files under their digests, and a folder of links to them under their names."""
    for name in ("blobs", "snapshot"):
        (tmp_path / name).mkdir()
    (tmp_path / "blobs" / "a1").write_bytes(model("m.data").SerializeToString())
    (tmp_path / "blobs" / "b2").write_bytes(VALUES.tobytes())
    os.symlink("../blobs/a1", tmp_path / "snapshot" / "m.onnx")
    os.symlink("../blobs/b2", tmp_path / "snapshot" / "m.data")
    found = Model.load(tmp_path / "snapshot" / "m.onnx")
    assert np.array_equal(found.constants()["w"].values, VALUES)


@pytest.mark.parametrize(
    ("location", "places", "dims", "message"),
    [
        ("w.bin", {"offset": "-4"}, (64, 64), "'-4', not a number"),
        ("w.bin", {"offset": "many"}, (64, 64), "'many', not a number"),
        ("w.bin", {"length": "1e4"}, (64, 64), "'1e4', not a number"),
        ("w.bin", {"offset": "8"}, (64, 64), "too short"),
        ("w.bin", {"offset": "9" * 40}, (64, 64), "too short"),
        ("w.bin", {"length": "4"}, (64, 64), "too short"),
        ("w.bin", {}, (1 << 40, 64), "too short"),
        ("missing.bin", {}, (64, 64), "is missing"),
        (".", {}, (64, 64), "is missing"),
        ("circle", {}, (64, 64), "outside"),
        ("pipe", {}, (64, 64), "is missing"),
        ("/dev/zero", {}, (64, 64), "outside"),
        ("", {}, (64, 64), "without a location"),
        ("a\0b", {}, (64, 64), "without a location"),
    ],
)
def test_data_that_cannot_be_read(
    location: str, places: dict[str, str], dims: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, model(location, dims, **places))
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    os.symlink("circle", tmp_path / "circle")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=message) as caught:
        Model.load(path)
    assert "'w'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tensors_may_share_bytes_of_a_file(tmp_path: Path) -> None:
    proto = model("w.bin", offset="0", length=str(VALUES.nbytes))
    proto.graph.initializer[1].CopyFrom(proto.graph.initializer[0])
    proto.graph.initializer[1].name = "v"
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 64
    path = written(tmp_path, proto)
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    assert np.array_equal(Model.load(path).constants()["v"].values, VALUES)


def test_what_is_no_file_has_no_data_beside_it() -> None:
    for source in (model("w.bin").SerializeToString(), model("w.bin")):
        with pytest.raises(InputError, match=r"w\.bin is missing.*name the model's file"):
            Model.load(source, allow_external=True)
