"""What is found out about a model before widths are chosen, once for any number of budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwpass.cost.prediction import Cost, Prices
from hwpass.cost_models import Target
from hwpass.cost_models.work import Floats
from hwpass.coupling.branches import branches
from hwpass.coupling.groups import Coupling
from hwpass.data.doctor import concerns
from hwpass.data.synthetic_inputs import Synthetic, synthesise
from hwpass.errors import UsageError, option
from hwpass.figures import brief, shown
from hwpass.globs import matches
from hwpass.model.model import Model
from hwpass.node_names import short
from hwpass.planning.allocation import Allocation, Allocator, choices, steps
from hwpass.planning.analyses import coupled
from hwpass.planning.consumers import macs_of
from hwpass.planning.estimate import announced
from hwpass.planning.score import Importance, Seen, judge, score_named
from hwpass.proto import adapter
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.inputs import StatedInput
from hwpass.runtime.memory import release_memory
from hwpass.runtime.settings import Settings


@dataclass(frozen=True)
class StudyOptions:
    """What decides on widths besides the budgets."""

    score: str = "auto"
    keep: tuple[str, ...] = ()
    min_channels: int = 1
    align: int = 0
    samples: int = 0  # what is measured on, at most; 0 is all


@dataclass(frozen=True, eq=False)
class Study:
    """Channels, costs, loss curves and importance of a prepared model on a target: the same for every budget."""

    options: StudyOptions
    target: Target
    calibration: Calibration | None
    synthetic: Synthetic | None  # what stands in for calibration data where it is missed
    stated: dict[str, StatedInput]  # what the user says of inputs
    seed: int
    coupling: Coupling
    cost: Cost
    curves: list[Floats]  # per group, [width + 1]
    importance: Importance
    fixed: list[bool]  # groups that may not shrink
    widest: list[int] | None = None  # per group, where curves were taken with some channels gone
    repriced: Prices | None = None  # what widths are chosen by, where that is not `cost`

    def __repr__(self) -> str:
        return brief(self, self.target.name, f"score {self.options.score}", repr(self.coupling))

    @classmethod
    def of(
        cls,
        model: Model,
        target: Target,
        context: Settings,
        options: StudyOptions,
        given: Mapping[str, float] | None = None,
        rounds: int = 0,
    ) -> Study:
        """Study a model: couple, gather statistics, score. Raises UsageError for options that do not fit.

        `given` is what `Cost` takes: costs of the model as it was before kernels became others. `rounds` is how often
        curves will be taken, for the estimate of how long it takes.
        """
        context.progress("coupling channels")
        coupling = coupled(model, context)
        fixed = _fixed(coupling, options.keep)
        if context.calibration is not None and coupling.groups:
            context.progress("looking at the data")
            for concern in concerns(model, context.calibration, _macs(coupling), context.threads):
                context.warn(f"calibration data: {concern}")
        missed = context.calibration is None and score_named(options.score).makes_inputs
        synthetic = _synthetic(coupling, context) if missed else None
        data = context.calibration if synthetic is None else synthetic.calibration
        if data is not None and options.samples:
            data = replace(data, every=max(1, -(-len(data) // options.samples)))
        if data is not None and score_named(options.score).measured:
            context = replace(context, progress=announced(coupling, data, context, rounds))
        curves, importance = judge(options.score, Seen(coupling, data, context))
        release_memory()
        return cls(
            options=options,
            target=target,
            calibration=context.calibration,
            synthetic=synthetic,
            stated=dict(context.stated),
            seed=context.seed,
            coupling=coupling,
            cost=Cost(coupling, target, given),
            curves=curves,
            importance=importance,
            fixed=fixed,
        )

    def holds(self, model: Model, context: Settings, options: StudyOptions) -> bool:
        """Whether it is about this model (the same operators on the same arrays), these data and these options."""
        same = self.options == options and self.target is context.target and self.seed == context.seed
        same = same and self.stated == dict(context.stated)
        return same and self.calibration is context.calibration and _contents(model) == _contents(self.model)

    @property
    def model(self) -> Model:
        """The model that was studied."""
        return self.coupling.build.model

    @property
    def data(self) -> Calibration | None:
        """What statistics were gathered on: calibration data, or what stands in for them."""
        return self.calibration if self.synthetic is None else self.synthetic.calibration

    @property
    def prices(self) -> Prices:
        """What widths are chosen by."""
        return self.cost if self.repriced is None else self.repriced

    @property
    def align(self) -> int:
        """The channel step."""
        return self.options.align or self.target.align

    @property
    def measured(self) -> bool:
        """Whether loss curves were taken from activations."""
        return score_named(self.options.score).measured and self.data is not None

    def retaken(self, model: Model, keep: NDArray[np.bool_], data: Calibration, context: Settings) -> Study | None:
        """The same channels with curves from another model, of the same graph, with zeros where channels are gone.

        `keep` is the mask over components of what is left. Losses include what it took to get there. None where
        the model's channels are coupled in another way.
        """
        coupling = coupled(model, context)
        ours, theirs = ([(g.name, g.width) for g in c.groups] for c in (self.coupling, coupling))
        if ours != theirs:
            return None
        gone = np.zeros(int(coupling.component.max()) + 1, bool)
        widths, spent = [], []
        for group, other, curve in zip(self.coupling.groups, coupling.groups, self.curves, strict=True):
            left = keep[group.components]
            gone[other.components[~left]] = True
            widths.append(int(left.sum()))
            spent.append(curve[int((~left).sum())])
        found, _ = judge(self.options.score, Seen(coupling, data, context, gone))
        release_memory()
        curves = [cost + curve for cost, curve in zip(spent, found, strict=True)]
        return replace(self, curves=curves, widest=widths)

    def removable(self) -> list[bool]:
        """Groups that may be left without a channel: a branch goes with them, and no layer that is to stay."""
        if self.options.min_channels > 1:
            return [False] * len(self.fixed)
        stay = {layer for g, still in zip(self.coupling.groups, self.fixed, strict=True) if still for layer in g.layers}
        nodes = self.coupling.nodes
        return [
            branch is not None and not any(nodes[i].name in stay for i in branch.gone | branch.constant)
            for branch in branches(self.coupling)
        ]

    def uniform(self, share: float) -> Allocation:
        """Every group at the width nearest to a share of its own."""
        widths = []
        for group, step, still in zip(self.coupling.groups, steps(self.coupling, self.align), self.fixed, strict=True):
            options = choices(group.width, step, self.options.min_channels)
            nearest = options[np.argmin(np.abs(options - share * group.width))]
            widths.append(group.width if still else int(nearest))
        chosen = np.asarray(widths, np.int64)
        costs = {m: float(v[0]) for m, v in self.prices(chosen[None, :].astype(np.float64)).items()}
        return Allocation(chosen, True, costs)

    def allocator(self, limits: dict[str, float], context: Settings) -> Allocator:
        """The problem of the least loss within limits, in the units of METRICS."""
        return Allocator(
            self.coupling,
            self.prices,
            self.curves,
            limits,
            align=self.align,
            least=self.options.min_channels,
            fixed=self.fixed,
            removable=self.removable(),
            widest=self.widest,
            between=not self.options.align,
            progress=context.progress,
        )


def named(names: list[str], keep: tuple[str, ...]) -> set[str]:
    """Those of some layers that globs name. Raises UsageError for a glob that names none."""
    stay: set[str] = set()
    for glob in keep:
        found = [name for name in names if matches(glob, name)]
        as_shown = [name for name in names if short(name) == glob]
        if not found and len(as_shown) == 1:
            found = as_shown
        if not found:
            raise UsageError(f"{option('keep', shown(glob))}: no layer has such a name; see `hwpass groups MODEL`")
        stay.update(found)
    return stay


def _fixed(coupling: Coupling, keep: tuple[str, ...]) -> list[bool]:
    stay = named([node.name for node in coupling.nodes], keep)
    return [any(layer in stay for layer in g.layers) for g in coupling.groups]


def _synthetic(coupling: Coupling, context: Settings) -> Synthetic | None:
    """Inputs in place of calibration data; None where there is nothing to prune, or none were found that run."""
    if not coupling.groups:
        return None
    original = context.original
    return synthesise(
        coupling.build.model,
        None if original is None else lambda: Model.load(original),
        macs=_macs(coupling),
        seed=context.seed,
        threads=context.threads,
        stated=context.stated,
        progress=context.progress,
    )


def _macs(coupling: Coupling) -> float:
    """Multiply-accumulates of one inference."""
    return sum(macs_of(node) for node in coupling.nodes)


def _contents(model: Model) -> list[tuple[str, list[tuple[str, int | None]]]]:
    """Operators and what they read; constants by the identity of their arrays, which copies of a model share."""
    return [(node.op, [(t.name, adapter.identity(t)) for t in node.inputs]) for node in model.walk()]
