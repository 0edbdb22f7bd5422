"""The command line: options in, one line per error out, exit statuses of the contract."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from hwpass.command.debugging import bisect, replay
from hwpass.command.derived_options import REPORT
from hwpass.command.from_options import asked_of, config, one_home, single
from hwpass.command.grouped import option
from hwpass.command.measuring import bench, calibrate
from hwpass.command.outputs import outputs
from hwpass.command.pipelines import list_passes, print_pipeline_of, with_origins
from hwpass.command.shared_options import ALLOW, CONTEXT, RUNNER, THREADS, TIMEOUT
from hwpass.command.shell import ShellGroup, fail, printed, source, status_line
from hwpass.errors import BudgetError, UsageError
from hwpass.files.whole_files import together
from hwpass.version import __version__


@click.group(cls=ShellGroup, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="hwpass")
def main() -> None:
    """Prune ONNX models for a hardware target within a budget, and prove the result.

    \b
    Exit status: 0 done and verified; 2 usage; 3 the input cannot be used;
    4 the budget cannot be met; 5 a verdict failed; 130, 143, 129 ended by a signal.
    """


MODEL = click.argument("model", is_eager=True)  # before --config, which looks for a file beside it
TARGET = option("--target", required=True, metavar="NAME|FILE.toml", help="See `hwpass targets`.")
DTYPE = option("--dtype", type=click.Choice(["fp32", "fp16", "int8"]), help="The number format to price the model in.")
DIM = option("--dim", multiple=True, metavar="N=8|N=1..8", help="The size of a dynamic axis, or a range. Repeatable.")
TIMING = option("--timing", group="Debugging", is_flag=True, help="Also print where the time went, as a tree.")
OUTPUT = option(
    "-o", "--output", group="Outputs", metavar="OUT", help="Where to write the model; - is standard output."
)


@main.command(context_settings=CONTEXT, examples=(
        "hwpass run model.onnx --target mobile-cpu --latency 0.6x -o small.onnx",
        "hwpass run model.onnx --target server-cpu --macs 0.5x --calib inputs.npz --report report.html -o small.onnx",
))  # fmt: skip
@MODEL
@TARGET
@OUTPUT
@asked_of("run")
@REPORT
@option(
    "--json", "json_path", group="Outputs", metavar="OUT.json", help="Write the report as JSON; - is standard output."
)
@option("--plan", "plan_path", group="Outputs", metavar="OUT.json", help="Write the plan.")
@option("--print-pipeline", group="Debugging", is_flag=True, help="Print the pipeline that would run, and run nothing.")
@option("--dry-run", group="Outputs", is_flag=True, help="Do everything but write the model.")
@TIMING
@config
def run(model: str, target: str, output: str | None, report_path: str | None, json_path: str | None,
        plan_path: str | None, print_pipeline: bool, dry_run: bool, timing: bool, **options: Any) -> None:  # fmt: skip
    """Prune MODEL (a file, or - for standard input) for a target within budgets, prove it, and report."""
    from hwpass.reporting import terminal as terminal_report
    from hwpass.reporting.renderer import renderer_for
    from hwpass.workflows import run as api

    options = single(options, "run")
    one_home(options["pipeline"])
    if print_pipeline:
        print_pipeline_of(target, options)
        return
    inputs = {"MODEL": model, "target": target, "calib": options["calib"], "metric": options["metric"]}
    written = {"output": None if dry_run else output, "json": json_path, "report": report_path, "plan": plan_path}
    with outputs(inputs, _kept(options), **written) as out:
        renderer = None if report_path is None else renderer_for(report_path)
        with status_line() as progress:
            result = with_origins(api.run(source(model)[0], target, progress=progress, **options))
        plan = result.plan
        out.write(
            output=result,
            plan=None if plan is None else plan.to_json,
            report=None if renderer is None else lambda: renderer.page(result.report),
            json=result.report.to_json,
        )
        with out.printed() as console:
            terminal_report.show(result.report, console, timing=timing)
            others = (plan_path, report_path, json_path)
            terminal_report.close(result.report, console, None if dry_run else output, others, dry_run)
    if result.unmet:
        fail(BudgetError(result.unmet + " (the best effort was kept)"))


@main.command(context_settings=CONTEXT, examples=(
        "hwpass sweep model.onnx --target mobile-cpu --calib inputs.npz --csv points.csv",
))  # fmt: skip
@MODEL
@TARGET
@option("-o", "--output", group="Outputs", metavar="DIR", help="A folder to write the models to.")
@option(
    "--budget",
    group="Budget",
    type=click.Choice(["latency", "energy", "memory", "size", "macs"]),
    default="latency",
    show_default=True,
    help="The cost to go along.",
)
@option(
    "--points",
    group="Budget",
    default="0.9,0.75,0.6,0.5,0.4,0.33",
    show_default=True,
    metavar="X,X,...",
    help="Shares of the dense model's cost.",
)
@asked_of("sweep")
@option(
    "--json", "json_path", group="Outputs", metavar="OUT.json", help="Write the points as JSON; - is standard output."
)
@option("--csv", "csv_path", group="Outputs", metavar="OUT.csv", help="Write the points as CSV; - is standard output.")
@config
def sweep(model: str, target: str, points: str, json_path: str | None, csv_path: str | None, **options: Any) -> None:
    """Prune MODEL to several budgets on one study of it, prove each, and mark the Pareto front."""
    from hwpass.reporting.sweep import render_sweep
    from hwpass.workflows.sweep import model_files, models_folder, parse_points, refused
    from hwpass.workflows.sweep import sweep as run_sweep

    inputs = {"MODEL": model, "target": target, "calib": options["calib"], "metric": options["metric"]}
    shares, folder = parse_points(points), options["output"]
    models = [] if folder is None else model_files(model, options["budget"], shares)
    with outputs(
        inputs, {"output": [str(Path(folder or "") / name) for name in models]}, json=json_path, csv=csv_path
    ) as out:
        with nullcontext() if folder is None else models_folder(folder), together():
            with status_line() as progress:
                found = run_sweep(source(model)[0], target, points=shares, progress=progress, **options)
            out.write(json=found.to_json, csv=found.to_csv)
        with out.printed() as console:
            render_sweep(found, console)
    error = refused(found)
    if error is not None:
        fail(error)


@main.command(context_settings=CONTEXT, examples=(
        "hwpass profile model.onnx --target mobile-cpu",
))  # fmt: skip
@MODEL
@TARGET
@option("--measure", is_flag=True, help="Also measure the whole model through the runner.")
@RUNNER
@TIMEOUT
@DTYPE
@DIM
@THREADS
@ALLOW
@option(
    "--json", "json_path", group="Outputs", metavar="OUT.json", help="Write the table as JSON; - is standard output."
)
def profile(model: str, target: str, json_path: str | None, **options: Any) -> None:
    """Predicted latency, energy and memory of MODEL on a target, kernel by kernel."""
    from hwpass.workflows.profile import profile_model, render_profile

    with outputs({"MODEL": model, "target": target}, json=json_path) as out:
        with status_line() as progress:
            found = profile_model(source(model)[0], target, progress=progress, **options)
        out.write(json=lambda: found.model_dump_json(indent=2) + "\n")
        with out.printed() as console:
            render_profile(found, console)


@main.command(context_settings=CONTEXT, examples=(
        "hwpass check model.onnx --target mobile-cpu --latency 12ms --size 4MiB",
))  # fmt: skip
@MODEL
@TARGET
@option("--latency", group="Budget", metavar="12ms", help="At most this predicted latency.")
@option("--energy", group="Budget", metavar="5mJ", help="At most this predicted energy per inference.")
@option("--memory", group="Budget", metavar="2MiB", help="At most this peak memory, weights included.")
@option("--size", group="Budget", metavar="4MiB", help="At most these bytes of weights.")
@option("--macs", group="Budget", metavar="300M", help="At most these multiply-accumulates.")
@DTYPE
@DIM
@THREADS
@ALLOW
@option(
    "--json", "json_path", group="Outputs", metavar="OUT.json", help="Write the result as JSON; - is standard output."
)
def check(model: str, target: str, dtype: str | None, dim: tuple[str, ...], threads: int, allow_external: bool,
          json_path: str | None, **budgets: str | None) -> None:  # fmt: skip
    """Whether MODEL as it is stays within budgets on a target, and within the target's own limits (status 4: no)."""
    from hwpass.workflows.check import check_model, over, render_check

    with outputs({"MODEL": model, "target": target}, json=json_path) as out:
        with status_line() as progress:
            found = check_model(source(model)[0], target, budgets, dtype=dtype, dim=dim, threads=threads,
                                allow_external=allow_external, progress=progress)  # fmt: skip
        out.write(json=lambda: found.model_dump_json(indent=2) + "\n")
        with out.printed() as console:
            render_check(found, console)
    if not found.passed:
        fail(BudgetError(f"{over(found)}; prune it with `hwpass run`"))


