"""A model, a target and data, loaded and checked once; pipelines run on them, and what they give is reported."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from hwpass.context import Context
from hwpass.cost.prediction import METRICS
from hwpass.cost_models import Target, load_target
from hwpass.coupling.walk import dynamic_dimensions
from hwpass.data.given_inputs import given_inputs
from hwpass.errors import VerdictError, option
from hwpass.figures import brief
from hwpass.files.temporary import TemporaryFolder
from hwpass.instrument import PassRecord
from hwpass.instruments.measure_each import MeasureEach
from hwpass.manager import Pass, PassManager
from hwpass.model.digest import content_digest
from hwpass.model.model import Model
from hwpass.model.sources import Source
from hwpass.planning.plan import Plan
from hwpass.reporting.build import report_of
from hwpass.reporting.schema import ModelInfo, Report
from hwpass.runtime.calibration import check_statements
from hwpass.runtime.dim_ranges import dim_ranges
from hwpass.runtime.inputs import input_specs
from hwpass.runtime.stated_inputs import stated_specs
from hwpass.runtime.threads import check_threads

#: Where a written model says what it computes, see `hwpass.model.digest`, and by which plan, see `Plan.digest`.
CONTENT, PLAN = "hwpass.content_sha256", "hwpass.plan_sha256"


@dataclass(frozen=True)
class Result:
    """What a run gives: the pruned model, the plan that made it, and the report."""

    model: Model
    plan: Plan | None
    report: Report
    unmet: str | None = None  # why the budget was not met, when `force` kept the best effort
    read_back: Callable[[Path], None] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return brief(self, repr(self.report), "" if self.unmet is None else "the budget is not met")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, whole or not at all: the file must give what was proved before it gets its name.

        Raises InputError when it cannot be written, VerdictError when it is not the model that was proved.
        """
        self.model.save(path, check=self.read_back)

    def proto(self) -> onnx.ModelProto:
        """The model as a protobuf, with its weights: what `save` would write, and proved as that is.

        Raises VerdictError when its bytes are not the model that was proved.
        """
        with TemporaryFolder() as folder:
            self.write(folder / "model.onnx")
            return onnx.load(folder / "model.onnx")

    def write(self, path: str | os.PathLike[str]) -> None:
        """The same in a folder of one's own, on the way to somewhere else."""
        self.model.write(path)
        if self.read_back is not None:
            self.read_back(Path(path))


@dataclass(frozen=True)
class Attempt:
    """What a pipeline left: a model, what its passes found out, and the record of each pass."""

    model: Model
    context: Context
    steps: tuple[Pass, ...]
    records: tuple[PassRecord, ...]

    def __repr__(self) -> str:
        return brief(self, ",".join(step.name for step in self.steps), repr(self.model))


class Job:
    """One model with its target and data. Several pipelines may run on it; they share the study of its channels."""

    def __init__(
        self,
        source: Source | Model,
        *,
        target: str | os.PathLike[str] | Target | None = None,
        calib: Any = None,
        input: str | Iterable[str] = (),
        seed: int = 0,
        threads: int = 1,
        dtype: str | None = None,
        dim: str | Iterable[str] = (),
        force: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """Load the target, the model and the data. Raises UsageError or InputError."""
        self.start = time.perf_counter()
        progress = progress or (lambda text: None)
        check_threads(threads)
        chosen = None if target is None else load_target(target).variant(dtype, threads if threads > 1 else None)
        progress("loading")
        model = source if isinstance(source, Model) else Model.load(source)
        context = Context(target=chosen, threads=threads, seed=seed, force=force, progress=progress)
        context.bind(model)
        context.dims = {n: high for n, (_, high) in dim_ranges(dim, dynamic_dimensions(model.graph)).items()}
        specs = stated_specs(input_specs(model.interface()), input)
        context.stated = {spec.name: spec.stated for spec in specs if spec.stated is not None}
        if calib is not None:
            given = given_inputs(model, calib, specs, context.warn, threads)
            context.calibration, context.apart = given.split()
        else:
            check_statements(calib, specs)
        self.context = context
        self.prepared = Attempt(model, context, (), ())
        nodes = len(model.graph.nodes)
        self.info = ModelInfo(path=model.path, sha256=model.sha256, nodes=nodes, opset=model.opset)
        self.params, self.size = model.parameter_count(), model.size_bytes()

    def __repr__(self) -> str:
        return brief(self, repr(self.prepared.model), repr(self.context))

    def prepare(self, manager: PassManager) -> None:
        """Run the passes before channels are coupled, once for all attempts that follow."""
        self.prepared = self.further(self.prepared, manager)

    def attempt(self, manager: PassManager, *, force: bool | None = None) -> Attempt:
        """Run a pipeline on the prepared model. Attempts know nothing of each other but what they share.

        `force` overrides the job's own.
        """
        findings = self.context.findings
        context = replace(
            self.context,
            findings=replace(
                findings,
                stages=list(findings.stages),
                preparation=list(findings.preparation),
                notes=dict(findings.notes),
                moved=dict(findings.moved),
                measured=list(findings.measured),
            ),
            warnings=list(self.context.warnings),
        )
        context.force = self.context.force if force is None else force
        return self.further(replace(self.prepared, context=context), manager)

    @staticmethod
    def further(attempt: Attempt, manager: PassManager) -> Attempt:
        """Run more passes on what an attempt left."""
        if not any(isinstance(watcher, MeasureEach) for watcher in manager.instruments):
            manager.instruments = (*manager.instruments, MeasureEach(compare=False))
        model = manager.run(attempt.model, attempt.context, further=True)
        steps = (*attempt.steps, *manager.steps)
        return Attempt(model, attempt.context, steps, (*attempt.records, *manager.records))

    def result(self, attempt: Attempt, *, unproved: bool = False) -> Result:
        """The attempt's model, plan and report. Raises VerdictError for what is not proved, unless that is accepted."""
        context, findings = attempt.context, attempt.context.findings
        proof = findings.proof
        if proof is None or not proof.proved:
            why = str(proof) if proof is not None else f"not proved: {_unproved(attempt.steps)}"
            if not unproved:
                raise VerdictError(f"{why}; nothing was written ({option('unproved', True)} accepts that)")
            context.warn(why)
        context.progress("reporting")
        budget, records = asked(attempt.steps), list(attempt.records)
        report = report_of(self.info, self.params, self.size, attempt.model, records, context, budget)
        report = report.model_copy(update={"seconds": round(time.perf_counter() - self.start, 3)})
        attempt.model.metadata[CONTENT] = content_digest(attempt.model)
        plan = findings.last.plan if findings.last is not None and len(findings.pruned) < 2 else None
        attempt.model.stamp(plan_sha256=plan.digest if plan is not None else None)
        return Result(attempt.model, plan, report, findings.unmet, findings.read_back)


def _unproved(steps: tuple[Pass, ...]) -> str:
    """Why there is no proof of what a pipeline left."""
    places = [place for place, step in enumerate(steps) if step.name == "verify"]
    if not places:
        return "the pipeline has no verify; put it at the end"
    if any(step.effect != "none" for step in steps[places[-1] + 1 :]):
        return f"{steps[-1].name} ran after verify; put verify at the end"
    return "verify{exact=false} compares without proving"


def asked(steps: tuple[Pass, ...]) -> dict[str, str]:
    """The budgets that passes are asked for, as text by metric."""
    pruning = [step for step in steps if step.name == "prune-channels"]
    found = {metric: getattr(step, metric, "") for step in pruning for metric in (*METRICS, "channels")}
    return {metric: text for metric, text in found.items() if text}
