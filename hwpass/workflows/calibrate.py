"""A target of a device of one's own, from measurements: `hwpass calibrate`."""

from __future__ import annotations

import csv
import datetime
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from hwpass.cost.bench import save_feed
from hwpass.cost.calibrated import (
    best_step,
    errors,
    held,
    made,
    nearest,
    step_shares,
    text_of,
    uncertainty,
)
from hwpass.cost.figure_fit import fit_figures
from hwpass.cost.kernels import Kernels
from hwpass.cost.measuring import Log, Measurement, measure_rounds
from hwpass.cost.microbenchmarks import Micro, chains
from hwpass.cost.small_networks import small_networks
from hwpass.cost_models import Target, load_target
from hwpass.cost_models.work import Work
from hwpass.errors import InputError, UsageError, one_line, option
from hwpass.files.temporary import TemporaryFolder
from hwpass.model.model import Model
from hwpass.runners.runner import TIMEOUT, Job, Runner, runner_for
from hwpass.runtime.inputs import input_specs, make_inputs
from hwpass.runtime.threads import check_threads
from hwpass.version import __version__
from hwpass.workflows.inspect import coupled

#: Fewer models that run determine too little.
FEWEST = 30
#: Runs of a session, and seconds of its warm-up: the models take a millisecond or so.
RUNS, WARM_UP = 10, 0.03


@dataclass(frozen=True)
class Calibration:
    """A target made from measurements, its file's text, and what to tell of it, line by line."""

    target: Target
    text: str
    lines: tuple[str, ...]