@main.command(context_settings=CONTEXT, examples=(
        "hwpass targets",
        "hwpass targets mobile-cpu",
))  # fmt: skip
@click.argument("name", required=False)
def targets(name: str | None) -> None:
    """List the targets, or show one with its figures and their sources."""
    from hwpass.reporting.listing import render_target, render_targets

    with printed() as console:
        if name is None:
            render_targets(console)
        else:
            render_target(name, console)


@main.command(context_settings=CONTEXT, examples=(
        "hwpass groups model.onnx",
        "hwpass groups model.onnx --why /layer1/conv1/Conv",
))  # fmt: skip
@MODEL
@option("--why", metavar="NODE", help="Explain what NODE is tied to, or what freezes it.")
@ALLOW
@option(
    "--json", "json_path", group="Outputs", metavar="OUT.json", help="Write the groups as JSON; - is standard output."
)
def groups(model: str, why: str | None, allow_external: bool, json_path: str | None) -> None:
    """What of MODEL is coupled, what is frozen, and why."""
    from hwpass.reporting.groups import groups_json, render_groups
    from hwpass.reporting.why import render_why
    from hwpass.workflows.inspect import coupled

    with outputs({"MODEL": model}, json=json_path) as out:
        with status_line() as progress:
            coupling = coupled(source(model)[0], progress, allow_external=allow_external)
        out.write(json=lambda: groups_json(coupling))
        with out.printed() as console:
            if why is not None:
                render_why(coupling, why, console)
            else:
                render_groups(coupling, console)


