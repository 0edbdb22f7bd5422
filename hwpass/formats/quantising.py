"""Static quantisation: ranges from data, a method chosen by what it loses, layers left out, biases corrected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwpass.cost_models.target import Int8
from hwpass.errors import InputError
from hwpass.formats.correction import bias_shifts
from hwpass.formats.nearness import Near, Nearness
from hwpass.formats.placement import Placement, place
from hwpass.formats.qdq import Parameters, Writer, activation_parameters
from hwpass.formats.ranges import METHODS, Range, Seen, observe, ranges
from hwpass.formats.sensitivity import left_alone
from hwpass.formats.weight_scales import best_scales
from hwpass.model.model import Model
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.settings import Settings

#: Why products stay in floating point.
LOST, UNSEEN = "integers lose too much there", "no sample reaches it, so that no range is known"


@dataclass(frozen=True)
class StaticOptions:
    """What a static quantisation is asked for; see the pass for the words."""

    method: str = "auto"
    per_channel: bool = True
    correct: bool = True
    max_drop: float = 0.01
    max_error: float = 0.1
    samples: int = 512
    keep: tuple[str, ...] = ()
    floating: Mapping[str, str] = field(default_factory=dict)  # others that stay, by first output, with the reason


@dataclass
class Quantised:
    """A quantised model, what was added to its biases, and what was decided on the way."""

    model: Model
    placement: Placement
    method: str
    shifts: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    floating: frozenset[str] = frozenset()
    near: Near | None = None


def quantise(
    model: Model, rules: Int8, learn: Calibration, choose: Calibration, settings: Settings, options: StaticOptions
) -> Quantised | None:
    """Quantise a model by a target's rules, ranges by `learn`, choices by `choose`. None where nothing in it can be."""
    return _Quantiser(model, rules, learn, settings, options).run(choose)


class _Quantiser:
    def __init__(
        self, model: Model, rules: Int8, learn: Calibration, settings: Settings, options: StaticOptions
    ) -> None:
        self.model, self.rules, self.learn = model, rules, learn
        self.settings, self.options = settings, options
        self.whole = place(model, rules, options.keep, options.floating)
        self.seen: dict[str, Seen] = {}
        self.parameters: dict[str, Parameters] = {}
        self.shifts: dict[str, NDArray[np.float64]] = {}
        self.scales: dict[str, NDArray[np.float32]] = {}

    def run(self, choose: Calibration) -> Quantised | None:
        options, settings = self.options, self.settings
        layers = [name for name, node in self.whole.nodes.items() if node.op in self.rules.products]
        if not layers:
            return None
        settings.progress("observing ranges")
        names = sorted(set(self.whole.tensors))
        self.seen = observe(
            self.model, names, self.learn, options.samples, settings.threads, histograms=options.method != "minmax"
        )
        if options.per_channel:
            nodes = [self.whole.nodes[name] for name in layers]
            self.scales = best_scales(self.model, nodes, self.rules.weight_bits, self.learn, settings.threads)
        near = Nearness(self.model, choose, settings.threads)
        method = self._method(near)
        if options.correct:
            self._correct(near)
        left, model, found = left_alone(
            self._made, layers, near, options.max_drop, options.max_error, settings.progress
        )
        placement = self._placement(left)
        done = {name: self.shifts[name] for name in self.shifts if self._holds(placement, name)}
        return Quantised(model, placement, method, done, left, found)

    def _placement(self, left: frozenset[str]) -> Placement:
        """Without what is left in floating point, and what no range was seen of."""
        unseen = {name for name in self.whole.tensors if name not in self.seen}
        bad = {
            name for name, node in self.whole.nodes.items()
            if any(t.name in unseen for t in (*node.inputs, *node.outputs))
        }  # fmt: skip
        reasons = dict.fromkeys(bad, UNSEEN) | dict.fromkeys(left, LOST) | dict(self.options.floating)
        return place(self.model, self.rules, self.options.keep, reasons)

    def _made(self, left: frozenset[str]) -> Model:
        placement = self._placement(left)
        shifts = {name: shift for name, shift in self.shifts.items() if self._holds(placement, name)}
        return Writer(
            self.model, placement, self.parameters, self.rules, self.options.per_channel, shifts, self.scales
        ).write()

    @staticmethod
    def _holds(placement: Placement, name: str) -> bool:
        """Whether the layer that a bias belongs to runs on integers: its own output, or what an Add reads."""
        if name in placement.nodes and placement.nodes[name].op != "Add":
            return True
        return any(name == after.outputs[0].name for node in placement.nodes.values() if node.op == "MatMul"
                   for after in node.outputs[0].outputs)  # fmt: skip

    def _method(self, near: Nearness) -> str:
        """The method for ranges: the one asked for, or the one that loses least with every layer on integers."""
        tried = [self.options.method] if self.options.method != "auto" else list(METHODS)
        errors: dict[str, float] = {}
        for method in tried:
            self._take(ranges(self.seen, method))
            if len(tried) > 1:
                self.settings.progress(f"trying ranges by {method}")
                errors[method] = near.of(self._made(frozenset())).error
        best = min(tried, key=lambda m: errors.get(m, 0.0))
        self._take(ranges(self.seen, best))
        return best

    def _take(self, found: Mapping[str, Range]) -> None:
        self.parameters = {name: activation_parameters(bounds, self.rules) for name, bounds in found.items()}

    def _correct(self, near: Nearness) -> None:
        """Move biases, where that brings the outputs nearer."""
        self.settings.progress("correcting biases")
        placement = self._placement(frozenset())
        before = near.of(self._made(frozenset())).error
        self.shifts = bias_shifts(
            self.model, placement, self.parameters, self.rules, self.learn, self.options.samples,
            self.settings.threads, per_channel=self.options.per_channel, scales=self.scales,
        )  # fmt: skip
        try:
            after = near.of(self._made(frozenset())).error
        except InputError:
            after = np.inf
        if after >= before:
            self.shifts = {}
