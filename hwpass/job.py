"""A model, a target and data, loaded and checked once; pipelines run on them, and what they give is reported."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from hwpass.calibration import load_calibration
from hwpass.cost import METRICS
from hwpass.cost_models import Target, load_target
from hwpass.files import Source
from hwpass.inputs import input_specs
from hwpass.ir import Model
from hwpass.manager import Context, Pass, PassManager, PassRecord
from hwpass.outcome import report_of
from hwpass.plan import Plan
from hwpass.report import ModelInfo, Report
from hwpass.sessions import ModelLike


@dataclass(frozen=True)
class Result:
    """What a run gives: the pruned model, the plan that made it, and the report."""

    model: Model
    plan: Plan | None
    report: Report
    unmet: str | None = None  # why the budget was not met, when `force` kept the best effort

    def save(self, path: str | Path) -> None:
        """Write the model, whole or not at all."""
        self.model.save(path)


@dataclass(frozen=True)
class Attempt:
    """What a pipeline left: a model, what its passes found out, and the record of each pass."""

    model: Model
    context: Context
    steps: tuple[Pass, ...]
    records: tuple[PassRecord, ...]


class Job:
    """One model with its target and data. Several pipelines may run on it; they share the study of its channels."""

    def __init__(
        self,
        source: Source | Model,
        *,
        target: str | Target | None = None,
        calib: Any = None,
        seed: int = 0,
        threads: int = 1,
        force: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """Load the target, the model and the data. Raises UsageError or InputError."""
        self.start = time.perf_counter()
        progress = progress or (lambda text: None)
        chosen = load_target(target) if isinstance(target, str) else target
        progress("loading")
        model = source if isinstance(source, Model) else Model.load(source)
        original = _original(source, model)
        context = Context(target=chosen, original=original, threads=threads, seed=seed, force=force, progress=progress)
        if calib is not None:
            context.calibration = load_calibration(calib, input_specs(model.interface()))
        self.context = context
        self.prepared = Attempt(model, context, (), ())
        nodes = len(model.graph.nodes)
        self.info = ModelInfo(path=model.path, sha256=model.sha256, nodes=nodes, opset=model.opset)
        self.params, self.size = model.parameter_count(), model.size_bytes()

    def prepare(self, manager: PassManager) -> None:
        """Run the passes before channels are coupled, once for all attempts that follow."""
        self.prepared = self.further(self.prepared, manager)

    def attempt(self, manager: PassManager, *, force: bool | None = None) -> Attempt:
        """Run a pipeline on the prepared model. Attempts know nothing of each other but the study.

        `force` overrides the job's own.
        """
        found = dict(self.context.found)
        context = replace(self.context, found=found, warnings=list(self.context.warnings))
        context.force = self.context.force if force is None else force
        apart = replace(self.prepared, context=context)
        try:
            return self.further(apart, manager)
        finally:
            # A study that was made before an error is kept as well.
            if "study" in found:
                self.context.found["study"] = found["study"]

    @staticmethod
    def further(attempt: Attempt, manager: PassManager) -> Attempt:
        """Run more passes on what an attempt left."""
        steps = (*attempt.steps, *manager.steps)
        attempt.context.found["prepare"] = preparation(steps)
        model = manager.run(attempt.model, attempt.context)
        return Attempt(model, attempt.context, steps, (*attempt.records, *manager.records))

    def result(self, attempt: Attempt) -> Result:
        """The attempt's model, plan and report."""
        found = attempt.context.found
        attempt.context.progress("reporting")
        budget, records = asked(attempt.steps), list(attempt.records)
        report = report_of(self.info, self.params, self.size, attempt.model, records, attempt.context, budget)
        report = report.model_copy(update={"seconds": round(time.perf_counter() - self.start, 3)})
        return Result(attempt.model, found.get("plan"), report, found.get("unmet"))


def asked(steps: tuple[Pass, ...]) -> dict[str, str]:
    """The budgets that passes are asked for, as text by metric."""
    pruning = [step for step in steps if step.name == "prune-channels"]
    found = {metric: getattr(step, metric, "") for step in pruning for metric in (*METRICS, "channels")}
    return {metric: text for metric, text in found.items() if text}


def preparation(steps: tuple[Pass, ...]) -> str:
    """The passes before channels are pruned: group names in the plan refer to what they leave."""
    before = takewhile(lambda step: step.name not in ("prune-channels", "apply-plan"), steps)
    return ",".join(str(step) for step in before if step.preparation)


def _original(source: Source | Model, model: Model) -> ModelLike:
    """What the verdicts compare with: the file where there is one, so that it is not held in memory."""
    if isinstance(source, str | Path) and Path(source).is_file():
        return Path(source)
    return model.proto()
