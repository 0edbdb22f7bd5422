"""Latency on this machine's CPU with ONNX Runtime, measured so that the figures can be compared.

Single sessions are bimodal by up to 2x, so each round times every model in a fresh process, in alternating
order, and speed is compared within rounds. Denormals are flushed: random weights run into them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from hwpass.errors import InputError, UsageError, option
from hwpass.files.temporary import TemporaryFolder
from hwpass.proto.external import TrustedPath
from hwpass.runtime.dimensions import typical_dimensions
from hwpass.runtime.inputs import InputSpec, input_specs, make_inputs
from hwpass.runtime.sessions import StoredModel, one_line
from hwpass.runtime.threads import check_threads

WORKER = Path(__file__).with_name("bench_worker.py")

Progress = Callable[[int, int], None]
"""Called with the sessions done and the sessions in all."""


@dataclass(frozen=True)
class Timing:
    """Latency of one model in milliseconds.

    `median_ms` is the median of the sessions' medians, `low_ms` and `high_ms` the extreme sessions. `ratio`
    is this model's latency over the first model's: the median over rounds, `ratio_low` and `ratio_high` the
    extreme rounds. `quick_ms` is what a tenth of all runs do not exceed: the latency on a core that nothing disturbs,
    also where a shared machine leaves it undisturbed for a small part of the time only.
    """

    name: str
    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float = 1.0
    ratio_low: float = 1.0
    ratio_high: float = 1.0
    quick_ms: float = 0.0


def bench(
    models: Sequence[str | os.PathLike[str] | onnx.ModelProto],
    *,
    sessions: int = 5,
    runs: int = 20,
    threads: int = 1,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    cpu_time: bool = False,
    allow_external: bool = False,
    progress: Progress | None = None,
) -> list[Timing]:
    """Time models against the first one, `sessions` fresh processes each with `runs` warm runs.

    All get inputs of the same sizes: `dims` where given, else batch 1 and the sizes of `typical_dimensions`
    of the first model that has an axis of that name. `cpu_time` counts the processor time of the one thread instead of
    the time that passes: the same on an idle machine, and steadier on one busy with other work. Raises
    `InputError` naming the model that does not load or run.
    """
    if not models:
        raise UsageError("bench: no models; name at least one")
    if sessions < 1 or runs < 1:
        name, count = ("sessions", sessions) if sessions < 1 else ("runs", runs)
        raise UsageError(f"bench: {option(name, count)}: at least one is needed")
    check_threads(threads)
    if cpu_time and threads != 1:
        raise UsageError(
            f"bench: processor time is that of one thread; leave out {option('threads')} or {option('cpu_time')}"
        )
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryFolder())
        names = _names(models)
        jobs = []
        sizes = dict(dims or {})
        for index, (model, name) in enumerate(zip(models, names, strict=True)):
            if allow_external and not isinstance(model, onnx.ModelProto):
                model = _gathered(Path(model), folder, f"{index}.onnx")
            path, specs = _prepare(model, name, sizes, threads, seed, stack)
            feed = folder / f"{index}.npz"
            _save_feed(feed, make_inputs(specs, sizes, seed))
            jobs.append((name, path, feed))
        times: list[list[list[float]]] = [[] for _ in jobs]
        for session in range(sessions):
            order = range(len(jobs)) if session % 2 == 0 else reversed(range(len(jobs)))  # a drift cancels out
            for done, index in enumerate(order):
                times[index].append(_session(*jobs[index], runs, threads, cpu_time))
                if progress is not None:
                    progress(session * len(jobs) + done + 1, sessions * len(jobs))
    return [_timing(name, own, times[0]) for name, own in zip(names, times, strict=True)]


def _gathered(path: Path, folder: Path, name: str) -> Path:
    """The model, or where its weights lie outside its folder a copy of both: the timed process reads files itself."""
    from hwpass.model.model import Model

    model = Model.load(path, allow_external=True)
    return model.store(folder, name) if isinstance(model.source, TrustedPath) else path


def _prepare(
    model: str | os.PathLike[str] | onnx.ModelProto,
    name: str,
    sizes: dict[str, int],
    threads: int,
    seed: int,
    stack: ExitStack,
) -> tuple[Path, list[InputSpec]]:
    """The model's file and inputs; sizes its axes still lack are added to `sizes`."""
    if isinstance(model, onnx.ModelProto):
        proto, path = model, stack.enter_context(StoredModel(model)).path
    else:
        path = Path(model)
        if not os.path.isfile(path):
            raise InputError(f"{path}: there is no such file")
        try:
            proto = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf's own error has no public home
            raise InputError(f"{path}: not an ONNX model: {one_line(error)}") from error
    specs = input_specs(proto)
    symbols = {size for spec in specs for size in spec.shape if isinstance(size, str) and "+" not in size}
    if not symbols <= set(sizes):
        found = _typical(path, proto, threads, seed)
        sizes.update({symbol: size for symbol, size in found.items() if symbol not in sizes})
    return path, specs


