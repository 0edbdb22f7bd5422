"""What accuracy.py compares: hwpass as users run it, and hwpass with one of its parts taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from latency_search import Pruned, Refusal

import hwpass
from hwpass.passes import compensate, prune_channels
from hwpass.segments import Segments

#: Budgets tried first, as shares to remove; the search refines between them.
GRID = (0.1, 0.25, 0.4, 0.5, 0.6, 0.67, 0.73, 0.78)


@dataclass(frozen=True)
class Hwpass:
    """hwpass on one network, at a latency budget (or a uniform width) of 1 - setting."""

    network: Path
    target: str
    calibration: Path | None
    options: Mapping[str, Any] = field(default_factory=dict)
    budget: str = "latency"
    without: Callable[[], AbstractContextManager[None]] = nullcontext

    def draft(self, setting: float) -> Pruned:
        """The structure alone."""
        return self._run(setting, {**self.options, "compensate": "off"})

    def final(self, setting: float) -> Pruned:
        """With the compensation that the options ask for."""
        return self._run(setting, self.options)

    def _run(self, setting: float, options: Mapping[str, Any]) -> Pruned:
        share = f"{1 - setting:.4f}x"
        try:
            with shared_curves(), self.without():
                result = hwpass.run(
                    self.network, self.target, calib=self.calibration, force=True, **{self.budget: share}, **options
                )
        except hwpass.HwpassError as error:
            raise Refusal(f"hwpass: {error}") from error
        ratio = result.report.ratio
        return Pruned(result.model.proto(), {"asked": share, "predicted": ratio.latency, "macs": ratio.macs})


def methods(network: Path, target: str, calibration: Path) -> dict[str, Hwpass]:
    """hwpass with data, without, and its own plain l2."""
    return {
        "hwpass": Hwpass(network, target, calibration),
        "hwpass, no data": Hwpass(network, target, None),
        "hwpass, l2, no compensation": Hwpass(network, target, None, {"score": "l2", "compensate": "off"}),
    }


def ablation(network: Path, target: str, calibration: Path) -> dict[str, Hwpass]:
    """hwpass with one part taken away, by name."""
    parts = {
        "no compensation": Hwpass(network, target, calibration, {"compensate": "off"}),
        "compensation not sequential": Hwpass(network, target, calibration, without=one_shot),
        "score l2": Hwpass(network, target, calibration, {"score": "l2"}),
        "uniform widths": Hwpass(network, target, calibration, budget="channels"),
        "alignment 1": Hwpass(network, target, calibration, {"align": 1}),
    }
    if keeps_norms(network):
        parts["batch norms not refitted"] = Hwpass(network, target, calibration, without=norms_kept)
    return parts


def keeps_norms(network: Path) -> bool:
    """Whether batch normalisations are left once those behind a product were fused."""
    context = hwpass.Context()
    model = hwpass.PassManager.parse(hwpass.api.PREPARE).run(hwpass.load(network), context)
    return any(node.op == "BatchNormalization" for node in model.graph.nodes)


_curves: dict[tuple[Any, ...], Any] = {}


@contextmanager
def shared_curves() -> Iterator[None]:
    """Loss curves depend on the network, the data and the score, not on the budget: computed once for all budgets."""
    original = prune_channels.PruneChannels._curves

    def shared(step: Any, model: Any, coupling: Any, context: Any) -> Any:
        key = (str(context.original), context.calibration is None, step.score, step.align, step.min_channels)
        if key not in _curves:
            before, data = dict(context.found), context.calibration
            result = original(step, model, coupling, context)
            new = {name: value for name, value in context.found.items() if before.get(name) is not value}
            if context.calibration is not data or not all(isinstance(value, str) for value in new.values()):
                return result  # it left more behind than can be handed to another run
            _curves[key] = (result, new)
        result, new = _curves[key]
        context.found.update(new)
        return result

    with replaced(prune_channels.PruneChannels, "_curves", shared):
        yield


@contextmanager
def norms_kept() -> Iterator[None]:
    """Batch normalisations keep their scale and bias."""
    with replaced(compensate._Compensation, "_norm", lambda *_: None):
        yield


@contextmanager
def one_shot() -> Iterator[None]:
    """Every layer is fitted on the original's activations, cut to the channels that are left, as if nothing before it
    had been pruned."""
    original = compensate._Compensation.run

    def run(worker: Any, calibration: Any) -> Any:
        def segments(model: Any, batches: Any, threads: int = 1) -> Any:
            if model is worker.model:
                return Cut(worker, batches, threads)
            return Segments(model, batches, threads)

        with replaced(compensate, "Segments", segments):
            return original(worker, calibration)

    with replaced(compensate._Compensation, "run", run):
        yield


class Cut(Segments):
    """The original's activations where the pruned network's are asked for."""

    def __init__(self, worker: Any, batches: Any, threads: int) -> None:
        self.worker = worker
        dense = worker.coupling.build.model
        super().__init__(dense, batches, threads)
        places = {n.outputs[0].name: i for i, n in enumerate(dense.graph.nodes) if n.outputs}
        self.places = [places.get(n.outputs[0].name) if n.outputs else None for n in worker.model.graph.nodes]

    def advance(self, stop: int, keep: Any = ()) -> None:
        """`stop` counts the pruned network's nodes."""
        place = self.places[stop]
        assert place is not None, "the layers that are fitted are in both networks"
        super().advance(place, keep)

    def value(self, name: str) -> list[np.ndarray]:
        """A tensor of the original without the indices that were removed."""
        tensor = self.worker.coupling.build.tensors.get(name)
        values = super().value(name)
        if tensor is None or tensor.axes is None:
            return values
        masks = [self.worker.coupling.kept(self.worker.surgery.keep, axis) for axis in tensor.axes]
        for place, mask in enumerate(masks):
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
