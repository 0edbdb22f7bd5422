"""The verdicts, as a pass that changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from hwpass.coupling import Coupling
from hwpass.errors import InputError, UsageError, VerdictError
from hwpass.fidelity import fidelity_of, parse_fidelity
from hwpass.inputs import dimension_values, input_specs, make_inputs
from hwpass.ir import Model
from hwpass.manager import Context, Pass, PassResult, register
from hwpass.metric import metric_before
from hwpass.passes.lower_norms import restored_like
from hwpass.rewrite import Surgery
from hwpass.sessions import Feed, open_session, release_memory, run_session
from hwpass.stepwise import Reindex, stepwise
from hwpass.streaming import release_pages
from hwpass.temporary import TemporaryFolder
from hwpass.twin import dense_twin
from hwpass.verify import (
    Exactness,
    compare_outputs,
    evaluate_metric,
    fidelity,
    judge,
    outputs_of,
    require_valid,
    task_metric,
)


@register
@dataclass(frozen=True)
class Verify(Pass):
    """Exactness of the rewrite, fidelity to the original, and the task metric; raises VerdictError when one fails.

    Exactness has two legs on the same inputs: the passes before pruning against the original model, and the pruned
    model against its dense twin. Changes nothing, so it never fires.
    """

    name = "verify"
    exact: bool = field(default=True, metadata={"help": "prove exactness; false compares two models as they are"})
    rtol: float = field(default=1e-4, metadata={"help": "largest difference over the output's largest magnitude"})
    atol: float = field(default=1e-9, metadata={"help": "absolute difference that is always allowed"})
    fidelity: tuple[str, ...] = field(default=(), metadata={"help": "tolerances such as cosine>=0.99, joined by |"})
    metric: str = field(default="", metadata={"help": "a figure of merit, package.module:function"})
    max_drop: float = field(default=-1.0, metadata={"help": "largest allowed drop of the metric; negative: any"})

    def run(self, model: Model, context: Context) -> PassResult:
        tolerances = [parse_fidelity(text) for text in self.fidelity]
        metric = task_metric(self.metric) if self.metric else None
        if self.max_drop >= 0 and metric is None:
            raise UsageError("--max-drop bounds the drop of a metric: give one with --metric package.module:function")
        original = context.original
        if original is None:
            raise UsageError("verify needs the original model in the context")
        context.progress("checking the graph")
        release_pages(model)
        with TemporaryFolder() as folder:
            require_valid(model.store(folder), original if not isinstance(original, bytes) else None)
        context.progress("running the original model")
        feeds, reference = self._reference(model, context)
        if self.exact:
            context.progress("proving exactness")
            verdict, candidate = self._exactness(model, context, feeds, reference)
            context.found["exactness"] = verdict
            if not verdict.passed:
                context.found["failing_feed"] = feeds[0]
                raise VerdictError(f"exactness failed, nothing was written: {verdict}")
        else:
            candidate = _outputs(lambda: model, feeds, context.threads)
        context.progress("measuring fidelity")
        calibration = context.calibration
        if calibration is None:
            outcome = fidelity_of(reference, candidate, tolerances)
        else:
            outcome = fidelity(
                original, model.proto, lambda: calibration.batches(16, limit=256), tolerances, context.threads
            )
        context.found["fidelity"] = outcome
        for warning in outcome.warnings:
            context.warn(warning)
        if metric is not None:
            context.progress("running the metric")
            before = metric_before(self.metric, context)
            after = evaluate_metric(metric, model.proto(), context.threads)
            context.found["metric"] = (self.metric, before, after, self.max_drop)
        if not outcome.passed:
            raise VerdictError(f"fidelity failed, nothing was written: {'; '.join(outcome.failures)}")
        if metric is not None and self.max_drop >= 0 and before - after > self.max_drop + 1e-12:
            raise VerdictError(
                f"the metric fell from {before:.4g} to {after:.4g}, more than --max-drop {self.max_drop:g};"
                " nothing was written"
            )
        return PassResult(model, False)

    def _reference(self, model: Model, context: Context) -> tuple[list[Feed], list[Feed]]:
        """Random inputs at several sizes of each dynamic axis and some of the user's own; the original's outputs."""
        interface = model.interface()
        specs = input_specs(interface)
        assert context.original is not None
        session = open_session(context.original, threads=context.threads)
        try:
            feeds: list[Feed] = []
            reference: list[Feed] = []
            sizes = dimension_values(interface, session=session)
            for number, dims in enumerate(sizes if len(sizes) > 1 else sizes * 2):
                for tokens in (16, 2):  # token types and the like have tables of two rows
                    feed = make_inputs(specs, dims, context.seed + number, max_token=tokens)
                    try:
                        reference.append(run_session(session, feed))
                    except InputError:
                        if tokens == 2:
                            raise
                        continue
                    feeds.append(feed)
                    break
            if context.calibration is not None:
                feeds.append(next(iter(context.calibration.batches(4, limit=4))))
                reference.append(run_session(session, feeds[-1]))
            return feeds, reference
        finally:
            del session
            release_memory()

    def _exactness(
        self, model: Model, context: Context, feeds: list[Feed], reference: list[Feed]
    ) -> tuple[Exactness, list[Feed]]:
        """The verdict, and the outputs of the pruned model."""
        surgery, coupling = context.found.get("surgery"), context.found.get("coupling")
        threads = context.threads
        rtol = None if self.rtol == Verify.rtol else self.rtol  # the default widens for 16-bit outputs

        def verdict(one: Run, other: Run, reindex: Reindex) -> Exactness:
            differences = compare_outputs(one.outputs, other.outputs, atol=self.atol)
            found = judge(differences, rtol, [])
            if found.passed or not np.isfinite(found.would_pass):
                return found
            # Rounding may have been amplified, or a saturated output have lost its digits: go tensor by tensor.
            context.progress("proving exactness tensor by tensor")
            steps = [stepwise(one.build(), other.build(), feed, reindex, threads) for feed in feeds[:2]]
            worst = max(steps, key=lambda step: step.max_rel)
            if worst.problem or worst.max_rel > found.tolerance or not min(step.compared for step in steps):
                where = f"{worst.tensor} ({worst.problem or f'relative difference {worst.max_rel:.2g}'})"
                return replace(found, first_divergence=where)
            why = f"outputs differ by {found.would_pass:.1g}, because the model amplifies rounding on these inputs"
            if found.would_pass <= found.tolerance:
                why = "outputs are empty, zero or NaN on these inputs and prove nothing"
            context.warn(
                f"{why}; exactness was proved for each of {worst.compared} tensors by itself, on equal inputs"
            )
            return replace(found, passed=True, max_abs=worst.max_abs, max_rel=worst.max_rel, reason=None)

        given = Run(lambda: Model.load(context.original), feeds, threads, reference)  # type: ignore[arg-type]
        context.progress("running the pruned model")
        pruned = Run(lambda: model, feeds, threads)
        if surgery is None or coupling is None or not surgery.modified:
            return verdict(given, pruned, _same), pruned.outputs
        prepared = None
        if context.found["prepared"]:
            context.progress("running the prepared model")
            prepared = verdict(given, Run(lambda: coupling.build.model, feeds, threads), _same)
            if not prepared.passed:
                return prepared, pruned.outputs
        context.progress("running the dense twin")
        # `hwpass verify` brings a twin with the weights of a model that was changed after pruning.
        now = replace(surgery, model=model)
        build = context.found.get("twin") or (lambda: dense_twin(coupling, now))
        twin = Run(lambda: restored_like(build(), model), feeds, threads)
        cut = verdict(twin, pruned, partial(_kept, coupling, surgery))
        return (
            prepared if prepared is not None and prepared.max_rel > cut.max_rel and cut.passed else cut,
            pruned.outputs,
        )


def _same(name: str, value: np.ndarray) -> np.ndarray:
    return value


def _kept(coupling: Coupling, surgery: Surgery, name: str, value: np.ndarray) -> np.ndarray | None:
    """The entries of a twin's tensor that the pruned model still has."""
    tensor = coupling.build.tensors.get(name)
    if tensor is None or tensor.axes is None or tensor.rank != value.ndim:
        return None
    for place, axis in enumerate(tensor.axes):
        mask = coupling.kept(surgery.keep, axis)
        if not mask.all():
            if len(mask) != value.shape[place]:
                return None
            value = np.compress(mask, value, axis=place)
    return value


class Run:
    """A model and its outputs on the feeds."""

    def __init__(self, build: Callable[[], Model], feeds: list[Feed], threads: int, outputs: list[Feed] | None = None):
        self.build = build
        self.outputs = _outputs(build, feeds, threads) if outputs is None else outputs


def _outputs(build: Callable[[], Model], feeds: list[Feed], threads: int) -> list[Feed]:
    # The weights go to a file before the session loads them, so that nothing holds them twice.
    with TemporaryFolder() as folder:
        model = build()
        path = model.store(folder)
        release_pages(model)
        del model
        release_memory()
        return outputs_of(path, feeds, threads)
