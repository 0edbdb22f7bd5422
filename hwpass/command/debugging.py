"""Commands that find out which pass does harm, and that show a failure again."""

from __future__ import annotations

from typing import Any

import click

from hwpass.command.from_options import asked_of, config, one_home, single
from hwpass.command.grouped import Grouped, option
from hwpass.command.outputs import outputs
from hwpass.command.shared_options import CONTEXT
from hwpass.command.shell import fail, printed, source, status_line
from hwpass.errors import VerdictError


@click.command(cls=Grouped, context_settings=CONTEXT, examples=(
        "hwpass bisect model.onnx --target mobile-cpu --latency 0.6x --check 'python check.py {model}'",
        "hwpass bisect model.onnx --target mobile-cpu --pipeline fold,fuse-bn --check './on_device.sh {model}'",
))  # fmt: skip
@click.argument("model", is_eager=True)
@option("--target", required=True, metavar="NAME|FILE.toml", help="See `hwpass targets`.")
@option(
    "--check",
    required=True,
    metavar="COMMAND",
    help="A command that is given {model}: it ends with 0 where the model is good, 125 where it cannot tell, and 1 to"
    " 124 where it is bad.",
)
@asked_of("bisect")
@option(
    "--json", "json_path", group="Outputs", metavar="OUT.json", help="Write the result as JSON; - is standard output."
)
@config
def bisect(model: str, target: str, check: str, json_path: str | None, **options: Any) -> None:
    """The pass after which a check of yours fails, and inside a pass that removes channels the group."""
    from hwpass.workflows.bisect import bisect as search
    from hwpass.workflows.bisect import render_bisection

    options = single(options, "bisect")
    one_home(options["pipeline"])
    with outputs({"MODEL": model, "target": target, "calib": options["calib"]}, json=json_path) as out:
        with status_line() as progress:
            found = search(source(model)[0], target, check, progress=progress, **options)
        out.write(json=found.to_json)
        with out.printed() as console:
            render_bisection(found, console)


@click.command(cls=Grouped, context_settings=CONTEXT, examples=(
        "hwpass replay reproducer",
))  # fmt: skip
@click.argument("bundle")
def replay(bundle: str) -> None:
    """Run a reproducer, the folder BUNDLE that --reproducer wrote, by itself; status 5 where it still fails."""
    from hwpass.workflows.replay import render_replay
    from hwpass.workflows.replay import replay as run_again

    with status_line():
        found = run_again(bundle)
    with printed() as console:
        render_replay(found, console)
    if found.found is not None:
        fail(VerdictError(found.outcome))
