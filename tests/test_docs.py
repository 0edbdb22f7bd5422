"""The documentation says what the code does, and its commands run."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

from hwpass.command.cli import main
from hwpass.manager import passes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(name: str) -> str:
    """A command of the README, found as `.ci/run` finds it."""
    found = re.search(rf"<!-- command: {name} -->\n```sh\n(.*?)\n```", README, re.DOTALL)
    assert found is not None
    return found[1]


def some_images(path: Path) -> None:
    with np.load(ROOT / "fixtures/calib.npz") as data:
        np.savez(path, image=data["image"][:64])


def test_derived_pages_are_current() -> None:
    assert generator().stale() == [], "run `make docs`"


def test_the_first_command_does_the_main_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = command("demo").split(" && ")
    assert parts[:2] == ["python3.11 -m venv .venv", ".venv/bin/pip install ."]
    program, *arguments = shlex.split(parts[2])
    assert program == ".venv/bin/hwpass"
    # Elsewhere than in the checkout, so that the model it writes goes with the test; `.ci/run` takes all the data.
    (tmp_path / "fixtures").mkdir()
    (tmp_path / "fixtures/resnet_se.onnx").symlink_to(ROOT / "fixtures/resnet_se.onnx")
    some_images(tmp_path / "fixtures/calib.npz")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "exactness passed" in result.stdout
    assert (tmp_path / "out.onnx").stat().st_size < (ROOT / "fixtures/resnet_se.onnx").stat().st_size


def test_the_second_command_runs_these_tests() -> None:
    parts = command("tests").split(" && ")
    assert parts[:2] == ["python3.11 -m venv .venv", ".venv/bin/pip install '.[test]'"]
    assert parts[2:] == [".venv/bin/python -m pytest -n auto"]
    assert "command_of tests" in (ROOT / ".ci/run").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_is_in_the_readme(name: str) -> None:
    assert f"hwpass {name}" in README
    assert f"## hwpass {name}\n" in PAGES["commands.md"]


def test_every_pass_has_an_entry() -> None:
    for name in passes():
        assert f"## {name}\n" in PAGES["passes.md"]


def test_options_in_the_readme_exist() -> None:
    known = {opt for command in main.commands.values() for parameter in command.params for opt in parameter.opts}
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", README):
        assert option in known, option


def test_python_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    some_images(tmp_path / "inputs.npz")
    monkeypatch.chdir(tmp_path)
    for block, name in zip(blocks, ("cnn", "resnet_se"), strict=True):
        (tmp_path / "model.onnx").unlink(missing_ok=True)
        (tmp_path / "model.onnx").symlink_to(ROOT / f"fixtures/{name}.onnx")
        exec(compile(block, "README.md", "exec"), {})
        assert (tmp_path / "small.onnx").is_file()
        (tmp_path / "small.onnx").unlink()


def test_links_lead_somewhere() -> None:
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists() or link.startswith("http"), f"{path.name}: {link}"


def test_exit_statuses_in_the_readme_are_those_of_the_errors() -> None:
    from hwpass.errors import HwpassError

    listed = {int(status) for status in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    errors: list[type[HwpassError]] = [HwpassError, *HwpassError.__subclasses__()]
    assert {cls.exit_code for cls in errors} <= listed
    assert {0, 130} <= listed
