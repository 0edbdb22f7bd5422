"""What several threads change: arithmetic is divided, memory shared, and every kernel has to be handed out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwpass.cost_models.work import Floats, Work


@dataclass(frozen=True)
class Threads:
    """`count` threads on `fast` equal cores, then on slower ones of relative speed `slow`.

    Work is dealt out in equal parts, so that a slow core, or a second thread on a fast one, is waited for.
    """

    count: int
    fast: int
    slow: float
    share: float  #: of the arithmetic of a matrix product that is divided (Amdahl)
    light_share: float  #: the same for all other kernels
    bandwidth: float  #: of all cores over that of one
    start_us: float

    @property
    def speed(self) -> float:
        """Speed of all threads over that of one fast core."""
        if self.count <= self.fast:
            return float(self.count)
        return max(float(self.fast), self.count * self.slow)

    def compute(self, work: Work, block: int | None) -> Floats:
        """Time of a kernel's arithmetic over that of one thread, [P, K]; what is scanned in order is not divided.

        Products are dealt out in blocks of output channels, so that the last round may leave threads idle; None: in
        tiles of both sides, which are many.
        """
        product = np.isin(work.kind, ("conv", "grouped", "matmul"))
        share = np.where(product, self.share, np.where(work.kind == "other", 0.0, self.light_share))
        uneven = np.ones_like(work.m)
        if block is not None and self.count > 1:
            blocks = np.maximum(np.ceil(work.n / block), 1.0)
            rounds = np.ceil(blocks / self.count) * self.count / blocks
            uneven = np.where(product & (blocks > 1), np.minimum(rounds, self.speed), 1.0)
        return np.asarray((1 - share) + share * uneven / self.speed)

    @property
    def memory(self) -> float:
        """Time of memory over that of one thread."""
        return 1 / min(self.speed, self.bandwidth)

    @property
    def start(self) -> float:
        """Seconds to hand one kernel to the threads and to wait for the last, in steps that double their number."""
        return 1e-6 * self.start_us * float(np.log2(self.count))
