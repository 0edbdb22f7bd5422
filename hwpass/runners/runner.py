"""What a runner is: models in, seconds per run out; and their registry.

A runner is one class under `@register`, or one that an entry point of another distribution names in the group
`hwpass.runners`. It is asked for by its name and, after a colon, an argument of its own: `onnxruntime`,
`onnxruntime:CUDAExecutionProvider`, `command:./on_my_phone.sh {model}`.
"""

from __future__ import annotations

import importlib.util
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from hwpass import plugins
from hwpass.errors import InputError, UsageError, option
from hwpass.figures import shown

#: Seconds that one session may take, its start and warm-up included, where nobody says otherwise.
TIMEOUT = 600.0


@dataclass(frozen=True)
class Job:
    """One session: a fresh instance of a model, `runs` timed runs of it.

    `feed` is an .npz of its inputs: names and values in turn, `arr_0`, `arr_1`, ... `cpu_time` counts processor time
    instead of the time that passes; `energy` asks for joules beside seconds.
    """

    name: str
    model: Path
    feed: Path
    runs: int = 20
    threads: int = 1
    cpu_time: bool = False
    energy: bool = False
    timeout: float = TIMEOUT
    warm_up: float = 0.1  #: seconds of runs that are not counted


@dataclass(frozen=True)
class Outcome:
    """What one session gave: seconds of its runs, and joules per run where that was asked for; or why it gave none."""

    seconds: tuple[float, ...] = ()
    joules: float | None = None
    failure: str = ""


class Runner(ABC):
    """Runs models somewhere. Made once from the argument after the colon, then given any number of jobs.

    `summary` is one line for people. `counts_cpu_time`: whether it can count processor time. `meter` names what can
    measure energy where it runs (a key of `hwpass.runners.meters.METERS`), None where nothing can. `bases` are names
    of targets with its rules of fusion and layout: a calibration starts at the one that is nearest.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    counts_cpu_time: ClassVar[bool] = False
    bases: ClassVar[tuple[str, ...]] = ()
    meter: str | None = None

    def __init__(self, argument: str = "") -> None:
        """Raises UsageError for an argument that makes no sense, InputError where what it needs is not there."""
        self.argument = argument

    def __str__(self) -> str:
        return f"{self.name}:{self.argument}" if self.argument else self.name

    @abstractmethod
    def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """An outcome for each job, in order, as soon as it is there: each in a session of its own.

        One call is one visit to the device: in a process of its own where there are processes. A job that fails is an
        Outcome with a failure, in one line; the others are measured all the same.
        """

    def describe(self) -> str:
        """What ran the models, in words, for the source of a figure."""
        return str(self)


def _name(cls: type[Runner]) -> tuple[str, ...]:
    if not re.fullmatch(r"[a-z][a-z0-9-]*", cls.name):
        raise ValueError(f"{cls.__name__}.name: {cls.name!r} is no name: write small letters, digits and dashes")
    return (cls.name,)


_RUNNERS: plugins.Classes[type[Runner]] = plugins.Classes(
    plugins.Kind(Runner, "hwpass.runners.runner.Runner", "runner", "runners"),
    "hwpass.runners",
    plugins.RUNNERS,
    _name,
)
_R = TypeVar("_R", bound=type[Runner])


def register(cls: _R) -> _R:
    """Class decorator: enter a runner under its name. Raises TypeError for what is none, ValueError for a name that is
    bad or taken."""
    _RUNNERS.register(cls)
    return cls


def runners() -> dict[str, type[Runner]]:
    """Every runner by name: those of this package, and those of installed packages (entry points `hwpass.runners`)."""
    return _RUNNERS.known()


def runner_for(text: str | Runner) -> Runner:
    """The runner that a text names; a Runner is itself. Raises UsageError for a name that nobody has."""
    if isinstance(text, Runner):
        return text
    name, _, argument = text.partition(":")
    known = runners()
    if name not in known:
        raise UsageError(
            f"{option('runner', shown(text))}: expected one of {', '.join(known)}, with what the runner itself is told"
            f" after a colon{plugins.why_not(plugins.RUNNERS, name)}"
        )
    return known[name](argument)


def need(module: str, extra: str, what: str) -> None:
    """Raise InputError, with the extra that brings it, where a module is not installed."""
    if importlib.util.find_spec(module) is None:
        raise InputError(f"{what}: {module} is not installed; `pip install 'hwpass[{extra}]'` brings it")


def checked(outcome: Outcome, job: Job) -> Outcome:
    """The outcome, or a failure where its times are none: a runner may be somebody else's."""
    if outcome.failure:
        return outcome
    if not outcome.seconds or not all(math.isfinite(s) and s > 0 for s in outcome.seconds):
        return Outcome(failure="gave no times, or times that are not positive")
    return outcome
