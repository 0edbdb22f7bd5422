"""What a plan costs on a target: latency, energy, memory, size, MACs and parameters as functions of group widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hwpass.cost.formats import Formats
from hwpass.cost.hosts import Hosted
from hwpass.cost.kernels import Kernels
from hwpass.cost.remainders import Remainders
from hwpass.cost_models import Target
from hwpass.cost_models.target import DTYPE_BYTES
from hwpass.cost_models.work import Floats, Work
from hwpass.coupling.groups import Coupling
from hwpass.figures import counted, shown

#: What a budget may be put on, with the unit that `Cost` counts it in.
METRICS = {"latency": "s", "energy": "J", "memory": "B", "size": "B", "macs": "MAC"}

#: What a target may limit besides, in bytes.
LIMITED = ("ram", "flash")

#: Plans evaluated at once, at most, and values of one array over them: together they bound the memory that a large
#: model's products take.
BATCH = 256
VALUES = 1 << 22


class Prices(Protocol):
    """What plans cost: a `Cost`, or what is made of several."""

    @property
    def base(self) -> Mapping[str, float]:
        """The dense model's costs."""

    @property
    def target(self) -> Target:
        """What they are costs on."""

    def __call__(self, widths: Floats, metrics: tuple[str, ...] = ...) -> dict[str, Floats]:
        """Each metric at widths [P, G], as [P]."""

    def largest(self, widths: Floats, metric: str) -> tuple[str, float] | None:
        """The kernel that takes most of a metric at widths [G], and its share."""

    def limits(self) -> dict[str, float]:
        """The target's hard limits, by metric."""


@dataclass(frozen=True)
class _Priced:
    """Kernels that are priced: their numbers, their work, and what prices them."""

    kernels: NDArray[np.int64]
    of: Kernels
    model: Hosted


