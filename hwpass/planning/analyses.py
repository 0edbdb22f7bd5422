"""Analyses of a model that the passes of a run share: each is computed once, and again when a pass made it untrue."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import numpy as np

from hwpass.cost.prediction import Cost
from hwpass.cost_models import Target
from hwpass.coupling.groups import Coupling, Walked, grouped, principal, solved, walk
from hwpass.coupling.relations import Solution, stated
from hwpass.coupling.walk import dynamic_dimensions
from hwpass.model.fingerprint import Fingerprint
from hwpass.model.model import Model
from hwpass.runtime.settings import Settings
from hwpass.spans import span


def sample_dims(model: Model, context: Settings) -> dict[str, int]:
    """The sizes of dynamic axes: those that are stated, else those of the user's own data, one sample at a time."""
    if context.calibration is None:
        return dict(context.dims)
    feed = next(iter(context.calibration.batches(1, limit=1)))
    found = {}
    for name, (tensor, place) in dynamic_dimensions(model.graph).items():
        if tensor.name in feed and place < feed[tensor.name].ndim:
            found[name] = int(feed[tensor.name].shape[place])
    return {**found, **context.dims}


def walked(model: Model, context: Settings) -> Walked:
    """The relations of a model as stated, with shapes and known values.

    They may be those of a copy that is equal to it, and are only to be looked at.
    """
    return _walked(model, context, sample_dims(model, context), own=False)


def coupled(model: Model, context: Settings, *, dims: Mapping[str, int] | None = None, own: bool = False) -> Coupling:
    """The channels of a model, solved. With `own` its nodes are those of this very graph, so that it may be edited by
    them; else they may be those of a copy that is equal to it. `dims` are `sample_dims` unless they are given.
    """
    sizes = sample_dims(model, context) if dims is None else dims
    analyses, key = context.analyses, _key(model, sizes)
    found = analyses.found("coupling", key, (lambda value: _is_of(value, model)) if own else None)
    if found is not None:
        assert isinstance(found, Coupling)
        return found
    stating = _walked(model, context, sizes, own=own)
    digest = stated(stating.build, principal(stating.build))
    known = analyses.found("relations", digest)
    # What is decided is entered into the walk: from here on the coupling has it.
    analyses.entries.pop("shapes", None)
    if known is not None:
        with span("coupling, kept from before"):
            coupling = grouped(stating.build, known.enter(stating.build))
        analyses.take_over("coupling")
        analyses.enter("coupling", key, coupling, _unedited(coupling, key))
        return coupling
    before = len(stating.build.left)
    coupling = solved(stating)
    analyses.enter("relations", digest, Solution.of(stating.build, before, coupling.component))
    return analyses.keep("coupling", key, coupling, _unedited(coupling, key))


def base_cost(model: Model, target: Target, context: Settings) -> Mapping[str, float]:
    """Predicted costs of a model as it is, in the units of METRICS."""
    key = (*_key(model, context.dims), id(target))
    found = context.analyses.found("cost", key)
    if found is not None:
        assert isinstance(found, dict)
        return found
    coupling = coupled(model, context, dims=context.dims)
    with span("cost"):
        base = dict(Cost(coupling, target).base)
    return context.analyses.keep("cost", key, base)


def priced_as_it_is(model: Model, target: Target, context: Settings) -> Cost:
    """What prices a model at the widths that it has, without groups: nothing is solved, and nothing is entered.

    A walk that is kept serves; else one is made and forgotten, so that those which passes ask for are not pushed out.
    """
    key = _key(model, context.dims)
    kept = [context.analyses.entries.get(name) for name in ("coupling", "shapes")]
    walks = (entry.value for entry in kept if entry is not None and entry.key == key and entry.holds())
    found = next(walks, None) or walk(model, context.dims)
    return as_walked(found, target)


def as_walked(walked: Walked, target: Target) -> Cost:
    """What prices a model at the widths that it has; its channels are not solved."""
    return Cost(Coupling(walked.build, np.zeros(walked.build.count, np.int64)), target)


def moved(context: Settings, before: Fingerprint, after: Model, preserved: tuple[str, ...]) -> None:
    """A pass changed a model: drop what it does not preserve.

    Costs are numbers, and so go over to the new model. What refers to nodes is found again by what it depends on: a
    walk states the relations of the new graph, and their solution serves where they are the same.
    """

    def renamed(key: Hashable) -> Hashable | None:
        return (Fingerprint(after), *key[1:]) if isinstance(key, tuple) and key[0] == before else None

    context.analyses.changed([name for name in preserved if name == "cost"], renamed)


def _walked(model: Model, context: Settings, dims: Mapping[str, int], *, own: bool) -> Walked:
    analyses, key = context.analyses, _key(model, dims)
    fit = (lambda value: _is_of(value, model)) if own else None
    for name in ("coupling", "shapes"):
        entry = analyses.entries.get(name)
        if name == "shapes" or (entry is not None and entry.key == key):
            found = analyses.found(name, key, fit)
            if found is not None:
                assert isinstance(found, Walked)
                return found
    made = walk(model, dims)
    return analyses.keep("shapes", key, made, _unedited(made, key))


def _key(model: Model, dims: Mapping[str, int]) -> tuple[Hashable, ...]:
    return Fingerprint(model), tuple(sorted(dims.items()))


def _unedited(found: Walked, key: tuple[Hashable, ...]) -> Callable[[], bool]:
    return lambda: Fingerprint(found.build.model) == key[0]


def _is_of(found: Walked, model: Model) -> bool:
    """Whether the nodes are those of this graph, and not of a copy of it."""
    nodes = list(model.walk())
    return len(nodes) == len(found.nodes) and all(a.gs is b for a, b in zip(found.nodes, nodes, strict=True))
