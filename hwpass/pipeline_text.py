"""Pipelines as text: `name,name{option=value,option=a|b,option="any text"}`, read and written.

A value, or one item of a list, that has a comma, a brace, a bar, a quote or a space at its ends stands in double quotes
and is written as JSON writes a string.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, get_type_hints

from hwpass import plugins
from hwpass.errors import HwpassError, UsageError, option
from hwpass.figures import shown

#: Characters of the longest pipeline that is read, and its most passes.
LONGEST = 1 << 16
MOST = 256

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN = re.compile(r"[^,{}|]*")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_BARE = re.compile(r'(?!["\s])[^,{}|]*(?<!\s)')
_NUMBER = {
    int: re.compile(r"[+-]?[0-9]{1,19}"),
    float: re.compile(r"[+-]?(?:[0-9.]{1,400}(?:e[+-]?[0-9]{1,9})?|inf|nan)", re.IGNORECASE),
}
_TRUTH = {"true": True, "false": False, "yes": True, "no": False}


@dataclass(frozen=True)
class Value:
    """What stands behind an option's `=`: its items between bars, and which of them were quoted."""

    items: tuple[str, ...]
    quoted: tuple[bool, ...]

    @property
    def text(self) -> str:
        """The value as one text."""
        return "|".join(self.items)


@dataclass(frozen=True)
class Step:
    """One pass as it was written: its name, its options by field name (None without `=`), and where it begins."""

    name: str
    options: Mapping[str, Value | None]
    place: int


P = TypeVar("P")


def is_name(text: str) -> bool:
    """Whether a text can name a pass."""
    return _NAME.fullmatch(text) is not None


def parse(text: str, known: Mapping[str, type[P]]) -> list[P]:
    """The passes of a pipeline, of those that are known by name: dataclasses whose fields are their options.

    Raises UsageError that names the character, the pass or the option.
    """
    return [_made(step, known) for step in steps(text)]


def steps(text: str) -> list[Step]:
    """A pipeline taken apart; nothing is looked up. Raises UsageError that names the character."""
    if len(text) > LONGEST:
        raise UsageError(f"pipeline: {len(text)} characters; write at most {LONGEST}")
    reader, found = _Reader(text), []
    reader.space()
    while not reader.ended():
        found.append(reader.step())
        if len(found) > MOST:
            raise UsageError(f"pipeline: more than {MOST} passes")
        reader.space()
        if reader.ended():
            break
        reader.expect(",", "a comma or the end")
        reader.space()  # a comma at the end separates nothing, and does no harm
    return found


class _Reader:
    """A place in a text that goes forward."""

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0

    def ended(self) -> bool:
        return self.place >= len(self.text)

    def space(self) -> None:
        self.take(_SPACE)

    def take(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.place)
        if found is None:
            return None
        self.place = found.end()
        return found[0]

    def next_is(self, character: str) -> bool:
        return self.text.startswith(character, self.place)

    def expect(self, character: str, wanted: str) -> None:
        if not self.next_is(character):
            self.refuse(wanted)
        self.place += 1

    def refuse(self, wanted: str, place: int | None = None) -> NoReturn:
        place = self.place if place is None else place
        rest = self.text[place : place + 20]
        what = f"cannot read {shown(rest)!r} at character {place + 1}" if rest else f"it ends at character {place}"
        raise UsageError(f"pipeline: {what}, expected {wanted}; write name,name{{option=value,option=value}}")

    def step(self) -> Step:
        place = self.place
        name = self.take(_NAME)
        if name is None:
            self.refuse("the name of a pass")
        options: dict[str, Value | None] = {}
        self.space()
        if self.next_is("{"):
            self.place += 1
            self.space()
            while not self.next_is("}"):
                self.option(name, options)
            self.place += 1
        return Step(name, options, place)

    def option(self, step: str, options: dict[str, Value | None]) -> None:
        place = self.place
        key = self.take(_NAME)
        if key is None:
            self.refuse("the name of an option")
        key = key.replace("-", "_")
        if key in options:
            raise UsageError(
                f"pass {step}: option {key.replace('_', '-')} is given twice (at character {place + 1}); give it once"
            )
        self.space()
        if self.next_is("="):
            self.place += 1
            options[key] = self.value()
        else:
            options[key] = None
        self.space()
        if self.next_is(","):
            self.place += 1
            self.space()
            if self.next_is("}"):
                self.refuse("the name of an option")
        elif not self.next_is("}"):
            self.refuse("a comma or a closing brace")

    def value(self) -> Value:
        items: list[str] = []
        quoted: list[bool] = []
        while True:
            self.space()
            quoted.append(self.next_is('"'))
            items.append(self.quoted() if quoted[-1] else (self.take(_PLAIN) or "").strip())
            self.space()
            if not self.next_is("|"):
                return Value(tuple(items), tuple(quoted))
            self.place += 1

    def quoted(self) -> str:
        place = self.place
        text = self.take(_QUOTED)
        try:
            return str(json.loads(text or "", strict=False))
        except ValueError:
            self.refuse("a text in double quotes", place)


