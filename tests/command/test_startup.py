"""What only lists things loads nothing that runs models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"onnx", "onnx_graphsurgeon", "onnxruntime", "scipy", "networkx", "torch"}

CODE = """
import sys
from hwpass.__main__ import main
try:
    main()
finally:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words", ["--help", "--version", "passes", "targets", "targets mobile-cpu", "run --help", "sweep --help"]
)
def test_lists_and_help_load_no_library_of_models(words: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CODE, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not HEAVY & set(done.stderr.split())
