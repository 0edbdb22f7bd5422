"""Many models measured through a runner in rounds, so that noise and drift of a machine do not become figures.

Each round runs every model once in a session of its own, in another order. What a round is slower than the others is
taken out of it, and of the sessions of a model a low quantile counts: a disturbance only ever adds time. Each session
is written to a file as soon as it is there, and a later run goes on from that file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwpass import interrupts
from hwpass.errors import InputError, UsageError, one_line
from hwpass.figures import shown_path
from hwpass.runners.runner import Job, Outcome, Runner, checked

Floats = npt.NDArray[np.float64]

#: Of the runs of a session, and of the sessions of a model, this share is faster than what counts.
QUICK_RUN, QUICK_SESSION = 0.1, 0.3

#: Rounds without which no spread is known, and the most that are made.
FEWEST_ROUNDS, MOST_ROUNDS = 2, 30

#: Jobs that are handed to the runner at a time.
BATCH = 40


@dataclass(frozen=True)
class Measurement:
    """Seconds of one run of a model on an undisturbed device, and the spread (of the logarithm) of its sessions."""

    seconds: float
    spread: float
    sessions: int


@dataclass
class Log:
    """Seconds by model and round, and why models failed; kept in a file of JSON lines, if there is one.

    Its first line says of what the measurements are. Raises InputError for a file that is none, UsageError for one of
    something else.
    """

    about: Mapping[str, Any]
    file: Path | None = None
    sessions: dict[str, dict[int, float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    spent: float = 0.0  #: seconds of measuring so far
    _said: bool = False  # whether the file is among the outputs of the process

    def read(self) -> None:
        """Take up what the file has."""
        assert self.file is not None
        name = shown_path(str(self.file))
        try:
            first, *rest = self.file.read_text(encoding="utf-8").splitlines() or [""]
            about = json.loads(first)["measured"]
            for line in rest:
                entry = json.loads(line)
                self._take(str(entry["model"]), int(entry["round"]), entry)
        except OSError as error:
            raise InputError(f"{name}: cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{name}: not measurements of an earlier calibration; name another file") from None
        for key, value in self.about.items():
            if about.get(key) != value:
                was = one_line(f"{key} {about.get(key)}")
                raise UsageError(f"{name}: measured with {was}, not {value}; name another file, or measure the same")

    def start(self) -> None:
        """Begin the file, where there is one and it is not read; what it held is kept beside it, in `*.old.jsonl`."""
        if self.file is not None:
            try:
                if self.file.exists():
                    self.file.replace(self.file.with_suffix(".old.jsonl"))
                self.file.write_text(json.dumps({"measured": dict(self.about)}) + "\n", encoding="utf-8")
            except OSError as error:
                raise InputError(f"{shown_path(str(self.file))}: cannot be written: {error.strerror}") from None

    def add(self, model: str, number: int, outcome: Outcome) -> None:
        """Enter what a session gave."""
        entry: dict[str, Any] = {"model": model, "round": number, "spent": round(self.spent, 3)}
        if outcome.failure:
            entry["failure"] = one_line(outcome.failure)
        else:
            entry["seconds"] = float(np.quantile(outcome.seconds, QUICK_RUN))
        self._take(model, number, entry)
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
            if not self._said:
                self._said = True
                interrupts.wrote(shown_path(str(self.file)))

    def _take(self, model: str, number: int, entry: Mapping[str, Any]) -> None:
        self.spent = max(self.spent, float(entry["spent"]))
        if "failure" in entry:
            self.failures[model] = str(entry["failure"])
        else:
            self.sessions.setdefault(model, {})[number] = float(entry["seconds"])

    def measurements(self) -> dict[str, Measurement]:
        """What was found of each model that ran."""
        names = [name for name in self.sessions if name not in self.failures]
        rounds = sorted({number for name in names for number in self.sessions[name]})
        if not names:
            return {}
        table = np.array([[np.log(self.sessions[name].get(r, np.nan)) for r in rounds] for name in names])
        level = steady(table)
        found = {}
        for name, row in zip(names, level, strict=True):
            own = row[np.isfinite(row)]
            low, middle, high = np.quantile(own, [0.25, QUICK_SESSION, 0.75])
            found[name] = Measurement(float(np.exp(middle)), float(high - low) / 1.35, len(own))
        return found


def steady(table: Floats) -> Floats:
    """Logarithms of seconds by model and round, [N, R], without what whole rounds were slower or faster than others.

    >>> steady(np.log([[1.0, 2.0, 1.0], [3.0, 6.0, 3.0], [5.0, 10.0, 5.0]])).round(3).tolist()[0]
    [0.0, 0.0, 0.0]
    """
    rounds = np.nanmedian(table - np.nanmedian(table, axis=1, keepdims=True), axis=0)
    return np.asarray(table - (rounds - np.median(rounds)))


def measure_rounds(
    runner: Runner,
    jobs: Sequence[Job],
    log: Log,
    seconds: float,
    progress: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
    rounds: int = MOST_ROUNDS,
) -> None:
    """At most `rounds` of sessions until `seconds` have passed, those that the log has taken among them, but of
    FEWEST_ROUNDS all; what the log has is not measured again."""
    before, begin = log.spent, clock()
    for number in range(rounds):
        order = np.random.default_rng(number).permutation(len(jobs))
        left = [jobs[i] for i in order if number not in log.sessions.get(jobs[i].name, {})]
        left = [job for job in left if job.name not in log.failures]
        if not left:
            continue
        for start in range(0, len(left), BATCH):
            if number >= FEWEST_ROUNDS and log.spent >= seconds:
                return
            part = left[start : start + BATCH]
            for place, (job, outcome) in enumerate(zip(part, runner.measure(part), strict=True)):
                log.spent = before + clock() - begin
                log.add(job.name, number, checked(outcome, job))
                progress(f"measuring, round {number + 1}: {start + place + 1} of {len(left)}")
