"""The score that is chosen by what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwpass.planning.score import Importance, Score, Seen, register, score_named

if TYPE_CHECKING:
    from hwpass.cost_models.work import Floats


@register
class Auto(Score):
    """`gram` on the inputs given, or on made-up ones; `l2` where there are none."""

    name = "auto"
    summary = "gram, on made-up inputs where none are given; l2 where none can be made up"
    makes_inputs = True
    measured = True

    def importance(self, seen: Seen) -> Importance:
        return self.judged(seen)[1]

    def judged(self, seen: Seen) -> tuple[list[Floats], Importance]:
        return score_named("l2" if seen.data is None else "gram").judged(seen)
