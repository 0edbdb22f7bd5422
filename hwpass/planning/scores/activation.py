"""The score by activations and the weights that read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from hwpass.planning.score import Importance, Score, Seen, register

if TYPE_CHECKING:
    from hwpass.cost_models.work import Floats
    from hwpass.coupling.groups import Coupling

#: Mean squares of activations by tensor name, per index of the channel axis.
Statistics: TypeAlias = "Mapping[str, Floats]"


@register
class Activation(Score):
    """E[x^2] of a consumer's input times its weights' squared norm (Wanda, Sun et al. 2023), over all consumers."""

    name = "activation"
    summary = "mean squares of activations times the squares of the weights that read them"
    needs_data = True

    def importance(self, seen: Seen) -> Importance:
        from hwpass.data.activation_statistics import mean_squares

        assert seen.data is not None
        statistics = mean_squares(
            seen.coupling.build.model, tapped(seen.coupling), seen.data,
            threads=seen.settings.threads, progress=seen.settings.progress,
        )  # fmt: skip
        return weighted(seen.coupling, statistics)


def weighted(coupling: Coupling, statistics: Statistics) -> Importance:
    """The importance by statistics; l2 for a group of which some have none."""
    from hwpass.data.taps import Outer
    from hwpass.planning.totals import Totals, energy, weight_of

    totals, outer = Totals(coupling), Outer(coupling.build.model)
    for node in coupling.nodes:
        product = node.product
        if product is None or not outer.holds(node.gs.inputs[product.data]):
            continue
        squares = statistics.get(node.gs.inputs[product.data].name)
        axis = node.axes(product.data)[product.data_axis]
        weight = weight_of(node)
        if squares is None:
            continue
        into = None if weight is None else energy(weight, product.weight_out, product.weight_in, 2)[1]
        if into is None:
            # A depthwise weight belongs to its channel alone; of others nothing is known.
            totals.add(axis, squares)
        elif len(into) == len(squares):
            totals.add(axis, squares * into)
        else:
            totals.add(axis, squares)
    return totals.or_norms()


def tapped(coupling: Coupling) -> dict[str, int]:
    """The activations that the activation score looks at, with their channel axis: those of the main graph."""
    from hwpass.data.taps import Outer

    found: dict[str, int] = {}
    outer = Outer(coupling.build.model)
    for node in coupling.nodes:
        product = node.product
        if product is None or node.tensor(product.data).constant:
            continue
        if outer.holds(node.gs.inputs[product.data]):
            found[node.gs.inputs[product.data].name] = product.data_axis
    return found
