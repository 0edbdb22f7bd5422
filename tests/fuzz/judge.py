"""Runs one case in this process, and says what of it breaks the contract."""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from contextlib import chdir
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import onnxruntime as ort
from click.testing import CliRunner

from hwpass.command.cli import main

from .cases import Case

#: The most that a case may take: seconds, and bytes resident.
SECONDS = 60
RESIDENT = 2 << 30
#: What is said of a process that had more resident: it cannot tell what the next case takes.
SPENT = "MiB resident"
STATUSES = (0, 2, 3, 4, 5)


@dataclass(frozen=True)
class Outcome:
    """What a case ended in. `problems` is empty where nothing breaks the contract."""

    number: int
    kind: str
    status: int
    seconds: float
    said: str
    problems: tuple[str, ...]

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def outcome_of(case: Case) -> Outcome:
    """Run a case in a folder of its own. Everything that it writes must be asked for, and whole."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as place:
        folder, spare = Path(place) / "case", Path(place) / "tmp"
        folder.mkdir()
        spare.mkdir()
        for name, data in case.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        before = tempfile.tempdir
        tempfile.tempdir = str(spare)
        start = time.monotonic()
        try:
            with chdir(folder):
                result = CliRunner().invoke(main, list(case.arguments), input=case.stdin)
        finally:
            tempfile.tempdir = before
        seconds = time.monotonic() - start
        problems = _of_words(result.exit_code, result.stderr, result.stdout) + _of_files(case, result.exit_code, folder)
        left = [path.name for path in spare.iterdir()]
        if left:
            problems.append(f"left in the folder for temporary files: {', '.join(left[:3])}")
        if seconds > SECONDS:
            problems.append(f"took {seconds:.0f} s")
        return Outcome(case.number, case.kind, result.exit_code, seconds, result.stderr.strip()[:400], tuple(problems))


def resident() -> int:
    """Bytes that this process had resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _of_words(status: int, stderr: str, stdout: str) -> list[str]:
    problems = []
    if status not in STATUSES:
        problems.append(f"status {status}")
    if "Traceback" in stderr + stdout:
        problems.append("a traceback")
    errors = [line for line in stderr.splitlines() if not line.startswith("no model was written")]
    if status == 2 and errors[:1] == ["Usage: main [OPTIONS] COMMAND [ARGS]..."]:
        return problems  # no command at all: the help is shown
    if status and (len(errors) != 1 or not errors[0].startswith("hwpass: ")):
        problems.append(f"{len(errors)} lines of errors")
    if not status and errors:
        problems.append("an error and status 0")
    if any(not (c.isprintable() or c in "\n\t") for c in stderr):
        problems.append("unprintable characters in an error")
    return problems


def _of_files(case: Case, status: int, folder: Path) -> list[str]:
    problems = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if name in case.files:
            if path.read_bytes() != case.files[name]:
                problems.append(f"{name}, an input, was changed")
        elif status not in (0, 4):
            problems.append(f"{name} was written with status {status}")
        elif not _whole(path):
            problems.append(f"{name} is partial")
    if not status:
        problems += [f"{name} was not written" for name in case.outputs if not (folder / name).exists()]
    return problems


def _whole(path: Path) -> bool:
    try:
        if path.suffix == ".onnx":
            onnx.load(path)
            options = ort.SessionOptions()
            options.log_severity_level = 4
            ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".html":
            return path.read_text(encoding="utf-8").rstrip().endswith("</html>")
        return path.suffix in (".onnx", ".json", ".html", ".csv") and path.stat().st_size > 0
    except Exception:  # whatever the reader says: the file is not what it should be
        return False
