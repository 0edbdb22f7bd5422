"""What is installed is what is in the tree."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import hwpass

ROOT = Path(__file__).parent.parent
LINKS = {"hwpass/passes": "../passes", "hwpass/cost_models": "../cost_models"}


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def listed(section: str, key: str) -> list[str]:
    return setup()[section][key].split("\n")[1:]


def test_every_package_on_the_disk_is_listed() -> None:
    found = set()
    for folder, folders, files in os.walk(ROOT / "hwpass", followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        if "__init__.py" in files:
            found.add(".".join(Path(folder).relative_to(ROOT).parts))
    assert set(listed("options", "packages")) == found


@pytest.mark.parametrize("link", LINKS)
def test_linked_rooms_are_relative_links(link: str) -> None:
    assert os.readlink(ROOT / link) == LINKS[link]


def test_no_module_is_imported_under_two_names() -> None:
    import hwpass.cost_models
    import hwpass.passes

    twice = {name.partition(".")[0] for name in sys.modules} & {"passes", "cost_models"}
    assert not twice
    assert hwpass.passes.__name__ == "hwpass.passes"


def test_version_has_one_home() -> None:
    assert setup()["metadata"]["version"] == "attr: hwpass.version.__version__"
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changes, re.MULTILINE)
    assert newest is not None
    assert newest[1] == hwpass.__version__


def test_the_public_names_exist() -> None:
    for name in hwpass.__all__:
        assert getattr(hwpass, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'prune'"):
        _ = hwpass.prune


def test_the_command_starts_without_loading_the_runtime() -> None:
    code = "import sys, hwpass.command.cli; sys.exit('onnxruntime' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_no_file_is_two_ideas() -> None:
    for room in ("hwpass", "passes", "cost_models", "tests", "docs"):
        for path in (ROOT / room).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
            assert path.stem != "utils"


def test_the_makefile_explains_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z]+):(.*)$", text, re.MULTILINE)
    assert len(targets) <= 9
    assert all("## " in rest for _, rest in targets)


def test_the_build_needs_what_pyproject_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["build-system"]["build-backend"] == "setuptools.build_meta"


def copied(tmp_path: Path, links: bool) -> Path:
    """A copy of the tree; without links, they are the text files that a zip download or Windows makes of them."""
    copy = tmp_path / "tree"
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "fixtures", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=unwanted)
    for link, target in {} if links else LINKS.items():
        (copy / link).unlink()
        (copy / link).write_text(target)
    return copy


@pytest.mark.parametrize("links", [True, False])
def test_a_wheel_has_all_rooms_and_data(links: bool, tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    copy = copied(tmp_path, links)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build, str(tmp_path)],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    names = zipfile.ZipFile(tmp_path / made.stdout.split()[-1]).namelist()
    for path in [*ROOT.glob("cost_models/targets/*.toml"), *ROOT.glob("cost_models/*.py"), *ROOT.glob("passes/*.py")]:
        assert f"hwpass/{path.relative_to(ROOT).as_posix()}" in names
    assert "hwpass/py.typed" in names
    assert not [name for name in names if name.startswith(("passes/", "cost_models/", "tests/"))]
    assert not [name for name in names if name in LINKS]


def test_a_tree_without_links_works(tmp_path: Path) -> None:
    copy = copied(tmp_path, links=False)
    code = "import hwpass.command.cli, sys; sys.argv = ['hwpass', 'passes']; hwpass.command.cli.main()"
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    assert "prune-channels" in made.stdout


def test_the_lowest_versions_are_those_that_are_declared() -> None:
    script = [sys.executable, str(ROOT / ".ci/lower_bounds.py"), "test"]
    found = subprocess.run(script, capture_output=True, text=True, check=True).stdout.split()
    declared = [*listed("options", "install_requires"), *listed("options.extras_require", "test")]
    assert found == [line.replace(">=", "==") for line in declared]


def test_whatever_is_imported_is_declared() -> None:
    """Names of distributions are those of their modules, but for the underscore of onnx-graphsurgeon."""
    declared = {re.split("[>=]", line)[0].replace("-", "_") for line in listed("options", "install_requires")}
    # Of extras, imported where a picture or text is read or a module exported, of runners in a process apart, and of
    # an adapter that nothing imports.
    declared |= {"PIL", "tokenizers", "torch", "openvino", "ncnn", "olive"}
    declared |= {"hwpass", "google", *sys.stdlib_module_names}  # protobuf comes with onnx, in the version that it needs
    for room in ("hwpass", "passes", "cost_models"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [node.module]
                for name in names:
                    assert name.partition(".")[0] in declared, f"{path} imports {name}"
