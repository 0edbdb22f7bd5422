"""Write the pages that are derived from the code: architecture, operators, passes, targets, commands and JSON.

python docs/generate.py            # write them
python docs/generate.py --check    # only say which are out of date; status 1 when one is
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import rooms  # noqa: E402

from hwpass.command.cli import main as cli  # noqa: E402
from hwpass.command.derived_options import WORDS  # noqa: E402
from hwpass.command.grouped import GROUPS, Grouped, group_of  # noqa: E402
from hwpass.cost_models import load_target, target_names  # noqa: E402
from hwpass.manager import passes  # noqa: E402
from hwpass.ops.table import treatments  # noqa: E402
from hwpass.options import RunOptions  # noqa: E402
from hwpass.planning.plan import Plan  # noqa: E402
from hwpass.reporting.groups import GroupsReport  # noqa: E402
from hwpass.reporting.listing import pass_options, summary, target_figures  # noqa: E402
from hwpass.reporting.schema import Report  # noqa: E402
from hwpass.reporting.sweep import SweepReport  # noqa: E402
from hwpass.workflows.profile import Profile  # noqa: E402

ARCHITECTURE = """# Architecture

{note}
The code stands in rooms. A room imports only rooms before it in this table, ground first; `tests/test_rooms.py` reads
every import, those inside functions too, and names the one that runs up.

| room | what it holds |
|---|---|
{rows}

`passes/` and `cost_models/` lie beside `hwpass/` and are packages of it. `ground` and `pipeline` are the modules beside
the rooms: `errors`, `figures`, `globs`, `interrupts`, `options`, `plugins`, `spans`, `version`; `context`,
`instrument`, `manager`, `pipeline_text`.

An arrow is an import, and in brackets stands the number of modules. Arrows that a way over other rooms makes up are
left out.

{picture}

## The way of `hwpass run`

1. `command.cli` reads the options and `command.outputs` looks at every path that will be written, before any work.
2. `workflows.run` makes the passes of the options; `workflows.job` loads the target (`cost_models`), the model
   (`model`, which checks the file by `proto` and `runtime`) and the data (`runtime.calibration`).
3. `manager` runs the passes in order, each on a copy or in place, and keeps in `verdicts.findings` the models that the
   proof will go through.
4. The preparation passes (`fold`, `fuse-bn`, `fuse-hard-sigmoid`, `fuse-affine`, `conv1d-to-2d`, `rotate-streams`,
   `rotate-heads`, `fold-redundant`) rewrite the graph and no value.
