"""Scores by the norms of weights."""

from __future__ import annotations

from hwpass.planning.score import Importance, Score, Seen, register


@register
class L1(Score):
    """Magnitudes of the weights that make a channel and of those that read it."""

    name = "l1"
    summary = "magnitudes of the weights that make a channel and of those that read it"

    def importance(self, seen: Seen) -> Importance:
        from hwpass.planning.totals import norms

        return norms(seen.coupling, 1)


@register
class L2(Score):
    """Squares of the weights that make a channel and of those that read it."""

    name = "l2"
    summary = "squares of the weights that make a channel and of those that read it"

    def importance(self, seen: Seen) -> Importance:
        from hwpass.planning.totals import norms

        return norms(seen.coupling, 2)
