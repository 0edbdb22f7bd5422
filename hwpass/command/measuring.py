"""The commands that measure: `hwpass bench` and `hwpass calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hwpass.command import ranges
from hwpass.command.grouped import Grouped, option
from hwpass.command.outputs import outputs
from hwpass.command.shared_options import ALLOW, CONTEXT, RUNNER, THREADS, TIMEOUT
from hwpass.command.shell import status_line
from hwpass.errors import UsageError
from hwpass.errors import option as words


@click.command(cls=Grouped, context_settings=CONTEXT, examples=(
        "hwpass bench model.onnx small.onnx",
        "hwpass bench model.onnx small.onnx --runner 'command:./on_my_phone.sh {model}'",
))  # fmt: skip
@click.argument("models", nargs=-1, required=True)
@option("--sessions", type=ranges.SESSIONS, default=5, show_default=True, help="Fresh sessions per model.")
@option("--runs", type=ranges.RUNS, default=20, show_default=True, help="Timed runs per session.")
@option("--seed", group="Advanced", type=ranges.SEED, default=0, show_default=True, help="Seed of random inputs.")
@THREADS
@ALLOW
@RUNNER
@TIMEOUT
@option("--cpu-time", is_flag=True, help="Count processor time of the one thread: steadier on a busy machine.")
@option("--energy", is_flag=True, help="Also measure joules, where the machine has a meter (RAPL, NVML).")
@option(
    "--json", "json_path", group="Outputs", metavar="OUT.json", help="Write the timings as JSON; - is standard output."
)
def bench(models: tuple[str, ...], json_path: str | None, **options: Any) -> None:
    """Time MODELS through a runner: fresh sessions, interleaved, denormals flushed, spread shown."""
    import json
    from dataclasses import asdict

    from hwpass.cost.bench import bench as measure
    from hwpass.reporting.listing import render_timings

    with outputs({"MODEL": models}, json=json_path) as out:
        with status_line() as progress:
            timings = measure([Path(m) for m in models], **options,
                              progress=lambda done, total: progress(f"session {done} of {total}"))  # fmt: skip
        out.write(json=lambda: json.dumps([asdict(t) for t in timings], indent=2) + "\n")
        with out.printed() as console:
            render_timings(timings, console)


@click.command(cls=Grouped, context_settings=CONTEXT, examples=(
        "hwpass calibrate -o local.toml",
        "hwpass calibrate -o phone.toml --base mobile-cpu --runner 'command:./on_my_phone.sh {model}'",
        "hwpass calibrate -o board.toml --base mobile-cpu --from measured.csv",
))  # fmt: skip
@option("-o", "--output", group="Outputs", required=True, metavar="OUT.toml", help="Where to write the target.")
@RUNNER
@option("--from", "table", metavar="MEASURED.csv", help="Measure nothing: fit to a table of model,milliseconds.")
@option("--base", metavar="NAME|FILE.toml", help="The target to start at; by default the nearest that fits the runner.")
@option("--minutes", type=ranges.MINUTES, default=2, show_default=True, help="How long to measure.")
@option("--resume", metavar="FILE.jsonl", help="Go on from the measurements of an earlier run, kept beside its output.")
@TIMEOUT
@THREADS
@option("--cpu-time", is_flag=True, help="Count processor time of the one thread: steadier on a busy machine.")
def calibrate(output: str, table: str | None, base: str | None, resume: str | None, **options: Any) -> None:
    """Measure small models through a runner, and fit the figures of a target to them."""
    from hwpass.reporting.tables import print_line
    from hwpass.workflows.calibrate import calibrate as measure
    from hwpass.workflows.calibrate import calibrate_from

    if output != "-" and Path(output).suffix.lower() != ".toml":
        raise UsageError(f"{words('output', output)}: a target is found by a name that ends in .toml; give it one")
    name = "local" if output == "-" else Path(output).stem
    if table is not None and resume is not None:
        raise UsageError(f"{words('from')} measures nothing; leave out {words('resume')}")
    if table is not None and base is None:
        raise UsageError(f"{words('from')} needs {words('base')}: the target to start at, see `hwpass targets`")
    log = Path(resume) if resume is not None else None if output == "-" else Path(output).with_suffix(".jsonl")
    files = [] if output == "-" else [output]
    files += [] if log is None or table is not None or resume is not None else [str(log)]
    with outputs({"from": table, "target": base, "resume": resume}, {"output": files}, output=output) as out:
        with status_line() as progress:
            if table is not None and base is not None:
                found = calibrate_from(table, base, name=name, threads=options["threads"], progress=progress)
            else:
                found = measure(base=base, name=name, log=log, resume=resume is not None, progress=progress, **options)
        out.write(output=lambda: found.text)
        with out.printed() as console:
            for line in found.lines:
                print_line(console, line)
            if output != "-":
                print_line(console, f"wrote {output}: name it as the target")
