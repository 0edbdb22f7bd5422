"""Runners whose engine is a Python module: models are timed in a fresh process of this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hwpass.errors import InputError
from hwpass.runners.meters import why_none
from hwpass.runners.processes import Timed, TimeUp
from hwpass.runners.runner import Job, Outcome, Runner
from hwpass.runners.worker import MARK

WORKER = Path(__file__).with_name("worker.py")
ENGINES = Path(__file__).with_name("engines")


class ProcessRunner(Runner):
    """Times jobs by an engine file: see `worker`. `engine` is its path."""

    counts_cpu_time = True
    meter: str | None = "processor"
    engine: ClassVar[Path]

    def more(self, job: Job) -> Mapping[str, Any]:
        """What the engine is told beside the job itself."""
        return {}

    def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """An outcome for each job, all in one fresh process; one that ends the process costs the others a new one."""
        rest = list(jobs)
        while rest:
            with Timed([sys.executable, "-P", str(WORKER), str(self.engine)], _environment(rest[0])) as process:
                while rest:
                    outcome = self._outcome(process, rest.pop(0))
                    yield outcome[0]
                    if outcome[1]:
                        break

    def _outcome(self, process: Timed, job: Job) -> tuple[Outcome, bool]:
        """The outcome of a job, and whether the process has ended."""
        told = {
            "model": str(job.model), "feed": str(job.feed), "runs": job.runs, "threads": job.threads,
            "cpu_time": job.cpu_time, "warm_up": job.warm_up, "meter": self.meter if job.energy else None,
            **self.more(job),
        }  # fmt: skip
        process.tell(json.dumps(told))
        try:
            for line in process.lines(job.timeout):
                if line.startswith(MARK):
                    found = json.loads(line.removeprefix(MARK))
                    if "failure" in found:
                        return Outcome(failure=found["failure"]), False
                    return Outcome(tuple(found["seconds"]), found["joules"]), False
        except TimeUp:
            return Outcome(failure=f"no answer within {job.timeout:g} s"), True
        return Outcome(failure=process.complaint()), True


def _environment(job: Job) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(job.threads)}


def check_meter(runner: Runner) -> None:
    """Raise InputError, in one line, where energy cannot be measured with a runner."""
    if runner.meter is None:
        raise InputError(f"energy: runner {runner} measures time alone; leave the energy out")
    reason = why_none(runner.meter)
    if reason:
        raise InputError(f"energy: {reason}")
