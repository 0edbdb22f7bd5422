"""Options whose values are those of a registry: their words are found when they are shown, not when commands start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hwpass.command.grouped import Placed, option


class Derived(Placed):
    """An option whose value is written as `words` say."""

    def __init__(self, *arguments: Any, words: Callable[[], str], **more: Any) -> None:
        self._words = words
        super().__init__(*arguments, **more)

    @property
    def metavar(self) -> str:
        """What stands for the value in help."""
        return self._words()

    @metavar.setter
    def metavar(self, value: str | None) -> None:
        """Click's own, which is not used."""


def _scores() -> str:
    from hwpass.planning.score import scores

    return "|".join(scores())


def _data() -> str:
    from hwpass.runtime.reader import FOLDER, readers

    return "|".join([*(f"FILE{suffix}" for suffix in readers() if suffix != FOLDER), "DIR"])


def _reports() -> str:
    from hwpass.reporting.renderer import renderers

    return "|".join(f"OUT{suffix}" for suffix in renderers())


#: How the values of options are written, by the names of the options.
WORDS: dict[str, Callable[[], str]] = {"score": _scores, "calib": _data}
REPORT = option(
    "--report",
    "report_path",
    group="Outputs",
    cls=Derived,
    words=_reports,
    help="Write the report in the form of the file's suffix.",
)
