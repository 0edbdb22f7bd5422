"""What only lists things loads nothing that runs models."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributions import distribution, python

from hwpass import plugins

HEAVY = {"onnx", "onnx_graphsurgeon", "onnxruntime", "scipy", "networkx", "torch"}
#: What a command can do without besides: a target is figures that are checked, and a pass is a class with a text.
MORE = {"--help": {"numpy", "pydantic", "rich"}, "targets": {"numpy"}, "passes": {"numpy", "pydantic"}}

CODE = """
import sys
from hwpass.__main__ import main
try:
    main()
finally:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words", ["--help", "--version", "targets", "targets mobile-cpu", "passes", "run --help", "sweep --help"]
)
def test_lists_and_help_load_no_library_of_models(words: str, tmp_path: Path) -> None:
    done = python(tmp_path, "-c", CODE, *words.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not (HEAVY | MORE.get(words, set())) & set(done.stderr.split())


PLUGIN = """
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


def test_a_pass_of_another_distribution_is_listed_at_no_more_cost(tmp_path: Path) -> None:
    distribution(tmp_path, "theirs", PLUGIN, {plugins.PASSES: "theirs = {module}"})
    done = python(tmp_path, "-c", CODE, "passes")
    assert done.returncode == 0, done.stderr
    assert "theirs\n  A network -> the same network.\n  least: the least of it (default 1)\n" in done.stdout
    assert not (HEAVY | MORE["passes"]) & set(done.stderr.split())
