"""Random numbers as a score: what others are compared with."""

from __future__ import annotations

from hwpass.planning.score import Importance, Score, Seen, register


@register
class Random(Score):
    """Uniform in [0, 1), by the seed."""

    name = "random"
    summary = "random numbers that follow the seed, for comparison"

    def importance(self, seen: Seen) -> Importance:
        import numpy as np

        rng = np.random.default_rng(seen.settings.seed)
        return [rng.random(group.width) for group in seen.coupling.groups]
