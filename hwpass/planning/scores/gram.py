"""The score by what a removal costs after the best linear compensation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwpass.planning.score import Importance, Score, Seen, importance, register

if TYPE_CHECKING:
    from hwpass.cost_models.work import Floats


@register
class Gram(Score):
    """Loss curves from covariances of activations and the weights that read them, see `hwpass.planning.loss_curves`."""

    name = "gram"
    summary = "loss after the best linear compensation, by covariances of activations and the weights that read them"
    needs_data = True
    measured = True

    def importance(self, seen: Seen) -> Importance:
        return self.judged(seen)[1]

    def judged(self, seen: Seen) -> tuple[list[Floats], Importance]:
        from hwpass.planning.consumers import consumers
        from hwpass.planning.loss_curves import curves_and_order

        assert seen.data is not None
        settings = seen.settings
        readers = consumers(
            seen.coupling, seen.data, threads=settings.threads, seed=settings.seed, progress=settings.progress,
            gone=seen.gone,
        )  # fmt: skip
        return curves_and_order(seen.coupling, readers, importance(seen.coupling, "l2"), settings.progress)
