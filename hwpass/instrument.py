"""What watches a pipeline: hooks that the manager calls around every pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hwpass.context import Context
    from hwpass.contract import Condition
    from hwpass.model.model import Model
    from hwpass.planning.stages import Effect
    from hwpass.spans import Span

Status = Literal["ran", "changed", "skipped"]
"""How a step of a run went."""


class Step(Protocol):
    """A pass as those who watch see it; its text is `str` of it."""

    name: ClassVar[str]
    effect: ClassVar[Effect]
    requires: ClassVar[tuple[Condition, ...]]
    ensures: ClassVar[tuple[Condition, ...]]
    preserves: ClassVar[tuple[str, ...]]
    in_place: ClassVar[bool | None]


@dataclass(frozen=True)
class PassRecord:
    """One step of a run: its text, seconds, and whether it changed the model.

    `skipped` says why it did not run; `span` has the parts that its seconds went to.
    """

    name: str
    seconds: float
    changed: bool
    skipped: str | None = None
    span: Span | None = field(default=None, compare=False)

    @property
    def status(self) -> Status:
        """Whether it changed the model, ran without a change, or had nothing to run on."""
        return "skipped" if self.skipped is not None else "changed" if self.changed else "ran"

    @property
    def reason(self) -> str:
        """Why it was skipped; empty for a pass that was not."""
        return self.skipped or ""


class Instrument:
    """Watches a run of a pipeline. Every hook does nothing unless a subclass says otherwise.

    Hooks look at models and never change them: a model is shared with the passes and with the proof. An error that a
    hook raises ends the run as one of the pass would; `after` may so refuse what a pass did.
    """

    #: Whether `before` of the hook `after` must be the model as it was, also where a pass edits in place: every pass
    #: is then given a copy.
    needs_before: ClassVar[bool] = False

    def begin(self, steps: Sequence[Step], model: Model, context: Context) -> None:
        """A pipeline begins on a model."""

    def refuses(self, step: Step, model: Model, context: Context) -> str | None:
        """Why a pass is not to run, in a few words; None lets it run."""
        return None

    def before(self, step: Step, model: Model, context: Context) -> None:
        """A pass is about to run on a model."""

    def after(self, step: Step, before: Model, model: Model, record: PassRecord, context: Context) -> None:
        """A pass ran: the model before it and after it, the same object where it did nothing or edited in place."""

    def skipped(self, step: Step, model: Model, record: PassRecord, context: Context) -> None:
        """A pass did not run; `record.skipped` says why."""

    def failed(self, step: Step, model: Model, error: Exception, context: Context) -> None:
        """A pass, or a hook `after` it, raised an error, which ends the run; `model` is the one before the pass."""

    def end(self, model: Model, context: Context) -> None:
        """Every pass ran or was skipped."""
