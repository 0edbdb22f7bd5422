"""What writes a report as a file: one class by the suffixes of the files it is for; and the registry."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from pathlib import PurePath
from typing import TYPE_CHECKING, ClassVar, TypeVar

from hwpass import plugins
from hwpass.errors import UsageError, option
from hwpass.figures import shown

if TYPE_CHECKING:
    from hwpass.reporting.schema import Report


class Renderer(ABC):
    """Writes a report as text. A new one is one class under `@register`, or one that an entry point names.

    `suffixes` are those of the files that it is for, in small letters with the dot; `summary` is one line for people.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    summary: ClassVar[str] = ""

    @abstractmethod
    def page(self, report: Report) -> str:
        """The whole file. The report has names from the model's file in it: escape them."""


def _suffixes(cls: type[Renderer]) -> tuple[str, ...]:
    bad = [suffix for suffix in cls.suffixes or ("",) if not re.fullmatch(r"\.[a-z0-9]+", suffix)]
    if bad:
        raise ValueError(f"{cls.__name__}.suffixes: {bad[0]!r} is no suffix: write a dot, small letters and digits")
    return cls.suffixes


_RENDERERS: plugins.Classes[type[Renderer]] = plugins.Classes(
    plugins.Kind(Renderer, "hwpass.reporting.renderer.Renderer", "renderer", "renderers"),
    "hwpass.reporting.renderers",
    plugins.RENDERERS,
    _suffixes,
)
_R = TypeVar("_R", bound=type[Renderer])


def register(cls: _R) -> _R:
    """Class decorator: enter a renderer under its suffixes. Raises TypeError for what is none, ValueError for a suffix
    that is taken."""
    _RENDERERS.register(cls)
    return cls


def renderers() -> dict[str, type[Renderer]]:
    """Every renderer by suffix: those of `hwpass.reporting.renderers`, and those of installed packages (entry points
    `hwpass.renderers`)."""
    return _RENDERERS.known()


def renderer_for(path: str) -> Renderer:
    """The renderer of a file, by its suffix; standard output (`-`) gets HTML. Raises UsageError, which lists those
    there are."""
    known = renderers()
    suffix = ".html" if path == "-" else PurePath(path).suffix.lower()
    if suffix not in known:
        why = plugins.why_not(plugins.RENDERERS, suffix)
        ends = f"ends in {shown(suffix, 20)}" if suffix else "has no suffix"
        raise UsageError(f"{option('report')}: the file {ends}, and reports end in {', '.join(known)}{why}")
    return known[suffix]()
