"""The model of a way of pruning that meets a measured latency: drafts at several strengths, timed, refined, confirmed.

One rule for everybody: at a point p, the least pruned model whose measured latency is at most p times the dense one's.
The drafts are timed together in few sessions; what is chosen is timed again, together, in more of them, and gives way
to the next more strongly pruned one where it does not hold.

A model's latency is what a tenth of its runs do not exceed. A shared machine has two modes, whatever runs on it: with a
neighbour on the same physical core one of the bundled networks takes 0.53 ms instead of 0.38, a pruned one 0.21 instead
of 0.13. Which session meets which mode is chance, and medians of ratios wander by a fifth; the fast mode repeats
within one percent. The dense model is first timed alone, in many sessions, and of every structure the least of all its
timings counts: one that missed the fast mode can only make a pruned model look slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx

from hwpass.cost.bench import Timing, bench
from hwpass.runtime.sessions import open_session, run_session

#: A draft this much over the point may still hold when it is timed properly.
SLACK = 1.01

#: Where a point is met by a draft that is at least this share of it, none between is looked for.
NEAR = 0.97

#: A bracket of settings narrower than this is not looked into.
FINEST = 0.005

#: Settings tried in a bracket until one gives a structure that is new.
TRIES = 4

Structure = tuple[Any, ...]


class Refusal(Exception):
    """There is no model at this setting, and why."""


@dataclass(frozen=True)
class Pruned:
    """A pruned model and what is to be recorded with it."""

    model: onnx.ModelProto
    facts: Mapping[str, Any] = field(default_factory=dict)


class Maker(Protocol):
    """A way of pruning one network. A setting is the share to remove: 0 nothing, 1 everything."""

    def draft(self, setting: float) -> Pruned:
        """A model of the final structure; its weights do not matter. Raises Refusal."""

    def final(self, setting: float) -> Pruned:
        """The model whose accuracy counts."""


@dataclass(frozen=True)
class Clock:
    """How models are timed: sessions and runs of a draft and of what is reported.

    The `ratio` of a timing is that of the fastest tenths of the runs; its extremes stay those of single rounds.
    """

    sessions: int = 11
    runs: int = 300
    draft_sessions: int = 7
    draft_runs: int = 200
    dims: Mapping[str, int] | None = None  # sizes of dynamic axes
    cpu_time: bool = False  # instead of the time that passes
    first_sessions: int = 40  # of the dense model alone
    best: dict[object, float] = field(default_factory=dict)  # milliseconds by structure, and of the dense model by path

    def drafts(self, dense: Path, models: Sequence[onnx.ModelProto]) -> list[Timing]:
        """Quick timings against the dense model, which is timed in the same rounds."""
        return self._timed(dense, models, self.draft_sessions, self.draft_runs)

    def finals(self, dense: Path, models: Sequence[onnx.ModelProto]) -> list[Timing]:
        """The timings that are reported."""
        return self._timed(dense, models, self.sessions, self.runs)

    def _timed(self, dense: Path, models: Sequence[onnx.ModelProto], sessions: int, runs: int) -> list[Timing]:
        options: dict[str, Any] = {"dims": self.dims, "cpu_time": self.cpu_time}
        if dense not in self.best:
            self._note(dense, bench([dense], sessions=self.first_sessions, runs=self.draft_runs, **options)[0])
        first, *others = bench([dense, *models], sessions=sessions, runs=runs, **options)
        self._note(dense, first)
        found = []
        for model, timing in zip(models, others, strict=True):
            quick = self._note((dense, structure_of(model)), timing)
            found.append(replace(timing, quick_ms=quick, ratio=quick / self.best[dense]))
        return found

    def _note(self, key: object, timing: Timing) -> float:
        self.best[key] = min(timing.quick_ms, self.best.get(key, timing.quick_ms))
        return self.best[key]


@dataclass
class Candidate:
    """A structure, the settings from `low` to `high` that are known to give it, and its latency as a share of the
    dense model's."""

    setting: float
    low: float
    high: float
    latency: float

    def widen(self, setting: float) -> None:
        """Another setting gives the same."""
        self.low, self.high = min(self.low, setting), max(self.high, setting)


