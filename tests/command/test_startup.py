"""What only lists things loads nothing that runs models."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributions import distribution, python

from hwpass import plugins

HEAVY = {"onnx", "onnx_graphsurgeon", "onnxruntime", "scipy", "networkx", "torch"}
#: What a command can do without besides: a target is figures that are checked, all else is classes with a text.
MORE = {"targets": {"numpy"}, "targets mobile-cpu": {"numpy"}}
LISTS = ["--help", "--version", "targets", "targets mobile-cpu", "passes", "run --help", "sweep --help"]

THEIRS = """
from dataclasses import dataclass, field
from hwpass.manager import Pass, PassResult, register

@register
@dataclass(frozen=True)
class Theirs(Pass):
    "A network -> the same network."
    name = "theirs"
    least: int = field(default=1, metadata={"help": "the least of it"})
    def run(self, model, context): return PassResult(model, False)
"""


#: Runs the command line, and prints what was loaded when it ends the process, which it does without any ceremony.
CODE = """
import os, sys
def told(status):
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr, flush=True)
    ended(status)
ended, os._exit = os._exit, told
from hwpass.__main__ import main
main()
"""


def shown(folder: Path, words: str) -> tuple[str, set[str]]:
    """What a command prints in a process of its own, and the packages that it loads."""
    done = python(folder, "-c", CODE, *words.split())
    assert done.returncode == 0, done.stderr
    packages = set(done.stderr.split())
    assert {"click", "hwpass"} <= packages
    return done.stdout, packages


@pytest.mark.parametrize("words", LISTS)
def test_lists_and_help_load_no_library_of_models(words: str, tmp_path: Path) -> None:
    text, packages = shown(tmp_path, words)
    assert text
    assert not packages & (HEAVY | MORE.get(words, {"numpy", "pydantic"}))


def test_a_pass_of_another_distribution_is_listed_as_cheaply(tmp_path: Path) -> None:
    distribution(tmp_path, "theirs", THEIRS, {plugins.PASSES: "theirs = {module}"})
    text, packages = shown(tmp_path, "passes")
    assert "theirs\n  A network -> the same network.\n  least: the least of it (default 1)\n" in text
    assert "fake_theirs" in packages
    assert not packages & (HEAVY | {"numpy", "pydantic"})
