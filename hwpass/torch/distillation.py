"""Label-free distillation: the pruned network is trained towards what the original gives on the same inputs.

After G. Hinton, O. Vinyals and J. Dean, "Distilling the knowledge in a neural network", 2015, without labels and
without a temperature: outputs are compared by their squared difference over their own variance, distributions by their
divergence. Weights alone change: which channels there are, and how they are joined, is settled before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.ops.functions.common import torch
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.inputs import is_float
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, open_session, run_session
from hwpass.runtime.settings import Settings
from hwpass.spans import span
from hwpass.torch.graph import TorchGraph
from hwpass.torch.samples import Augmentation, Samples

#: Samples that are learned from, and set apart, at most.
MOST = 4096

#: Samples of a step, as far as their activations leave room.
BATCH, BATCH_BYTES = 64, 256 << 20

#: What a step takes, to turn seconds into steps whatever the machine does beside, fitted to nine networks at two widths
#: each: multiply-accumulates a second of one core in torch, times three for the way back, seconds for each byte that is
#: written on the way there, and for each node.
RATE, PASSES, BYTE_SECONDS, NODE_SECONDS = 4.8e10, 3.0, 0.7e-9, 160e-6

#: Multiply-accumulates a second of the original in ONNX Runtime, and the share of the time that it may take.
TEACHER_RATE, TEACHING = 1.5e10, 0.25

#: Steps are at most so many rounds through the data: more no longer helped.
ROUNDS = 600

#: The error, relative to the outputs' variance, for which the seconds asked for are enough; a larger one gets more in
#: proportion: at 0.01 to 0.02 four times the seconds gave 0.15 points of accuracy, at 0.05 0.8, at 0.1 1.2 to 3.8.
ENOUGH = 0.01

#: Fewer steps teach nothing.
FEWEST = 30

#: Steps that would take more than so many times the seconds asked for are cut down, after the first few tell.
PATIENCE, FIRST = 2.0, 8

#: Rounds of variants that are held and come again, and their bytes at most: where fewer fit, all are new.
VARIANTS, HELD_BYTES = 32, 256 << 20

#: Looks at the samples set apart.
LOOKS = 12

#: The highest rate of learning of Adam, over one cycle: it rises over the first part and falls to nothing.
LEARNING, RISE = 5e-3, 0.15


class NothingLearned(InputError):
    """Data, time or outputs that nothing can be learned with, and why."""


@dataclass(frozen=True)
class Work:
    """What one sample takes: multiply-accumulates of the original and of the pruned model, and bytes of the latter's
    activations, all that are written and those that live at once."""

    original_macs: float
    macs: float
    written: float
    peak: float

    def seconds(self, size: int, nodes: int) -> float:
        """About how long a step of `size` samples takes."""
        return size * (PASSES * self.macs / RATE + BYTE_SECONDS * self.written) + nodes * NODE_SECONDS


@dataclass(frozen=True)
class Outcome:
    """The error on the samples set apart, before and after, the steps that were taken and their seconds."""

    before: float
    after: float
    steps: int
    seconds: float
    samples: int
    early: bool = False  # the machine was too slow for all steps

    @property
    def better(self) -> bool:
        """Whether any state was better than the first."""
        return self.after < self.before


class Distillation:
    """Trains the weights of a model, in place, towards an original's outputs."""

    def __init__(
        self, original: Model, model: Model, settings: Settings, seconds: float, most: float | None = None
    ) -> None:
        """`seconds` of one core bound the steps, up to `most` where much is to be learned.

        The number of steps follows from the model and its error, and not from a clock.
        """
        self.original = original
        self.model = model
        self.settings = settings
        self.seconds = seconds
        self.most = max(seconds, most or 0.0)

    def run(self, calibration: Calibration, work: Work) -> Outcome:
        """Train.

        The model keeps its weights where no state was better on the samples set apart. Raises NothingLearned, and
        NoFunction where the model is no torch function.
        """
        samples = Samples(calibration, MOST)
        size = int(np.clip(BATCH_BYTES // max(4 * work.peak, 1), 1, BATCH))
        judged = [samples.feed(batch) for batch in samples.batches(samples.apart, size)]
        taught = samples.batches(samples.learned, size)
        if not judged or not taught:
            raise NothingLearned(
                f"{len(samples) + len(samples.apart)} samples are too few to learn from and to judge by"
            )
        graph = TorchGraph(self.model)
        if not graph.parameters:
            raise NothingLearned("it has no floating-point weights")
        step = work.seconds(size, len(self.model.graph.nodes))
        if self._steps(step, 0.0, self.most) < FEWEST:
            need = np.ceil(step * 10 * FEWEST)
            raise NothingLearned(f"a step takes about {step:.2g} s; {need:.0f} s would do")
        teacher = _Teacher(self.original, self.settings.threads)
        threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        torch.set_num_threads(self.settings.threads)
        try:
            loss = _Loss([teacher(feed) for feed in judged])
            course = _Course(graph, loss, judged)
            seconds = float(np.clip(self.seconds * course.first / ENOUGH, self.seconds, self.most))
            teaching = len(samples.learned) * work.original_macs / TEACHER_RATE
            rounds = int(np.clip(TEACHING * seconds / max(teaching, 1e-9), 1, VARIANTS))
            taking = min(TEACHING * seconds, rounds * teaching)
            steps = max(min(self._steps(step, taking, seconds), ROUNDS * len(taught)), FEWEST)
            start = time.perf_counter()  # imports and the first evaluation are behind
            done, early = course.follow(
                self._variants(samples, size, rounds, teacher), steps, self._told, PATIENCE * seconds
            )
            if course.best < course.first:
                course.restore()
                graph.write()
            found = time.perf_counter() - start
            return Outcome(course.first, course.best, done, found, len(samples), early)
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)
            del graph
            release_memory()

    @staticmethod
    def _steps(step: float, teaching: float, seconds: float) -> int:
        """How many steps fit, each of `step` seconds, beside what the original takes."""
        return int((seconds - teaching) / step)

    def _variants(self, samples: Samples, size: int, most: int, teacher: _Teacher) -> Iterator[tuple[Feed, Feed]]:
        """Feeds to learn from, in a new order each round, with what the original gives.

        `most` rounds are of new variants, which come again afterwards: the original takes as long for a variant as the
        pruned model for a step. All are new where they take too much memory to hold.
        """
        rng = np.random.default_rng([self.settings.seed, 0xD15])
        augment = Augmentation(samples.axes, samples.feed(samples.learned[:1]), self.settings.seed)
        held: list[tuple[Feed, Feed]] = []
        rounds = taken = 0
        while rounds < most:
            order = rng.permutation(len(samples.learned))
            batches = samples.batches([samples.learned[i] for i in order], size)
            for number in rng.permutation(len(batches)):
                feed = augment(samples.feed(batches[number]))
                found = feed, teacher(feed)
                yield found
                taken += sum(value.nbytes for part in found for value in part.values())
                if taken <= HELD_BYTES:
                    held.append(found)
                else:
                    held.clear()
            rounds += taken <= HELD_BYTES
        while True:
            for number in rng.permutation(len(held)):
                yield held[number]

    def _told(self, step: int, steps: int, error: float) -> None:
        self.settings.progress(f"distilling, step {step} of {steps}, error {error:.3g}")


class _Teacher:
    """The original's floating-point outputs, by ONNX Runtime."""

    def __init__(self, original: Model, threads: int) -> None:
        self.session = open_session(original.proto(), threads=threads)

    def __call__(self, feed: Feed) -> Feed:
        found = run_session(self.session, feed)
        return {name: np.asarray(value, np.float32) for name, value in found.items() if is_float(value.dtype)}


class _Loss:
    """The mean over outputs of how far each is from what the original gives, by its own scale."""

    def __init__(self, wanted: list[Feed]) -> None:
        self.wanted = wanted
        self.scales: dict[str, float] = {}
        self.spread: dict[str, int] = {}  # outputs that are distributions, and along which axis
        for name in wanted[0]:
            values = [feed[name] for feed in wanted]
            flat = np.concatenate([value.reshape(-1) for value in values]).astype(np.float64)
            variance = float(flat.var()) if np.isfinite(flat).all() else 0.0
            if variance <= 0:
                continue  # a constant says nothing, and what is not finite cannot be learned
            self.scales[name] = variance
            axis = _distributed(values)
            if axis is not None:
                self.spread[name] = axis
        if not self.scales:
            raise NothingLearned("no floating-point output varies with the inputs")

    def __call__(self, given: dict[str, Any], wanted: Feed) -> Any:
        parts = []
        for name, scale in self.scales.items():
            target = torch.from_numpy(np.ascontiguousarray(wanted[name]))
            if name in self.spread:
                axis = self.spread[name]
                logs = given[name].float().clamp_min(1e-8).log()
                parts.append((target * (target.clamp_min(1e-8).log() - logs)).sum(axis).mean())
            else:
                parts.append((given[name].float() - target).square().mean() / scale)
        return sum(parts) / len(parts)


def _distributed(values: list[np.ndarray]) -> int | None:
    """The axis along which an output sums to one and is never negative; None where there is none."""
    if values[0].ndim < 2 or any((value < 0).any() for value in values):
        return None
    for axis in (-1, 1):
        if values[0].shape[axis] > 1 and all(np.allclose(value.sum(axis=axis), 1.0, atol=1e-3) for value in values):
            return axis
    return None


class _Course:
    """One cycle of Adam, and the best state on the way by the samples set apart."""

    def __init__(self, graph: TorchGraph, loss: _Loss, judged: list[Feed]) -> None:
        self.graph, self.loss, self.judged = graph, loss, judged
        self.best = self.first = self._judge()
        self.state: dict[str, Any] = {}

    def _judge(self) -> float:
        with torch.no_grad():
            found = [
                float(self.loss(self.graph(_tensors(feed)), wanted))
                for feed, wanted in zip(self.judged, self.loss.wanted, strict=True)
            ]
        return float(np.mean(found))

    @span("training")
    def follow(
        self, variants: Iterator[tuple[Feed, Feed]], steps: int, progress: Any, seconds: float
    ) -> tuple[int, bool]:
        """Take steps; how many were taken, and whether they are fewer than were meant, since these would have taken
        more than `seconds` here."""
        parameters = list(self.graph.parameters.values())
        optimiser = torch.optim.Adam(parameters, lr=LEARNING)
        meant, step, passed = steps, 0, 0.0
        while step < steps:
            if step in (FIRST, FEWEST) and passed * steps > seconds * step:
                steps = max(int(seconds * step / passed), step + 1)  # the cycle closes all the same
            every = max(steps // LOOKS, 1)
            for group in optimiser.param_groups:
                group["lr"] = LEARNING * _cycle((step + 0.5) / steps)
            feed, wanted = next(variants)
            start = time.perf_counter()  # what the original takes is no part of every step
            optimiser.zero_grad(set_to_none=True)
            error = self.loss(self.graph(_tensors(feed)), wanted)
            error.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            passed += time.perf_counter() - start
            step += 1
            if step % every == 0 or step == steps:
                self._look()
                progress(step, steps, self.best)
        return steps, steps < meant

    def _look(self) -> None:
        found = self._judge()
        if np.isfinite(found) and found < self.best:
            self.best = found
            self.state = {name: p.detach().clone() for name, p in self.graph.parameters.items()}

    def restore(self) -> None:
        """Go back to the best state."""
        with torch.no_grad():
            for name, value in self.state.items():
                self.graph.parameters[name].copy_(value)


def _cycle(share: float) -> float:
    """The rate of learning over its highest, after a share of all steps: up in a line, down along a cosine."""
    if share < RISE:
        return share / RISE
    return 0.5 * (1 + float(np.cos(np.pi * (share - RISE) / (1 - RISE))))


def _tensors(feed: Feed) -> dict[str, Any]:
    return {name: torch.from_numpy(value) if value.dtype.kind in "fiub" else value for name, value in feed.items()}
