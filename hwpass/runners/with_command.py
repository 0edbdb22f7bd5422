"""`command:TEMPLATE`: any device, by a program of the user's own that prints milliseconds."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence

from hwpass.errors import UsageError, option
from hwpass.figures import shown
from hwpass.runners.processes import Timed, TimeUp
from hwpass.runners.runner import Job, Outcome, Runner, register

#: What a template may hold, and what stands for it.
PLACES = {
    "{model}": "the model's file",
    "{inputs}": "an .npz of its inputs: names and values in turn, arr_0, arr_1, ...",
    "{runs}": "how many runs are asked for",
    "{threads}": "how many threads to compute with",
}


@register
class Command(Runner):
    """Starts a program for each session. The last line that it prints holds milliseconds: of one run, or of several.

    The template is split into words as a shell would, and no shell is started: `{model}` may have spaces.
    """

    name = "command"
    summary = "any device, by a program that prints milliseconds: 'command:./on_my_phone.sh {model}'"

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        asked = option("runner", f"'command:{shown(argument)}'")
        try:
            self._words = shlex.split(argument)
        except ValueError as error:
            raise UsageError(f"{asked}: {error}") from None
        if not any("{model}" in word for word in self._words[1:]):
            raise UsageError(f"{asked}: expected a program, and {{model}} where it takes the model's file")

    def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Start the program for each job."""
        for job in jobs:
            yield self._one(job)

    def _one(self, job: Job) -> Outcome:
        given = {"{model}": job.model, "{inputs}": job.feed, "{runs}": job.runs, "{threads}": job.threads}
        words = []
        for word in self._words:
            for place, value in given.items():
                word = word.replace(place, str(value))
            words.append(word)
        try:
            with Timed(words) as process:
                printed = ""
                for line in process.lines(job.timeout):
                    printed = line.strip() or printed
                if process.status:
                    said = process.complaint()
                    status = f"status {process.status}"
                    return Outcome(failure=f"{words[0]} ended with {status}" + ("" if status in said else f": {said}"))
        except TimeUp:
            return Outcome(failure=f"{words[0]} printed nothing within {job.timeout:g} s")
        except OSError as error:
            return Outcome(failure=f"{words[0]} cannot be started: {error.strerror or error}")
        return _read(words[0], printed)


def _read(program: str, printed: str) -> Outcome:
    """Milliseconds of a line, one number or several."""
    if not printed:
        return Outcome(failure=f"{program} printed nothing; expected milliseconds")
    try:
        times = [float(word) / 1e3 for word in printed.replace(",", " ").split()]
    except ValueError:
        times = []
    if not times or not all(math.isfinite(time) and time > 0 for time in times):
        return Outcome(failure=f"{program} printed {printed[:80]!r}; expected milliseconds, above 0")
    return Outcome(tuple(times))
