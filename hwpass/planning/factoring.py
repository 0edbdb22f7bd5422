"""Which layers become pairs of products, and with how many channels between them, under a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from hwpass.cost.prediction import Cost
from hwpass.cost_models import Target
from hwpass.coupling.groups import Coupling, couple
from hwpass.data.activation_statistics import mean_squares
from hwpass.data.dense_rows import DenseRows
from hwpass.model.model import Model
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.settings import Settings
from hwpass.surgery.compensation import Compensation
from hwpass.surgery.cut import prune
from hwpass.surgery.declared import FactoredLayer, Factors
from hwpass.surgery.fit_data import HELD_OUT, dense_rows
from hwpass.surgery.low_rank import (
    Factorization,
    Form,
    OutputRows,
    factor,
    factorization,
    forms_of,
    full_rank,
    product,
    refusal,
    weights_of,
)
from hwpass.surgery.weight_views import WeightView

Floats = NDArray[np.float64]

#: Ranks of one layer that are priced, at most: each on the target's steps.
RANKS = 24

#: Tries to bring the price of the whole to the limits, and how much less than these is as good.
TRIES, NEAR = 8, 0.97

#: A layer loses no more than such a share of its output's variance, whatever that saves: less is no layer any more.
MOST_LOST = 0.9


@dataclass(frozen=True)
class Option:
    """A layer as a pair of products, or as it is (rank 0): seconds, bytes, and what it loses."""

    rank: int
    form: Form
    seconds: float
    bytes: float
    lost: float


@dataclass(frozen=True)
class Limits:
    """Seconds and bytes of the whole model, and what one layer may lose; infinite where nothing is asked for."""

    seconds: float = np.inf
    bytes: float = np.inf
    lost: float = np.inf


@dataclass(frozen=True)
class Factored:
    """The model with pairs, what is declared of them, and per layer its choice and its held-out errors."""

    model: Model
    factors: Factors
    chosen: Mapping[str, Option]
    gains: Mapping[str, tuple[float, float]]


class Factoring:
    """One model on one target: what pairs cost and lose, and the choice among them."""

    def __init__(
        self, coupling: Coupling, target: Target, data: Calibration | None, context: Settings, samples: int, rows: int
    ) -> None:
        self.coupling, self.target, self.data, self.context = coupling, target, data, context
        self.samples, self.rows = samples, rows
        self.refused: dict[str, str] = {}
        self.layers: dict[str, WeightView] = {}  # by their outputs
        self.dense: DenseRows | None = None
        self.found: dict[tuple[str, Form], Factorization] = {}

    def look(self, kept: set[str]) -> None:
        """Find the layers that can be factored, leaving out those of some names."""
        outer = {id(node) for node in self.coupling.build.model.graph.nodes}
        for node in self.coupling.nodes:
            view = WeightView.of(node)
            if view is None or node.name in kept:
                continue
            reason = view if isinstance(view, str) else refusal(view)
            if reason is None and id(node.gs) not in outer:
                reason = "it stands in a body"
            if reason is not None or isinstance(view, str):
                self.refused[node.name] = str(reason)
            else:
                self.layers[view.place[0]] = view

    def measure(self) -> None:
        """Decompose every layer, on what the network gives on the data where there is some."""
        views = list(self.layers.values())
        power: Mapping[str, Floats] = {}
        if self.data is not None:
            self.dense = dense_rows(self.coupling, self.data, self.context, samples=self.samples, rows=self.rows)
            taps = {view.node.gs.inputs[0].name: 1 for view in views if len(forms_of(view)) > 1}
            power = mean_squares(self.coupling.build.model, taps, self.data, threads=self.context.threads)
        for number, view in enumerate(views, 1):
            self.context.progress(f"decomposing layer {number} of {len(views)}")
            rows = self._rows(view)
            for form in forms_of(view):
                given = power.get(view.node.gs.inputs[0].name)
                self.found[view.place[0], form] = factorization(view, form, rows, given)

    def _rows(self, view: WeightView) -> OutputRows | None:
        """Rows of a layer's output, about the mean where a bias takes that; the last of them are held out."""
        if self.dense is None or not self.dense.has(view.node.index):
            return None
        own = self.dense.layer(view.node.index)
        rows = np.concatenate([own.rows(number) for number in range(len(own.where))]).astype(np.float64)
        held = max(1, int(len(rows) * HELD_OUT))
        if view.kind == "conv" or view.node.op == "Gemm":
            rows -= rows[:-held].mean(axis=0)
        return OutputRows(rows[:-held], rows[-held:]) if len(rows) > held else None

    def options(self) -> dict[str, list[Option]]:
        """For every layer: as it is, and each pair that the target prices lower in seconds or bytes."""
        whole = Cost(self.coupling, self.target)
        seconds = _by_output(whole, whole.dense[None])
        found = {}
        for name, view in self.layers.items():
            found[name] = [Option(0, "outputs", float(seconds[name][0]), float(view.values.nbytes), 0.0)]
        for form in ("spatial", "outputs"):
            chosen = [view for view in self.layers.values() if form in forms_of(view)]
            if chosen:
                self._price(form, chosen, found)
        return found

    def _price(self, form: Form, views: Sequence[WeightView], found: dict[str, list[Option]]) -> None:
        """Price pairs of one form: a model in which all layers are pairs of full rank, at many ranks at once."""
        coupling = self._shaped({view.place[0]: (form, full_rank(view, form)) for view in views})
        nodes = {n.outputs[0].name: n for n in coupling.build.model.graph.nodes if n.outputs}
        cost = Cost(coupling, self.target)
        owner = {int(c): number for number, group in enumerate(coupling.groups) for c in group.components}
        ranks, widths = {}, np.repeat(cost.dense[None], RANKS, axis=0)
        for node in coupling.nodes:
            name = node.gs.outputs[0].name.removesuffix("_rank") if node.gs.outputs else ""
            if name not in nodes or node.gs.outputs[0].name == name:
                continue
            axes = node.outputs[0].axes or ()
            components = coupling.components_of(axes[-1 if self.layers[name].kind == "matrix" else 1])
            group = owner.get(int(components[0]), -1)
            if group >= 0 and coupling.groups[group].width == len(components):
                ranks[name] = self._ranks(len(components))
                widths[: len(ranks[name]), group] = ranks[name]
        seconds = _by_output(cost, widths)
        for name, tried in ranks.items():
            view, plain = self.layers[name], found[name][0]
            first, second = _empty(view, form)
            each = view.values.dtype.itemsize * (first.size + second.size) / full_rank(view, form)
            for number, rank in enumerate(tried):
                taken = float(seconds[name][number] + seconds[f"{name}_rank"][number])
                option = Option(rank, form, taken, rank * each, float(self.found[name, form].lost[rank]))
                if option.lost <= MOST_LOST and (taken < plain.seconds or option.bytes < plain.bytes):
                    found[name].append(option)

    def _shaped(self, pairs: Mapping[str, tuple[Form, int]]) -> Coupling:
        """The model with pairs of some forms and ranks, without their values."""
        model = self.coupling.build.model.copy()
        nodes = {n.outputs[0].name: n for n in model.graph.nodes if n.outputs}
        for name, (form, rank) in pairs.items():
            view, node = self.layers[name], nodes[name]
            empty = Factorization(view, form, *_empty(view, form), np.zeros(1))
            first = factor(node, view, form, weights_of(empty, rank))
            model.graph.nodes.insert(next(i for i, n in enumerate(model.graph.nodes) if n is node), first)
        model.invalidate_shapes()
        return couple(model, dict(self.context.dims))

    def priced(self, chosen: Mapping[str, Option]) -> Limits:
        """What the whole model takes with some pairs."""
        base = Cost(self._shaped({name: (o.form, o.rank) for name, o in chosen.items()}), self.target).base
        return Limits(base["latency"], base["size"])

    def _ranks(self, full: int) -> list[int]:
        """Ranks on the target's steps, evenly spread; full rank is no gain."""
        step = self.target.align
        every = list(range(step, full, step))
        return every if len(every) <= RANKS else [every[i] for i in np.linspace(0, len(every) - 1, RANKS).astype(int)]

    def choose(self, options: Mapping[str, list[Option]], limits: Limits, base: Limits) -> dict[str, Option] | None:
        """The least loss under the limits; None where nothing meets them. With a limit on losses alone: the fastest.

        What a pair takes depends on what stands beside it (caches, fusion), so that the prices of pairs do not add up
        to that of the whole: the limits of the sum are moved until the whole is within those that are asked for, and
        near them. `base` is what the model takes as it is.
        """
        if not (np.isfinite(limits.seconds) or np.isfinite(limits.bytes)):
            return self._of_sums(options, limits, base)
        inner, best, tried = limits, None, set[tuple[tuple[str, Option], ...]]()
        for _ in range(TRIES):
            chosen = self._of_sums(options, inner, base)
            if chosen is None or (key := tuple(sorted(chosen.items()))) in tried:
                break
            tried.add(key)
            whole = self.priced(chosen)
            over = max(whole.seconds / limits.seconds, whole.bytes / limits.bytes)
            lost = float(sum(_loss(option.lost) for option in chosen.values()))
            if over <= 1 + 1e-9 and (best is None or lost < best[0]):
                best = lost, chosen
            if NEAR <= over <= 1 + 1e-9:
                break
            aim = (1 + NEAR) / 2
            inner = Limits(
                inner.seconds * aim * limits.seconds / whole.seconds if np.isfinite(limits.seconds) else np.inf,
                inner.bytes * aim * limits.bytes / whole.bytes if np.isfinite(limits.bytes) else np.inf,
                limits.lost,
            )
        return None if best is None else best[1]

    def _of_sums(self, options: Mapping[str, list[Option]], limits: Limits, base: Limits) -> dict[str, Option] | None:
        """The least loss where the sum of all layers' prices is under the limits.

        `base` is what the model takes as it is. Losses of layers are shares e that multiply up: -log(1 - e) adds up.
        """
        pairs = [(name, o) for name, own in options.items() for o in own if o.lost <= limits.lost]
        plain = {name: own[0] for name, own in options.items()}
        size = np.asarray([o.bytes - plain[name].bytes for name, o in pairs])
        seconds = np.asarray([o.seconds - plain[name].seconds for name, o in pairs])
        lost = np.asarray([_loss(o.lost) for _, o in pairs])
        names = list(options)
        rows = np.zeros((len(names), len(pairs)))
        rows[[names.index(name) for name, _ in pairs], np.arange(len(pairs))] = 1
        bounded = np.isfinite(limits.seconds) or np.isfinite(limits.bytes)
        constraints = [LinearConstraint(rows, 1, 1)]
        if np.isfinite(limits.seconds):
            share = limits.seconds / base.seconds - 1
            constraints.append(LinearConstraint(seconds[None] / base.seconds, -np.inf, share))
        if np.isfinite(limits.bytes):
            constraints.append(LinearConstraint(size[None] / base.bytes, -np.inf, limits.bytes / base.bytes - 1))
        # Without a budget, what is saved counts; a pair that saves nothing is not taken then.
        aim = lost + 1e-9 * seconds / base.seconds if bounded else seconds / base.seconds + 1e-9 * lost
        answer = milp(aim, integrality=np.ones(len(pairs)), bounds=Bounds(0, 1), constraints=constraints)
        if answer.x is None:
            return None
        return {name: o for (name, o), taken in zip(pairs, answer.x, strict=True) if taken > 0.5 and o.rank}

    def least(self, options: Mapping[str, list[Option]], lost: float, base: Limits) -> dict[str, float]:
        """The least latency and the least size that pairs which lose no more come to, as shares of what there is."""
        allowed = {name: [o for o in own if o.lost <= lost] for name, own in options.items()}
        fastest = {name: min(own, key=lambda o: o.seconds) for name, own in allowed.items()}
        smallest = {name: min(own, key=lambda o: o.bytes) for name, own in allowed.items()}
        seconds, size = (
            self.priced({name: o for name, o in chosen.items() if o.rank}) for chosen in (fastest, smallest)
        )
        return {"latency": seconds.seconds / base.seconds, "size": size.bytes / base.bytes}

    def apply(self, chosen: Mapping[str, Option], refit: bool) -> Factored:
        """The model with the chosen pairs, refitted layer by layer."""
        surgery = prune(self.coupling, np.ones(int(self.coupling.component.max()) + 1, bool))
        model = surgery.model
        nodes = {n.outputs[0].name: n for n in model.graph.nodes if n.outputs}
        for name, option in chosen.items():
            node, view = nodes[name], self.layers[name]
            first = factor(node, view, option.form, weights_of(self.found[name, option.form], option.rank))
            model.graph.nodes.insert(next(i for i, n in enumerate(model.graph.nodes) if n is node), first)
        model.invalidate_shapes()
        stored: frozenset[tuple[str, int]] = frozenset()
        gains: dict[str, tuple[float, float]] = {}
        if refit and self.data is not None:
            worker = Compensation(
                self.coupling, surgery, self.context, samples=self.samples, rows=self.rows, dense=self.dense
            )
            gains = {name: (before, after) for name, before, after in worker.run(self.data)}
            stored = frozenset(worker.stored)
        layers = []
        for name, option in chosen.items():
            first, second = nodes[name].inputs[0].inputs[0].inputs[1].values, nodes[name].inputs[1].values
            layers.append(FactoredLayer(f"{name}_rank", name, product(self.layers[name], option.form, first, second)))
        return Factored(model, Factors(tuple(layers), stored), chosen, gains)


def _loss(lost: float) -> float:
    """Shares that are lost multiply up: this adds up."""
    return float(-np.log1p(-min(lost, MOST_LOST)))


def _empty(view: WeightView, form: Form) -> tuple[Floats, Floats]:
    """Factors of full rank without values, which take no room."""
    _, inputs, taps, outputs = view.sizes
    rank = full_rank(view, form)
    if form == "spatial":
        shapes = (inputs, view.shape[2], rank), (rank, view.shape[3], outputs)
    else:
        shapes = (inputs * taps, rank), (rank, outputs)  # type: ignore[assignment]
    zero = np.zeros((), view.values.dtype)
    return np.broadcast_to(zero, shapes[0]), np.broadcast_to(zero, shapes[1])


def _by_output(cost: Cost, widths: Floats) -> dict[str, Floats]:
    """Seconds of the kernel that makes each tensor, [P]: a kernel's are those of its first node."""
    seconds = cost.model.latency(cost.kernels.work(widths))
    return {
        node.gs.outputs[0].name: seconds[:, number] * (place == 0)
        for number, kernel in enumerate(cost.kernels.kernels)
        for place, node in enumerate(kernel.nodes)
        if node.gs.outputs
    }
