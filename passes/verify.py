"""The verdicts, as a pass that changes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hwpass.contract import ORIGINAL, STANDARD_NORMS
from hwpass.errors import ProofError, UsageError, VerdictError, option
from hwpass.manager import Pass, PassResult, register
from hwpass.options import RunOptions, pass_option
from hwpass.pipeline_text import texts
from hwpass.verdicts.task_metric import (
    TaskMetric,
    evaluate_metric,
    metric_name,
    no_metric,
    parse_metric,
    task_metric,
)

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model
    from hwpass.runtime.calibration import Calibration
    from hwpass.runtime.sessions import Feed
    from hwpass.verdicts.fidelity import On
    from hwpass.verdicts.proof_sides import AsGiven, InMemory
    from hwpass.verdicts.tolerances import FidelityTolerance

#: Samples of the user's that are run at once.
BATCH = 16

#: How a verdict that failed ends, where a file would have been written.
NOTHING = "nothing was written"


@register
@dataclass(frozen=True)
class Verify(Pass):
    """Exactness of the rewrite, fidelity to the original, and the task metric; raises VerdictError when one fails.

    Exactness goes through the models on the way, each against a source of its own: the file as given against the
    prepared model, that with removed channels at zero against the cut model, a refitted model against its dense twin.
    Changes nothing, so it never fires.
    """

    name = "verify"
    effect = "none"
    in_place = False
    requires = (ORIGINAL, STANDARD_NORMS)
    exact: bool = field(default=True, metadata={"help": "prove exactness; false compares two models as they are"})
    rtol: float = pass_option("rtol", -1.0, "negative: 1e-4, more in 16 bits")
    atol: float = pass_option("atol", RunOptions.atol)
    fidelity: tuple[str, ...] = pass_option("fidelity", (), "several joined by |")
    metric: str | TaskMetric = pass_option("metric", "", "package.module:function")
    max_drop: float = pass_option("max_drop", -1.0, "negative: any")

    def __post_init__(self) -> None:
        object.__setattr__(self, "fidelity", texts("fidelity", self.fidelity))
        super().__post_init__()
        if self.rtol != -1 and not 0 <= self.rtol < 1:
            raise UsageError(f"{option('rtol', self.rtol)}: give a share of the magnitude, at least 0 and less than 1")
        if not 0 <= self.atol < math.inf:
            raise UsageError(f"{option('atol', self.atol)}: give a finite difference of at least 0")
        if not math.isfinite(self.max_drop):
            raise UsageError(f"{option('max_drop', self.max_drop)}: give a finite drop; a negative one allows any")
        self._tolerances()
        if isinstance(self.metric, str) and self.metric:
            parse_metric(self.metric)
        elif self.metric:
            metric_name(self.metric)
        elif self.max_drop >= 0:
            raise no_metric()

    def _tolerances(self) -> list[FidelityTolerance]:
        """What is asked of the fidelity. Raises UsageError."""
        if not self.fidelity:
            return []
        from hwpass.verdicts.tolerances import parse_fidelity

        return [parse_fidelity(text) for text in self.fidelity]

    def ready(self) -> None:
        """Import the metric, so that a name that is not there is found before any work."""
        if self.metric:
            task_metric(self.metric)

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.files.temporary import TemporaryFolder
        from hwpass.proto.streaming import release_pages
        from hwpass.runtime.calibration import MOST_APART
        from hwpass.verdicts.exactness import require_valid
        from hwpass.verdicts.fidelity import fidelity, fidelity_of
        from hwpass.verdicts.findings import MetricFound
        from hwpass.verdicts.proof_feeds import proof_feeds
        from hwpass.verdicts.proof_sides import AsGiven, InMemory

        tolerances = self._tolerances()
        metric = task_metric(self.metric) if self.metric else None
        original, findings = context.original, context.findings
        assert original is not None
        context.progress("checking the graph")
        with TemporaryFolder() as folder:
            # ONNX's own inference knows no operator that reads a sparse weight, which runtimes make dense.
            dense = replace(model, sparse=frozenset())
            require_valid(dense.store(folder), original if not isinstance(original, bytes) else None)
            if model.sparse:
                require_valid(model.store(folder), strict=False)
        release_pages(model.constants().values())
        context.progress("running the original model")
        given = AsGiven("the file as given", original, context.threads)
        # What the inputs mean is not asked of the model that is judged.
        first = findings.pruned[0].coupling.build.model if findings.pruned else model
        feeds = proof_feeds(first, context, given)
        final = InMemory("the written model", lambda: model, context.threads, written=True)
        if self.exact:
            self._prove(first, context, given, final, feeds)
        context.progress("measuring fidelity")
        data, on = self._data(context)
        if data is None:
            outcome = fidelity_of(given.outputs(feeds), final.outputs(feeds), tolerances)
        else:
            accepted = context.force or metric is not None
            size = 1 if on == "made up" else BATCH  # a run without data has a bound on its memory
            outcome = fidelity(
                original,
                model.proto,
                lambda: data.batches(size, limit=MOST_APART),
                tolerances,
                context.threads,
                on=on,
                accepted=accepted,
            )
        findings.fidelity = outcome
        for warning in outcome.warnings:
            context.warn(warning)
        bound = self.max_drop if self.max_drop >= 0 else None
        if metric is not None:
            context.progress("running the metric")
            before = context.metric_before(self.metric)
            after = evaluate_metric(metric, model.proto(), context.threads)
            findings.metric = MetricFound(metric_name(self.metric), before, after, bound)
        if outcome.state == "failed":
            raise VerdictError(f"fidelity failed, {NOTHING}: {'; '.join(outcome.failures)}")
        if metric is not None and bound is not None and before - after > bound + 1e-12:
            raise VerdictError(
                f"the metric fell from {before:.4g} to {after:.4g}, more than {option('max_drop', bound)}; {NOTHING}"
            )
        return PassResult(model, False)

    @staticmethod
    def _data(context: Context) -> tuple[Calibration | None, On]:
        """What fidelity is measured on, and what that is; None for random inputs."""
        last = context.findings.last
        if context.apart is not None:
            return context.apart, "given"
        if context.calibration is not None:
            return context.calibration, "fitted" if context.findings.stages else "given"
        synthetic = last.study.synthetic if last is not None and last.study is not None else None
        apart = None if synthetic is None else synthetic.apart
        return apart, "random" if apart is None else "made up"

    @property
    def tolerance(self) -> float | None:
        """The relative tolerance that was asked for."""
        return self.rtol if self.rtol >= 0 else None

    def _prove(self, first: Model, context: Context, given: AsGiven, final: InMemory, feeds: list[Feed]) -> None:
        from hwpass.verdicts.proof import Prover, ReadBack

        findings, rtol = context.findings, self.tolerance
        prover = Prover(given, feeds, rtol, self.atol, context.threads, context.progress, findings.moved)
        proof = findings.proof = prover.prove(first, findings.stages, final)
        for warning in proof.warnings:
            context.warn(warning)
        if proof.state == "failed":
            raise ProofError(f"exactness failed, {NOTHING}: {proof}")
        outputs = final.outputs(feeds[:1])[0]
        assert final.interface is not None
        findings.read_back = ReadBack(feeds[0], outputs, final.interface, context.threads, rtol)
