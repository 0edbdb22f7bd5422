"""Equal rows of embedding tables, held once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


@register
@dataclass(frozen=True)
class ShareRows(Pass):
    """Gather(table, ids) -> Gather(rows, Gather(numbers, ids)), where rows are those of the table, equal ones once.

    Does not fire for less than 64 KiB, on a table that anything else reads, or on ids that are constants.
    """

    name = "share-rows"
    in_place = True

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.surgery.vocabulary import share_rows

        changed = share_rows(model)
        if changed:
            model.graph.cleanup(remove_unused_node_outputs=False)
            model.invalidate_shapes()
        return PassResult(model, changed)
