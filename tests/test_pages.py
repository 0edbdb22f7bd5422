"""The code of the pages on writing and debugging runs, block by block, as a reader would run it.

A page is one program in a folder of its own. Its blocks, in order:

- `python`: run in one namespace. A first line `# name.py` makes it a file, which is imported. One that begins with
  `import torch` runs where torch is installed.
- a line `<!-- needs PACKAGE -->` before a block of any kind: it runs where that package is installed.
- `toml`: a file, named in its first line. `# pyproject.toml` is installed: its entry points are there from then on.
- `sh`: commands of hwpass, each a process. It ends with status 0, or with the one that `# status N` behind it says.
- `text`: lines that the commands of the block before print; `...` stands for what may differ.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwpass import plugins
from hwpass.command.cli import main

ROOT = Path(__file__).parent.parent
PAGES = (
    "inputs",
    "smaller_weights",
    "writing_passes",
    "writing_operators",
    "writing_targets",
    "stability",
    "debugging",
)
BLOCK = re.compile(r"^(?:<!-- needs (\w+) -->\n)?```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ENTRY_POINTS = {
    plugins.PASSES, plugins.RULES, plugins.SCORES, plugins.RENDERERS, plugins.CALIBRATION, plugins.COST_MODELS,
    plugins.TARGETS, plugins.RUNNERS,
}  # fmt: skip
TORCH = importlib.util.find_spec("torch") is not None

HEAD = '''
import re, subprocess, sys
from pathlib import Path

def _file(name, text):
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")

def _hwpass(words, status):
    """What a command prints; it must end with a status."""
    done = subprocess.run([sys.executable, "-m", "hwpass", *words], capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == status, f"hwpass {words}: status {done.returncode}: {said}"
    assert "Warning" not in said, said
    return said

def _says(said, lines):
    """The lines stand in what was printed, in this order; dots match anything."""
    pattern = r"\\n(?:.*\\n)*?".join(r".*".join(map(re.escape, line.split("..."))) for line in lines)
    assert re.search(rf"^{pattern}$", said, re.MULTILINE), f"{lines} are not what was printed: {said}"
'''


def page_text(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")


def commands(block: str) -> Iterator[tuple[list[str], int]]:
    """Words and status of each command of a block; a backslash at the end of a line goes on in the next."""
    for line in block.replace("\\\n", " ").splitlines():
        command, _, remark = line.partition("  # ")
        program, *words = shlex.split(command)
        assert program == "hwpass", line
        status = re.match(r"status (\d+)", remark)
        yield words, int(status[1]) if status else 0


def named(block: str) -> str:
    """The file that a block's first line names, if any."""
    found = re.match(r"# ([\w./-]+\.(?:py|toml))\n", block)
    return found[1] if found else ""


def installed(project: str) -> Iterator[str]:
    """What `pip install .` leaves of a project: its name and its entry points."""
    about = tomllib.loads(project)["project"]
    folder = f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    groups = about["entry-points"].items()
    lines = "".join(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in own.items()) for group, own in groups)
    about = f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n"
    yield f"_file({f'{folder}/METADATA'!r}, {about!r})"
    yield f"_file({f'{folder}/entry_points.txt'!r}, {lines!r})"


def steps(page: str) -> Iterator[str]:
    """The blocks of a page as lines of a program. One that nobody would run is an error."""
    before = ""
    for needed, kind, text in BLOCK.findall(page_text(page)):
        if needed and importlib.util.find_spec(needed) is None:
            yield "pass"
        elif kind == "python" and named(text):
            yield f"_file({named(text)!r}, {text!r})\nimport {named(text).removesuffix('.py')}"
        elif kind == "python":
            yield text if TORCH or not text.startswith("import torch") else "pass"
        elif kind == "toml":
            assert named(text), f"{page}: a block of TOML without the name of its file"
            yield from installed(text) if named(text) == "pyproject.toml" else [f"_file({named(text)!r}, {text!r})"]
        elif kind == "sh":
            yield "_said = ''"
            for words, status in commands(text):
                yield f"_said += _hwpass({words!r}, {status})"
        else:
            assert (kind, before) == ("text", "sh"), f"{page}: nobody runs a block of {kind or 'no kind'}"
            yield f"_says(_said, {text.splitlines()!r})"
        before = kind


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    program = tmp_path / "page.py"
    program.write_text("\n".join([HEAD, *steps(page)]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_one_that_runs(page: str) -> None:
    assert page_text(page).count("```") == 2 * len(BLOCK.findall(page_text(page)))
    assert len(list(steps(page))) > 0


@pytest.mark.parametrize("page", PAGES)
def test_options_and_files_that_a_page_names_exist(page: str) -> None:
    known = {opt for command in main.commands.values() for parameter in command.params for opt in parameter.opts}
    prose = BLOCK.sub("", page_text(page))
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", prose):
        assert option in known, option
    for path in re.findall(r"`((?:hwpass|tests|docs|passes|cost_models|benchmarks)/[\w./]*)`", prose):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"`(hwpass\.[a-z_.]+(?:\.[A-Z]\w+)?)`", prose):
        if module not in ENTRY_POINTS:
            assert found(module), module


def found(name: str) -> bool:
    """Whether a dotted name leads to a module or to something in one."""
    home, _, last = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return hasattr(importlib.import_module(home), last)
    return True
