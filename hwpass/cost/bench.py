"""Latency measured through a runner (ONNX Runtime on this machine's CPU by default) so that figures can be compared.

Single sessions are bimodal by up to 2x, so each round times every model in a fresh process, in alternating
order, and speed is compared within rounds. Denormals are flushed: random weights run into them.
"""

from __future__ import annotations

import os
import statistics
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
from hwpass.runners.in_process import check_meter
from hwpass.runners.runner import TIMEOUT, Job, Outcome, Runner, checked, runner_for
from hwpass.runtime.dimensions import typical_dimensions
from hwpass.runtime.inputs import InputSpec, input_specs, make_inputs
from hwpass.runtime.sessions import StoredModel, one_line
from hwpass.runtime.threads import check_threads

Progress = Callable[[int, int], None]
"""Called with the sessions done and the sessions in all."""


@dataclass(frozen=True)
class Timing:
    """Latency of one model in milliseconds.

    `median_ms` is the median of the sessions' medians, `low_ms` and `high_ms` the extreme sessions. `ratio`
    is this model's latency over the first model's: the median over rounds, `ratio_low` and `ratio_high` the
    extreme rounds. `quick_ms` is what a tenth of all runs do not exceed: the latency on a core that nothing disturbs,
    also where a shared machine leaves it undisturbed for a small part of the time only. `energy_mj` is millijoules per
    run, the median of the sessions, where they were asked for.
    """

    name: str
    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float = 1.0
    ratio_low: float = 1.0
    ratio_high: float = 1.0
    quick_ms: float = 0.0
    energy_mj: float | None = None


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
    runner: str | Runner = "onnxruntime",
    timeout: float = TIMEOUT,
    energy: bool = False,
) -> list[Timing]:
    """Time models against the first one, `sessions` fresh processes each with `runs` warm runs.

    `runner` is where they run, see `hwpass.runners.runner`; one session may take `timeout` seconds there. `energy` also
    measures joules where the machine has a meter.

    All get inputs of the same sizes: `dims` where given, else batch 1 and the sizes of `typical_dimensions`
    of the first model that has an axis of that name. `cpu_time` counts the processor time of the one thread instead of
    the time that passes: the same on an idle machine, and steadier on one busy with other work. Raises
    `InputError` naming the model that does not load or run.
    """
    if not models:
        raise UsageError("bench: no models; name at least one")
    where = _checked_runner(runner, sessions, runs, threads, cpu_time, energy)
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryFolder())
        names = _names(models)
        jobs = []
        sizes = dict(dims or {})
        for index, (model, name) in enumerate(zip(models, names, strict=True)):
            if allow_external and not isinstance(model, onnx.ModelProto):
                model = _gathered(Path(model), folder, f"{index}.onnx")
            path, specs = prepare(model, name, sizes, threads, seed, stack)
            feed = folder / f"{index}.npz"
            save_feed(feed, make_inputs(specs, sizes, seed))
            jobs.append(Job(name, path, feed, runs, threads, cpu_time, energy, timeout))
        found: list[list[Outcome]] = [[] for _ in jobs]
        for session in range(sessions):
            order = range(len(jobs)) if session % 2 == 0 else reversed(range(len(jobs)))  # a drift cancels out
            for done, index in enumerate(order):
                found[index].append(_session(where, jobs[index]))
                if progress is not None:
                    progress(session * len(jobs) + done + 1, sessions * len(jobs))
    first = [outcome.seconds for outcome in found[0]]
    return [
        _timing(name, [outcome.seconds for outcome in own], first, [outcome.joules for outcome in own])
        for name, own in zip(names, found, strict=True)
    ]


def _checked_runner(
    runner: str | Runner, sessions: int, runs: int, threads: int, cpu_time: bool, energy: bool
) -> Runner:
    if sessions < 1 or runs < 1:
        name, count = ("sessions", sessions) if sessions < 1 else ("runs", runs)
        raise UsageError(f"bench: {option(name, count)}: at least one is needed")
    check_threads(threads)
    if cpu_time and threads != 1:
        raise UsageError(
            f"bench: processor time is that of one thread; leave out {option('threads')} or {option('cpu_time')}"
        )
    found = runner_for(runner)
    if cpu_time and not found.counts_cpu_time:
        raise UsageError(f"bench: runner {found} counts no processor time; leave out {option('cpu_time')}")
    if energy:
        check_meter(found)
    return found


def _gathered(path: Path, folder: Path, name: str) -> Path:
    """The model, or where its weights lie outside its folder a copy of both: the timed process reads files itself."""
    from hwpass.model.model import Model

    model = Model.load(path, allow_external=True)
    return model.store(folder, name) if isinstance(model.source, TrustedPath) else path


def prepare(
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


def save_feed(path: Path, feed: Mapping[str, np.ndarray]) -> None:
    """Write inputs as a `Job` has them. Raises InputError for a format that NumPy does not have."""
    arrays: list[np.ndarray] = []  # names and values in turn: an input may be called like an argument of savez
    for name, value in feed.items():
        if value.dtype.kind == "V":
            raise InputError(f"bench: input {name!r} is {value.dtype.name}, which cannot be timed here")
        arrays += [np.array(name), value]
    with open(path, "wb") as stream:
        np.savez(stream, *arrays)


def _session(runner: Runner, job: Job) -> Outcome:
    """One fresh session of a model. Raises InputError, with the runner's reason, where it fails."""
    outcome = checked(next(iter(runner.measure([job])), Outcome(failure="the runner gave nothing")), job)
    if outcome.failure:
        raise InputError(f"{job.name}: cannot be timed: {one_line(outcome.failure)}")
    return outcome


def _timing(
    name: str,
    own: Sequence[Sequence[float]],
    first: Sequence[Sequence[float]],
    joules: Sequence[float | None] = (),
) -> Timing:
    """From the seconds of the runs, session by session, of this model and of the first; and joules by session."""
    medians = [statistics.median(session) * 1e3 for session in own]
    ratios = [mine / (statistics.median(base) * 1e3) for mine, base in zip(medians, first, strict=True)]
    drawn = [each * 1e3 for each in joules if each is not None]
    return Timing(
        name,
        median_ms=statistics.median(medians),
        low_ms=min(medians),
        high_ms=max(medians),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        quick_ms=float(np.quantile(np.concatenate(own), 0.1)) * 1e3,
        energy_mj=statistics.median(drawn) if drawn else None,
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
