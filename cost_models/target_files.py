"""Finding and reading targets: by name or alias among those that come with hwpass or other packages, or from a file.

A target that extends another says only what differs. Each figure that it changes has a source of its own; what it does
not change keeps its source. What the other was checked against says nothing of this one, and is left out.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from hwpass import plugins
from hwpass.cost_models.target import (
    Energy,
    Fallback,
    Footprint,
    MemoryLevel,
    Target,
    first_complaint,
    leaves,
    texts,
)
from hwpass.errors import InputError, UsageError
from hwpass.figures import shown, shown_path
from hwpass.files.data_files import read_data

#: Bytes of the largest target file that is read; those that come with hwpass take 8 KiB.
LARGEST = 1 << 18

#: A key of more than 32 parts: the TOML parser takes quadratic time for it, and no target has one.
_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){32}""")

#: Targets that extend one another, at most.
DEEPEST = 8

#: Keys that a target says of itself alone.
OWN = ("name", "description", "aliases", "extends", "validation")

#: A suggestion is at least so alike, of 1.
ALIKE = 0.6


class _Shelf(plugins.Registry[str, Traversable]):
    """Target files by name: those of the folder `targets`, and those in packages that entry points name."""

    def complete(self) -> None:
        """Enter the targets that come with hwpass, once."""
        if not self._complete:
            self.update(_files(resources.files(self.package) / "targets"))
            self._complete = True

    def known(self) -> dict[str, Traversable]:
        """Every target file by name, sorted."""
        self.complete()
        plugins.load(plugins.TARGETS, self._take, self)
        return dict(sorted(self.items()))

    def _take(self, found: object) -> None:
        if not isinstance(found, ModuleType):
            raise plugins.Refused(f"{type(found).__name__} is no package with target files (.toml)")
        files = _files(resources.files(found))
        if not files:
            raise plugins.Refused(f"package {found.__name__} has no target files (.toml)")
        for name, file in files.items():
            if name in self:
                raise plugins.Refused(f"a target named {shown(name)} is there already")
            parse_target(file.read_text(encoding="utf-8"), file.name)
            self[name] = file


def _files(folder: Traversable) -> dict[str, Traversable]:
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return {entry.name.removesuffix(".toml"): entry for entry in files}


_SHELF = _Shelf("hwpass.cost_models")


def target_names() -> list[str]:
    """Names of the targets that come with hwpass or installed packages (entry points `hwpass.targets`), sorted.

    >>> "server-cpu" in target_names()
    True
    """
    return list(_SHELF.known())


def find_targets(word: str) -> list[str]:
    """Names of the targets that a word stands for: a name or an alias; else those that have it in one of them or in
    their description.

    >>> find_targets("raspberry-pi-5")
    ['raspberry-pi-5']
    """
    wanted = word.strip().lower()
    raw = {name: _table(file.read_text(encoding="utf-8"), file.name) for name, file in _SHELF.known().items()}
    called = {name: [name, *map(str, table.get("aliases", ()))] for name, table in raw.items()}
    exact = [name for name, names in called.items() if wanted in (other.lower() for other in names)]
    if exact or len(wanted) < 2:
        return exact
    return [
        name
        for name, names in called.items()
        if any(wanted in other.lower() for other in (*names, str(raw[name].get("description", ""))))
    ]


def load_target(name_or_path: str | os.PathLike[str] | Target) -> Target:
    """Read a target by its name or alias, or from a file when a path is given or the text ends in `.toml`; a Target is
    itself.

    Raises UsageError for an unknown name, InputError for a file that is missing, unreadable or malformed; the
    message is one line that names the line or the key.
    """
    if isinstance(name_or_path, Target):
        return name_or_path
    if not isinstance(name_or_path, str | os.PathLike):
        raise UsageError(f"target: a {type(name_or_path).__name__} is neither a name nor a file that ends in .toml")
    name = os.fsdecode(name_or_path)
    if not isinstance(name_or_path, str) or name.lower().endswith(".toml"):
        return parse_target(read_data(name, "target file", LARGEST), name)
    file = _SHELF.known().get(name)
    if file is None:
        found = find_targets(name[:80])
        if len(found) != 1 or name.lower() not in _names(found[0]):
            raise UsageError(_unknown(name, found))
        file = _SHELF.known()[found[0]]
    return parse_target(file.read_text(encoding="utf-8"), file.name)


def _names(name: str) -> list[str]:
    """A target's name and aliases, in small letters."""
    file = _SHELF.known()[name]
    return [name.lower(), *(str(a).lower() for a in _table(file.read_text(encoding="utf-8"), file.name)["aliases"])]


