"""The timing process: `python worker.py ENGINE.py`. Each line of its standard input is a job as JSON; each gets a line.

Imports nothing of the package, so that a fresh process starts as fast as the engine does. The engine is a file with a
function `opened(job)` that gives a function without arguments: one run. An answer is a line that starts with `MARK`,
whatever libraries print besides: {"seconds": [...], "joules": x or null} or {"failure": "..."}. It ends when its
standard input does. Warm-up runs until the time of a run has settled are not counted.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

MARK = "hwpass-timing "
WARM_UP_RUNS = 3
#: Runs are repeated for as long as this, at least, where energy is measured: meters count in steps of milliseconds.
METERED_SECONDS = 0.5


def main(arguments: list[str]) -> None:
    """Answer jobs one by one until there are no more."""
    engine = loaded(Path(arguments[0]))
    jobs: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    while True:
        line = jobs.get()
        if not line.strip():
            return
        try:
            answer = answered(engine, json.loads(line))
        except Exception as error:  # engines have types without a common base of their own
            answer = {"failure": " ".join(str(error).split()) or type(error).__name__}
        print(MARK + json.dumps(answer), flush=True)


def loaded(path: Path) -> ModuleType:
    """A module of a file that need not be in any package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answered(engine: ModuleType, job: dict[str, Any]) -> dict[str, Any]:
    """The outcome of one job in a fresh session."""
    run = engine.opened(job)
    clock = getattr(engine, "CPU_CLOCK", time.thread_time) if job["cpu_time"] else time.perf_counter
    meter = None
    if job.get("meter"):
        meters = loaded(Path(__file__).with_name("meters.py"))
        meter = meters.METERS[job["meter"]]()
    seconds, joules = measure(run, job["runs"], clock, meter, job["warm_up"])
    return {"seconds": seconds, "joules": joules}


def measure(
    run: Callable[[], object],
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
    meter: Any = None,
    warm_up: float = 0.0,
) -> tuple[list[float], float | None]:
    """Seconds of `runs` warm runs, and with a meter joules per run."""
    begin = time.perf_counter()
    done = 0
    while done < WARM_UP_RUNS or (done < 50 and time.perf_counter() - begin < warm_up):
        run()
        done += 1
    seconds = []
    before = meter.joules() if meter is not None else 0.0
    begin, done = time.perf_counter(), 0
    while done < runs or (meter is not None and time.perf_counter() - begin < METERED_SECONDS):
        start = clock()
        run()
        if done < runs:
            seconds.append(clock() - start)
        done += 1
    return seconds, None if meter is None else (meter.joules() - before) / done


def _listen(jobs: SimpleQueue[str]) -> None:
    rest = b""
    while found := os.read(0, 1 << 16):
        *lines, rest = (rest + found).split(b"\n")
        for line in lines:
            jobs.put(line.decode())
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
