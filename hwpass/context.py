"""What the passes of a run share."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwpass.analyses import Analyses
from hwpass.errors import UsageError
from hwpass.figures import brief, counted
from hwpass.model.model import Model
from hwpass.planning.plan import Plan
from hwpass.planning.study import Study
from hwpass.runtime.sessions import ModelLike
from hwpass.runtime.settings import Settings
from hwpass.verdicts.findings import Findings
from hwpass.verdicts.task_metric import TaskMetric, metric_before


@dataclass
class Shared:
    """What may serve more than one run: each user asks whether it is still about the same model and data."""

    study: Study | None = None
    metrics: list[tuple[str | TaskMetric, ModelLike, float]] = field(default_factory=list)  # of originals, by name

    def __repr__(self) -> str:
        return brief(self, "no study" if self.study is None else repr(self.study), counted(len(self.metrics), "metric"))


@dataclass
class Context(Settings):
    """What passes share: the request, and what earlier passes of the run found out.

    Without an original, the verdicts compare with the model as it was given. `findings` are those of the latest run:
    `PassManager.run` makes them anew.
    """

    plan: Plan | None = None  # what apply-plan applies
    findings: Findings = field(default_factory=Findings)
    shared: Shared = field(default_factory=Shared)
    _bound: str | None = None  # the digest of the model that `original` belongs to

    def __repr__(self) -> str:
        return Settings.__repr__(self)

    def bind(self, model: Model) -> None:
        """Begin a run on a model: findings and warnings of an earlier one are gone, and so is its original."""
        if self.original is None or self._bound not in (None, model.sha256):
            self.original = model.source if model.source is not None else model.proto()
        self._bound = model.sha256
        self.findings = Findings()
        self.analyses = Analyses()
        self.warnings = []

    def metric_before(self, spec: str | TaskMetric) -> float:
        """The metric of the original, measured once for all runs on it. Raises UsageError."""
        if self.original is None:
            raise UsageError("a metric needs the original model in the context")
        return metric_before(spec, self.original, self.shared.metrics, self.threads)