def _made(step: Step, known: Mapping[str, type[P]]) -> P:
    if step.name not in known:
        lost = plugins.left_out(plugins.PASSES, step.name)
        why = "see `hwpass passes`" if lost is None else str(lost)
        raise UsageError(f"pipeline: there is no pass {shown(step.name)!r} (at character {step.place + 1}); {why}")
    cls = known[step.name]
    types = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in step.options.items():
        if key not in fields:
            names = ", ".join(k.replace("_", "-") for k in fields) or "none"
            raise UsageError(
                f"pass {step.name}: there is no option {shown(key.replace('_', '-'))!r}; its options: {names}"
            )
        values[key] = _read(step.name, key.replace("_", "-"), types[key], value)
    try:
        return cls(**values)
    except HwpassError:
        raise
    except (TypeError, ValueError) as error:  # a pass of somebody else's, which checks its options its own way
        raise UsageError(f"pass {step.name}: {shown(str(error), 200)}") from error


def _read(name: str, key: str, kind: Any, value: Value | None) -> Any:
    if value is None:
        if kind is bool:
            return True
        raise UsageError(f"pass {name}: option {key} needs a value; write {key}=...")
    if kind == tuple[str, ...]:
        return tuple(item for item, quoted in zip(value.items, value.quoted, strict=True) if item or quoted)
    text = value.text
    wrong = UsageError(f"pass {name}: option {key}={shown(text)} is not of type {getattr(kind, '__name__', kind)}")
    if kind is bool:
        if text.lower() not in _TRUTH:
            raise wrong
        return _TRUTH[text.lower()]
    if kind in _NUMBER:
        if not _NUMBER[kind].fullmatch(text):
            raise wrong
        try:
            return kind(text)
        except ValueError:
            raise wrong from None
    return text


def written(value: Any) -> str:
    """An option's value as pipeline text, which reads back as the same value.

    >>> written(("a*", "b|c")), written(True), written("x")
    ('a*|"b|c"', 'true', 'x')
    """
    if isinstance(value, tuple):
        return "|".join(_item(str(item)) for item in value)
    if callable(value):
        value = f"{value.__module__}:{getattr(value, '__qualname__', type(value).__name__)}"
    return str(value).lower() if isinstance(value, bool) else _item(str(value))


def texts(name: str, given: str | Iterable[str]) -> tuple[str, ...]:
    """What a parameter of several texts was given, a single text being one of them. Raises UsageError.

    >>> texts("keep", "conv1"), texts("keep", ["a*", "b"])
    (('conv1',), ('a*', 'b'))
    """
    if isinstance(given, str):
        return (given,)
    found = tuple(given) if isinstance(given, Iterable) else (given,)
    for item in found:
        if not isinstance(item, str):
            raise UsageError(f"{option(name)}: a {type(item).__name__} is no text; give one text, or a list of them")
    return found


def _item(text: str) -> str:
    return text if text and _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)
