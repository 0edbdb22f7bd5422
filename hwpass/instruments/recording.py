"""The models of a run, kept for those who look for what went wrong."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hwpass.files.whole_files import apart
from hwpass.instrument import Instrument, PassRecord, Step

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model
    from hwpass.planning.stages import Pruned


@dataclass(frozen=True)
class Ran:
    """A pass that ran to its end: the models before and after it, and what it removed."""

    step: Step
    before: Model
    after: Model
    changed: bool
    pruned: Pruned | None = None


class Recording(Instrument):
    """Keeps the model before and after every pass (they share the arrays that a pass left alone), and the failure."""

    needs_before: ClassVar[bool] = True

    def __init__(self) -> None:
        self.loaded: Model | None = None
        self.ran: list[Ran] = []
        self.failure: tuple[Step, Model, Exception] | None = None

    def begin(self, steps: Sequence[Step], model: Model, context: Context) -> None:
        self.loaded, self.ran, self.failure = model, [], None

    def after(self, step: Step, before: Model, model: Model, record: PassRecord, context: Context) -> None:
        stages = context.findings.stages
        pruned = stages[-1].pruned if record.changed and stages else None
        self.ran.append(Ran(step, before, model, record.changed, pruned))

    def failed(self, step: Step, model: Model, error: Exception, context: Context) -> None:
        # Another instrument's `after` may have refused what this one had entered already.
        if self.ran and self.ran[-1].step is step and self.ran[-1].before is model:
            self.ran.pop()
        self.failure = (step, model, error)


class KeepLastGood(Instrument):
    """Where a pass fails, the model before it is the error's `last_good`, and written where a path is given.

    Where a pass that judges refuses the model there is none: what it refuses is no good, and which pass made it so is
    for `VerifyEach` to find.
    """

    needs_before: ClassVar[bool] = True

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = path

    def failed(self, step: Step, model: Model, error: Exception, context: Context) -> None:
        if step.effect == "none":
            return
        error.last_good = model  # type: ignore[attr-defined]
        if self.path is not None:
            with apart():
                model.save(self.path)
