"""What a plan costs on a target: latency, energy, memory, size, MACs and parameters as functions of group widths."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from hwpass.cost.kernels import Kernels
from hwpass.cost.remainders import Remainders
from hwpass.cost_models import Target, cost_model
from hwpass.cost_models.work import Floats, Work
from hwpass.coupling.groups import Coupling

#: What a budget may be put on, with the unit that `Cost` counts it in.
METRICS = {"latency": "s", "energy": "J", "memory": "B", "size": "B", "macs": "MAC"}

#: Plans evaluated at once, at most, and values of one array over them: together they bound the memory that a large
#: model's products take.
BATCH = 256
VALUES = 1 << 22


class Cost:
    """The cost of a coupled model on a target, for many width vectors at once."""

    def __init__(self, coupling: Coupling, target: Target) -> None:
        self.target = target
        self.model = cost_model(target)
        self.remainders = Remainders(coupling, target.fusion)
        #: Those of the model as it is, with every branch; made now, as the graph may be rewritten later.
        self.kernels = Kernels(coupling, target.fusion)
        branches = any(kernel.without >= 0 for kernel in self.remainders.kernels)
        self._parts = Kernels(coupling, target.fusion, self.remainders.kernels) if branches else self.kernels
        self.dense = self._parts.dense
        self._batch = max(1, min(BATCH, VALUES // max(1, self._parts.products)))

    def __call__(self, widths: Floats, metrics: tuple[str, ...] = tuple(METRICS)) -> dict[str, Floats]:
        """Each metric at widths [P, G], as [P] in the units of METRICS."""
        starts = range(0, len(widths), self._batch)
        parts = [self._evaluate(widths[i : i + self._batch], metrics) for i in starts]
        return {m: np.concatenate([part[m] for part in parts]) for m in metrics}

    def _evaluate(self, widths: Floats, metrics: tuple[str, ...]) -> dict[str, Floats]:
        values = self._parts.values(widths)
        runs = self.remainders.runs(widths)
        work = self._parts.work_of(values, runs)
        run = 1.0 if runs is None else runs
        found: dict[str, Floats] = {}
        if "latency" in metrics:
            found["latency"] = (self.model.latency(work) * run).sum(axis=1)
        if "energy" in metrics:
            found["energy"] = (self.model.energy(work) * run).sum(axis=1)
        if "macs" in metrics:
            found["macs"] = (work.macs * run).sum(axis=1)
        size = self._parts.size(values) + self.remainders.stored(widths)
        if "size" in metrics:
            found["size"] = size
        if "memory" in metrics:
            found["memory"] = size + self._parts.peak_activations(values, runs)
        return found

    def largest(self, widths: Floats, metric: str) -> tuple[str, float] | None:
        """The kernel that takes most of a metric at widths [G], by its first node, and its share; None for metrics that
        are no sum over kernels."""
        values, runs = self._parts.values(widths[None, :]), self.remainders.runs(widths[None, :])
        work = self._parts.work_of(values, runs)
        if metric == "macs":
            each = work.macs
        elif metric in ("latency", "energy"):
            each = self.model.latency(work) if metric == "latency" else self.model.energy(work)
        else:
            return None
        found = (each * (1.0 if runs is None else runs))[0]
        if not found.sum():
            return None
        place = int(found.argmax())
        return self._parts.kernels[place].name, float(found[place] / found.sum())

    @cached_property
    def base(self) -> dict[str, float]:
        """The dense model's costs."""
        return {key: float(value[0]) for key, value in self(self.dense[None, :]).items()}

    def work(self, widths: Floats) -> Work:
        """The work of one plan that keeps every branch, [1, K]."""
        return self.kernels.work(widths[None, :])
