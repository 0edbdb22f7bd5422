"""Differences between the graphs before and after passes, printed as they come about."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from hwpass.errors import UsageError, option
from hwpass.figures import human_seconds, shown
from hwpass.instrument import Instrument, PassRecord, Step
from hwpass.instruments.graph_diff import graph_diff

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


def on_standard_error(line: str) -> None:
    """Print a line where no result goes."""
    print(line, file=sys.stderr, flush=True)


class PrintAfter(Instrument):
    """Prints what a pass changed: of passes by name, of all, or of those that change something (`change`)."""

    needs_before: ClassVar[bool] = True

    def __init__(self, names: Iterable[str], tell: Callable[[str], None] = on_standard_error) -> None:
        self.names = {names} if isinstance(names, str) else set(names)
        self.tell = tell

    def begin(self, steps: Sequence[Step], model: Model, context: Context) -> None:
        """Raise UsageError for a name that no pass of the pipeline has."""
        known = {step.name for step in steps}
        for name in sorted(self.names - known - {"all", "change"}):
            choices = ", ".join(sorted(known))
            raise UsageError(
                f"{option('print_after', shown(name))}: no such pass runs; choose all, change or {choices}"
            )

    def after(self, step: Step, before: Model, model: Model, record: PassRecord, context: Context) -> None:
        if ("change" in self.names and record.changed) or self.names & {"all", step.name}:
            self._show(step, before, model, record)

    def skipped(self, step: Step, model: Model, record: PassRecord, context: Context) -> None:
        if self.names & {"all", step.name}:
            self.tell(f"after {step.name}: it did not run: {record.skipped}")

    def _show(self, step: Step, before: Model, model: Model, record: PassRecord) -> None:
        head = f"after {step.name} ({human_seconds(record.seconds)}): "
        if not record.changed:
            self.tell(f"{head}nothing changed")
            return
        found = graph_diff(before, model)
        self.tell(head + found.summary)
        for line in found.lines():
            self.tell(f"  {line}")
