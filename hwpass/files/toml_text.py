"""Text of a TOML file from tables of numbers, texts and lists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(table: Mapping[str, Any]) -> str:
    """The text of a table: its own values first, then the tables in it.

    >>> print(toml_text({"a": 1, "t": {"x.y": 0.5, "u": {"k": "one"}}, "l": [["b", "c"]]}), end="")
    a = 1
    l = [
        ["b", "c"],
    ]
    <BLANKLINE>
    [t]
    "x.y" = 0.5
    <BLANKLINE>
    [t.u]
    k = "one"
    """
    return "\n".join(_lines(table, "")) + "\n"


def inline(value: Any) -> str:
    """A value on one line, tables and lists in it too.

    >>> inline({"a": [1, "b"], "c": {"d": True}})
    '{a = [1, "b"], c = {d = true}}'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {inline(each)}" for key, each in value.items()) + "}"
    if isinstance(value, str) or not isinstance(value, Sequence):
        return _value(value)
    return f"[{', '.join(map(inline, value))}]"


def _lines(table: Mapping[str, Any], place: str) -> Iterator[str]:
    for key, value in table.items():
        if not isinstance(value, Mapping):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner = f"{place}{_key(key)}"
            if not value or not all(isinstance(each, Mapping) for each in value.values()):
                yield ""
                yield f"[{inner}]"
            yield from _lines(value, f"{inner}.")


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return repr(value)
    assert isinstance(value, Sequence)
    if value and not isinstance(value[0], str | int | float):
        return "[\n" + "".join(f"    {_value(each)},\n" for each in value) + "]"
    return f"[{', '.join(map(_value, value))}]"
