"""Structured channel pruning under budgets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from hwpass.contract import TARGET
from hwpass.errors import BudgetError, UsageError, option
from hwpass.manager import Pass, PassResult, register
from hwpass.options import pass_option
from hwpass.pipeline_text import texts
from hwpass.planning.score import choices, score_named

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.cost.budgets import Budget
    from hwpass.coupling.groups import Coupling
    from hwpass.model.model import Model
    from hwpass.planning.allocation import Allocation
    from hwpass.planning.candidates import Choice
    from hwpass.planning.plan import Plan
    from hwpass.planning.stages import Pruned
    from hwpass.planning.study import Study
    from hwpass.surgery.cut import Surgery

#: No count of channels or rounds is larger.
MOST = 1 << 20


@register
@dataclass(frozen=True)
class PruneChannels(Pass):
    """A network -> the same network with fewer channels, within every budget given, at the least loss.

    Needs a target. Does not fire when the dense model meets the budgets already, nor without a budget. Frozen
    channels stay; a plan predicted slower than the dense model is never taken.
    """

    name = "prune-channels"
    effect = "cut"
    in_place = False
    requires = (TARGET,)
    latency: str = pass_option("latency", "")
    energy: str = pass_option("energy", "")
    memory: str = pass_option("memory", "")
    size: str = pass_option("size", "")
    macs: str = pass_option("macs", "")
    channels: str = pass_option("channels", "")
    score: str = pass_option("score", "auto", choices=choices)
    keep: tuple[str, ...] = pass_option("keep", (), "globs joined by |")
    min_channels: int = pass_option("min_channels", 1)
    rounds: int = field(default=0, metadata={"help": "how often loss curves are measured; 0 decides by effort"})
    samples: int = field(default=0, metadata={"help": "most calibration samples to measure on; 0 is all"})
    align: int = pass_option("align", 0, "0 takes that")
    integers: bool = field(default=False, metadata={"help": "price layers as on the integers of a later quantize"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", texts("keep", self.keep))
        super().__post_init__()
        if [budget.metric for budget in self.budgets()] == ["channels"] and self.integers:
            raise UsageError(
                f"{option('integers', True)}: a budget of channels looks at no price; give another budget, or leave it"
            )
        score_named(self.score)
        for name, least in (("min_channels", 1), ("rounds", 0), ("samples", 0), ("align", 0)):
            if not least <= (given := getattr(self, name)) <= MOST:
                raise UsageError(f"{option(name, given)}: give {least} to {MOST}")

    def budgets(self) -> list[Budget]:
        """The budgets that are asked for. Raises UsageError."""
        from hwpass.cost.budgets import parse_budgets
        from hwpass.cost.prediction import METRICS

        return parse_budgets({m: getattr(self, m) or None for m in (*METRICS, "channels")})

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.planning.removal import check_finite, operate
        from hwpass.planning.study import Study, StudyOptions

        assert context.target is not None
        if context.findings.masked:
            raise UsageError("prune-channels goes before prune-weights in a pipeline: a cut breaks patterns of zeros")
        budgets = self.budgets()
        check_finite(model)
        options = StudyOptions(self.score, self.keep, self.min_channels, self.align, self.samples)
        study = context.shared.study
        if study is None or not study.holds(model, context, options):
            given = context.findings.given
            study = context.shared.study = Study.of(model, context.target, context, options, given, self.rounds)
        for note in study.cost.notes():
            context.warn(note)
        if study.synthetic is not None:
            context.warn(
                f"no calibration data: channels were chosen and weights refitted on {study.synthetic.what};"
                f" give real inputs with {option('calib')} to keep more accuracy"
            )
            if study.synthetic.doubt:
                context.warn(study.synthetic.doubt)
        if [b.metric for b in budgets] == ["channels"]:
            allocation, curves = study.uniform(budgets[0].value), study.curves
        else:
            allocation, curves = self._allocate(self._priced(study, budgets, context), budgets, context)
        pruned = operate(study.coupling, self._plan(study, allocation, context), context)
        pruned.cost, pruned.allocation, pruned.curves, pruned.study = study.cost, allocation, curves, study
        pruned.budgets = tuple(b.metric for b in budgets)
        return outcome(pruned, model)

    def _priced(self, study: Study, budgets: list[Budget], context: Context) -> Study:
        """The study with the costs that widths are chosen by; those on integers are kept for other budgets.

        Which layers are faster on integers depends on widths, and these on what is faster: looked at where the model
        starts, and where widths by that lead.
        """
        from hwpass.formats.worthwhile import Cheapest, cost_on_integers

        if not self.integers or not study.coupling.groups:
            return replace(study, repriced=None)
        if study.repriced is not None:
            return study
        base = study.cost.base
        limits = {b.metric: b.limit(base[b.metric]) for b in budgets}
        costs, widths = [study.cost], None
        for _ in range(2):
            found = cost_on_integers(study.coupling, study.target, context, base, self.keep, widths)
            costs += [] if found is None else [found]
            study = replace(study, repriced=Cheapest(costs))
            widths = study.allocator(limits, context).run().widths.astype("float64")
        context.shared.study = study
        return study

    @staticmethod
    def _plan(study: Study, allocation: Allocation, context: Context) -> Plan:
        from hwpass.planning.plan import Plan
        from hwpass.planning.removal import select

        kept = [select(s, int(w)) for s, w in zip(study.importance, allocation.widths, strict=True)]
        return Plan.of(study.coupling, kept, ",".join(context.findings.preparation))

    def _cut(self, study: Study, context: Context, allocation: Allocation) -> Surgery:
        from hwpass.surgery.cut import prune

        return prune(study.coupling, self._plan(study, allocation, context).keep(study.coupling))

    def _allocate(self, study: Study, budgets: list[Budget], context: Context, beside: Study | None = None) -> Choice:
        from hwpass.coupling.chains import frozen_layers
        from hwpass.planning.candidates import Chooser

        coupling, base = study.coupling, study.prices.base
        budgets = [*budgets, *self._limits(study, budgets, context)]
        limits = {b.metric: b.limit(base[b.metric]) for b in budgets}
        # Nothing is also what a model has whose layers could not be sized.
        over = [m for m, limit in limits.items() if base[m] > limit * (1 + 1e-9) or not base[m]]
        if over and (not coupling.groups or all(study.fixed)):
            reason = next((f"{n}: {r}" for n, r in frozen_layers(coupling)), "it has no layer with weights")
            raise BudgetError(f"nothing in this model can be pruned ({reason}); see `hwpass groups`")
        if budgets and not over:
            context.warn("the dense model meets the budget already: nothing was removed")
        cut = partial(self._cut, study, context)
        chosen = Chooser(study, cut, context).choose(limits, self.rounds)
        allocation = chosen.allocation
        if not allocation.met:
            worst = max(budgets, key=lambda b: allocation.costs[b.metric] / limits[b.metric])
            least = allocation.costs[worst.metric] / base[worst.metric]
            why = f"with every group at its narrowest the model still takes {least:.3f}x{_frozen(coupling)}"
            why += _floor(study, allocation, worst.metric)
            if all(allocation.costs[metric] <= limit * (1 + 1e-9) for metric, limit in limits.items()):
                slower = allocation.costs["latency"] / base["latency"]
                why = f"what meets it is predicted slower than the dense model, {slower:.3f}x{_frozen(coupling)}"
            _refuse(f"{worst} cannot be met: {why}{mend()}", context)
            return chosen
        self._speak_of_overshoot(study, chosen, budgets, context)
        return chosen

    @staticmethod
    def _limits(study: Study, budgets: list[Budget], context: Context) -> list[Budget]:
        """The target's hard limits that are no looser than the budgets, said where the model as it is breaks them."""
        from hwpass.cost.budgets import hard_limits, misfits

        base, limits = study.prices.base, hard_limits(study.prices)
        asked = {b.metric: b.limit(base[b.metric]) for b in budgets}
        for line in misfits(base, limits):
            context.warn(line)
        return [limit for limit in limits if limit.value < asked.get(limit.metric, base[limit.metric])]

    def _speak_of_overshoot(self, study: Study, chosen: Choice, budgets: list[Budget], context: Context) -> None:
        """Warn where far more is removed than was asked for; refuse where that throws the network away."""
        from hwpass.planning.overshoot import overshoot

        limits = {b.metric: b.limit(study.prices.base[b.metric]) for b in budgets}
        allocator = study.allocator(limits, context).finer()
        beyond = overshoot(allocator, chosen.allocation, chosen.curves)
        if beyond is None:
            return
        budget = next(b for b in budgets if b.metric == beyond.metric)
        asked = str(budget) + ("" if budget.relative else f" ({beyond.asked:.3g}x)")
        if not beyond.refused:
            context.warn(
                f"more is removed than was asked for: {asked} was asked, {beyond.given:.3g}x is given, because"
                f" {beyond.reason}"
            )
            return
        ways = [f"allow single channels with {option('align', 1)}"] if self.align > 1 else []
        ways += [f"keep every branch with {option('min_channels', 2)}"] if (chosen.allocation.widths == 0).any() else []
        _refuse(
            f"{asked} cannot be met nearly: the nearest plan that is not predicted slower than the dense model takes"
            f" {beyond.given:.3g}x and throws most of the network away, because {beyond.reason}"
            + "".join(f"; {way}" for way in ways)
            + mend(),
            context,
        )


def mend() -> str:
    """How the refusal of a budget ends."""
    return f"; ask for more, or keep the best effort with {option('force', True)}"


def _refuse(text: str, context: Context) -> None:
    """Raise BudgetError, or note why the budget is not met where the best effort is kept."""
    if not context.force:
        raise BudgetError(text)
    context.warn(text)
    context.findings.unmet = text


def _floor(study: Study, allocation: Allocation, metric: str) -> str:
    """Which kernel holds most of what is left, and how much."""
    found = study.prices.largest(allocation.widths.astype("float64"), metric)
    return "" if found is None else f", {found[1]:.0%} of that in {found[0]}"


def _frozen(coupling: Coupling) -> str:
    """Why layers are frozen, the commonest reason first."""
    from hwpass.coupling.chains import frozen_layers

    reasons = Counter(reason for _, reason in frozen_layers(coupling)).most_common(2)
    return " (frozen: " + "; ".join(f"{count} x {reason}" for reason, count in reasons) + ")" if reasons else ""


def outcome(pruned: Pruned, model: Model) -> PassResult:
    """What a pass that removes channels gives: the model as it was where nothing went."""
    modified = pruned.surgery.modified
    return PassResult(pruned.surgery.model if modified else model, modified, pruned)
