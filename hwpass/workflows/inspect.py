"""A model prepared as a run would prepare it, and the channels of it coupled: what is shown of it without pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hwpass.context import Context
from hwpass.coupling.groups import Coupling, couple
from hwpass.manager import Pass, PassManager
from hwpass.model.model import Model
from hwpass.model.sources import Source
from hwpass.workflows.steps import PREPARE


def coupled(
    source: Source | Model,
    progress: Callable[[str], None] = lambda text: None,
    prepare: Sequence[Pass] | None = None,
    *,
    allow_external: bool = False,
    dims: Mapping[str, int] | None = None,
) -> Coupling:
    """Load a model, prepare it as a run would (or by other passes), and solve which channels go together.

    `dims` are sizes of dynamic axes to analyse at.
    """
    progress("loading")
    model = source if isinstance(source, Model) else Model.load(source, allow_external=allow_external)
    passes = PassManager(PREPARE if prepare is None else prepare)
    prepared = passes.run(model, Context(progress=progress))
    progress("coupling channels")
    return couple(prepared, dims)