def calibrate(
    runner: str | Runner = "onnxruntime",
    *,
    base: str | os.PathLike[str] | Target | None = None,
    name: str = "local",
    minutes: float = 2.0,
    threads: int = 1,
    cpu_time: bool = False,
    log: Path | None = None,
    resume: bool = False,
    timeout: float = TIMEOUT,
    micros: Sequence[Micro] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Calibration:
    """Measure small models through a runner for some minutes, and fit the figures of a target to them.

    `base` is the target to start at, by default the nearest of those that have the runner's rules. `log` is a file of
    JSON lines for the measurements; with `resume` it is read, and only what it lacks is measured. `micros` are the
    models, by default all. Raises UsageError or InputError.
    """
    check_threads(threads)
    where = runner_for(runner)
    if cpu_time and (threads != 1 or not where.counts_cpu_time):
        raise UsageError(f"calibrate: {option('cpu_time')} needs one thread, and a runner that counts processor time")
    bases = _bases(where, base, threads)
    models = [*chains(), *small_networks()] if micros is None else list(micros)
    about = {"runner": where.describe(), "threads": threads, "clock": "processor" if cpu_time else "wall",
             "machine": machine()}  # fmt: skip
    measured_log = Log({"models": __version__, **about}, log)
    if resume:
        measured_log.read()
    else:
        measured_log.start()
    with TemporaryFolder() as folder:
        jobs, works = [], {each.name: dict[str, Work]() for each in bases}
        for number, micro in enumerate(models):
            progress(f"making models, {number + 1} of {len(models)}")
            proto = micro.make()
            jobs.append(_job(proto, micro.name, folder, threads, cpu_time, timeout))
            for each, work in zip(bases, _works(proto, bases), strict=True):
                works[each.name][micro.name] = work
        measure_rounds(where, jobs, measured_log, minutes * 60, progress)
    found = measured_log.measurements()
    if len(found) < min(FEWEST, len(models) / 2):
        some = next(iter(measured_log.failures.items()), ("none", "nothing was measured"))
        raise InputError(
            f"calibrate: {len(found)} of {len(models)} models ran with {where}; {some[0]}: {one_line(some[1])}"
        )
    return _fitted(models, found, bases, works, measured_log, name, threads, progress)


def _bases(runner: Runner, base: str | os.PathLike[str] | Target | None, threads: int) -> list[Target]:
    if base is None and not runner.bases:
        raise UsageError(f"calibrate: runner {runner} can be of any hardware; name the target to start at by"
                         f" {option('base')}, see `hwpass targets`")  # fmt: skip
    chosen = [base] if base is not None else list(runner.bases)
    return [load_target(each).variant(threads=threads) for each in chosen]


def _works(model: onnx.ModelProto, bases: Sequence[Target]) -> list[Work]:
    """The work of a model under the fusion rules of each target."""
    coupling = coupled(model)
    by_rules: dict[str, Work] = {}
    for base in bases:
        if str(base.fusion) not in by_rules:
            kernels = Kernels(coupling, base.fusion)
            by_rules[str(base.fusion)] = kernels.work(kernels.dense[None, :])
    return [by_rules[str(base.fusion)] for base in bases]


def _job(model: onnx.ModelProto, name: str, folder: Path, threads: int, cpu_time: bool, timeout: float) -> Job:
    path, feed = folder / f"{name}.onnx", folder / f"{name}.npz"
    onnx.save(model, path)
    save_feed(feed, make_inputs(input_specs(model), {}, 0))
    return Job(name, path, feed, RUNS, threads, cpu_time, timeout=timeout, warm_up=WARM_UP)


def _fitted(
    models: Sequence[Micro],
    found: Mapping[str, Measurement],
    bases: Sequence[Target],
    works: Mapping[str, Mapping[str, Work]],
    log: Log,
    name: str,
    threads: int,
    progress: Callable[[str], None],
) -> Calibration:
    ran = [micro for micro in models if micro.name in found]
    seconds = np.array([found[micro.name].seconds for micro in ran])
    spread = np.array([found[micro.name].spread for micro in ran])
    whole = [micro.whole for micro in ran]
    times = {micro.name: found[micro.name].seconds for micro in ran}
    base = nearest(bases, works, times)
    own = [works[base.name][micro.name] for micro in ran]
    # A whole network counts as much as four chains, what was not measured steadily less.
    weights = np.where(whole, 2.0, 1.0) / np.maximum(1.0, spread / 0.1)
    fit = fit_figures(base, own, seconds, weights, progress=progress)
    shares = step_shares(times)
    step = best_step(shares, base.align)
    networks = fit.left_out[np.array(whole)]
    measured = (
        f"{datetime.date.today().isoformat()}, hwpass {__version__}, {log.about['runner']} on {log.about['machine']},"
        f" threads {threads}, {log.about['clock']} time: {len(ran)} small models, {len(log.failures)} more failed;"
        f" {min(m.sessions for m in found.values())} or more sessions each, which spread by"
        f" {np.median(spread):.1%} in the median; start at {base.name} times {fit.scale:.3g}"
    )
    says = {"measured": measured, "layers": _said(fit.left_out[~np.array(whole)], "chains of layers")}
    if len(networks):
        inside = held(networks)
        says["networks"] = _said(networks, "small networks")
        says["interval"] = f"90 % intervals made of the others hold {inside} of {len(networks)} small networks"
    if shares:
        each = ", ".join(f"{step} {share:.2f}" for step, share in shares.items())
        says["step"] = f"what a channel step saves over its share of the channels: {each}"
    if fit.undetermined:
        says["undetermined"] = ", ".join(fit.undetermined)
    text = "the smallest step that pays, see validation.step" if shares else f"that of {base.name}, not measured"
    more = {"validation": says, "uncertainty": uncertainty(fit, own, whole), "align": step, "step": text}
    title = f"{log.about['machine']}, calibrated by hwpass"
    target = made(fit, base, name, title, str(log.about["runner"]), threads, more)
    lines = [f"{key}: {value}" for key, value in says.items()]
    lines += [f"failed: {model}: {reason}" for model, reason in list(log.failures.items())[:5]]
    return Calibration(target, text_of(target), tuple(lines))


def _said(residuals: np.ndarray, what: str) -> str:
    found = errors(residuals)
    return (
        f"{found.models} {what}, each predicted by figures fitted without it: median error {found.median:.1%},"
        f" nine of ten within {found.nine_of_ten:.1%}, {found.within_10:.0%} within 10 %, {found.within_20:.0%} within"
        " 20 %"
    )


def machine() -> str:
    """The processor by its model name, without the name of the computer."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            lines = [line.partition(":") for line in stream]
    except OSError:
        lines = []
    names = [value.strip() for key, _, value in lines if key.strip() in ("model name", "Model", "Hardware")]
    return one_line(next((name for name in names if name), "") or platform.machine() or "unknown machine")


def calibrate_from(
    table: str | os.PathLike[str],
    base: str | os.PathLike[str] | Target,
    *,
    name: str = "device",
    threads: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Calibration:
    """Fit a target to measured latencies of whole models: a CSV file with the columns `model` (a file, from where the
    table lies) and `milliseconds`. Raises UsageError or InputError."""
    from hwpass.cost.fitting import fit_target

    start = load_target(base).variant(threads=threads)
    rows = _rows(Path(table))
    works = []
    for number, (path, _) in enumerate(rows):
        progress(f"reading models, {number + 1} of {len(rows)}")
        kernels = Kernels(coupled(Model.load(path)), start.fusion)
        works.append(kernels.work(kernels.dense[None, :]))
    progress("fitting the figures")
    fitted = fit_target(start, works, [seconds for _, seconds in rows])
    changes = {"name": name, "description": f"{start.description}; fitted to {len(rows)} models measured on a device"}
    whole = {
        **fitted.target.model_dump(exclude_none=True, exclude_unset=True, exclude={"extends", "aliases"}),
        **changes,
    }
    target = Target.model_validate(whole)
    lines = [f"{key}: {text}" for key, text in target.validation.items()]
    for (path, _), error in zip(rows, fitted.left_out if len(fitted.left_out) else fitted.errors, strict=True):
        lines.append(f"{path.name}: predicted {1 + error:.2f} of what was measured")
    if fitted.undetermined:
        lines.append(f"undetermined: {', '.join(fitted.undetermined)}; these stay near {start.name}")
    return Calibration(target, text_of(target), tuple(lines))


def _rows(table: Path) -> list[tuple[Path, float]]:
    """Model files and seconds of a table."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = [column.strip() for column in reader.fieldnames or []]
            entries = [{key.strip(): value for key, value in row.items() if key} for row in reader]
    except OSError as error:
        raise InputError(f"{table}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: no CSV table: {one_line(str(error))}") from None
    missing = [column for column in ("model", "milliseconds") if column not in columns]
    if missing:
        raise InputError(f"{table}: no column {missing[0]}; expected model,milliseconds")
    found = []
    for line, entry in enumerate(entries, 2):
        text = (entry["milliseconds"] or "").strip()
        try:
            time = float(text)
        except ValueError:
            time = float("nan")
        if not 0 < time < float("inf"):
            raise InputError(f"{table} line {line}: milliseconds: expected a number above 0, got {one_line(text)!r}")
        found.append((table.parent / (entry["model"] or "").strip(), time / 1e3))
    if not found:
        raise InputError(f"{table}: no rows; one measured model is the least")
    return found
