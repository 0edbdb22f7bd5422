"""Weights set to zero under a pattern, layer by layer in order, the rest refitted on what the layers before give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.groups import Coupling
from hwpass.data.activation_statistics import mean_squares
from hwpass.model.model import Model
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.settings import Settings
from hwpass.surgery.compensation import Compensation
from hwpass.surgery.cut import prune
from hwpass.surgery.declared import MaskedWeight, Masks, Place
from hwpass.surgery.least_squares import Fit, fit
from hwpass.surgery.sparse_fit import SparseFit, Wish, by_magnitude, sparse_fit
from hwpass.surgery.sparsity_patterns import Mask, Pattern
from hwpass.surgery.weight_views import WeightView

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Request:
    """What is asked for: the pattern, the share of zeros, by which choice, and how the share is spread over layers."""

    pattern: Pattern
    sparsity: float
    choice: Literal["magnitude", "gram"]
    spread: Literal["uniform", "power"]
    refit: bool
    samples: int
    rows: int


@dataclass(frozen=True)
class Pruned:
    """The model with its zeros, what is said of them, and per layer the held-out errors of its output as shares of its
    variance: of the largest weights as they were, and of what was chosen. None where nothing was measured."""

    model: Model
    masks: Masks
    errors: Mapping[Place, tuple[float, float]]


def layers_of(coupling: Coupling, request: Request) -> tuple[list[WeightView], dict[str, str]]:
    """The layers that can have the pattern, and why others cannot, by their names."""
    outer = {id(node) for node in coupling.build.model.graph.nodes}
    found, refused = [], {}
    for node in coupling.nodes:
        view = WeightView.of(node)
        if view is None:
            continue
        reason = _refusal(view, request.pattern, id(node.gs) in outer)
        if isinstance(view, str) or reason is not None:
            refused[node.name] = reason or str(view)
        else:
            found.append(view)
    return found, refused


def _refusal(view: WeightView | str, pattern: Pattern, outer: bool) -> str | None:
    if isinstance(view, str):
        return view
    if not outer:
        return "it stands in a body"
    if pattern.m and view.kind == "transposed":
        return "sparse kernels know no transposed convolution"
    return pattern.misfit(view.sizes[1], view.sizes[3])


def zeros(view: WeightView) -> float:
    """The share of a weight that is zero."""
    values = view.values
    return 1 - np.count_nonzero(values) / max(values.size, 1)


def settled(layers: Sequence[WeightView], request: Request) -> bool:
    """Whether the layers have as many zeros as are asked for, and the pattern."""
    if request.pattern.m:
        return all(_has(view, request.pattern) for view in layers)
    size = sum(view.values.size for view in layers)
    units = sum(request.pattern.units(view.values.size) for view in layers)
    # Counts of blocks are rounded for each layer.
    least = request.sparsity * size - 0.5 * len(layers) * size / max(units, 1)
    return sum(zeros(view) * view.values.size for view in layers) >= least - 1


def _has(view: WeightView, pattern: Pattern) -> bool:
    seen = view.seen(view.values != 0)
    parts = seen.reshape(seen.shape[0], -1, pattern.m, *seen.shape[2:])
    return bool((parts.sum(axis=2) <= pattern.n).all())


def kept_blocks(
    layers: Sequence[WeightView], request: Request, coupling: Coupling, data: Calibration | None, context: Settings
) -> list[int]:
    """How many blocks each layer keeps."""
    pattern = request.pattern
    units = [pattern.units(view.values.size) for view in layers]
    if pattern.m or request.spread == "uniform" or data is None:
        return [round((1 - request.sparsity) * count) for count in units]
    merits = _merits(layers, pattern, coupling, data, context)
    every = np.concatenate(merits)
    wanted = round((1 - request.sparsity) * len(every))
    if wanted <= 0:
        return [0] * len(layers)
    least = np.partition(every, len(every) - wanted)[len(every) - wanted]
    return [max(int((own >= least).sum()), 1) for own in merits]


def _merits(
    layers: Sequence[WeightView], pattern: Pattern, coupling: Coupling, data: Calibration, context: Settings
) -> list[Floats]:
    """What each block is worth: one threshold for all layers decides how many blocks each of them keeps.

    A block's part in what a layer gives is w^2 E[x^2]. It is worth that part over the one of all blocks that give as
    much or more: the last of a layer is worth everything, so that none is emptied (the score of J. Lee et al.,
    "Layer-Adaptive Sparsity for the Magnitude-Based Pruning", ICLR 2021, with the power of the inputs in it).
    """
    taps = {view.node.gs.inputs[0].name: -1 if view.kind == "matrix" else 1 for view in layers}
    power = mean_squares(coupling.build.model, taps, data, threads=context.threads, progress=context.progress)
    found = []
    for view in layers:
        groups, inputs, _, _ = view.sizes
        given = power.get(view.node.gs.inputs[0].name)
        each = np.ones(groups * inputs) if given is None or len(given) != groups * inputs else given
        scores = np.square(view.seen(view.values).astype(np.float64)) * each.reshape(groups, inputs, 1, 1)
        merits = np.asarray(pattern.merits(scores).reshape(-1), np.float64)
        order = np.argsort(merits, kind="stable")
        above = np.cumsum(merits[order][::-1])[::-1]
        worth = np.empty(len(merits))
        worth[order] = merits[order] / np.maximum(above, 1e-300)
        found.append(worth)
    return found


class WeightPruning:
    """One run: chooses the zeros of each layer on the inputs that the layers before it give by then."""

    def __init__(
        self, coupling: Coupling, layers: Sequence[WeightView], kept: Sequence[int], request: Request, context: Settings
    ) -> None:
        self.coupling, self.request, self.context = coupling, request, context
        self.layers = {view.place[0]: view for view in layers}
        self.wishes = {
            view.place[0]: Wish(request.pattern, count, view.sizes[2], request.choice == "magnitude", request.refit)
            for view, count in zip(layers, kept, strict=True)
        }
        self.masks: dict[str, Mask] = {}  # in the layout of the weight
        self.errors: dict[Place, tuple[float, float]] = {}

    def run(self, data: Calibration | None) -> Pruned:
        """With data, each layer is looked at; without, the largest weights are kept as they are."""
        if data is None or (self.request.choice == "magnitude" and not self.request.refit):
            return self._alone()
        surgery = prune(self.coupling, np.ones(int(self.coupling.component.max()) + 1, bool))
        worker = Compensation(
            self.coupling, surgery, self.context, samples=self.request.samples, rows=self.request.rows,
            method=self._fitted,
        )  # fmt: skip
        worker.run(data)
        if not self.request.refit:
            return self._alone()
        places = {(name, 1) for name in self.masks}
        weights = tuple(self._declared(name) for name in self.masks)
        return Pruned(surgery.model, Masks(weights, frozenset(worker.stored | places)), self.errors)

    def _fitted(self, target: gs.Node, *rows: Any, **options: Any) -> Fit:
        """What a product becomes: with zeros where it is one of the layers, else fitted to inputs that changed."""
        name = target.outputs[0].name
        if name not in self.wishes:
            return fit(*rows, **options)
        found = sparse_fit(self.wishes[name], *rows, **options)
        self._note(name, found)
        return found

    def _note(self, name: str, found: SparseFit) -> None:
        assert found.mask is not None
        view = self.layers[name]
        self.masks[name] = view.laid(found.mask)
        self.errors[view.place] = found.before, found.after

    def _alone(self) -> Pruned:
        """The given weights with zeros: those found, and the largest kept where none were."""
        model = self.coupling.build.model.copy()
        nodes = {n.outputs[0].name: n for n in model.graph.nodes if n.outputs}
        for name, view in self.layers.items():
            values = view.values
            if name not in self.masks:
                groups, inputs, taps, outputs = view.sizes
                weights = view.seen(values).reshape(groups, inputs * taps, outputs)
                self.masks[name] = view.laid(by_magnitude(weights, self.wishes[name]))
            old = nodes[name].inputs[1]
            nodes[name].inputs[1] = gs.Constant(old.name, np.where(self.masks[name], values, values.dtype.type(0)))
        return Pruned(model, Masks(tuple(self._declared(name) for name in self.masks)), self.errors)

    def _declared(self, name: str) -> MaskedWeight:
        return MaskedWeight.of(self.layers[name].place, self.masks[name], str(self.request.pattern))
