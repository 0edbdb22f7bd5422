"""What other distributions add to hwpass by entry points: loaded once, and one that is broken is named and left out."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from hwpass import interrupts
from hwpass.figures import shown

#: The group of entry points for passes.
PASSES = "hwpass.passes"
#: The group of entry points for operator rules.
RULES = "hwpass.rules"


class PluginWarning(UserWarning):
    """An entry point of another distribution was left out."""


class Refused(Exception):
    """What an entry point gives is not what its group is for; the message says why."""


@dataclass(frozen=True)
class LeftOut:
    """An entry point that is not used: whose it is, why, and the names that it would have been known by."""

    distribution: str
    entry: str
    group: str
    reason: str
    names: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"distribution {self.distribution}: entry point {self.entry} in {self.group} left out: {self.reason}"


_TELL: ContextVar[Callable[[str], None] | None] = ContextVar("tell", default=None)
_LOCK = threading.RLock()
_LOADED: dict[str, list[LeftOut]] = {}


@contextmanager
def told(tell: Callable[[str], None]) -> Iterator[None]:
    """Have lines about what is left out go here, not to `warnings`."""
    token = _TELL.set(tell)
    try:
        yield
    finally:
        _TELL.reset(token)


def load(
    group: str, check: Callable[[object], None], registries: Callable[[], Sequence[MutableMapping[Any, Any]]]
) -> Sequence[LeftOut]:
    """Load every entry point of a group, once per process, and say which were left out.

    `check` is given what each one names, and raises for what is of no use. What an entry point that fails has entered
    into a registry by then is taken out again. The first of `registries` is that of the group: its keys are names.
    """
    with _LOCK:
        if group in _LOADED:
            return _LOADED[group]
        lost = _LOADED[group] = []  # from here on, so that what is loaded may ask for the group itself
        try:
            for entry in _entries(group):
                _take(entry, check, registries(), lost)
        except BaseException:
            del _LOADED[group]
            raise
        for item in lost:
            _say(str(item))
        return lost


def left_out(group: str, name: str) -> LeftOut | None:
    """The entry point of a group that was left out and would have been known by a name."""
    found = [item for item in _LOADED.get(group, ()) if name.replace("_", "-") in item.names]
    return found[0] if found else None


def _take(
    entry: EntryPoint,
    check: Callable[[object], None],
    registries: Sequence[MutableMapping[Any, Any]],
    lost: list[LeftOut],
) -> None:
    before = [dict(registry) for registry in registries]
    try:
        check(entry.load())
    except BaseException as error:  # whatever somebody else's module does
        if isinstance(error, MemoryError) or (isinstance(error, KeyboardInterrupt) and not interrupts.watched()):
            raise
        names = {entry.name, *(key for key in registries[0] if key not in before[0])}
        for registry, was in zip(registries, before, strict=True):
            registry.clear()
            registry.update(was)
        lost.append(
            LeftOut(
                _distribution(entry.dist),
                shown(f"{entry.name} = {entry.value}"),
                entry.group,
                _reason(error),
                frozenset(str(name).replace("_", "-") for name in names),
            )
        )


def _entries(group: str) -> list[EntryPoint]:
    """The entry points of a group by distribution and name, so that of two of one name always the same is taken."""
    return sorted(entry_points(group=group), key=lambda entry: (_distribution(entry.dist).lower(), entry.name))


def _distribution(distribution: Any) -> str:
    try:
        return shown(str(distribution.metadata["Name"] or "without a name"))
    except Exception:
        return "without a name"


def _reason(error: BaseException) -> str:
    text = shown(" ".join(str(error).split()), 200)
    if isinstance(error, Refused):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _say(text: str) -> None:
    tell = _TELL.get()
    if tell is not None:
        tell(text)
    else:
        warnings.warn(text, PluginWarning, stacklevel=2)