@dataclass
class Ladder:
    """The candidates of one way of pruning, found so far, and why some settings have none."""

    dense: Path
    maker: Maker
    clock: Clock
    say: Callable[[str], None]
    check: Callable[[onnx.ModelProto], None]
    known: dict[Structure, float]
    candidates: dict[Structure, Candidate] = field(default_factory=dict)
    refusals: dict[float, str] = field(default_factory=dict)

    def climb(self, settings: Iterable[float]) -> bool:
        """Draft the models at these settings, and time those of a new structure; whether there are any."""
        new: dict[Structure, tuple[float, onnx.ModelProto]] = {}
        for setting in sorted(settings):
            try:
                model = self.maker.draft(setting).model
                self.check(model)
            except Refusal as refusal:
                self.refusals[setting] = str(refusal)
                continue
            structure = structure_of(model)
            if structure in self.candidates:
                self.candidates[structure].widen(setting)
            else:
                self.candidates[structure] = Candidate(setting, setting, setting, float("nan"))
                new[structure] = (setting, model)
        untimed = {s: model for s, (_, model) in new.items() if s not in self.known}
        timings = self.clock.drafts(self.dense, list(untimed.values())) if untimed else []
        self.known |= {s: timing.ratio for s, timing in zip(untimed, timings, strict=True)}
        for structure in new:
            self.candidates[structure].latency = self.known[structure]
        if new:
            self._doubt()
            self.say(", ".join(f"{self.candidates[s].setting:.3f}: {self.candidates[s].latency:.3f}x" for s in new))
        return bool(new)

    def _doubt(self) -> None:
        """Time those again that are slower than a less pruned one: they may have been disturbed."""
        slow = {
            s: c for s, c in self.candidates.items()
            if any(other.high < c.low and other.latency < c.latency for other in self.candidates.values())
        }  # fmt: skip
        if slow:
            models = [self.maker.draft(c.setting).model for c in slow.values()]
            for (structure, candidate), timing in zip(slow.items(), self.clock.drafts(self.dense, models), strict=True):
                candidate.latency = self.known[structure] = min(candidate.latency, timing.ratio)

    def refine(self, points: Sequence[float]) -> None:
        """One more structure between the least pruned candidate that meets each point and the one before it."""
        for _ in range(TRIES):
            between = {s for s in map(self._between, points) if s is not None}
            if self.climb(between - set(self.refusals)) or not between:
                return

    def _between(self, point: float) -> float | None:
        meeting = self.meeting(point, 1.0)
        if not meeting:
            return self._last()
        best = meeting[0]
        over = [c for c in self.candidates.values() if c.high < best.low]
        before = max(over, key=lambda c: c.high) if over else Candidate(0.0, 0.0, 0.0, 1.0)
        width = best.low - before.high
        if width < FINEST or best.latency >= NEAR * point:
            return None
        share = (before.latency - point) / max(before.latency - best.latency, 1e-9)
        # Slightly on the side that meets the point, and never at an end of the bracket.
        return round(before.high + width * float(np.clip(share + 0.05, 0.15, 0.85)), 4)

    def _last(self) -> float | None:
        """Half-way from the fastest candidate to the first refusal beyond it."""
        if not self.candidates:
            return None
        fastest = min(self.candidates.values(), key=lambda c: c.latency)
        beyond = min((s for s in self.refusals if s > fastest.high), default=None)
        if beyond is None or beyond - fastest.high < FINEST:
            return None
        return round((fastest.high + beyond) / 2, 4)

    def meeting(self, point: float, slack: float = SLACK) -> list[Candidate]:
        """The candidates that meet a point as far as their drafts say, the least pruned first."""
        met = [c for c in self.candidates.values() if c.latency <= point * slack]
        return sorted(met, key=lambda c: c.low)

    def why_not(self) -> str:
        """Why a point has no model."""
        fastest = min((c.latency for c in self.candidates.values()), default=None)
        said = [f"no faster than {fastest:.2f}x"] if fastest is not None else []
        return "; ".join(said + list(self.refusals.values())[-1:])


@dataclass(frozen=True)
class Found:
    """What stands at a point: the final model, its setting and its timing."""

    setting: float
    pruned: Pruned
    timing: Timing


def search(
    dense: Path,
    maker: Maker,
    points: Sequence[float],
    grid: Sequence[float],
    clock: Clock,
    say: Callable[[str], None],
    refinements: int = 3,
    check: Callable[[onnx.ModelProto], None] | None = None,
    known: dict[Structure, float] | None = None,
) -> tuple[dict[float, Found], str]:
    """The model at each point that can be met, and why the other points cannot.

    `check` raises Refusal. `known` holds the draft latencies of structures of this dense model, and is added to: other
    ways of pruning give the same ones.
    """
    ladder = Ladder(dense, maker, clock, say, check or check_runs, {} if known is None else known)
    ladder.climb(grid)
    for _ in range(refinements):
        ladder.refine(points)
    found: dict[float, Found] = {}
    made: dict[float, Pruned] = {}
    refuted: set[tuple[float, float]] = set()
    while True:
        tried: dict[float, Candidate] = {}
        for point in (p for p in points if p not in found):
            left = [c for c in ladder.meeting(point) if (point, c.setting) not in refuted]
            if left:
                tried[point] = left[0]
        if not tried:
            return found, ladder.why_not()
        settings = sorted({c.setting for c in tried.values()})
        for setting in settings:
            if setting not in made:
                made[setting] = maker.final(setting)
        timings = dict(zip(settings, clock.finals(dense, [made[s].model for s in settings]), strict=True))
        for point, candidate in tried.items():
            timing = timings[candidate.setting]
            if timing.ratio <= point:
                found[point] = Found(candidate.setting, made[candidate.setting], timing)
            else:
                refuted.add((point, candidate.setting))
                candidate.latency = timing.ratio
        # What did not hold may have a slightly narrower neighbour that does.
        ladder.refine([p for p in tried if p not in found])


def structure_of(model: onnx.ModelProto) -> Structure:
    """What decides the latency: operators in order and the shapes of the weights."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return tuple((node.op_type, *(shapes.get(name) for name in node.input)) for node in model.graph.node)


def check_runs(model: onnx.ModelProto) -> None:
    """Raise Refusal when ONNX Runtime does not load or run a fixture's model, or its logits are not finite."""
    try:
        session = open_session(model)
        for batch in (1, 3):
            logits = run_session(session, {"image": np.full((batch, 1, 28, 28), 0.5, np.float32)})["logits"]
            if logits.shape != (batch, 10) or not np.isfinite(logits).all():
                raise Refusal(f"outputs are {logits.shape} or not finite")
    except Refusal:
        raise
    except Exception as error:  # whatever another tool's model makes the runtime say
        raise Refusal(f"does not run: {' '.join(str(error).split())[:120]}") from error
