"""End hwpass at random instants, fill its disks, and check that nothing is lost, partial or untrue.

    python tests/crash/kills.py --kills 100 --sigint 50 --sigterm 50

Each trial starts a run (or a sweep) with several outputs over old files and ends it somewhere between its first
instruction, imports included, and a little after its last. Then every output has to be the old file or the new one,
whole; the status and the line have to say what happened; and no draft may be left after the next run. A kill between
two renames leaves some of the outputs old and some new: nothing can prevent that, so it is counted. Prints one line of
counts for each part; the status is 1 when anything was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
OLD = b"what was there before\n" * 50
RUN = ("run", "m.onnx", "--target", "mobile-cpu", "--score", "l2", "--macs", "0.6x", "-o", "out/o.onnx", "--plan",
       "out/p.json", "--json", "out/r.json", "--report", "out/r.html")  # fmt: skip
SWEEP = ("sweep", "m.onnx", "--target", "mobile-cpu", "--score", "l2", "--budget", "macs", "--points", "0.8,0.6",
         "-o", "out", "--csv", "out/s.csv", "--json", "out/s.json")  # fmt: skip
NAMES = {RUN: ("o.onnx", "p.json", "r.json", "r.html"),
         SWEEP: ("m-macs-0.8x.onnx", "m-macs-0.6x.onnx", "s.csv", "s.json")}  # fmt: skip
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
WORD = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
LEFT = re.compile(r"^\.?hwpass-")


def network() -> onnx.ModelProto:
    """A chain of products, of half a megabyte."""
    rng = np.random.default_rng(1)
    widths = [16, 160, 320, 160, 8]
    nodes, constants, name = [], [], "x"
    for number, (rows, columns) in enumerate(itertools.pairwise(widths)):
        weight = (rng.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [name, f"w{number}"], [f"h{number}"], f"layer{number}"))
        nodes.append(helper.make_node("Relu", [f"h{number}"], [f"r{number}"], f"relu{number}"))
        name = f"r{number}"
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", s]) for n, s in (("x", 16), (name, 8)))
    graph = helper.make_graph(nodes, "chain", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@dataclass
class Bench:
    """A folder with a model, an output folder and a folder for temporary files; what was found wrong there."""

    home: Path
    wrong: list[str] = field(default_factory=list)
    seconds: dict[tuple[str, ...], float] = field(default_factory=dict)
    new: dict[str, bytes] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.home / "out"

    @property
    def tmp(self) -> Path:
        return self.home / "tmp"

    def prepare(self) -> None:
        """Run each command once, for the time it takes and the bytes it gives."""
        onnx.save(network(), self.home / "m.onnx")
        for folder in (self.out, self.tmp):
            folder.mkdir()
        for command in NAMES:
            start = time.monotonic()
            done = self.start(command)
            said = done.communicate()[1]
            self.seconds[command] = time.monotonic() - start
            if done.returncode != 0:
                raise SystemExit(f"{command[0]} does not work here: {said.decode()}")
            self.new |= {name: (self.out / name).read_bytes() for name in NAMES[command]}

    def start(self, command: tuple[str, ...], limit: int | None = None) -> subprocess.Popen[bytes]:
        """Start a command, which heeds all signals; `limit` bounds the size of the files that it writes."""

        def heed() -> None:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.tmp), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "hwpass", *command], cwd=self.home, env=environment, preexec_fn=heed,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def reset(self, names: tuple[str, ...], old: bool) -> None:
        """Old files or none in the output folder; drafts of earlier runs stay for the next to remove."""
        for path in self.out.iterdir():
            if not LEFT.match(path.name):
                path.unlink()
        if old:
            for name in names:
                (self.out / name).write_bytes(OLD)

    def left(self) -> list[str]:
        """Drafts and temporary folders."""
        return [str(p) for folder in (self.out, self.tmp) for p in folder.iterdir() if LEFT.match(p.name)]

    def states(self, names: tuple[str, ...], old: bool) -> list[str]:
        """For each output: old, new, or what is wrong with it."""
        return [self._state(self.out / name, old) for name in names]

    def _state(self, path: Path, old: bool) -> str:
        if not path.exists():
            return "lost" if old else "old"
        data = path.read_bytes()
        if data == OLD:
            return "old" if old else "from nowhere"
        whole = data == self.new[path.name]
        if not whole and path.suffix == ".json":  # times differ
            with contextlib.suppress(ValueError):
                whole = json.loads(data).keys() == json.loads(self.new[path.name]).keys()
        if not whole and path.suffix == ".html":
            whole = data.rstrip().endswith(b"</html>")
        return "new" if whole else "partial"


def trial(bench: Bench, number: signal.Signals, rng: random.Random) -> str:
    """One run ended at a random instant; what came of it, in a word."""
    command = rng.choice((RUN, RUN, RUN, SWEEP))
    old = rng.random() < 0.7
    names = NAMES[command]
    bench.reset(names, old)
    # Every third near the end, where the files get their names.
    delay = rng.uniform(0 if rng.random() < 0.67 else 0.8, 1.1) * bench.seconds[command]
    process = bench.start(command)
    time.sleep(delay)
    process.send_signal(number)
    said = process.communicate(timeout=120)[1].decode()
    status = process.returncode
    states = bench.states(names, old)
    where = f"{number.name} after {delay:.3f} s of {command[0]}: status {status}, {states}, said {said!r}"
    if {"lost", "partial", "from nowhere"} & set(states):
        bench.wrong.append(where)
        return "wrong"
    if status == 0:
        if set(states) != {"new"} or said:
            bench.wrong.append(where)
        return "finished before"
    if number is signal.SIGKILL:
        if status != -9:
            bench.wrong.append(where)
        return {1: f"all {states[0]}"}.get(len(set(states)), "between two renames")
    if status == -number:
        # The interpreter itself was starting: nobody was there to heed the signal.
        if set(states) != {"old"} or _reached(said):
            bench.wrong.append(where)
        return "before hwpass began"
    line = WORD[number]
    true = (
        (said == f"hwpass: {line}, nothing was written\n" and set(states) == {"old"})
        or (said.startswith(f"hwpass: {line} after ") and said.endswith(" written\n") and said.count("\n") == 1
        and set(states) == {"new"})
    )  # fmt: skip
    if status != STATUS[number] or not true or bench.left():
        bench.wrong.append(f"{where}, left {bench.left()}")
        return "wrong"
    return f"all {states[0]}"


def _reached(said: str) -> bool:
    """Whether a traceback of the starting interpreter shows that hwpass had more than begun to load."""
    files = re.findall(r'File "[^"]*/hwpass/(\w+)\.py"', said)
    return bool(set(files) - {"__init__", "__main__", "interrupts"})


def ended(bench: Bench, number: signal.Signals, count: int, rng: random.Random) -> None:
    """Trials with one signal, and complete runs after those that left drafts."""
    found: Counter[str] = Counter()
    for _ in range(count):
        found[trial(bench, number, rng)] += 1
        if bench.left():
            found["left drafts"] += 1
            done = bench.start(RUN)
            said = done.communicate()[1]
            if done.returncode or bench.left():
                bench.wrong.append(f"after a {number.name}: status {done.returncode}, left {bench.left()}, {said!r}")
    counts = ", ".join(f"{n} {what}" for what, n in sorted(found.items()))
    print(f"{number.name}: {count} trials: {counts}", flush=True)


def refused(bench: Bench, what: str, limit: int | None = None, may_pass: bool = False) -> bool:
    """One run that cannot write all it wants: status 3, one line, old files as they were, nothing left."""
    with contextlib.suppress(OSError):
        bench.reset(NAMES[RUN], True)
    process = bench.start(RUN, limit)
    said = process.communicate(timeout=120)[1].decode()
    states = bench.states(NAMES[RUN], True)
    if may_pass and process.returncode == 0 and set(states) == {"new"}:
        return False
    one_line = said.startswith("hwpass: ") and said.count("\n") == 1
    if process.returncode != 3 or not one_line or set(states) != {"old"} or bench.left():
        bench.wrong.append(f"{what}: status {process.returncode}, {states}, left {bench.left()}, said {said!r}")
    return True


@contextlib.contextmanager
def mounted(folder: Path, kilobytes: int) -> Iterator[Callable[[], object]]:
    """A small file system of its own on a folder; what is given makes it read-only. Raises OSError where it cannot."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=755", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.decode().strip())
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def disks(bench: Bench, sizes: int) -> None:
    """Full and read-only places for outputs and for temporary files."""
    model = (bench.home / "m.onnx").stat().st_size
    steps = [round(model * (number + 0.5) / sizes) for number in range(sizes)]
    hit = sum(refused(bench, f"files of at most {step} bytes", step, may_pass=True) for step in steps)
    print(f"file size limits: {len(steps)} runs, {hit} refused", flush=True)
    if bench.home.stat().st_uid == 0:
        done: Counter[str] = Counter()
        try:
            for name, folder in (("output", bench.out), ("TMPDIR", bench.tmp)):
                for step in steps:
                    with mounted(folder, 20 + step // 1024):
                        done[f"{name} full"] += refused(bench, f"{name} of {step} bytes", may_pass=True)
            with mounted(bench.out, 4000) as lock:
                bench.reset(NAMES[RUN], True)
                lock()
                done["output read-only"] += refused(bench, "a read-only output folder")
        except (OSError, FileNotFoundError) as error:
            print(f"small file systems: skipped, mounting is not possible here ({error})", flush=True)
            return
        counts = ", ".join(f"{n} runs with {what} refused" for what, n in done.items())
        print(f"small file systems: {counts}", flush=True)
        return
    print("small file systems: skipped, only the superuser can mount them", flush=True)
    bench.reset(NAMES[RUN], True)
    os.chmod(bench.out, 0o555)
    refused(bench, "a read-only output folder")
    os.chmod(bench.out, 0o755)


def main(arguments: list[str] | None = None) -> int:
    """Run the parts asked for; 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--sigint", type=int, default=50)
    parser.add_argument("--sigterm", type=int, default=50)
    parser.add_argument("--disks", type=int, default=8, help="sizes of full disks to try")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    home = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        bench = Bench(home)
        bench.prepare()
        for number, count in ((signal.SIGKILL, options.kills), (signal.SIGINT, options.sigint),
                              (signal.SIGTERM, options.sigterm)):  # fmt: skip
            if count:
                ended(bench, number, count, rng)
        if options.disks:
            disks(bench, options.disks)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    for line in bench.wrong:
        print(f"WRONG: {line}", flush=True)
    print(f"{len(bench.wrong)} wrong", flush=True)
    return int(bool(bench.wrong))


if __name__ == "__main__":
    sys.exit(main())
