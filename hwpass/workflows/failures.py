"""Whether a pipeline fails on a model, and how: what bundles hold, and what reducing them and replaying them asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hwpass.context import Context
from hwpass.cost_models import Target
from hwpass.errors import BudgetError, HwpassError, ProofError, UsageError, VerdictError
from hwpass.instruments.recording import Recording
from hwpass.instruments.verify_each import VerifyEach
from hwpass.manager import Pass, PassManager
from hwpass.model.model import Model
from hwpass.planning.plan import Plan
from hwpass.runtime.calibration import Calibration, load_calibration
from hwpass.runtime.inputs import input_specs

if TYPE_CHECKING:
    from types import TracebackType

    from hwpass.instrument import Step


@dataclass(frozen=True)
class Failure:
    """How a pass failed: its name, the error's type, and the function that raised it, or that its proof failed."""

    step: str
    error: str
    where: str
    message: str = field(compare=False, default="")

    @classmethod
    def of(cls, step: Step, error: Exception) -> Failure:
        """The failure of a pass by an error."""
        kind = type(error).__name__
        where = "its proof" if isinstance(error, ProofError) else _place(error.__traceback__, type(step).__module__)
        return cls(step.name, kind, where, str(error))

    def __str__(self) -> str:
        return f"{self.step}: {self.error} in {self.where}: {self.message}"


def _place(trace: TracebackType | None, module: str) -> str:
    """The innermost function of hwpass, or of the pass's own module, that an error came through."""
    found = "it"
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        if name.startswith("hwpass.") or name == module:
            found = f"{name}.{trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return found


def is_fault(error: Exception) -> bool:
    """Whether an error shows a fault of a pass, and not of what was asked of it, such as a budget or a tolerance."""
    asked = isinstance(error, UsageError | BudgetError)
    return not asked and (isinstance(error, ProofError) or not isinstance(error, VerdictError))


@dataclass(frozen=True, eq=False)
class Setting:
    """What a pipeline runs under, besides the model: all that a replay needs to do the same."""

    target: Target | None = None
    seed: int = 0
    threads: int = 1
    dims: Mapping[str, int] = field(default_factory=dict)
    feed: Mapping[str, np.ndarray] | None = None  # calibration data, by input
    plan: Plan | None = None
    rtol: float | None = None

    def context(self, model: Model) -> Context:
        """A context of its own. Raises InputError where the data does not fit the model."""
        made = Context(target=self.target, seed=self.seed, threads=self.threads, dims=dict(self.dims), plan=self.plan)
        if self.feed is not None:
            made.calibration = _opened(self.feed, model)
        return made


def _opened(feed: Mapping[str, np.ndarray], model: Model) -> Calibration:
    specs = input_specs(model.interface())
    names = {spec.name for spec in specs}
    return load_calibration({name: value for name, value in feed.items() if name in names}, specs)


def failure(source: Any, steps: Sequence[Pass], setting: Setting) -> Failure | None:
    """How a pipeline fails on a model (anything that `Model.load` takes), each pass proved as soon as it ran; None
    where it does not, or where it cannot be asked at all: a model that does not load, options that do not fit."""
    recording = Recording()
    try:
        model = source if isinstance(source, Model) else Model.load(source)
        manager = PassManager(steps, instruments=[recording, VerifyEach(setting.rtol)])
        manager.run(model, setting.context(model))
    except Exception as error:
        if recording.failure is None:
            if isinstance(error, HwpassError):
                return None
            raise
        step, _, cause = recording.failure
        return Failure.of(step, cause) if is_fault(cause) else None
    return None


def without_data(setting: Setting) -> Setting:
    """The same without calibration data."""
    return replace(setting, feed=None)