class Cost:
    """The cost of a coupled model on a target, for many width vectors at once."""

    def __init__(self, coupling: Coupling, target: Target, given: Mapping[str, float] | None = None) -> None:
        """`given` is what the model costs that was prepared to this one, where its kernels were others.

        Raises InputError where the target is not what its cost model wants.
        """
        self.target, self.given = target, dict(given or {})
        # A runtime without figures for integers runs products on what it brings back to floating point.
        int8 = target.int8 if "int8" in target.peak else None
        self.remainders = Remainders(coupling, target.fusion, int8)
        self.formats = formats = Formats(target)
        #: Those of the model as it is, with every branch; made now, as the graph may be rewritten later.
        self.kernels = Kernels(coupling, target.fusion, None, formats, target.footprint, [*target.sparse], int8)
        self.model = Hosted(target, self.kernels.kernels)
        branches = any(kernel.without >= 0 for kernel in self.remainders.kernels)
        self._parts, self._parts_model = self.kernels, self.model
        if branches:
            self._parts = Kernels(
                coupling, target.fusion, self.remainders.kernels, formats, target.footprint, [*target.sparse], int8
            )
            self._parts_model = Hosted(target, self._parts.kernels)
        self.dense = self._parts.dense
        own = np.asarray([kernel.without < 0 for kernel in self._parts.kernels], bool)
        self._whole, self._partial = self._priced(own), self._priced(np.ones_like(own))
        self._batch = max(1, min(BATCH, VALUES // max(1, self._parts.products)))

    def __call__(self, widths: Floats, metrics: tuple[str, ...] = tuple(METRICS)) -> dict[str, Floats]:
        """Each metric at widths [P, G], as [P] in the units of METRICS and LIMITED."""
        starts = range(0, len(widths), self._batch)
        parts = [self._evaluate(widths[i : i + self._batch], metrics) for i in starts]
        if len(parts) == 1:
            return parts[0]
        return {m: np.concatenate([part[m] for part in parts]) for m in metrics}

    def _evaluate(self, widths: Floats, metrics: tuple[str, ...]) -> dict[str, Floats]:
        values = self._parts.values(widths)
        runs = self.remainders.runs(widths) if (widths == 0).any() else None
        priced = self._whole if runs is None else self._partial
        run = None if runs is None else runs[:, priced.kernels]
        work = priced.of.work_of(values, run)
        found: dict[str, Floats] = {}
        for metric in {"latency", "energy", "macs"} & set(metrics):
            each = work.macs if metric == "macs" else getattr(priced.model, metric)(work)
            found[metric] = each.sum(axis=1) if run is None else (each * run).sum(axis=1)
        if {"size", "memory", *LIMITED} & set(metrics):
            runs = self.remainders.runs(widths) if runs is None else runs
            there, added = self.remainders.there(widths), self.remainders.stored(widths)
            found["size"] = self._parts.size(values, there) + added
            found |= self._memory(values, runs, self._parts.deployed(values, there) + added)
        return {metric: found[metric] for metric in metrics}

    def _priced(self, wanted: NDArray[np.bool_]) -> _Priced:
        """Those of some kernels that may cost something. A host is handed tensors through the others too: then all."""
        there = wanted
        narrowed = self._parts.narrowed(np.flatnonzero(wanted), there)
        if self._parts_model.host is None:
            idle = self._parts_model.model.idle(narrowed.work(self.dense[None, :]))
            wanted = wanted.copy()
            wanted[np.flatnonzero(wanted)[idle]] = False
        these = np.flatnonzero(wanted)
        model = Hosted(self.target, [self._parts.kernels[k] for k in these])
        return _Priced(these, self._parts.narrowed(these, there), model)

    def _memory(self, values: Floats, runs: NDArray[np.bool_] | None, constants: Floats) -> dict[str, Floats]:
        """RAM, flash and both, [P]; `constants` are their bytes in the target's format."""
        own = self.target.footprint
        activations = self._parts.live.peak(values, runs)
        busy = self._parts.kind != "free"
        kernels = (np.ones((len(values), 1)) * busy if runs is None else runs * busy).sum(axis=1)
        runtime = own.ram_bytes + kernels * own.kernel_ram_bytes
        flash = constants + own.flash_bytes + kernels * own.kernel_flash_bytes
        ram = activations + runtime + (constants if own.weights == "ram" else 0.0)
        return {"ram": ram, "flash": flash, "memory": constants + activations + runtime}

    def notes(self) -> list[str]:
        """What a reader has to know of the figures: another format than the model's, and kernels that the host runs."""
        found = []
        types = {t.dtype for t in self.kernels.coupling.build.tensors.values() if t.dtype is not None}
        narrowed = {t for t in types if t.kind == "f" and self.formats(t) < t.itemsize}
        if narrowed and self.target.dtype is None:
            name = next(d for d, width in DTYPE_BYTES.items() if width == self.formats(max(narrowed, key=str)))
            found.append(
                f"{self.target.name} has no figures for the model's numbers: it is priced in {name}, as if quantised"
            )
        if self.target.threads > 1 and not self.model.model.threaded:
            found.append(f"{self.target.name} is priced as with one thread: {self.target.model} knows of no more")
        away = [kernel for kernel, there in zip(self.kernels.kernels, self.model.away, strict=True) if there]
        if away:
            ops = ", ".join(sorted({kernel.nodes[0].op for kernel in away}))
            runs = "runs" if len(away) == 1 else "run"
            host = self.target.fallback.host if self.target.fallback is not None else ""
            found.append(f"{counted(len(away), 'kernel')} {runs} on the host ({host}): {shown(ops, 200)}")
        return found

    def limits(self) -> dict[str, float]:
        """The target's hard limits, by metric."""
        return {key.removesuffix("_bytes"): bound for key, bound in self.target.limits.items()}

    def largest(self, widths: Floats, metric: str) -> tuple[str, float] | None:
        """The kernel that takes most of a metric at widths [G], by its first node, and its share; None for metrics that
        are no sum over kernels."""
        values, runs = self._parts.values(widths[None, :]), self.remainders.runs(widths[None, :])
        work = self._parts.work_of(values, runs)
        if metric == "macs":
            each = work.macs
        elif metric in ("latency", "energy"):
            each = self._parts_model.latency(work) if metric == "latency" else self._parts_model.energy(work)
        else:
            return None
        found = (each * (1.0 if runs is None else runs))[0]
        if not found.sum():
            return None
        place = int(found.argmax())
        return self._parts.kernels[place].name, float(found[place] / found.sum())

    def interval(self, widths: Floats) -> tuple[float, float] | None:
        """Seconds between which nine of ten latencies lie at widths [G]; None where the target does not say.

        What kernels of one kind are off by is taken as one error, and kinds as independent of each other: in
        logarithms the variances add up, each by the square of its share of the latency.
        """
        off = self.target.uncertainty
        if not off:
            return None
        values, runs = self._parts.values(widths[None, :]), self.remainders.runs(widths[None, :])
        seconds = self._parts_model.latency(self._parts.work_of(values, runs)) * (1.0 if runs is None else runs)
        total = float(seconds.sum())
        kinds = self._parts.kind
        shares = {kind: float(seconds[0, kinds == kind].sum()) / total for kind in np.unique(kinds)} if total else {}
        other = off.get("other", 0.0)
        spread = np.sqrt(off.get("network", 0.0) ** 2 + sum((s * off.get(k, other)) ** 2 for k, s in shares.items()))
        return total * float(np.exp(-spread)), total * float(np.exp(spread))

    @cached_property
    def base(self) -> dict[str, float]:
        """The dense model's costs, as it was given."""
        found = self(self.dense[None, :], (*METRICS, *LIMITED))
        return {key: float(value[0]) for key, value in found.items()} | self.given

    def activations(self, widths: Floats) -> tuple[float, float]:
        """Bytes of all activations between kernels at widths [G], inputs and outputs of the model included, and the
        most that are live at the same time, both in the target's formats."""
        values, runs = self._parts.values(widths[None, :]), self.remainders.runs(widths[None, :])
        return float(self._parts.live.total(values, runs)[0]), float(self._parts.live.peak(values, runs)[0])

    def work(self, widths: Floats) -> Work:
        """The work of one plan that keeps every branch, [1, K]."""
        return self.kernels.work(widths[None, :])
