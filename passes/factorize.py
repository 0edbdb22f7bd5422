"""Products of low rank: two smaller ones in place of one, where the target gains by it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hwpass.contract import TARGET
from hwpass.errors import BudgetError, UsageError, option
from hwpass.manager import Pass, PassResult, register
from hwpass.options import pass_option
from hwpass.pipeline_text import texts

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.cost.budgets import Budget
    from hwpass.model.model import Model
    from hwpass.planning.factoring import Factored, Factoring, Limits


@register
@dataclass(frozen=True)
class Factorize(Pass):
    """y = W x + b -> y = B (A x) + b, with fewer channels between than make W; Conv k x l -> k x 1 and 1 x l, or k x l
    and 1 x 1.

    Layer and rank are chosen for the least loss under the budgets, or with `error` alone for the least latency, on the
    target's steps, and only where it prices the pair lower than the layer. With calibration data the channels between
    are the principal axes of the layer's output, and every layer is refitted on what those before it give by then.

    Does not fire without a budget or `error`, on grouped or recurrent layers, in bodies, on weights that layers share
    or that are not floating point, behind prune-weights, or where padding is not given in numbers.
    """

    name = "factorize"
    effect = "factor"
    in_place = False
    requires = (TARGET,)
    latency: str = pass_option("latency", "")
    size: str = pass_option("size", "")
    error: float = field(
        default=0.0, metadata={"help": "most that a layer may lose, as a share of its output's variance; 0 is any"}
    )
    refit: bool = field(default=True, metadata={"help": "fit the weights on the data afterwards"})
    keep: tuple[str, ...] = pass_option("keep", (), "globs joined by |")
    samples: int = field(default=1024, metadata={"help": "most calibration samples to use"})
    rows: int = field(default=16384, metadata={"help": "most rows of a layer's input and output to fit on"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", texts("keep", self.keep))
        super().__post_init__()
        self._budgets()
        if not 0 <= self.error < 1:
            raise UsageError(f"pass {self.name}: option error={self.error:g}: give a share of at least 0, less than 1")
        for name in ("samples", "rows"):
            if not 1 <= getattr(self, name) <= 1 << 31:
                raise UsageError(f"pass {self.name}: option {name}={getattr(self, name)}: give 1 or more")

    def _budgets(self) -> list[Budget]:
        from hwpass.cost.budgets import parse_budgets

        return parse_budgets({"latency": self.latency or None, "size": self.size or None})

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.cost.prediction import Cost
        from hwpass.planning.analyses import coupled
        from hwpass.planning.factoring import Factoring, Limits
        from hwpass.planning.removal import check_finite
        from hwpass.planning.study import named

        budgets = self._budgets()
        if not budgets and not self.error:
            return PassResult(model, False, reason="neither a budget nor an error was given")
        assert context.target is not None
        if context.findings.masked:
            raise UsageError(f"{self.name} goes before prune-weights in a pipeline: a factor has none of its zeros")
        check_finite(model)
        coupling = coupled(model, context, own=True)
        worker = Factoring(coupling, context.target, context.calibration, context, self.samples, self.rows)
        worker.look(named([node.name for node in coupling.nodes], self.keep))
        base = Cost(coupling, context.target).base
        asked = {budget.metric: budget.limit(base[budget.metric]) for budget in budgets}
        limits = Limits(asked.get("latency", math.inf), asked.get("size", math.inf), self.error or math.inf)
        if budgets and base["latency"] <= limits.seconds and base["size"] <= limits.bytes:
            context.warn(f"{self.name}: the model meets the budget already: nothing was factored")
            return PassResult(model, False, reason="the model meets the budget already")
        if worker.layers:
            worker.measure()
        found = self._chosen(worker, limits, Limits(base["latency"], base["size"]), context)
        if found is None:
            return PassResult(model, False, reason="no pair of products pays")
        context.findings.note(self.name, self._told(found, worker, base))
        return PassResult(found.model, True, declared=found.factors)

    def _chosen(self, worker: Factoring, limits: Limits, base: Limits, context: Context) -> Factored | None:
        """The model under the limits; None where nothing is to be gained. Raises BudgetError."""
        options = worker.options() if worker.layers else {}
        chosen = worker.choose(options, limits, base) if options else None
        if chosen is None and (math.isfinite(limits.seconds) or math.isfinite(limits.bytes)):
            least = worker.least(options, limits.lost, base)
            reached = ", ".join(f"{least[b.metric]:.3f}x of {b.metric}" for b in self._budgets())
            asked = " and ".join(str(b) for b in self._budgets())
            text = f"{self.name}: no choice of ranks meets {asked}: the least that they come to is {reached}"
            if not context.force:
                raise BudgetError(f"{text}; ask for less, or keep the model as it is with {option('force', True)}")
            context.warn(text)
            context.findings.unmet = text
            return None
        if not chosen:
            context.warn(f"{self.name}: {worker.target.name} gains nothing by a pair of products: nothing was factored")
            return None
        return worker.apply(chosen, self.refit)

    def _told(self, found: Factored, worker: Factoring, base: dict[str, float]) -> dict[str, Any]:
        """What the report says."""
        from hwpass.cost.prediction import Cost
        from hwpass.coupling.groups import couple

        after = Cost(couple(found.model, dict(worker.context.dims)), worker.target).base
        layers: dict[str, Any] = {}
        for name, chosen in found.chosen.items():
            node = worker.layers[name].node
            full = worker.found[name, chosen.form].full
            layers[node.name] = {"form": chosen.form, "rank": f"{chosen.rank} of {full}",
                                 "lost": float(f"{chosen.lost:.3g}")}  # fmt: skip
            if node.name in found.gains:
                layers[node.name]["error"] = float(f"{found.gains[node.name][1]:.3g}")
        layers |= {name: {"left alone": reason} for name, reason in worker.refused.items()}
        ratios = {f"predicted {m}": f"{after[m] / base[m]:.3f}x" for m in ("latency", "size") if base[m]}
        return {**ratios, "layers": layers}
