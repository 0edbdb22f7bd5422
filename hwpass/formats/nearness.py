"""How near a model in other number formats comes to the one before, on samples that set none of its ranges."""

from __future__ import annotations

from dataclasses import dataclass

from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, open_session, run_session
from hwpass.verdicts.fidelity import fidelity_of

#: Samples run at once, and the most that are looked at.
BATCH, MOST = 16, 256


@dataclass(frozen=True)
class Near:
    """The predicted drop of accuracy (None where no output tells classes apart), and the largest relative L2 error of
    an output; infinite where the model gives no numbers."""

    drop: float | None
    error: float

    def within(self, max_drop: float, max_error: float) -> bool:
        """Whether the drop is allowed, or the error where there is no drop; negative limits allow any."""
        if self.error == float("inf"):
            return False
        if self.drop is not None:
            return max_drop < 0 or self.drop <= max_drop
        return max_error < 0 or self.error <= max_error


class Nearness:
    """Measures against one reference."""

    def __init__(self, model: Model, data: Calibration, threads: int, limit: int = MOST) -> None:
        self.threads = threads
        self.feeds = list(data.batches(BATCH, limit=limit))
        self.reference = self._outputs(model)

    def of(self, model: Model, batches: int | None = None) -> Near:
        """How near a model comes, on all feeds or the first ones."""
        found = fidelity_of(self.reference[:batches], self._outputs(model, batches), on="given")
        drops = [o.drop.expected for o in found.outputs.values() if o.drop is not None]
        broken = any(o.problem for o in found.outputs.values())
        error = float("inf") if broken else max((o.rel_l2 for o in found.outputs.values()), default=0.0)
        return Near(max(drops, default=None) if drops else None, error)

    def _outputs(self, model: Model, batches: int | None = None) -> list[Feed]:
        session = open_session(model.proto(), threads=self.threads)
        try:
            return [run_session(session, feed) for feed in self.feeds[:batches]]
        except InputError as error:
            raise InputError(f"the model in another number format does not run: {error}") from None
        finally:
            del session
            release_memory()
