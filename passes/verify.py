"""The verdicts, as a pass that changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from hwpass.errors import UsageError, VerdictError
from hwpass.fidelity import parse_fidelity
from hwpass.inputs import dimension_values, input_specs, make_inputs
from hwpass.ir import Model
from hwpass.manager import Context, Pass, PassResult, register
from hwpass.rewrite import dense_twin
from hwpass.verify import Exactness, evaluate_metric, exactness, fidelity, require_valid, task_metric


@register
@dataclass(frozen=True)
class Verify(Pass):
    """Exactness of the rewrite, fidelity to the original, and the task metric; raises VerdictError when one fails.

    Exactness has two legs on the same inputs: the passes before pruning against the original model, and the pruned
    model against its dense twin. Changes nothing, so it never fires.
    """

    name = "verify"
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
        require_valid(model.proto(), original if isinstance(original, onnx.ModelProto) else None)
        feeds = self._feeds(model, context)
        context.progress("proving exactness")
        verdict = self._exactness(model, context, feeds)
        context.found["exactness"] = verdict
        if not verdict.passed:
            context.found["failing_feed"] = feeds[0]
            raise VerdictError(f"exactness failed, nothing was written: {verdict}")
        context.progress("measuring fidelity")
        calibration = context.calibration
        data: Callable[[], Iterable[Mapping[str, np.ndarray]]]
        data = (lambda: feeds) if calibration is None else (lambda: calibration.batches(16, limit=256))
        outcome = fidelity(original, model.proto, data, tolerances, context.threads)
        context.found["fidelity"] = outcome
        for warning in outcome.warnings:
            context.warn(warning)
        if metric is not None:
            context.progress("running the metric")
            before = evaluate_metric(metric, original, context.threads)
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

    def _feeds(self, model: Model, context: Context) -> list[dict[str, Any]]:
        """Random inputs at several sizes of every dynamic axis, and the first of the user's own."""
        proto = context.original if isinstance(context.original, onnx.ModelProto) else model.proto()
        specs = input_specs(proto)
        context.progress("finding sizes of dynamic axes")
        feeds = [make_inputs(specs, dims, context.seed + i) for i, dims in enumerate(dimension_values(proto))]
        if len(feeds) == 1:
            feeds.append(make_inputs(specs, dimension_values(proto)[0], context.seed + 1))
        if context.calibration is not None:
            feeds.append(next(iter(context.calibration.batches(4, limit=4))))
        return feeds

    def _exactness(self, model: Model, context: Context, feeds: list[dict[str, Any]]) -> Exactness:
        original = context.original
        assert original is not None
        surgery, coupling = context.found.get("surgery"), context.found.get("coupling")
        if surgery is None or not surgery.modified:
            return exactness(original, model.proto, feeds, self.rtol, self.atol, context.threads)
        prepared = exactness(original, coupling.build.model.proto, feeds, self.rtol, self.atol, context.threads)
        if not prepared.passed:
            return prepared

        def kept(name: str, twin: np.ndarray, pruned: np.ndarray) -> np.ndarray | None:
            tensor = coupling.build.tensors.get(name)
            if tensor is None or tensor.axes is None or tensor.rank != twin.ndim:
                return None
            masks = [coupling.kept(surgery.keep, axis) for axis in tensor.axes]
            picked = twin
            for place, mask in enumerate(masks):
                if not mask.all():
                    picked = np.compress(mask, picked, axis=place)
            return picked if picked.shape == pruned.shape else None

        cut = exactness(
            lambda: dense_twin(coupling, surgery).proto(), model.proto, feeds, self.rtol, self.atol, context.threads,
            index_map=kept,
        )  # fmt: skip
        return prepared if cut.passed and prepared.max_rel > cut.max_rel else cut


