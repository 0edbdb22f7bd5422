"""`python -m tests.fuzz --cases 5000 --seed 0`: many cases in worker processes, the counts, and every violation."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import click

from . import cases
from .judge import SECONDS, SPENT, Outcome

ROOT = Path(__file__).parent.parent.parent
#: Cases after which a worker makes room for a fresh one, so that what one leaves behind is not another's.
FRESH = 200


class Worker:
    """A worker process, and a thread that reads its answers, so that one that hangs or dies is noticed."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker"], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.answers: queue.Queue[str] = queue.Queue()
        self.done = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put("")

    def run(self, number: int, kind: str | None) -> Outcome:
        """The outcome of a case, also when the process hangs or dies of it."""
        assert self.process.stdin is not None
        start = time.monotonic()
        # A fresh worker imports everything first.
        allowed = 2 * SECONDS if self.done else 3 * SECONDS
        self.done += 1
        try:
            self.process.stdin.write(f"{number} {kind or ''}\n")
            self.process.stdin.flush()
            line = self.answers.get(timeout=allowed)
        except (queue.Empty, BrokenPipeError):
            line = ""
        if line:
            found = json.loads(line)
            if any(SPENT in problem for problem in found["problems"]):
                self.done = FRESH
            return Outcome(**{**found, "problems": tuple(found["problems"])})
        hangs = time.monotonic() - start >= allowed
        if not hangs:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=10)  # it is on its way, and only then says of what it died
        self.close()
        status = self.process.returncode
        died = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        why = f"did not end in {allowed} s" if hangs else f"the process was {died}"
        made = cases.case_of(number, kind)
        return Outcome(number, made.kind, -1, time.monotonic() - start, "", (why,))

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def outcomes(numbers: Iterator[tuple[int, str | None]], jobs: int) -> Iterator[Outcome]:
    """The outcomes of all cases, by `jobs` workers at a time."""
    found: queue.Queue[Outcome | None] = queue.Queue()
    lock = threading.Lock()

    def work() -> None:
        worker = Worker()
        while True:
            with lock:
                following = next(numbers, None)
            if following is None:
                break
            if worker.done >= FRESH or worker.process.poll() is not None:
                worker.close()
                worker = Worker()
            outcome = worker.run(*following)
            if outcome.status < 0:
                # Native code may have been broken by a case before this one, and dies of it later.
                after, worker = worker.done - 1, Worker()
                alone = worker.run(*following)
                if alone.status >= 0:
                    more = f"after {after} other cases in one process; alone it ends in status {alone.status}"
                    outcome = replace(outcome, problems=(*outcome.problems, more))
            found.put(outcome)
        worker.close()
        found.put(None)

    for _ in range(jobs):
        threading.Thread(target=work, daemon=True).start()
    running = jobs
    while running:
        outcome = found.get()
        if outcome is None:
            running -= 1
        else:
            yield outcome


@click.command()
@click.option("--cases", "count", default=5000, show_default=True, help="How many cases.")
@click.option("--seed", default=0, show_default=True, help="The number of the first case.")
@click.option("--kind", type=click.Choice(list(cases.KINDS)), help="Cases of this kind only.")
@click.option("--jobs", default=1, show_default=True, help="Worker processes.")
@click.option("--only", type=int, help="Run this one case, and say what it is.")
@click.option("--keep", type=click.Path(path_type=Path), help="Write the files of the one case to this folder.")
def main(count: int, seed: int, kind: str | None, jobs: int, only: int | None, keep: Path | None) -> None:
    """Run many random cases, and say which of them break the contract. Ends with status 1 when one does."""
    if only is not None:
        _explain(cases.case_of(only, kind), keep)
        seed, count = only, 1
    found: Counter[tuple[str, int]] = Counter()
    broken: list[Outcome] = []
    slowest = 0.0
    start = time.monotonic()
    for done, outcome in enumerate(outcomes(((n, kind) for n in range(seed, seed + count)), jobs), 1):
        found[outcome.kind, outcome.status] += 1
        slowest = max(slowest, outcome.seconds)
        if outcome.problems:
            broken.append(outcome)
            again = f"python -m tests.fuzz --only {outcome.number}" + (f" --kind {kind}" if kind else "")
            click.echo(f"{again}: {outcome.kind}: {'; '.join(outcome.problems)}: {outcome.said}")
        if done % 500 == 0:
            click.echo(f"{done} cases, {len(broken)} violations, {time.monotonic() - start:.0f} s", err=True)
    statuses = sorted({status for _, status in found})
    click.echo(f"{'kind':12}" + "".join(f"{status:>8}" for status in statuses))
    for name in sorted({kind for kind, _ in found}):
        click.echo(f"{name:12}" + "".join(f"{found[name, status]:8}" for status in statuses))
    click.echo(f"{sum(found.values())} cases, {len(broken)} violations, slowest {slowest:.1f} s")
    raise SystemExit(bool(broken))


def _explain(case: cases.Case, keep: Path | None) -> None:
    click.echo(f"hwpass {' '.join(map(repr, case.arguments))}")
    for name, data in case.files.items():
        click.echo(f"  {name}: {len(data)} bytes")
        if keep is not None:
            (keep / name).parent.mkdir(parents=True, exist_ok=True)
            (keep / name).write_bytes(data)


if __name__ == "__main__":
    main()
