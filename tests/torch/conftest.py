"""Tests of the torch functions: collected where torch is installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))  # the standard's cases

collect_ignore_glob = [] if find_spec("torch") else ["*.py"]
