"""The one tree of errors. Each carries the exit status that the command line ends with.

Messages speak of parameters in the words of whoever asked: `option` and `in_words` write them, and a test allows no
other text to spell an option.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

#: Characters of the longest message, before what cannot be printed is escaped.
LONGEST = 1000

#: Characters that are shown of a text on either side of the one that is pointed at.
AROUND = 50

_SHELL: ContextVar[bool] = ContextVar("shell", default=False)
_PIPELINE: ContextVar[bool] = ContextVar("pipeline", default=False)


class HwpassError(Exception):
    """Base of everything hwpass raises on purpose; the message is one line: what, where, the mend.

    What names and paths have in them that is no letter of a line is escaped, and of what is too long the middle is left
    out.
    """

    exit_code = 1

    #: Where in a pipeline it happened, once a manager knows.
    place = ""

    #: A text that was read and a mark below the character that it is about, for a second and a third line.
    pointed = ""

    #: The model before the pass that failed, where it was asked to be kept.
    last_good: Any = None

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))

    def point(self, text: str, place: int) -> None:
        """Show a text with a mark below one of its characters, once.

        >>> error = UsageError("no such pass")
        >>> error.point("fold,flod", 5)
        >>> print(error.pointed)
          fold,flod
               ^
        """
        if self.pointed:
            return
        start = max(0, place - AROUND)
        plain = "".join(c if c.isprintable() and c.isascii() else " " if c.isspace() else "?" for c in text)
        before = f"{'...' if start else ''}{plain[start:place]}"
        end = place + AROUND
        self.pointed = f"  {before}{plain[place:end]}{'...' if end < len(text) else ''}\n  {' ' * len(before)}^"
        self.add_note(self.pointed)

    def say_place(self) -> None:
        """Have the message say where in a pipeline it happened."""
        if self.place:
            self.args, self.place = (one_line(f"{self} ({self.place})"),), ""


class UsageError(HwpassError):
    """An option or a pipeline text makes no sense."""

    exit_code = 2


class InputError(HwpassError):
    """A model, a target or calibration data cannot be used."""

    exit_code = 3


class BudgetError(HwpassError):
    """The budget cannot be met; `achieved` says what could."""

    exit_code = 4


class VerdictError(HwpassError):
    """A verdict failed, so nothing was written."""

    exit_code = 5


class ProofError(VerdictError):
    """What a pass did is not what it claims: a fault of the pass, which a reproducer can show."""


def one_line(text: str) -> str:
    """A text as one printable line of at most `LONGEST` characters.

    >>> one_line("no\\nsuch file"), len(one_line("x" * 5000))
    ('no\\\\nsuch file', 1000)
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2 - 5]} ... {text[-LONGEST // 2 :]}"
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text


def option(name: str, value: Any = None) -> str:
    """A parameter as the reader writes it: a word of Python, and on the command line an option.

    The options of a pass that stands in a pipeline of the reader's own are written as they are there.

    >>> option("max_drop"), option("latency", "0.6x"), option("force", True), option("max_drop", 0.1)
    ('max_drop', "latency='0.6x'", 'force=True', 'max_drop=0.1')
    >>> with words_of_the_shell():
    ...     option("max_drop"), option("latency", "0.6x"), option("force", True), option("max_drop", 0.1)
    ('--max-drop', '--latency 0.6x', '--force', '--max-drop 0.1')
    """
    if not _SHELL.get():
        return name if value is None else f"{name}={value!r}"
    word = name.replace("_", "-")
    if isinstance(value, float):
        value = str(value).removesuffix(".0")
    if _PIPELINE.get():
        return word if value is None else f"{word}={value}"
    word = f"--{word}"
    return word if value is None or value is True else f"{word} {value}"


@contextmanager
def words_of_the_shell() -> Iterator[None]:
    """Have messages speak of options, since the reader wrote a command line."""
    token = _SHELL.set(True)
    try:
        yield
    finally:
        _SHELL.reset(token)


@contextmanager
def words_of_a_pipeline() -> Iterator[None]:
    """Have messages speak of the options of passes as a pipeline's text does, since the reader wrote one."""
    token = _PIPELINE.set(True)
    try:
        yield
    finally:
        _PIPELINE.reset(token)


def in_words(for_shell: str, for_python: str) -> str:
    """The one of two phrases that fits the reader."""
    return for_shell if _SHELL.get() else for_python
