"""What other distributions add to hwpass by entry points: loaded once, and one that is broken is named and left out."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar

from hwpass import interrupts
from hwpass.figures import shown

#: The groups of entry points, and what each adds.
PASSES = "hwpass.passes"
RULES = "hwpass.rules"
SCORES = "hwpass.scores"
RENDERERS = "hwpass.renderers"
CALIBRATION = "hwpass.calibration"
COST_MODELS = "hwpass.cost_models"
TARGETS = "hwpass.targets"
RUNNERS = "hwpass.runners"

K = TypeVar("K")
V = TypeVar("V")
C = TypeVar("C", bound=type)


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
_REGISTRIES: list[Registry[Any, Any]] = []


class Registry(dict[K, V]):
    """Things of one kind by name. The modules of `package`, which are of hwpass, enter theirs before anybody else.

    What an entry point that fails has entered by then is taken out of every registry again.
    """

    def __init__(self, package: str) -> None:
        super().__init__()
        self.package = package
        self._complete = False
        _REGISTRIES.append(self)

    def complete(self) -> None:
        """Import every module of the package, once."""
        if self._complete:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        self._complete = True

    def enter(self, key: K, thing: V, taken: str) -> None:
        """Enter a thing. Raises ValueError, with `taken` as its message, where another one has the name."""
        if not _ours(thing):
            self.complete()
        if key in self and self[key] is not thing:
            raise ValueError(taken)
        self[key] = thing


@dataclass(frozen=True)
class Kind:
    """What a registry of classes holds: a base class, where that is found, and what one and several are called."""

    base: type
    place: str
    one: str
    several: str


class Classes(Registry[str, C], Generic[C]):
    """Subclasses of one base by name: those of a package of hwpass, and those of a group of entry points.

    `names` gives the names of a class, and raises ValueError for one that has none. `check` raises for a class of
    somebody else's that is of no use.
    """

    def __init__(
        self,
        kind: Kind,
        package: str,
        group: str,
        names: Callable[[Any], Iterable[str]],
        check: Callable[[Any], object] = lambda cls: None,
    ) -> None:
        super().__init__(package)
        self.kind, self.group = kind, group
        self._names, self._check = names, check

    def register(self, cls: C) -> C:
        """Enter a class under its names. Raises TypeError for anything else, ValueError for a bad or taken name."""
        if not (isinstance(cls, type) and issubclass(cls, self.kind.base)):
            raise TypeError(f"{getattr(cls, '__name__', cls)} is no subclass of {self.kind.place}")
        names = list(self._names(cls))
        for name in names:
            self.enter(name, cls, f"two {self.kind.several} named {name}")
        return cls

    def known(self) -> dict[str, C]:
        """Every class by name, sorted; entry points are loaded first. One that is broken is left out, see `load`."""
        self.complete()
        load(self.group, self._take, self)
        return dict(sorted(self.items()))

    def _take(self, found: object) -> None:
        """Raise for what an entry point names, unless it is such a class, or a module that has entered one."""
        kind = self.kind
        if isinstance(found, ModuleType):
            package = found.__name__.partition(".")[0]
            added = [cls for cls in self.values() if cls.__module__.partition(".")[0] == package]
            if not added:
                raise Refused(f"module {found.__name__} registers no {kind.one}")
        elif isinstance(found, type) and issubclass(found, kind.base):
            added = [found]  # type: ignore[list-item]
            if found not in self.values():
                self.register(found)  # type: ignore[arg-type]
        else:
            name = found.__name__ if isinstance(found, type) else type(found).__name__
            raise Refused(f"{name} is neither a subclass of {kind.place} nor a module that registers one")
        for cls in added:
            if inspect.isabstract(cls):
                name = next(name for name, own in self.items() if own is cls)
                missing = min(getattr(cls, "__abstractmethods__", ()))
                raise Refused(f"{kind.one} {name} has no method {missing}")
            self._check(cls)


@contextmanager
def told(tell: Callable[[str], None]) -> Iterator[None]:
    """Have lines about what is left out go here, not to `warnings`."""
    token = _TELL.set(tell)
    try:
        yield
    finally:
        _TELL.reset(token)


def load(group: str, check: Callable[[object], None], registry: Registry[Any, Any]) -> Sequence[LeftOut]:
    """Load every entry point of a group, once per process, and say which were left out.

    `check` is given what each one names, and raises for what is of no use. The keys of `registry` are names.
    """
    with _LOCK:
        if group in _LOADED:
            return _LOADED[group]
        lost = _LOADED[group] = []  # from here on, so that what is loaded may ask for the group itself
        try:
            for entry in _entries(group):
                _take(entry, check, registry, lost)
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


def why_not(group: str, name: str) -> str:
    """How a message about a name that is unknown ends: why what would have it was left out, or nothing."""
    found = left_out(group, name)
    return "" if found is None else f"; {found}"


def _take(
    entry: EntryPoint, check: Callable[[object], None], registry: Registry[Any, Any], lost: list[LeftOut]
) -> None:
    before = {id(each): dict(each) for each in _REGISTRIES}
    try:
        check(entry.load())
    except BaseException as error:  # whatever somebody else's module does
        if isinstance(error, MemoryError) or (isinstance(error, KeyboardInterrupt) and not interrupts.watched()):
            raise
        names = {entry.name, *(key for key in registry if key not in before[id(registry)])}
        for each in _REGISTRIES:
            # Modules of our own that were imported on the way are not imported again: what they entered stays.
            was = before.get(id(each), {})
            was |= {key: thing for key, thing in each.items() if key not in was and _ours(thing)}
            each.clear()
            each.update(was)
        lost.append(
            LeftOut(
                _distribution(entry.dist),
                shown(f"{entry.name} = {entry.value}"),
                entry.group,
                _reason(error),
                frozenset(str(name).replace("_", "-") for name in names),
            )
        )


def _ours(thing: object) -> bool:
    """Whether a class, or the class of an object, is of hwpass."""
    return str(getattr(thing, "__module__", "")).partition(".")[0] == "hwpass"


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
