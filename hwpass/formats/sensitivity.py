"""Which layers stay in their format, so that no more is lost than is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hwpass.formats.nearness import Near, Nearness
from hwpass.model.model import Model

#: Batches that single layers are measured on.
FEW = 3

#: Makes the model with some layers, by their first output, left as they are.
Maker = Callable[[frozenset[str]], Model]


def left_alone(
    make: Maker,
    layers: Sequence[str],
    near: Nearness,
    max_drop: float,
    max_error: float,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[frozenset[str], Model, Near]:
    """The layers that are left as they are, the model, and how near it comes.

    Layers are ranked by what changing each of them alone does to the outputs; the fewest of the worst are left as
    they are that bring the loss within bounds, by bisection. With all of them left, the model is returned as it is
    then, near or not.
    """  # fmt: skip
    model = make(frozenset())
    found = near.of(model)
    if found.within(max_drop, max_error) or not layers:
        return frozenset(), model, found
    every = frozenset(layers)
    errors: dict[str, float] = {}
    for number, layer in enumerate(layers, 1):
        progress(f"sensitivity of layer {number} of {len(layers)}")
        errors[layer] = near.of(make(every - {layer}), FEW).error
    order = sorted(layers, key=lambda layer: -errors[layer])
    low, high = 0, len(order)  # too few left, enough left
    best: tuple[frozenset[str], Model, Near] | None = None
    while high - low > 1:
        middle = (low + high) // 2
        left = frozenset(order[:middle])
        model = make(left)
        found = near.of(model)
        if found.within(max_drop, max_error):
            high, best = middle, (left, model, found)
        else:
            low = middle
    if best is None:
        model = make(every)
        best = (every, model, near.of(model))
    return best
