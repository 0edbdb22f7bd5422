"""What accuracy.py compares: hwpass as users run it, and hwpass with one of its parts taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from latency_search import Pruned, Refusal

import hwpass
from hwpass.data.segments import Segments
from hwpass.manager import Pass, PassManager
from hwpass.options import RunOptions
from hwpass.surgery import compensation
from hwpass.workflows.job import Attempt, Job
from hwpass.workflows.steps import PREPARE, amends, prune_step, verify_step

#: Budgets tried first, as shares to remove; the search refines between them.
GRID = (0.1, 0.25, 0.4, 0.5, 0.6, 0.67, 0.73, 0.78)


@dataclass(frozen=True)
class Hwpass:
    """hwpass on one network, at a latency budget (or a uniform width) of 1 - setting."""

    network: Path
    target: str
    calibration: Path | None
    options: Mapping[str, Any] = field(default_factory=dict)  # of the pass prune-channels
    compensation: str = "auto"
    budget: str = "latency"
    without: Callable[[], AbstractContextManager[None]] = nullcontext
    distill: str = "off"  # of what is final; drafts are never trained

    def draft(self, setting: float) -> Pruned:
        """The structure alone."""
        return self._run(setting)

    def final(self, setting: float) -> Pruned:
        """With the compensation and distillation, and proved exact."""
        asked = self._asked()
        return self._run(setting, *amends(asked, once=True), verify_step(asked))

    def _asked(self) -> RunOptions:
        own: dict[str, Any] = {"compensate": self.compensation, "distill": self.distill}
        return RunOptions(calib=self.calibration, **own, **self.options)

    def _run(self, setting: float, *further: Pass) -> Pruned:
        share = f"{1 - setting:.4f}x"
        study = job(self.network, self.target, self.calibration)
        try:
            with self.without():
                step = prune_step(self._asked(), {self.budget: share})
                made = chosen(self.network, self.target, self.calibration, step)
                if further:
                    made = study.further(_alone(made), PassManager(further))
        except hwpass.HwpassError as error:
            raise Refusal(f"hwpass: {error}") from error
        ratio = study.result(made, unproved=not further).report.ratio
        return Pruned(made.model.proto(), {"asked": share, "predicted": ratio.latency, "macs": ratio.macs})


@lru_cache(maxsize=2)
def job(network: Path, target: str, calibration: Path | None) -> Job:
    """The network with its statistics and loss curves, which are the same at all budgets."""
    found = Job(network, target=target, calib=calibration, force=True)
    found.prepare(PassManager(PREPARE))
    return found


@lru_cache(maxsize=64)
def chosen(network: Path, target: str, calibration: Path | None, step: Pass) -> Attempt:
    """The network after a pruning step: what a final starts from is what its draft was."""
    return job(network, target, calibration).attempt(PassManager([step]))


def _alone(made: Attempt) -> Attempt:
    """The same attempt, with findings of its own: several variants go on from one."""
    findings = made.context.findings
    own = replace(findings, stages=list(findings.stages), gains=list(findings.gains))
    return replace(made, context=replace(made.context, findings=own, warnings=list(made.context.warnings)))


def methods(network: Path, target: str, calibration: Path) -> dict[str, Hwpass]:
    """hwpass with data, without, and its own plain l2."""
    return {
        "hwpass": Hwpass(network, target, calibration),
        "hwpass, no data": Hwpass(network, target, None),
        "hwpass, l2, no compensation": Hwpass(network, target, None, {"score": "l2"}, "off"),
    }


def same_plans(network: Path, target: str, calibration: Path) -> dict[str, Hwpass]:
    """hwpass with a part of the compensation taken away, by name: the channels that go are the same."""
    parts = {
        "no compensation": Hwpass(network, target, calibration, compensation="off"),
        "compensation not sequential": Hwpass(network, target, calibration, without=one_shot),
    }
    prepared = job(network, target, calibration).prepared.model
    if any(node.op == "BatchNormalization" for node in prepared.graph.nodes):
        parts["batch norms not refitted"] = Hwpass(network, target, calibration, without=norms_kept)
    return parts


def other_plans(network: Path, target: str, calibration: Path) -> dict[str, Hwpass]:
    """hwpass with a part of the choice of channels taken away, by name."""
    return {
        "uniform widths": Hwpass(network, target, calibration, budget="channels"),
        "score l2": Hwpass(network, target, calibration, {"score": "l2"}),
        "alignment 1": Hwpass(network, target, calibration, {"align": 1}),
    }


@contextmanager
def norms_kept() -> Iterator[None]:
    """Batch normalisations keep their scale and bias."""
    with replaced(compensation.Compensation, "_norm", lambda *_: None):
        yield


@contextmanager
def one_shot() -> Iterator[None]:
    """Every layer is fitted on the original's activations, cut to the channels that are left, as if nothing before it
    had been pruned."""
    original = compensation.Compensation.run

    def run(worker: Any, calibration: Any) -> Any:
        def segments(model: Any, batches: Any, threads: int = 1) -> Any:
            if model is worker.model:
                return Cut(worker, batches, threads)
            return Segments(model, batches, threads)

        with replaced(compensation, "Segments", segments):
            return original(worker, calibration)

    with replaced(compensation.Compensation, "run", run):
        yield


class Cut(AbstractContextManager["Cut"]):
    """The original's activations, cut to the channels that are left, where the pruned network's are asked for."""

    def __init__(self, worker: Any, batches: Any, threads: int) -> None:
        self.worker = worker
        dense = worker.coupling.build.model
        self.dense = Segments(dense, batches, threads)
        places = {n.outputs[0].name: i for i, n in enumerate(dense.graph.nodes) if n.outputs}
        self.places = [places.get(n.outputs[0].name) if n.outputs else None for n in worker.model.graph.nodes]

    def __exit__(self, *error: object) -> None:
        self.dense.close()

    def advance(self, stop: int) -> None:
        """`stop` counts the pruned network's nodes."""
        place = self.places[stop]
        assert place is not None, "the layers that are fitted are in both networks"
        self.dense.advance(place)

    def live(self, name: str) -> bool:
        """Whether a tensor is known at the cursor."""
        return self.dense.live(name)

    def value(self, name: str) -> Sequence[np.ndarray]:
        """A tensor of the original without the indices that were removed."""
        values = self.dense.value(name)
        axes = self.worker.coupling.build.tensors[name].axes
        for place, axis in enumerate(axes):
            mask = self.worker.coupling.kept(self.worker.surgery.keep, axis)
            if not mask.all():
                values = [np.compress(mask, value, place) for value in values]
        return values


@contextmanager
def replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute under another value for a while. Fails where hwpass has no such attribute (any more)."""
    old = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, old)
