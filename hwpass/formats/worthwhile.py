"""What integers are worth on a target, before any range is known.

What a kernel on integers costs does not depend on scales. So a model is priced with scales that stand in: for the
products that are better left in floating point, and for widths that are chosen before the model is quantised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hwpass.cost.prediction import METRICS, Cost
from hwpass.cost_models import Target
from hwpass.cost_models.target import Int8
from hwpass.cost_models.work import Floats
from hwpass.coupling.groups import Coupling, couple
from hwpass.formats.placement import place
from hwpass.formats.qdq import Parameters, Writer
from hwpass.model.model import Model
from hwpass.planning.analyses import sample_dims
from hwpass.planning.gain import as_it_is
from hwpass.runtime.settings import Settings

#: Times that every product is looked at: what one gains depends on whether its neighbours are on integers.
SWEEPS = 2

#: A smaller share of the latency is rounding.
LEAST_GAIN = 1e-6

#: Why such a product stays as it is.
SLOWER = "the target is not predicted to be faster on integers there"


def stand_in(model: Model, rules: Int8, keep: tuple[str, ...] = (), floating: Mapping[str, str] | None = None) -> Model:
    """The model on integers with one scale for all: good for its price alone. Arguments are those of `place`."""
    placement = place(model, rules, keep, floating)
    one = Parameters(np.float32(1), np.zeros((), np.dtype(rules.activations)))
    names = {*placement.tensors, *placement.tensors.values()}
    return Writer(model, placement, dict.fromkeys(names, one), rules).write()


def slower_on_integers(
    model: Model,
    target: Target,
    settings: Settings,
    keep: tuple[str, ...] = (),
    priced: Callable[[Model], float] | None = None,
) -> dict[str, str]:
    """The products, by their first output, that the target is predicted to run no faster on integers than as they are,
    each with the reason.

    Products are moved one at a time, from all on integers, as long as the latency falls: `priced` gives that of a
    model, which is that of the model as it is unless told otherwise.
    """
    rules = target.int8
    latency = priced or (lambda twin: as_it_is(twin, target, settings).base["latency"])
    layers = [name for name, node in place(model, rules, keep).nodes.items() if node.op in rules.products]

    def price(left: frozenset[str]) -> float:
        return latency(stand_in(model, rules, keep, dict.fromkeys(left, SLOWER)))

    left, every = frozenset[str](), frozenset(layers)
    if "int8" not in target.peak:  # its runtime brings integers back to floating point
        return dict.fromkeys(every, SLOWER)
    now = price(left)
    for _ in range(SWEEPS):
        settings.progress("integers against floating point, layer by layer")
        gains = {layer: now - price(left ^ {layer}) for layer in layers}
        before = left
        for layer in sorted((name for name in layers if gains[name] > LEAST_GAIN * now), key=lambda n: -gains[n]):
            cost = price(left ^ {layer})
            if cost < now:
                left, now = left ^ {layer}, cost
        if left == before:
            break
    return dict.fromkeys(every if price(every) <= now else left, SLOWER)


class Cheapest:
    """Costs of widths where a model may run in several ways: each plan in that of the least latency.

    All of `costs` are of the same groups in the same order; `base` is that of the first.
    """

    def __init__(self, costs: Sequence[Cost]) -> None:
        self.costs, self.target, self.base = costs, costs[0].target, costs[0].base

    def __call__(self, widths: Floats, metrics: tuple[str, ...] = tuple(METRICS)) -> dict[str, Floats]:
        """Each metric at widths [P, G], as [P]."""
        found = [cost(widths, tuple({*metrics, "latency"})) for cost in self.costs]
        best, plans = np.argmin([each["latency"] for each in found], axis=0), np.arange(len(widths))
        return {metric: np.asarray([each[metric] for each in found])[best, plans] for metric in metrics}

    def largest(self, widths: Floats, metric: str) -> tuple[str, float] | None:
        """The kernel that takes most of a metric at widths [G], and its share; see `Cost.largest`."""
        return min(self.costs, key=lambda cost: float(cost(widths[None, :], ("latency",))["latency"][0])).largest(
            widths, metric
        )

    def limits(self) -> dict[str, float]:
        """The target's hard limits, by metric."""
        return self.costs[0].limits()


def cost_on_integers(
    coupling: Coupling,
    target: Target,
    settings: Settings,
    base: Mapping[str, float],
    keep: tuple[str, ...] = (),
    widths: Floats | None = None,
) -> Cost | None:
    """What prices widths of a model's groups as on integers, where these pay at some widths [G], or at those that it
    has.

    Shares are of `base`, the costs of the model as it is. None where integers change nothing, or other channels go
    together there.
    """
    model, dims = coupling.build.model, sample_dims(coupling.build.model, settings)
    ours = [(group.name, group.width) for group in coupling.groups]

    def priced(twin: Model) -> Cost | None:
        found = couple(twin, dims)
        return Cost(found, target, base) if [(group.name, group.width) for group in found.groups] == ours else None

    def latency(twin: Model) -> float:
        cost = priced(twin)
        assert widths is not None
        return np.inf if cost is None else float(cost(widths[None, :], ("latency",))["latency"][0])

    floating = slower_on_integers(model, target, settings, keep, None if widths is None else latency)
    twin = stand_in(model, target.int8, keep, floating)
    return None if len(twin.graph.nodes) == len(model.graph.nodes) else priced(twin)
