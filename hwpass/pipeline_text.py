"""Pipelines as text: `name,name{option=value,option=a|b,option="any text"}`, read and written.

Passes in round brackets are a group, `(name,name)`; `repeat{n=3}(name,name)` runs one several times.

A value, or one item of a list, that has a comma, a brace, a bar, a quote or a space at its ends stands in double quotes
and is written as JSON writes a string.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, get_type_hints

from hwpass import plugins
from hwpass.errors import HwpassError, UsageError, option
from hwpass.figures import shown
from hwpass.pipeline import DEEPEST, Group, Repeat

#: Characters of the longest pipeline that is read, and its most passes.
LONGEST = 1 << 16
MOST = 256

#: The word before passes that run several times, and all words that name no pass.
REPEAT = "repeat"
WORDS = (REPEAT,)

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
    """One step as it was written: its name (none of a group), its options by field name (None without `=`), where it
    and each option begins, and the steps in its round brackets (None without)."""

    name: str
    options: Mapping[str, Value | None]
    place: int
    places: Mapping[str, int] = field(default_factory=dict)
    inner: tuple[Step, ...] | None = None


P = TypeVar("P")


def is_name(text: str) -> bool:
    """Whether a text can name a pass."""
    return _NAME.fullmatch(text) is not None


def parse(text: str, known: Mapping[str, type[P]]) -> list[P | Group]:
    """The steps of a pipeline, of the passes that are known by name: dataclasses whose fields are their options.

    Raises UsageError that names the character, the pass or the option, and points at it.
    """
    return [_step(step, known, text) for step in steps(text)]


def steps(text: str) -> list[Step]:
    """A pipeline taken apart; nothing is looked up. Raises UsageError that names the character and points at it."""
    if len(text) > LONGEST:
        raise UsageError(f"pipeline: {len(text)} characters; write at most {LONGEST}")
    return _Reader(text).steps("")


def names(found: Iterable[Step]) -> Iterator[str]:
    """The names of the passes in steps that were taken apart, those in brackets too."""
    for step in found:
        if step.inner is None:
            yield step.name
        else:
            yield from names(step.inner)


class _Reader:
    """A place in a text that goes forward."""

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0
        self.count = self.depth = 0

    def steps(self, closing: str) -> list[Step]:
        """Steps with commas between them, up to a closing bracket or the end of the text."""
        found: list[Step] = []
        self.space()
        while not self.ended() and not (closing and found and self.next_is(closing)):
            found.append(self.step())
            self.space()
            if self.ended() or (closing and self.next_is(closing)):
                break
            self.expect(",", "a comma or a closing bracket" if closing else "a comma or the end")
            self.space()  # a comma at the end separates nothing, and does no harm
        return found

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
        self.fail(f"pipeline: {what}, expected {wanted}; write name,name{{option=value,option=value}}", place)

    def fail(self, message: str, place: int) -> NoReturn:
        error = UsageError(message)
        error.point(self.text, place)
        raise error

    def step(self) -> Step:
        place = self.place
        name = self.take(_NAME)
        if name is None and not self.next_is("("):
            self.refuse("the name of a pass")
        options: dict[str, Value | None] = {}
        places: dict[str, int] = {}
        self.space()
        if self.next_is("{"):
            self.place += 1
            self.space()
            while not self.next_is("}"):
                self.option(name or "", options, places)
            self.place += 1
            self.space()
        inner = self.inner() if self.next_is("(") else None
        self.count += inner is None
        if self.count > MOST:
            raise UsageError(f"pipeline: more than {MOST} passes")
        return Step(name or "", options, place, places, inner)

    def inner(self) -> tuple[Step, ...]:
        self.depth += 1
        if self.depth > DEEPEST:
            self.fail(f"pipeline: more than {DEEPEST} brackets inside one another", self.place)
        self.place += 1
        found = self.steps(")")
        if self.ended():
            self.refuse("a comma or a closing bracket")
        self.place += 1
        self.depth -= 1
        return tuple(found)

    def option(self, step: str, options: dict[str, Value | None], places: dict[str, int]) -> None:
        place = self.place
        key = self.take(_NAME)
        if key is None:
            self.refuse("the name of an option")
        key = key.replace("-", "_")
        if key in options:
            message = f"option {key.replace('_', '-')} is given twice (at character {place + 1}); give it once"
            self.fail(f"pass {step}: {message}", place)
        places[key] = place
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


def _step(step: Step, known: Mapping[str, type[P]], text: str) -> P | Group:
    """A step as an object. Raises UsageError that points at what is wrong."""
    try:
        if step.inner is None and step.name != REPEAT:
            return _made(step, known, text)
        if step.name not in ("", REPEAT):
            raise _at(f"pipeline: {shown(step.name)!r} takes no passes; only {REPEAT} does", text, step.place)
        inner = [_step(each, known, text) for each in step.inner or ()]
        if not step.name:
            return Group(*inner)
        if not inner:
            raise _at(f"pipeline: {REPEAT} needs passes in brackets; write {REPEAT}{{n=3}}(a,b)", text, step.place)
        return Repeat(*inner, **_values(step, {"n": int}, text))
    except HwpassError as error:
        error.point(text, step.place)
        raise


def _at(message: str, text: str, place: int) -> UsageError:
    error = UsageError(message)
    error.point(text, place)
    return error


def _made(step: Step, known: Mapping[str, type[P]], text: str) -> P:
    if step.name not in known:
        lost = plugins.left_out(plugins.PASSES, step.name)
        why = "see `hwpass passes`" if lost is None else str(lost)
        raise UsageError(f"pipeline: there is no pass {shown(step.name)!r} (at character {step.place + 1}); {why}")
    cls = known[step.name]
    types = get_type_hints(cls)
    fields = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    try:
        return cls(**_values(step, {name: types[name] for name in fields}, text))
    except HwpassError:
        raise
    except (TypeError, ValueError) as error:  # a pass of somebody else's, which checks its options its own way
        raise UsageError(f"pass {step.name}: {shown(str(error), 200)}") from error


def _values(step: Step, types: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The options of a step by name, read as their types. Raises UsageError that points at one."""
    values: dict[str, Any] = {}
    for key, value in step.options.items():
        try:
            if key not in types:
                names = ", ".join(k.replace("_", "-") for k in types) or "none"
                word = shown(key.replace("_", "-"))
                raise UsageError(f"pass {step.name}: there is no option {word!r}; its options: {names}")
            values[key] = _read(step.name, key.replace("_", "-"), types[key], value)
        except UsageError as error:
            error.point(text, step.places[key])
            raise
    return values


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