def _typical(path: Path, proto: onnx.ModelProto, threads: int, seed: int) -> dict[str, int]:
    from hwpass.runtime.sessions import open_session

    return typical_dimensions(proto, seed=seed, threads=threads, session=open_session(path, threads=threads))


def _save_feed(path: Path, feed: Mapping[str, np.ndarray]) -> None:
    arrays: list[np.ndarray] = []  # names and values in turn: an input may be called like an argument of savez
    for name, value in feed.items():
        if value.dtype.kind == "V":
            raise InputError(f"bench: input {name!r} is {value.dtype.name}, which cannot be timed here")
        arrays += [np.array(name), value]
    with open(path, "wb") as stream:
        np.savez(stream, *arrays)


def _session(name: str, model: Path, feed: Path, runs: int, threads: int, cpu_time: bool) -> list[float]:
    """Run times in a fresh process, in milliseconds."""
    command = [sys.executable, "-P", str(WORKER), str(model), str(feed), str(runs), str(threads)]
    command += ["cpu" if cpu_time else "wall", "watch"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    # The worker ends when its standard input does: nothing that ends us, a kill included, leaves it running. It is in
    # a session of its own, so that an interrupt from the keyboard comes to us alone.
    reading, writing = os.pipe()
    try:
        with os.fdopen(reading) as stdin:
            result = subprocess.run(command, stdin=stdin, capture_output=True, text=True, errors="replace",
                                    env=environment, check=False, start_new_session=True)  # fmt: skip
    finally:
        os.close(writing)
    if result.returncode:
        said = result.stderr.strip().splitlines()
        reason = one_line(said[-1]) if said else f"the process ended with status {result.returncode}"
        raise InputError(f"{name}: cannot be timed: {reason}")
    times: list[float] = json.loads(result.stdout.strip().splitlines()[-1])
    return times


def _timing(name: str, own: Sequence[Sequence[float]], first: Sequence[Sequence[float]]) -> Timing:
    """From the times of the runs, session by session, of this model and of the first."""
    medians = [statistics.median(session) for session in own]
    ratios = [mine / statistics.median(base) for mine, base in zip(medians, first, strict=True)]
    return Timing(
        name,
        median_ms=statistics.median(medians),
        low_ms=min(medians),
        high_ms=max(medians),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        quick_ms=float(np.quantile(np.concatenate(own), 0.1)),
    )


def _names(models: Sequence[str | os.PathLike[str] | onnx.ModelProto]) -> list[str]:
    """File or graph names, numbered where they repeat."""
    plain = [(m.graph.name or "model") if isinstance(m, onnx.ModelProto) else Path(m).stem for m in models]
    total, seen = Counter(plain), Counter[str]()
    names = []
    for name in plain:
        seen[name] += 1
        names.append(f"{name} ({seen[name]})" if total[name] > 1 else name)
    return names
