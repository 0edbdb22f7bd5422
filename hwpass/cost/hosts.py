"""Kernels that a target cannot run: which they are, what its host takes, and what handing tensors over costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwpass.cost.fusion import Kernel, matches
from hwpass.cost_models import CostModel, Target, cost_model, load_target
from hwpass.cost_models.work import Floats, Work
from hwpass.errors import InputError


class Hosted:
    """The cost of kernels on a target together with the host that runs what the target cannot."""

    def __init__(self, target: Target, kernels: Sequence[Kernel]) -> None:
        """Raises InputError for a host that is not there, or that hands work on itself."""
        self.model = cost_model(target)
        self.fallback = target.fallback
        self.host: CostModel | None = None
        #: Which kernels the host runs, [K].
        self.away = np.zeros(len(kernels), bool)
        if self.fallback is None:
            return
        host = load_target(self.fallback.host)
        if host.fallback is not None:
            raise InputError(
                f"target '{target.name}': fallback.host: {host.name} hands work on itself; name one that does not"
            )
        self.away = _away(self.fallback.runs, self.fallback.lacks, self.fallback.rest, kernels)
        if self.away.any():
            self.host = cost_model(host)

    def latency(self, work: Work) -> Floats:
        """Seconds per kernel, [P, K]; a kernel pays for what it reads from the other side."""
        found = self.model.latency(work)
        if self.host is None:
            return found
        return np.asarray(np.where(self.away, self.host.latency(work), found) + self.crossing(work))

    def energy(self, work: Work) -> Floats:
        """Joules per kernel, [P, K]; the target draws its static power while tensors cross."""
        found = self.model.energy(work)
        if self.host is None:
            return found
        waiting = self.crossing(work) * self.model.target.energy.static_w
        return np.asarray(np.where(self.away, self.host.energy(work), found) + waiting)

    def crossing(self, work: Work) -> Floats:
        """Seconds to hand tensors over, [P, K]: each crosses once, before the first kernel that reads it there.

        What comes from outside is where it is wanted: a runtime's overhead covers the model's inputs and outputs.
        """
        assert self.fallback is not None
        found = np.zeros(work.m.shape)
        seen: set[int] = set()
        for edge, (source, sink) in enumerate(zip(work.source, work.sink, strict=True)):
            if source < 0 or self.away[source] == self.away[sink] or int(source) in seen:
                continue
            seen.add(int(source))
            moved = work.bytes[:, edge]
            speed = self.fallback.crossing_gbs
            seconds = self.fallback.crossing_us * 1e-6 * (moved > 0) + (0.0 if speed is None else moved / (speed * 1e9))
            found[:, sink] += seconds
        return found


def _away(runs: Sequence[str], lacks: Sequence[str], rest: bool, kernels: Sequence[Kernel]) -> NDArray[np.bool_]:
    """Which kernels the target cannot run, [K]. What costs nothing anywhere stays."""
    found = np.zeros(len(kernels), bool)
    for number, kernel in enumerate(kernels):
        if kernel.kind == "free":
            continue
        known = not runs or all(_named(kernel, index, runs) for index in range(len(kernel.nodes)))
        found[number] = not known or any(_named(kernel, index, lacks) for index in range(len(kernel.nodes)))
    if rest and found.any():
        first = int(np.argmax(found))
        found[first:] = [kernel.kind != "free" for kernel in kernels[first:]]
    return found


def _named(kernel: Kernel, index: int, words: Sequence[str]) -> bool:
    """Whether one of a kernel's nodes is named: its operator, a class word, or for the first the kernel's kind."""
    return any(matches(kernel.nodes[index], word) or (index == 0 and word == kernel.kind) for word in words)
