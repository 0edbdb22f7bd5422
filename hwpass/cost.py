"""What a plan costs on a target: latency, energy, memory, size, MACs and parameters as functions of group widths."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from hwpass.cost_models import Target, cost_model
from hwpass.coupling import Coupling
from hwpass.kernels import Kernels
from hwpass.work import Floats, Work

#: What a budget may be put on, with the unit that `Cost` counts it in.
METRICS = {"latency": "s", "energy": "J", "memory": "B", "size": "B", "macs": "MAC"}

#: Plans evaluated at once: bounds the memory of a large model's products.
BATCH = 256


class Cost:
    """The cost of a coupled model on a target, for many width vectors at once."""

    def __init__(self, coupling: Coupling, target: Target) -> None:
        self.target = target
        self.model = cost_model(target)
        self.kernels = Kernels(coupling, target.fusion)
        self.dense = self.kernels.dense
        # [G, K]: which kernels are gone when a group has no channel left.
        self._gone = np.zeros((len(coupling.groups), len(self.kernels.kernels)))
        for number, branch in enumerate(coupling.branches):
            if branch is not None:
                gone = branch.gone | branch.constant | branch.folded
                self._gone[number] = [all(n.index in gone for n in k.nodes) for k in self.kernels.kernels]

    def __call__(self, widths: Floats, metrics: tuple[str, ...] = tuple(METRICS)) -> dict[str, Floats]:
        """Each metric at widths [P, G], as [P] in the units of METRICS."""
        parts = [self._evaluate(widths[i : i + BATCH], metrics) for i in range(0, len(widths), BATCH)]
        return {m: np.concatenate([part[m] for part in parts]) for m in metrics}

    def _evaluate(self, widths: Floats, metrics: tuple[str, ...]) -> dict[str, Floats]:
        values = self.kernels.values(widths)
        work = self.kernels.work_of(values)
        found: dict[str, Floats] = {}
        stays = (widths == 0) @ self._gone == 0 if self._gone.any() else np.ones((1, 1), bool)
        if "latency" in metrics:
            found["latency"] = (self.model.latency(work) * stays).sum(axis=1)
        if "energy" in metrics:
            found["energy"] = (self.model.energy(work) * stays).sum(axis=1)
        if "macs" in metrics:
            found["macs"] = (work.macs * stays).sum(axis=1)
        size = self.kernels.size(values)
        if "size" in metrics:
            found["size"] = size
        if "memory" in metrics:
            found["memory"] = size + self.kernels.peak_activations(values)
        return found

    @cached_property
    def base(self) -> dict[str, float]:
        """The dense model's costs."""
        return {key: float(value[0]) for key, value in self(self.dense[None, :]).items()}

    def work(self, widths: Floats) -> Work:
        """The work of one plan, [1, K]."""
        return self.kernels.work(widths[None, :])
