"""Distributions that are not: modules in a folder, with the entry points that an installed one would have."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent


def distribution(folder: Path, name: str, text: str, entries: Mapping[str, str]) -> None:
    """Put a module into a folder, and an entry point by group; `{module}` in those is its name."""
    module = f"fake_{name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(text, encoding="utf-8")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    lines = "".join(f"[{group}]\n{entry.format(module=module)}\n" for group, entry in entries.items())
    (info / "entry_points.txt").write_text(lines, encoding="utf-8")


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python where a folder's distributions are installed."""
    path = os.pathsep.join([str(ROOT), str(folder)])
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": path}, timeout=120,
    )  # fmt: skip