def _unknown(name: str, found: list[str]) -> str:
    """What is said of a name that no target has."""
    known = list(_SHELF.known())
    near = found[:6] or difflib.get_close_matches(name[:80].lower(), known, n=1, cutoff=ALIKE)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return (
        f"unknown target '{shown(name)}': {hint}`hwpass targets` lists them, or give a file that ends in .toml"
        + plugins.why_not(plugins.TARGETS, name)
    )


def parse_target(text: str, origin: str = "target") -> Target:
    """A Target from the text of a TOML file; `origin` names it in errors, and what it extends lies beside it.

    Raises InputError in one line.
    """
    place = shown_path(origin)
    table = _table(text, origin)
    try:
        return Target.model_validate(_whole(table, origin, []))
    except ValidationError as error:
        tables = (Target, MemoryLevel, Energy, Fallback, Footprint)
        known = [key for each in tables for key in each.model_fields]
        raise InputError(f"{place}: {first_complaint(error, known=known)}") from error


def _table(text: str, origin: str) -> dict[str, Any]:
    """The raw table of a TOML file. Raises InputError."""
    place = shown_path(origin)
    if len(text) > LARGEST:
        raise InputError(f"{place}: larger than {LARGEST >> 10} KiB, which no target is")
    long = _LONG_KEY.search(text)
    if long is not None:
        line = text.count("\n", 0, long.start()) + 1
        raise InputError(f"{place}: not a target: a key of more than 32 parts (at line {line})")
    try:
        return {"aliases": [], **tomllib.loads(text.removeprefix("\ufeff"))}
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{place}: not valid TOML: {shown(str(error), 200)}") from error
    except RecursionError:
        raise InputError(f"{place}: not a target: tables or brackets are nested too deeply") from None
    except ValueError:  # Python's own, about a value
        raise InputError(f"{place}: not valid TOML: an integer of thousands of digits, or no date") from None


def _whole(table: dict[str, Any], origin: str, chain: list[str]) -> dict[str, Any]:
    """A raw table with what it extends filled in. Raises InputError for what is not there, or leads back to itself."""
    base = table.get("extends")
    if not isinstance(base, str) or not base:
        return table
    text, beside = _extended(base, origin)
    chain = [*chain, beside]
    if len(chain) > DEEPEST or beside in chain[:-1] or beside == origin:
        raise InputError(f"{shown_path(origin)}: extends: {shown(base)} leads back to itself, or on and on")
    below = _whole(_table(text, beside), beside, chain)
    own = {key: value for key, value in table.items() if key != "sources"}
    under = {key: value for key, value in below.items() if key not in (*OWN, "sources")}
    return _merged(under, own) | {"sources": _sources(table, own, under, below.get("sources", {}), origin)}


def _extended(base: str, origin: str) -> tuple[str, str]:
    """The text of what a target extends, and where it is."""
    if base.lower().endswith(".toml"):
        path = str(Path(origin).parent / base)
        return read_data(path, "target file", LARGEST), path
    file = _SHELF.get(base) or _SHELF.known().get(base)
    if file is None:
        raise InputError(f"{shown_path(origin)}: extends: {_unknown(base, [])}")
    return file.read_text(encoding="utf-8"), file.name


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two tables as one; what is above wins, tables are merged key by key."""
    found = dict(under)
    for key, value in over.items():
        below = found.get(key)
        found[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return found


def _sources(
    table: Mapping[str, Any], own: Mapping[str, Any], under: Mapping[str, Any], below: Any, origin: str
) -> dict[str, Any]:
    """A source for each figure of the merged target: its own where it says the figure, else the other's."""
    given = dict(texts(table.get("sources", {}))) if isinstance(table.get("sources", {}), Mapping) else {}
    said = set(leaves(own))
    for key in sorted(said):
        if _covering(key, given) is None:
            raise InputError(f"{shown_path(origin)}: sources.{key}: missing; the target changes this figure")
    for key in given:
        if not any(figure == key or figure.startswith(key + ".") for figure in said):
            raise InputError(f"{shown_path(origin)}: sources.{key}: there is no such figure in this file")
    inherited = dict(texts(below))
    found = {key: given[str(_covering(key, given))] for key in said}
    for key in leaves(under):
        covering = _covering(key, inherited)
        if key not in found and covering is not None and not _replaced(key, own):
            found[key] = inherited[covering]
    return _nested(found)


def _replaced(key: str, own: Mapping[str, Any]) -> bool:
    """Whether a figure of the other is gone: a key on the way to it is no table here."""
    table: Any = own
    for part in key.split("."):
        if not isinstance(table, Mapping):
            return True
        if part not in table:
            return False
        table = table[part]
    return False


def _covering(key: str, given: Mapping[str, Any]) -> str | None:
    """The longest key of `given` that covers a dotted key."""
    while key not in given:
        if "." not in key:
            return None
        key = key.rpartition(".")[0]
    return key


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as tables."""
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        table = found
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return found
