"""Which pass breaks a check of the user's, and inside a pass that removes channels which group."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from hwpass.context import Context
from hwpass.errors import HwpassError, InputError, UsageError, option, words_of_a_pipeline
from hwpass.figures import brief, counted, shown
from hwpass.files.temporary import TemporaryFolder
from hwpass.instruments.recording import Recording
from hwpass.manager import Pass, PassManager
from hwpass.model.model import Model
from hwpass.model.sources import Source
from hwpass.options import RunOptions, chosen
from hwpass.planning.limited import first_groups, narrowed
from hwpass.planning.removal import operate
from hwpass.planning.stages import Pruned
from hwpass.reporting.tables import print_line
from hwpass.workflows.job import Job
from hwpass.workflows.run import stated, trusted
from hwpass.workflows.steps import budgets, check_inputs, usual

#: What a check ends with where it cannot tell, as for `git bisect run`.
SKIP = 125

#: From this status on a check was killed or not found, which says nothing of the model.
BROKEN = 126

#: A check of the user's: a command, or a function of a file that is true where the model is good, None where it cannot
#: tell.
Check = str | Callable[[Path], bool | None]


@dataclass(frozen=True)
class Suspect:
    """A pass, or a group of channels, that may be the first after which the check fails."""

    name: str
    place: int  # counted from 1, among the passes or among the groups that lose channels
    of: int
    what: str = ""


@dataclass(frozen=True)
class Bisection:
    """What was found. `passes` are the suspects: one, or several where the check could not tell them apart; none where
    the check holds to the end. `groups` are the same inside the pass. `runs` of the check were needed, of which
    `untold` could not tell."""

    passes: tuple[Suspect, ...]
    groups: tuple[Suspect, ...] = ()
    runs: int = 0
    untold: int = 0
    error: str | None = None  # why the pipeline ended before its end

    def __repr__(self) -> str:
        return brief(self, self.lines()[0])

    def to_json(self) -> str:
        """The stable form."""
        return json.dumps({"schema": 1, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"

    def lines(self) -> list[str]:
        """What people read."""
        runs = f"{counted(self.runs, 'run')} of the check" + (f", {self.untold} could not tell" if self.untold else "")
        ended = [f"the pipeline itself ended early: {self.error}"] if self.error else []
        if not self.passes:
            where = "wherever it can tell" if self.untold else "after every pass"
            return [f"the check passes {where}: there is nothing to find ({runs})", *ended]
        found = [f"the first pass after which the check fails: {_either(self.passes)} ({runs})"]
        if self.groups:
            found.append(f"and in it the group: {_either(self.groups)}")
        return [*found, *ended]


def _either(suspects: Sequence[Suspect]) -> str:
    told = [f"{s.name} ({s.place} of {s.of}{f', {s.what}' if s.what else ''})" for s in suspects]
    return told[0] if len(told) == 1 else f"one of {', '.join(told)}, which the check could not tell apart"


def bisect(
    source: Source | Model, target: Any, check: Check, options: RunOptions | None = None, *,
    progress: Callable[[str], None] | None = None, **asked: Any,
) -> Bisection:  # fmt: skip
    """Run a pipeline once, then look for the first pass after which a check fails, by halves.

    What is asked is what `hwpass.run` takes. `check` is a command with `{model}` where it takes a file, which ends with
    0 for a good model, 125 where it cannot tell and another status below 126 for a bad one; or a function of the file.
    Passes that only judge do not run. Raises InputError where the check fails on the model as it was given, or cannot
    be run.
    """
    options = chosen("bisect", options, asked)
    steps = [step for step in _pipeline(options) if step.effect != "none"]
    ask = _asker(check)
    setting = options.given(("calib", "input", "seed", "threads", "dtype", "dim", "force"))
    job = Job(trusted(source, options.allow_external), target=target, progress=progress, **setting)
    recording = Recording()
    error = None
    try:
        job.attempt(PassManager(steps, instruments=[recording]))
    except HwpassError as raised:
        if recording.failure is None or not recording.ran:
            raise
        error = f"{raised} ({raised.place})"
    assert recording.loaded is not None
    return _Search(recording, ask, job.context, [step.name for step in steps], error).run()


def _pipeline(options: RunOptions) -> Sequence[Pass]:
    check_inputs(options)
    given = budgets(options)
    if options.pipeline is None:
        return usual(options)
    if given:
        raise UsageError(f"{option('pipeline')} says what runs: put budgets into it")
    with words_of_a_pipeline():
        return stated(options.pipeline).steps


def _asker(check: Check) -> Callable[[Path], bool | None]:
    """The check as a function of a file. Raises UsageError for a command that does not say where the file goes."""
    if not isinstance(check, str):
        return check
    asked = option("check", f"'{shown(check)}'")
    try:
        words = shlex.split(check)
    except ValueError as error:
        raise UsageError(f"{asked}: {error}") from None
    if not any("{model}" in word for word in words[1:]):
        raise UsageError(f"{asked}: expected a program, and {{model}} where it takes the model's file")

    def ask(path: Path) -> bool | None:
        given = [word.replace("{model}", str(path)) for word in words]
        try:
            status = subprocess.run(given, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode
        except OSError as error:
            raise InputError(f"{asked}: {given[0]} cannot be started ({error.strerror or error})") from None
        if status < 0 or status >= BROKEN:
            raise InputError(f"{asked}: it ended with status {status}; 0 is good, {SKIP} cannot tell, 1 to 124 are bad")
        return None if status == SKIP else status == 0

    return ask


@dataclass
class _Search:
    """Models in order, the first of which is good."""

    recording: Recording
    ask: Callable[[Path], bool | None]
    context: Context
    names: list[str]
    error: str | None
    runs: int = 0
    untold: int = 0

    def run(self) -> Bisection:
        loaded = self.recording.loaded
        assert loaded is not None
        changing = [(place, ran) for place, ran in enumerate(self.recording.ran, 1) if ran.changed]
        if self._good(loaded, "the model as it was given") is not True:
            raise InputError("the check does not pass on the model as it was given; it has to, before it is of use")
        models = [loaded, *(ran.after for _, ran in changing)]
        told = ["the model as it was given", *(f"the model after {ran.step.name}" for _, ran in changing)]
        low, high = self._between(len(models), lambda number: self._good(models[number], told[number]))
        if high is None:
            return Bisection((), runs=self.runs, untold=self.untold, error=self.error)
        suspects = changing[low:high]
        passes = tuple(Suspect(ran.step.name, place, len(self.names), str(ran.step)) for place, ran in suspects)
        groups: tuple[Suspect, ...] = ()
        if len(suspects) == 1 and suspects[0][1].pruned is not None:
            groups = self._groups(suspects[0][1].pruned)
        plain = tuple(s if s.what != s.name else Suspect(s.name, s.place, s.of) for s in passes)
        return Bisection(plain, groups, self.runs, self.untold, self.error)

    def _groups(self, pruned: Pruned) -> tuple[Suspect, ...]:
        """The first group whose channels break the check when they go, the groups before it having lost theirs."""
        changed = narrowed(pruned.plan)

        def good(count: int) -> bool | None:
            if count == len(changed):
                return False  # the whole plan, which is known to be bad
            part = operate(pruned.coupling, first_groups(pruned.plan, count), self.context)
            return self._good(part.surgery.model, f"the model with {counted(count, 'group')} cut")

        low, high = self._between(len(changed) + 1, good, bad_end=True)
        assert high is not None
        return tuple(
            Suspect(group.name, place + 1, len(changed), f"{group.width} -> {len(group.kept)} channels")
            for place, group in enumerate(changed[low:high], low)
        )

    def _between(self, count: int, good: Callable[[int], bool | None], bad_end: bool = False) -> tuple[int, int | None]:
        """The last number that is good and the first that is bad, of 0 (good) to count - 1; those between cannot be
        told. No number is bad where the last that can be told is good."""
        last = count - 1
        if not bad_end:
            while last > 0 and (end := good(last)) is None:
                last -= 1
            if last == 0 or end:
                return last, None
        low, high = 0, last
        untold: set[int] = set()
        while left := [n for n in range(low + 1, high) if n not in untold]:
            middle = min(left, key=lambda n: abs(2 * n - low - high))
            found = good(middle)
            if found is None:
                untold.add(middle)
            elif found:
                low = middle
            else:
                high = middle
        return low, high

    def _good(self, model: Model, what: str) -> bool | None:
        self.context.progress(f"checking {what}")
        self.runs += 1
        with TemporaryFolder() as folder:
            path = folder / "model.onnx"
            model.write(path)
            found = self.ask(path)
        self.untold += found is None
        return found


def render_bisection(found: Bisection, console: Console) -> None:
    """Print what was found."""
    for number, line in enumerate(found.lines()):
        print_line(console, line, "bold" if not number else "")
