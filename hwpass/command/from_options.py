"""Options of the command line made from what may be asked of a run, and configuration files that give the same."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import Field
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hwpass.command import ranges
from hwpass.command.derived_options import WORDS, Derived
from hwpass.command.grouped import option
from hwpass.errors import InputError, UsageError
from hwpass.figures import shown, shown_path
from hwpass.files.data_files import read_data
from hwpass.options import of_command, of_passes

#: Bytes of the largest configuration file that is read.
LARGEST = 1 << 20

#: The file beside a model that gives its options, and where a context keeps which file gave some.
BESIDE, ORIGIN = "hwpass.toml", "hwpass.origin"

#: What that file may say. A model that was downloaded may bring one along: it can name no code, and no file to write.
OF_A_MODEL = frozenset({
    "target", "pipeline", "preset", "score", "compensate", "distill", "effort", "keep", "min_channels", "align",
    "max_drop", "dtype", "dim", "input", "rtol", "atol", "fidelity", "seed",
    *(item.name for item in of_command("run") if item.metadata["kind"] == "budget"),
})  # fmt: skip

TYPES: dict[str, Any] = {
    "not negative": ranges.NOT_NEGATIVE,
    "channels": ranges.CHANNELS,
    "count": ranges.COUNT,
    "seed": ranges.SEED,
    "threads": ranges.THREADS,
}


def asked_of(command: str) -> Callable[[Any], Any]:
    """A decorator: the options of a command."""

    def apply(function: Any) -> Any:
        for item in reversed(list(of_command(command))):
            function = _option(item, command)(function)
        return function

    return apply


def _option(item: Field[Any], command: str) -> Callable[[Any], Any]:
    told = item.metadata
    given: dict[str, Any] = {"help": told["also"].get(command, told["help"]), "show_default": told["shown"]}
    given["group"] = told["group"]
    kind = told["kind"]
    if kind == "flag":
        given["is_flag"] = True
    elif kind in ("budget", "texts"):
        given |= {"multiple": True, "metavar": told["metavar"]}
    elif kind == "choice":
        given |= {"type": click.Choice(list(told["choices"])), "default": item.default}
    else:
        given |= {"type": TYPES.get(kind, str), "default": item.default, "metavar": told["metavar"] or None}
    if item.name in WORDS:
        given |= {"cls": Derived, "words": WORDS[item.name]}
    return option(f"--{item.name.replace('_', '-')}", **given)


def single(options: dict[str, Any], command: str) -> dict[str, Any]:
    """Options as they are meant: of those that may be given once, the one value. Raises UsageError for more."""
    found = dict(options)
    for item in of_command(command):
        if item.metadata["kind"] == "budget":
            given = options[item.name]
            if len(given) > 1:
                values = ", ".join(given)
                raise UsageError(f"--{item.name} is given {len(given)} times ({values}), which conflict; give it once")
            found[item.name] = given[0] if given else None
    return found


def one_home(pipeline: str | None) -> None:
    """Refuse options that a pipeline given as text, in the same place, would leave without effect."""
    context = click.get_current_context()
    if pipeline is None:
        return
    place = context.get_parameter_source("pipeline")
    for name in of_passes():
        source = context.get_parameter_source(name)
        if source is ParameterSource.COMMANDLINE or (source is place and place is ParameterSource.DEFAULT_MAP):
            given = f"--{name.replace('_', '-')}"
            raise UsageError(f"{given} has no effect beside --pipeline: put it into the pipeline's text, in braces")


def config(function: Any) -> Any:
    """A decorator: `--config FILE.toml`, whose table of the command's name gives what the command line does not.

    Without it the file `hwpass.toml` beside the model is taken, where there is one with such a table.
    """
    return option(
        "--config", metavar="FILE.toml", is_eager=True, expose_value=False, callback=_read_config,
        help="Options from a file: those of its table that has this command's name. The command line goes first. "
        f"Without it from {BESIDE} beside MODEL, where there is one.",
    )(function)  # fmt: skip


def _read_config(context: click.Context, parameter: click.Parameter, path: str | None) -> None:
    command, trusted = str(context.info_name), path is not None
    if path is None:
        path = _beside(context.params.get("model"))
    given = {} if path is None else read_config(path, command, required=trusted)
    if path is None or not given:
        return
    known = {p.name: p for p in context.command.params if p.name != parameter.name}
    # Options go by their own names; what they are called in Python may differ.
    names = {o.removeprefix("--").replace("-", "_"): p for p in known.values() for o in p.opts if len(o) > 2}
    values = {}
    for key, value in given.items():
        found = names.get(key.replace("-", "_"))
        where = f"{shown_path(path)}: [{command}] {shown(key, 40)}"
        if found is None or found.name is None:
            choices = ", ".join(sorted(name.replace("_", "-") for name in names))
            raise UsageError(f"{where}: there is no such option; choose from {choices}")
        if not trusted and found.name not in OF_A_MODEL:
            raise UsageError(f"{where}: a file that lies beside a model may not say this; give it by --config {path}")
        values[found.name] = _as_given(found, value, where)
    context.default_map = {**(context.default_map or {}), **values}
    context.meta[ORIGIN] = path


def _beside(model: object) -> str | None:
    """The path of the configuration that lies beside a model's file."""
    if not isinstance(model, str) or model == "-":
        return None
    path = Path(model).parent / BESIDE
    return str(path) if path.is_file() else None


def _as_given(parameter: click.Parameter, value: Any, where: str) -> Any:
    """A value from a file as the command line would give it. Raises UsageError for one of another kind."""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{where}: write true or false")
        return value
    if parameter.name == "pipeline" and isinstance(value, list):
        return _pipeline(value, where)
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, bool | dict | list) for item in items):
        raise UsageError(f"{where}: write a text, a number or a list of them")
    multiple = parameter.multiple or parameter.nargs == -1
    if not multiple and len(items) != 1:
        raise UsageError(f"{where}: takes one value, not {len(items)}")
    texts = [f"{item}x" if _is_share(parameter, item) else str(item) for item in items]
    return texts if multiple else texts[0]


def _pipeline(value: list[Any], where: str) -> str:
    """A pipeline that is a list of steps, as text."""
    from hwpass import pipeline_toml
    from hwpass.manager import passes

    return ",".join(map(str, pipeline_toml.read(value, passes(), where)))


def _is_share(parameter: click.Parameter, value: Any) -> bool:
    """Whether a number is a budget: a share of the dense model, as in Python."""
    budgets = {item.name for item in of_command("run") if item.metadata["kind"] == "budget"}
    return parameter.name in budgets and not isinstance(value, str)


def read_config(path: str, command: str, *, required: bool = True) -> dict[str, Any]:
    """What a configuration file says for a command; nothing is an error where it is `required`.

    Raises InputError, one line that names the place.
    """
    text = read_data(path, "configuration", LARGEST)
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        reason = shown(str(error), 200) if isinstance(error, ValueError) else "brackets are nested too deeply"
        raise InputError(f"{shown_path(path)}: not a configuration: {reason}") from None
    table = data.get(command)
    if table is None and not required:
        return {}
    if table is None:
        raise InputError(f"{shown_path(path)}: has no table [{command}]; write one with this command's options")
    if not isinstance(table, dict):
        raise InputError(f"{shown_path(path)}: {command} is not a table; write [{command}] and options under it")
    return table
