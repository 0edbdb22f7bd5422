"""Run a reproducer again, and say whether it still fails the same way."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from rich.console import Console

from hwpass.figures import brief, human_seconds
from hwpass.manager import PassManager
from hwpass.reporting.tables import print_line
from hwpass.version import __version__
from hwpass.workflows.bundle import Bundle, read_bundle, versions
from hwpass.workflows.failures import Failure, failure


@dataclass(frozen=True)
class Replay:
    """What a reproducer did this time: `found` is None where it does not fail any more."""

    bundle: Bundle
    found: Failure | None
    seconds: float

    def __repr__(self) -> str:
        return brief(self, self.outcome)

    @property
    def same(self) -> bool:
        """Whether it fails the same way: the same pass, by the same kind of error, from the same place."""
        told = self.bundle.failure
        return self.found is not None and self.found == Failure(told.step, told.error, told.where)

    @property
    def outcome(self) -> str:
        """What came of it, in one line."""
        if self.found is None:
            return "it does not fail any more"
        return f"it fails {'the same way' if self.same else 'in another way'}: {self.found}"


def replay(folder: str | os.PathLike[str]) -> Replay:
    """Replay a reproducer. Raises InputError for what is none, UsageError where a pass is not known here."""
    start = time.perf_counter()
    bundle, model, setting = read_bundle(folder)
    steps = PassManager.parse(bundle.pipeline).steps
    found = failure(model, steps, setting)
    return Replay(bundle, found, time.perf_counter() - start)


def render_replay(found: Replay, console: Console) -> None:
    """Print it."""
    bundle = found.bundle
    print_line(console, f"pipeline {bundle.pipeline} on a graph of {bundle.nodes} nodes, seed {bundle.seed}", "bold")
    print_line(console, f"then: {bundle.failure.step}: {bundle.failure.error}: {bundle.failure.message}")
    now = versions() | {"hwpass": __version__}
    told = bundle.versions | {"hwpass": bundle.hwpass}
    others = [f"{name} {old} then, {now.get(name)} now" for name, old in told.items() if now.get(name) != old]
    if others:
        print_line(console, f"versions: {'; '.join(others)}")
    print_line(console, f"now: {found.outcome} ({human_seconds(found.seconds)})")
