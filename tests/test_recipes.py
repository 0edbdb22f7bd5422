"""The recipes of docs/integrations.md, run as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")


def hook(latency: str) -> str:
    """The command of the pre-commit hook with another budget."""
    found = re.search(r"entry: (sh -c .*)", PAGE)
    assert found is not None
    return found[1].replace("12ms", latency)


@pytest.mark.skipif(shutil.which("sh") is None, reason="there is no sh")
@pytest.mark.parametrize(("latency", "status"), [("1000ms", 0), ("0.001ms", 4)])
def test_the_hook_fails_where_one_of_the_files_is_over(latency: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "hwpass").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hwpass "$@"\n')
    (tmp_path / "hwpass").chmod(0o755)
    files = [str(ROOT / "fixtures" / f"{name}.onnx") for name in ("cnn", "vit")]
    done = subprocess.run(
        ["sh", "-c", f'{hook(latency)} "$@"', "sh", *files], capture_output=True, text=True, cwd=ROOT,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert ("is more than the" in done.stderr) == (status == 4)


def test_checks_of_the_page_name_options_and_targets_that_are_there() -> None:
    from hwpass.command.cli import main
    from hwpass.cost_models import load_target

    lines = re.findall(r"hwpass (check|verify) (.*)", PAGE)
    assert len(lines) >= 3
    for command, words in lines:
        known = {name for option in main.commands[command].params for name in option.opts}
        assert set(re.findall(r"--[a-z-]+", words)) <= known
        for target in re.findall(r"--target (\S+)", words):
            load_target(target)
