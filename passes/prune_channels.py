"""Structured channel pruning under budgets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hwpass import scores
from hwpass.allocate import Allocation
from hwpass.budget import Budget, parse_budgets
from hwpass.coupling import Coupling
from hwpass.errors import BudgetError, InputError, UsageError
from hwpass.halfway import Chooser
from hwpass.ir import Model
from hwpass.manager import Context, Pass, PassResult, register
from hwpass.plan import Plan, PlannedWeight
from hwpass.rewrite import Surgery, prune
from hwpass.streaming import release_pages
from hwpass.study import Study, StudyOptions
from hwpass.work import Floats

#: How the refusal of a budget ends.
MEND = "; ask for more, or keep the best effort with --force"


@register
@dataclass(frozen=True)
class PruneChannels(Pass):
    """A network -> the same network with fewer channels, within every budget given, at the least loss.

    Needs a target. Does not fire when the dense model meets the budgets already, nor without a budget. Frozen
    channels stay; a plan predicted slower than the dense model is never taken.
    """

    name = "prune-channels"
    latency: str = field(default="", metadata={"help": "at most this latency: 0.6x or 12ms"})
    energy: str = field(default="", metadata={"help": "at most this energy: 0.7x or 5mJ"})
    memory: str = field(default="", metadata={"help": "at most this peak memory, weights included: 0.8x or 2MiB"})
    size: str = field(default="", metadata={"help": "at most these bytes of weights: 0.5x or 4MiB"})
    macs: str = field(default="", metadata={"help": "at most these multiply-accumulates: 0.5x or 300M"})
    channels: str = field(default="", metadata={"help": "uniform width, for comparison: 0.7x"})
    score: str = field(default="auto", metadata={"help": f"auto, gram, {', '.join(scores.NAMES)}"})
    keep: tuple[str, ...] = field(default=(), metadata={"help": "layers whose channels stay, as globs joined by |"})
    min_channels: int = field(default=1, metadata={"help": "fewest channels of a group; above 1 no whole branch goes"})
    rounds: int = field(default=0, metadata={"help": "how often loss curves are measured; 0 decides by effort"})
    align: int = field(default=0, metadata={"help": "channel step; 0 takes the target's"})

    def run(self, model: Model, context: Context) -> PassResult:
        if context.target is None:
            raise UsageError("prune-channels needs a target; see `hwpass targets`")
        if self.rounds < 0:
            raise UsageError(f"prune-channels{{rounds={self.rounds}}}: give 0 or more")
        given = {m: getattr(self, m) or None for m in ("latency", "energy", "memory", "size", "macs", "channels")}
        budgets = parse_budgets(given)
        check_finite(model)
        options = StudyOptions(self.score, self.keep, self.min_channels, self.align)
        study: Study | None = context.found.get("study")
        if study is None or not study.holds(model, context, options):
            study = Study.of(model, context.target, context, options)
            context.found["study"] = study
        if study.synthetic is not None:
            context.warn(
                f"no calibration data: channels were chosen and weights refitted on {study.synthetic.what};"
                " give real inputs with --calib to keep more accuracy"
            )
        if [b.metric for b in budgets] == ["channels"]:
            allocation = study.uniform(budgets[0].value)
            context.found["curves"] = study.curves
        else:
            allocation = self._allocate(study, budgets, context)
        plan = self._plan(study, allocation, context)
        context.found.update(cost=study.cost, allocation=allocation)
        surgery = operate(study.coupling, plan, context)
        return PassResult(surgery.model if surgery.modified else model, surgery.modified)

    @staticmethod
    def _plan(study: Study, allocation: Allocation, context: Context) -> Plan:
        kept = [select(s, int(w)) for s, w in zip(study.importance, allocation.widths, strict=True)]
        return Plan.of(study.coupling, kept, context.found.get("prepare", ""))

    def _cut(self, study: Study, context: Context, allocation: Allocation) -> Surgery:
        return prune(study.coupling, self._plan(study, allocation, context).keep(study.coupling))

    def _allocate(self, study: Study, budgets: list[Budget], context: Context) -> Allocation:
        coupling, base = study.coupling, study.cost.base
        limits = {b.metric: b.limit(base[b.metric]) for b in budgets}
        # Nothing is also what a model has whose layers could not be sized.
        over = [m for m, limit in limits.items() if base[m] > limit * (1 + 1e-9) or not base[m]]
        if over and (not coupling.groups or all(study.fixed)):
            reason = next((f"{n}: {r}" for n, r in coupling.frozen), "it has no layer with weights")
            raise BudgetError(f"nothing in this model can be pruned ({reason}); see `hwpass groups`")
        if budgets and not over:
            context.warn("the dense model meets the budget already: nothing was removed")
        cut = partial(self._cut, study, context)
        allocation, context.found["curves"] = Chooser(study, cut, context).choose(limits, self.rounds)
        if not allocation.met:
            worst = max(budgets, key=lambda b: allocation.costs[b.metric] / limits[b.metric])
            least = allocation.costs[worst.metric] / base[worst.metric]
            why = f"with every group at its narrowest the model still takes {least:.3f}x{_frozen(coupling)}"
            if all(allocation.costs[metric] <= limit * (1 + 1e-9) for metric, limit in limits.items()):
                slower = allocation.costs["latency"] / base["latency"]
                why = f"what meets it is predicted slower than the dense model, {slower:.3f}x{_frozen(coupling)}"
            text = f"--{worst.metric} {worst.text} cannot be met: {why}{MEND}"
            if not context.force:
                raise BudgetError(text)
            context.warn(text)
            context.found["unmet"] = text
        return allocation


def _frozen(coupling: Coupling) -> str:
    """Why layers are frozen, the commonest reason first."""
    reasons = Counter(reason for _, reason in coupling.frozen).most_common(2)
    return " (frozen: " + "; ".join(f"{count} x {reason}" for reason, count in reasons) + ")" if reasons else ""


def operate(coupling: Coupling, plan: Plan, context: Context) -> Surgery:
    """Apply a plan, and leave plan, coupling and surgery in the context for the verdicts and the report."""
    context.progress("rewriting")
    surgery = prune(coupling, plan.keep(coupling))
    release_pages(coupling.build.model)
    nodes = coupling.nodes
    weights = [
        PlannedWeight(
            node=nodes[s.node].name,
            input=s.position,
            tensor=nodes[s.node].gs.inputs[s.position].name,
            kept=[None if m.all() else [int(i) for i in np.flatnonzero(m)] for m in s.kept],
        )
        for s in surgery.slices
    ]
    context.found["prepared"] = context.rewritten
    context.found.update(coupling=coupling, surgery=surgery, plan=plan.model_copy(update={"weights": weights}))
    return surgery


#: Operators whose constants are weights. Squares of larger ones than this overflow.
PRODUCTS = frozenset("Conv ConvTranspose Gemm MatMul LSTM GRU RNN".split())
LARGEST_WEIGHT = 1e15


def select(importance: Floats, width: int) -> NDArray[np.int64]:
    """The positions of the `width` most important channels, ascending; of equals the earlier stays."""
    order = np.argsort(-importance, kind="stable")
    return np.sort(order[:width])


def check_finite(model: Model) -> None:
    """Raise InputError when a weight has NaN, or one of a product has values that no training leaves (or infinity): no
    score of it means anything."""
    weights = {id(t) for node in model.walk() if node.op in PRODUCTS for t in node.inputs}
    with np.errstate(invalid="ignore", over="ignore"):
        for tensor in model.constants().values():
            values = tensor.values
            # Infinity is a mask's fill and means what it says; NaN never does.
            if values.dtype.kind == "f" and np.isnan(np.sum(values, dtype=np.float32)) and np.isnan(values).any():
                raise InputError(f"weight {tensor.name} has NaN in it; train or export the model again")
            if id(tensor) in weights and values.dtype.kind == "f" and values.size:
                largest = float(np.maximum(values.max(), -values.min()))
                if largest > LARGEST_WEIGHT:
                    raise InputError(f"weight {tensor.name} has values of {largest:.2g}; export the model again")
