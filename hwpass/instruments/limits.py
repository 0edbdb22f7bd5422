"""How many passes of a pipeline may run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwpass.errors import UsageError, option
from hwpass.instrument import Instrument, PassRecord, Step

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


class PassLimit(Instrument):
    """Lets the first passes run that may change the model, and none after them. What only judges it runs all the same,
    so that the result is proved."""

    def __init__(self, most: int) -> None:
        if most < 0:
            raise UsageError(f"{option('pass_limit', most)}: give 0 or more")
        self.most = most
        self._ran = 0
        self._left_out: list[str] = []

    def begin(self, steps: Sequence[Step], model: Model, context: Context) -> None:
        self._ran, self._left_out = 0, []

    def refuses(self, step: Step, model: Model, context: Context) -> str | None:
        if step.effect == "none" or self._ran < self.most:
            return None
        return f"the limit is {self.most}"

    def before(self, step: Step, model: Model, context: Context) -> None:
        self._ran += step.effect != "none"

    def skipped(self, step: Step, model: Model, record: PassRecord, context: Context) -> None:
        self._left_out.append(step.name)

    def end(self, model: Model, context: Context) -> None:
        if self._left_out:
            context.warn(f"{option('pass_limit', self.most)}: {', '.join(self._left_out)} did not run")
