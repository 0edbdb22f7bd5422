"""What the command line says of pipelines: the passes, presets, what would run, and where its options came from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from hwpass.command.from_options import ORIGIN
from hwpass.command.grouped import Grouped, option
from hwpass.command.shared_options import CONTEXT
from hwpass.command.shell import note, printed

if TYPE_CHECKING:
    from hwpass.workflows.job import Result


@click.command("passes", cls=Grouped, context_settings=CONTEXT, examples=(
        "hwpass passes",
        "hwpass passes --preset edge-tpu",
))  # fmt: skip
@option("--preset", metavar="NAME|FILE.toml", help="Print the pipeline of a target instead.")
def list_passes(preset: str | None) -> None:
    """The passes and their options, or the pipeline that suits a target."""
    if preset is None:
        from hwpass.reporting.listing import render_passes

        with printed() as console:
            render_passes(console)
        return
    from hwpass.cost_models import load_target
    from hwpass.workflows.presets import preset as preset_of

    found = preset_of(load_target(preset))
    click.echo(",".join(map(str, found.steps)))
    note(found.why)


def print_pipeline_of(target: str, options: dict[str, Any]) -> None:
    """Print the pipeline that `hwpass run` would run, on one line."""
    from hwpass.options import RunOptions
    from hwpass.workflows.run import pipeline_of
    from hwpass.workflows.steps import usual

    asked = RunOptions(**options)
    found = pipeline_of(target, asked)
    if found is None:
        found = usual(asked)
        note("the latency of prune-channels is searched for")
    click.echo(",".join(map(str, found)))


def with_origins(result: Result) -> Result:
    """The result, its report saying which options the command line gave and which a file."""
    context = click.get_current_context()
    told = {}
    for name, asked in result.report.options.items():
        from_file = context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP
        origin = context.meta.get(ORIGIN, "") if from_file else "command line"
        told[name] = asked.model_copy(update={"origin": origin})
    return replace(result, report=result.report.model_copy(update={"options": told}))
