"""Pipelines as TOML: a list of names, tables and lists, read and written.

    pipeline = [
        "fold",
        {pass = "prune-channels", latency = "0.6x", keep = ["stem*"]},
        {repeat = 3, steps = ["fold", "fuse-bn"]},
        ["compensate", "verify"],
    ]

A text in the list is a piece of a pipeline as `hwpass.pipeline_text` reads it; a list in it is a group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from hwpass import pipeline_text
from hwpass.errors import HwpassError, UsageError, words_of_a_pipeline
from hwpass.figures import shown
from hwpass.files.toml_text import inline
from hwpass.pipeline import DEEPEST, ROUNDS, Group, Repeat, flat

P = TypeVar("P")

#: The keys of a table that repeats.
_REPEAT = {"repeat", "steps"}


def read(items: object, known: Mapping[str, type[P]], where: str = "pipeline", depth: int = 0) -> list[P | Group]:
    """The steps of a pipeline that a TOML file has given: a text or a list. Raises UsageError that names the place."""
    if isinstance(items, str):
        return pipeline_text.parse(items, known)
    if not isinstance(items, list):
        raise UsageError(f"{where}: a {type(items).__name__} is no pipeline; write a text or a list")
    if depth > DEEPEST:
        raise UsageError(f"{where}: more than {DEEPEST} lists inside one another")
    found: list[P | Group] = []
    for number, item in enumerate(items, 1):
        place = f"{where}, step {number}"
        if isinstance(item, str):
            found += pipeline_text.parse(item, known)
        elif isinstance(item, list):
            found.append(_grouped(read(item, known, place, depth + 1), place))
        elif isinstance(item, dict) and "repeat" in item:
            found.append(_repeated(item, known, place, depth))
        elif isinstance(item, dict) and "pass" in item:
            found.append(_made(item, known, place))
        else:
            raise UsageError(f'{place}: write a name, {{pass = "NAME", option = value}}, or a list of steps')
    if depth == 0 and len(list(flat(found))) > pipeline_text.MOST:
        raise UsageError(f"{where}: more than {pipeline_text.MOST} passes")
    return found


def _grouped(steps: list[Any], place: str, **rounds: int) -> Group:
    try:
        with words_of_a_pipeline():
            return Repeat(*steps, **rounds) if rounds else Group(*steps)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None


def _repeated(item: Mapping[str, Any], known: Mapping[str, type[P]], place: str, depth: int) -> Group:
    wrong = sorted(set(item) - _REPEAT)
    if wrong:
        raise UsageError(f"{place}: {shown(wrong[0], 40)}: no such key; write repeat = 3, steps = [...]")
    steps = read(item.get("steps", []), known, place, depth + 1)
    return _grouped(steps, place, n=ROUNDS if item["repeat"] is True else item["repeat"])


def _made(item: Mapping[str, Any], known: Mapping[str, type[P]], place: str) -> P:
    name = item["pass"]
    if not isinstance(name, str) or name not in known:
        raise UsageError(f"{place}: there is no pass {shown(str(name))!r}; see `hwpass passes`")
    cls = known[name]
    types = get_type_hints(cls)
    fields = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in item.items():
        word = key.replace("-", "_")
        if key == "pass":
            continue
        if word not in fields:
            options = ", ".join(f.replace("_", "-") for f in fields) or "none"
            raise UsageError(f"{place}: pass {name} has no option {shown(key, 40)!r}; its options: {options}")
        if word in values:
            raise UsageError(f"{place}: option {shown(key, 40)} is given twice; give it once")
        values[word] = _value(value, types[word])
    try:
        with words_of_a_pipeline():
            return cls(**values)
    except HwpassError as error:
        error.args = (f"{place}: {error}",)
        raise
    except (TypeError, ValueError) as error:  # a pass of somebody else's, which checks its options its own way
        raise UsageError(f"{place}: pass {name}: {shown(str(error), 200)}") from error


def _value(value: Any, kind: Any) -> Any:
    """A TOML value for a field of a type: lists are tuples, one text is a list of one, whole numbers are numbers."""
    if kind == tuple[str, ...]:
        return tuple(value) if isinstance(value, list) else (value,)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if kind is float and whole else value


def written(steps: Iterable[Any]) -> str:
    """A pipeline as the text of a TOML file.

    >>> print(written([Group("fold"), Repeat("fold", n=2)]), end="")
    pipeline = [
        ["fold"],
        {repeat = 2, steps = ["fold"]},
    ]
    """
    items = [_item(step) for step in steps]
    return "pipeline = [\n" + "".join(f"    {inline(item)},\n" for item in items) + "]\n"


def _item(step: Any) -> str | Mapping[str, Any] | Sequence[Any]:
    if isinstance(step, Repeat):
        return {"repeat": step.n, "steps": [_item(each) for each in step.steps]}
    if isinstance(step, Group):
        return [_item(each) for each in step.steps]
    if isinstance(step, str):
        return step
    given = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
    plain = {f.name: f.default for f in dataclasses.fields(step)}
    options = {name.replace("_", "-"): _plain(value) for name, value in given.items() if value != plain[name]}
    return {"pass": step.name, **options} if options else str(step.name)


def _plain(value: Any) -> Any:
    """An option's value as TOML has it; a function goes by its name, as in a pipeline's text."""
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, bool | int | float | str) else pipeline_text.written(value).strip('"')
