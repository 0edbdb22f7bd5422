"""The code of the pages on writing and debugging runs, block by block, as a reader would run it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("writing_passes", "writing_operators", "writing_targets", "stability", "debugging")
BLOCK = re.compile(r"```(python|sh|toml)\n(.*?)```", re.DOTALL)


def script(page: str) -> str:
    """One program of all blocks of a page: Python in one namespace, commands as processes that must end well."""
    lines = ["import subprocess, sys"]
    for kind, text in BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")):
        if kind == "python":
            lines.append(text)
        for command in text.splitlines() if kind == "sh" else ():
            program, *words = shlex.split(command)
            assert program == "hwpass", command
            lines.append(f"subprocess.run([sys.executable, '-m', 'hwpass', *{words!r}], check=True)")
    return "\n".join(lines)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    program = tmp_path / "page.py"
    program.write_text(script(page), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_page_has_code() -> None:
    for page in PAGES:
        assert len(script(page).splitlines()) > 1