5. `prune-channels` couples channels (`coupling`, by the rules of `ops`), prices widths (`cost`, `cost_models`),
   measures which channels matter (`planning`, on the user's inputs or on some that `data` makes up), chooses widths
   (`planning.allocation`), and cuts (`surgery.cut`).
6. `compensate` refits the remaining weights layer by layer (`surgery.compensation`).
7. `verify` proves the result in legs (`verdicts.proof`) and measures how close it is (`verdicts.fidelity`).
8. `reporting` makes the report; `command.outputs` writes drafts, runs the written model once more, and gives all files
   their names at once.
"""

NOTE = "<!-- written by docs/generate.py; `make docs` writes it again -->\n"


def architecture() -> str:
    """The rooms of the code, and the way of a run through them."""
    rows = "\n".join(f"| `{room}` | {what} |" for room, what in rooms.ROOMS.items())
    return ARCHITECTURE.format(note=NOTE, rows=rows, picture=rooms.picture())


def operators() -> str:
    """The rule table."""
    lines = [
        "# Operators",
        "",
        NOTE,
        "How the channels of each operator's inputs and outputs are related: one rule, one class in `hwpass/ops/`.",
        "An operator that couples can be thinned around; one that freezes keeps the widths around it, for the reason",
        "given, and so does any operator that is not in this table: `hwpass groups` says so. Every operator of the",
        "ONNX standard is here; `benchmarks/operators.py` tries them all. The kind is what cost models see.",
        "",
        "| operator | domain | treatment | kind | rule or reason |",
        "|---|---|---|---|---|",
    ]
    for row in treatments():
        domain = row.domain or "ai.onnx"
        lines.append(f"| {row.operator} | {domain} | {row.treatment} | {row.kind} | {_cell(row.text)} |")
    return "\n".join(lines) + "\n"


def options() -> str:
    """What may be asked of a run, in Python, on the command line and in a configuration file."""
    lines = [
        "# Options",
        "",
        NOTE,
        "One definition, `hwpass.RunOptions`, serves all three: `hwpass.run(model, target, latency=0.6)` in Python,",
        "`hwpass run MODEL --target T --latency 0.6x` on the command line, and in a file that `--config` names:",
        "",
        "```toml",
        "[run]",
        'target = "mobile-cpu"',
        "latency = 0.6",
        'keep = ["head*", "stem"]',
        "```",
        "",
        "A table of the file has the name of a command, and its keys are that command's options and arguments. What",
        "the command line gives goes first.",
        "",
        "| Python, file | command line | default | commands | group | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for item in dataclasses.fields(RunOptions):
        told = item.metadata
        value = WORDS[item.name]() if item.name in WORDS else told["metavar"] or "|".join(told["choices"])
        shell = f"--{item.name.replace('_', '-')} {value}".strip()
        where = (", ".join(told["commands"]), told["group"])
        row = (f"`{item.name}`", f"`{_cell(shell)}`", f"`{item.default!r}`", *where, told["help"])
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def pass_pages() -> str:
    """The pass registry."""
    lines = [
        "# Passes",
        "",
        NOTE,
        "A pipeline is their names in order: `fold,fuse-bn,prune-channels{latency=0.6x,keep=head*|stem*},verify`.",
        "Options stand in braces; several values of one option are joined by `|`. Passes in round brackets are a",
        "group; `repeat{n=3}(fold,fuse-bn)` runs one at most three times: a round that changes nothing is the last.",
        "Pipelines in Python and in `hwpass.toml`, and the presets of targets, are in [pipelines.md](pipelines.md).",
    ]
    for name, cls in passes().items():
        lines += ["", f"## {name}", "", inspect.getdoc(cls) or ""]
        asks = [("Requires that", c) for c in cls.requires] + [("Ensures that", c) for c in cls.ensures]
        said = [f"{word} {condition.summary} (`{condition}`)." for word, condition in asks]
        said += [f"Preserves {', '.join(cls.preserves)}."] if cls.preserves else []
        if said:
            lines += ["", *said]
        options = pass_options(cls)
        if options:
            lines += ["", "| option | default | meaning |", "|---|---|---|"]
            for option in options:
                default = f"`{option.default}`" if option.default else ""
                lines.append(f"| `{option.name}` | {default} | {_cell(option.help)} |")
            for option in options:
                if option.choices:
                    lines += ["", f"| {option.name} | meaning |", "|---|---|"]
                    lines += [f"| `{choice}` | {_cell(meaning)} |" for choice, meaning in option.choices]
    return "\n".join(lines) + "\n"


def targets() -> str:
    """The targets that come with hwpass, with what they were checked against."""
    lines = [
        "# Targets",
        "",
        NOTE,
        "A target is one TOML file in `cost_models/targets/`; `hwpass targets NAME` prints its figures and the source",
        "of each. The validation figures say how far to trust it. A file of your own goes after `--target` as well.",
    ]
    for name in target_names():
        target = load_target(name)
        figures = list(target_figures(target))
        unsure = [
            key for key, _, source in figures if any(w in source for w in ("assumed", "recalled", "not measured"))
        ]
        lines += [
            "",
            f"## {name}",
            "",
            target.description + ".",
            "",
            f"- runtime: {target.runtime}",
            f"- cost model: `{target.model}`; channels are kept to multiples of {target.align}",
            f"- {len(figures)} figures, of which {len(unsure)} are assumed or recalled rather than measured or fitted",
        ]
        lines += [f"- checked against, {key}: {text}" for key, text in target.validation.items()]
        if not target.validation:
            lines.append("- not checked against measurements")
    return "\n".join(lines) + "\n"


def commands() -> str:
    """Every command with its options."""
    lines = ["# Commands", "", NOTE, inspect.cleandoc(cli.help or "").replace("\b\n", "")]
    for name in sorted(cli.commands):
        command = cli.commands[name]
        arguments = [p for p in command.params if isinstance(p, click.Argument)]
        words = [_argument(argument) for argument in arguments]
        lines += ["", f"## hwpass {name}", "", f"`{' '.join(['hwpass', name, '[OPTIONS]', *words])}`", ""]
        lines.append(" ".join((command.help or "").split()))
        for group in GROUPS:
            options = [p for p in command.params if isinstance(p, click.Option) and group_of(p) == group]
            if options:
                lines += ["", f"**{group}**", "", "| option | default | meaning |", "|---|---|---|"]
                lines += map(_option, options)
        if isinstance(command, Grouped):
            lines += ["", "```console", *(f"$ {example}" for example in command.examples), "```"]
    return "\n".join(lines) + "\n"


def _argument(argument: click.Argument) -> str:
    name = (argument.name or "").upper()
    name += "..." if argument.nargs == -1 else ""
    return name if argument.required else f"[{name}]"


def _option(option: click.Option) -> str:
    value = "" if option.is_flag else " " + (option.metavar or option.type.name.removesuffix(" range").upper())
    default = f"`{option.default}`" if option.show_default and option.default is not None else ""
    return f"| `{_cell(', '.join(option.opts) + value)}` | {default} | {_cell(option.help or '')} |"


def json() -> str:
    """The JSON that hwpass reads and writes, from the classes that check it."""
    lines = [
        "# JSON",
        "",
        NOTE,
        'Stable from `"schema": 1` on: keys may be added, none is renamed or removed without a new number. A figure',
        "that is unknown is null. The same command gives the same text, apart from the keys named `seconds`.",
    ]
    pages: list[tuple[str, str, type[BaseModel]]] = [
        ("The report", "`hwpass run --json`, `hwpass apply --json`", Report),
        ("The plan", "`hwpass run --plan`; `hwpass apply` and `hwpass verify --plan` read it", Plan),
        ("Groups", "`hwpass groups --json`", GroupsReport),
        ("The sweep", "`hwpass sweep --json`", SweepReport),
        ("Profile", "`hwpass profile --json`", Profile),
    ]
    for title, where, model in pages:
        lines += ["", f"## {title}", "", f"{where}. {summary(model)}", ""]
        lines += ["| key | type | meaning |", "|---|---|---|"]
        schema = model.model_json_schema()
        lines += [f"| `{key}` | {kind} | {_cell(text)} |" for key, kind, text in _fields(schema, schema, "")]
    return "\n".join(lines) + "\n"


def _fields(schema: dict[str, Any], whole: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    """Dotted key, type and description of every property, depth first."""
    for key, value in schema.get("properties", {}).items():
        kind, inner = _kind(value, whole)
        text = value.get("description") or (inner or {}).get("description") or ""
        yield prefix + key, kind, " ".join(text.split("\n\n")[0].split())
        if inner is not None and inner is not schema:  # one that holds itself is shown once
            yield from _fields(inner, whole, f"{prefix}{key}{'[]' if kind.startswith('list') else ''}.")


def _kind(value: dict[str, Any], whole: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """The type in words, and the object's schema where it is one (or a list of them)."""
    if "$ref" in value:
        found = whole["$defs"][value["$ref"].rpartition("/")[2]]
        return ("object", found) if "properties" in found else _kind(found, whole)
    if "const" in value:
        return f"always {value['const']}", None
    if "anyOf" in value:
        parts = [_kind(part, whole) for part in value["anyOf"]]
        inner = next((found for _, found in parts if found is not None), None)
        return " or ".join(kind for kind, _ in parts), inner
    if value.get("type") == "array":
        kind, inner = _kind(value.get("items", {}), whole)
        return f"list of {kind}", inner
    if value.get("type") == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"map of {_kind(value['additionalProperties'], whole)[0]}", None
    return str(value.get("type", "any")), None


def first_line(thing: object) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(thing) or "").split("\n")[0]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES: dict[str, Callable[[], str]] = {
    "architecture.md": architecture,
    "operators.md": operators,
    "options.md": options,
    "passes.md": pass_pages,
    "targets.md": targets,
    "commands.md": commands,
    "json.md": json,
}


def stale() -> list[str]:
    """The pages whose file is not what the code says."""
    return [name for name, make in PAGES.items() if not (HERE / name).is_file() or _read(name) != make()]


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    if parser.parse_args().check:
        old = stale()
        print(f"out of date: {', '.join(old)}; run `make docs`" if old else "up to date")
        sys.exit(bool(old))
    for page, make in PAGES.items():
        (HERE / page).write_text(make(), encoding="utf-8")
