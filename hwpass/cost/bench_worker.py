"""One timing session in a process of its own: `python bench_worker.py MODEL FEED.npz RUNS THREADS CLOCK [watch]`.

Prints the times of the runs as JSON, in milliseconds. Imports nothing of the package, so that a fresh
process starts as fast as ONNX Runtime does. CLOCK is wall, or cpu for the processor time of the calling thread, which
is all there is with one thread. With `watch` it ends when its standard input does. Warm-up runs until the time of a
run has settled are not counted.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import numpy as np
import onnxruntime as ort

WARM_UP_RUNS = 3
WARM_UP_SECONDS = 0.1


def main(arguments: list[str]) -> None:
    """Time one model; a failure is one line on standard error and status 1."""
    model, feed_file, runs, threads, clock, *watch = arguments
    if watch:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    with np.load(feed_file, allow_pickle=True) as arrays:  # written by the parent process
        pairs = range(0, len(arrays.files), 2)
        feed = {str(arrays[f"arr_{place}"]): arrays[f"arr_{place + 1}"] for place in pairs}
    try:
        times = measure(model, feed, int(runs), int(threads), clock)
    except Exception as error:  # pybind11 types without a common base of their own
        sys.exit(" ".join(str(error).split()))
    print(json.dumps(times))


def measure(model: str, feed: dict[str, np.ndarray], runs: int, threads: int, clock: str = "wall") -> list[float]:
    """Times of `runs` warm runs in a fresh session, in milliseconds."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    begin = time.perf_counter()
    done = 0
    while done < WARM_UP_RUNS or (done < 50 and time.perf_counter() - begin < WARM_UP_SECONDS):
        session.run(None, feed)
        done += 1
    now = time.thread_time_ns if clock == "cpu" else time.perf_counter_ns
    times = []
    for _ in range(runs):
        start = now()
        session.run(None, feed)
        times.append((now() - start) / 1e6)
    return times


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