@main.command(context_settings=CONTEXT, examples=(
        "hwpass apply plan.json model.onnx --calib inputs.npz -o small.onnx",
))  # fmt: skip
@click.argument("plan")
@MODEL
@option(
    "-o",
    "--output",
    group="Outputs",
    required=True,
    metavar="OUT",
    help="Where to write the model; - is standard output.",
)
@option("--target", default=None, metavar="NAME|FILE.toml", help="Also report costs on a target.")
@asked_of("apply")
@option(
    "--json", "json_path", group="Outputs", metavar="OUT.json", help="Write the report as JSON; - is standard output."
)
@TIMING
@config
def apply(plan: str, model: str, output: str, target: str | None, json_path: str | None, timing: bool,
          **options: Any) -> None:  # fmt: skip
    """Apply a PLAN (a JSON file) to MODEL, prove it, and write the result."""
    from hwpass.manager import preparation, read_plan
    from hwpass.options import RunOptions
    from hwpass.passes.apply_plan import ApplyPlan
    from hwpass.reporting import terminal as terminal_report
    from hwpass.workflows import run as api
    from hwpass.workflows.steps import amends, check_inputs, verify_step
    from hwpass.workflows.watching import instruments

    inputs = {"PLAN": plan, "MODEL": model, "target": target, "calib": options["calib"], "metric": options["metric"]}
    _one_stream(plan, model)
    with outputs(inputs, _kept(options), output=output, json=json_path) as out:
        given = read_plan(plan)
        asked = RunOptions(**options)
        check_inputs(asked, made_up=False)
        rest = (*amends(asked, made_up=False, once=True), verify_step(asked, asked.max_drop))
        with status_line() as progress:
            result = api.execute(
                source(model)[0],
                (*preparation(given), ApplyPlan(), *rest),
                target=target,
                progress=progress,
                plan=given,
                instruments=instruments(asked),
                **asked.given(("calib", "input", "seed", "threads", "dtype", "dim", "unproved", "allow_external")),
                **asked.given(("reproducer",)),
            )
        out.write(output=result, json=result.report.to_json)
        with out.printed() as console:
            terminal_report.show(result.report, console, timing=timing)


@main.command(context_settings=CONTEXT, examples=(
        "hwpass verify model.onnx small.onnx --plan plan.json",
))  # fmt: skip
@click.argument("original")
@click.argument("pruned")
@option("--plan", "plan_path", metavar="PLAN.json", help="The plan: exactness is then proved by the dense twin.")
@asked_of("verify")
@config
def verify(original: str, pruned: str, plan_path: str | None, **options: Any) -> None:
    """Compare PRUNED with ORIGINAL: validity, fidelity, and with a plan exactness."""
    from hwpass.manager import read_plan
    from hwpass.options import RunOptions
    from hwpass.workflows.compare import render_verdicts, verify_models
    from hwpass.workflows.steps import check_inputs, verify_step

    asked = RunOptions(**options)
    check_inputs(asked, made_up=False)
    _one_stream(*filter(None, (plan_path, original, pruned)))
    plan = None if plan_path is None else read_plan(plan_path)
    with status_line() as progress:
        first, second = source(original, pruned)
        outcome = verify_models(
            first,
            second,
            plan,
            verify_step(asked, asked.max_drop),
            progress=progress,
            **asked.given(("calib", "input", "seed", "threads", "unproved", "allow_external")),
        )
    with printed() as console:
        render_verdicts(outcome, console)


main.add_command(bench)
main.add_command(calibrate)
main.add_command(bisect)
main.add_command(replay)
main.add_command(list_passes)


def _kept(options: dict[str, Any]) -> dict[str, list[str]]:
    """Files that are written where a pass fails, by option."""
    path = options["keep_last_good"]
    return {} if path is None else {"keep_last_good": [path]}


def _one_stream(*paths: str) -> None:
    if paths.count("-") > 1:
        raise UsageError("standard input (-) can be only one of the plan and the models")
