"""The score by the scales of batch norms."""

from __future__ import annotations

from hwpass.planning.score import Importance, Score, Seen, register


@register
class BatchNormScale(Score):
    """|scale| of the batch norms that a channel passes (Liu et al. 2017); l2 where there is none."""

    name = "bn"
    summary = "scales of the batch norms that a channel passes; l2 where there is none"

    def importance(self, seen: Seen) -> Importance:
        import numpy as np

        from hwpass.planning.totals import Totals

        totals = Totals(seen.coupling)
        for node in seen.coupling.nodes:
            for position in node.scale[:1]:
                value = node.value(position)
                if value is not None:
                    totals.add(node.axes(position)[0], np.square(value.astype(np.float64)))
        return totals.or_norms()
