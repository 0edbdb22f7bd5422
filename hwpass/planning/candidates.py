"""Widths chosen by what plans really cost: loss curves taken again on the way, and plans tried before one is kept.

The curves of a study take every other group to be whole, and their sum is a poor guide when most channels go: what a
group can still give depends on what the others have left. So widths are chosen for part of the way (geometrically, as
the stages of a knapsack are), the channels removed and the rest refitted roughly, and curves taken from what that
leaves; the rest of the way is chosen by those. Curves can still mislead far from the dense model, where a plan by norms
or by one share for all groups may do better: all of them are tried, and the one is kept whose outputs, roughly
refitted, are nearest to the original's on data that the fit did not see. Which channels of a group go stays the first
study's matter, and the pruned model is made from the original alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwpass.cost_models.work import Floats
from hwpass.data.dense_rows import DenseRows
from hwpass.model.model import Model
from hwpass.planning.allocation import Allocation
from hwpass.planning.consumers import macs_of
from hwpass.planning.score import importance
from hwpass.planning.share_curves import loss_curves
from hwpass.planning.study import Study
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.inputs import is_float
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import StoredModel, run_session
from hwpass.runtime.settings import Settings
from hwpass.spans import span
from hwpass.surgery.compensation import Compensation
from hwpass.surgery.cut import Surgery
from hwpass.surgery.dense_twin import dense_twin
from hwpass.surgery.fit_data import BATCH, batch_size, dense_rows

#: A rough fit takes a quarter of the samples, but not fewer than so many, and so many rows of a layer.
EVERY = 4
LEAST = 64
ROWS = 2048

#: Plans are told apart by a quarter of these, not fewer than so many: errors are larger then, and their order is nearly
#: the same. Networks of fewer multiply-accumulates on all of them take all, and every optimum of the curves.
LEAST_COMPARED = 16
CHEAP = 1e10

#: Budgets nearer than this to the dense model are met in one go.
NEAR = 0.8

#: Multiply-accumulates of the dense model on the samples of a rough fit beyond which half of the samples have to do.
MANY = 1.5e10

#: And those up to which curves are taken again, and plans compared, unasked.
AFFORDABLE = 1e11


#: How much wider by the model's own costs a plan may be that other prices allow, and halvings of that in logarithms.
WIDER, HALVINGS = 2.5, 5

#: Values of a batch of outputs that are compared, at most.
VALUES = 1 << 20


class Choice(NamedTuple):
    """Widths, and the curves that tell what they lose."""

    allocation: Allocation
    curves: list[Floats]


@dataclass(frozen=True)
class Chooser:
    """Chooses widths for a study; `cut` makes the pruned model of a choice from the original."""

    study: Study
    cut: Callable[[Allocation], Surgery]
    context: Settings

    def choose(self, limits: dict[str, float], rounds: int = 0) -> Choice:
        """Widths within limits (in the units of METRICS), with curves taken `rounds` times.

        0 rounds are two where that is affordable, else one, and plans are compared all the same; of 1 the first is
        taken as it is. Curves are taken once where they are no measurements, where the way is short, or the limits
        cannot be met.
        """
        study, base = self.study, self.study.prices.base
        allocations = study.allocator(limits, self.context).optima()
        first = Choice(allocations[0], study.curves)
        share = min((limit / base[m] for m, limit in limits.items() if base[m] > 0), default=1.0)
        if study.data is None or not study.measured or not first.allocation.met or share > NEAR or rounds == 1:
            return first
        macs = sum(macs_of(node) for node in study.coupling.nodes)
        some = sparse(study.data, macs)
        few = fewer(some, macs)
        if not rounds and macs * len(few) > AFFORDABLE:
            return first
        rounds = rounds or (2 if macs * len(some) <= AFFORDABLE else 1)
        most = None if macs * len(some) <= CHEAP else 1
        own = [Choice(allocation, study.curves) for allocation in allocations[:most]]
        own += self._by_cost(study, limits, most)
        choices, dense = [*own, *self._others(limits, most)], None
        if rounds > 1:
            dense = self._dense(some)
            choices = [*self._on_the_way(limits, rounds, some, dense, most), *choices]
        return self._nearer(choices, few, dense if few is some else None)

    def _on_the_way(
        self, limits: dict[str, float], rounds: int, data: Calibration, dense: DenseRows, most: int | None = None
    ) -> list[Choice]:
        """Widths by curves that were taken again, and by their mean with the first ones, `most` of each."""
        study = latest = self.study
        whole = study.prices(study.cost.dense[None, :], tuple(limits))  # less than the base where prices are lower
        for number in range(1, rounds):
            part = number / rounds
            start = {m: float(whole[m][0]) for m in limits}
            ahead = {m: start[m] ** (1 - part) * min(limit, start[m]) ** part for m, limit in limits.items()}
            further = self._retaken(latest, latest.allocator(ahead, self.context).run(), data, dense)
            release_memory()
            if further is None:
                break
            latest = further
        between = replace(study, curves=[(a + b) / 2 for a, b in zip(study.curves, latest.curves, strict=True)])
        found: list[Choice] = []
        for one in (latest, between):
            allocations = one.allocator(limits, self._quiet("widths")).optima()[:most]
            found += [Choice(allocation, one.curves) for allocation in allocations]
            found += self._by_cost(one, limits, most)
        return found

    def _by_cost(self, study: Study, limits: dict[str, float], most: int | None) -> list[Choice]:
        """Where widths are chosen by other prices than the model's own costs: by these costs, as wide as the prices
        allow."""
        if study.repriced is None:
            return []
        priced, plain = study.allocator(limits, self.context), replace(study, repriced=None)
        found: list[Allocation] = []
        narrow, wide = 1.0, WIDER
        for _ in range(HALVINGS):
            middle = float(np.sqrt(narrow * wide))
            more = {metric: middle * limit for metric, limit in limits.items()}
            optima = [priced.priced(a) for a in plain.allocator(more, self._quiet("widths by cost")).optima()[:most]]
            if optima[0].met:
                narrow, found = middle, [a for a in optima if a.met]
            else:
                wide = middle
        return [Choice(allocation, study.curves) for allocation in found]

    def _dense(self, data: Calibration) -> DenseRows:
        """What every rough fit on some data is held against."""
        settings = self._quiet("trying widths")
        return dense_rows(self.study.coupling, data, settings, samples=len(data), rows=ROWS)

    @span("curves on the way")
    def _retaken(
        self, study: Study, allocation: Allocation, data: Calibration, dense: DenseRows | None = None
    ) -> Study | None:
        """The study with curves taken where an allocation leaves the model; None when it leaves it as it is."""
        surgery = self._rough(allocation, data, dense)
        if surgery is None:
            return None
        twin = dense_twin(study.coupling, surgery)
        return study.retaken(twin, surgery.keep, data, self._quiet("loss curves again"))

    @span("rough refit")
    def _rough(self, allocation: Allocation, data: Calibration, dense: DenseRows | None = None) -> Surgery | None:
        """The pruned model, refitted on few data."""
        surgery = self.cut(allocation)
        if not surgery.modified:
            return None
        worker = Compensation(
            self.study.coupling, surgery, self._quiet("trying widths"), samples=len(data), rows=ROWS, dense=dense
        )
        worker.run(data)
        surgery.model.invalidate_shapes()
        return surgery

    def _others(self, limits: dict[str, float], most: int | None = None) -> list[Choice]:
        """Plans that measured curves have little part in: by norms of channels (`most` of them), and near one share for
        all groups."""
        study = self.study
        norms = loss_curves(study.coupling, importance(study.coupling, "l2"))
        by_norms = replace(study, curves=norms).allocator(limits, self._quiet("widths by norms")).optima()[:most]
        allocator = study.allocator(limits, self.context)
        near_uniform = allocator.improved(allocator.uniform())
        return [Choice(allocation, study.curves) for allocation in (*by_norms, near_uniform)]

    @span("plans compared")
    def _nearer(self, choices: list[Choice], some: Calibration, dense: DenseRows | None = None) -> Choice:
        """Of the choices within the limits the one whose outputs, fitted on some data, are nearest to the original's on
        others; of equal ones the first."""
        different: dict[bytes, Choice] = {}
        for choice in choices:
            if choice.allocation.met:
                different.setdefault(choice.allocation.widths.tobytes(), choice)
        choices = list(different.values())
        if len(choices) == 1:
            return choices[0]
        size = batch_size(self.study.coupling)  # as the fit has it: what is left out are whole batches
        judges = others(some, size)
        wanted = outputs(self.study.model, judges, self.context.threads, size)
        dense = self._dense(some) if dense is None else dense
        errors = []
        for choice in choices:
            surgery = self._rough(choice.allocation, some, dense)
            model = self.study.model if surgery is None else surgery.model
            errors.append(distance(wanted, outputs(model, judges, self.context.threads, size)))
        return choices[int(np.argmin(errors))]

    def _quiet(self, what: str) -> Settings:
        """The context for work whose own progress would confuse."""
        return replace(self.context, progress=lambda text: self.context.progress(f"{what}: {text}"))


def sparse(data: Calibration, macs: float = 0.0) -> Calibration:
    """A quarter of the samples from all over the data, but not too few; half of that where `macs` of one are many."""
    some = replace(data, every=int(np.clip(len(data) // LEAST, 1, EVERY)))
    return replace(some, every=2 * some.every) if macs * len(some) > MANY and some.every > 1 else some


def fewer(some: Calibration, macs: float) -> Calibration:
    """What plans are compared on, of what curves are taken from again."""
    if macs * len(some) <= CHEAP:
        return some
    return replace(some, every=some.every * int(np.clip(len(some) // LEAST_COMPARED, 1, EVERY)))


def others(some: Calibration, size: int = BATCH) -> Calibration:
    """Batches that a sparse part of the data leaves out; the part itself where there are none."""
    left_out = replace(some, first=some.every // 2)
    return some if next(left_out.batches(size), None) is None else left_out


def outputs(model: Model, data: Calibration, threads: int, size: int = BATCH) -> list[list[NDArray[Any]]]:
    """The floating-point outputs of a model, batch by batch: of large ones evenly spread values, [n, v]."""
    with StoredModel(model.proto()) as stored:
        session = stored.open_session(threads=threads)
        found = [[_few(np.asarray(v)) for v in run_session(session, feed).values()] for feed in data.batches(size)]
        del session
    return [[value for value in batch if is_float(value.dtype)] for batch in found]


def _few(value: NDArray[Any]) -> NDArray[Any]:
    rows = value.reshape(value.shape[0] if value.ndim else 1, -1)
    return rows[:, :: -(-rows.size // VALUES) or 1].copy()


def distance(wanted: Iterable[list[NDArray[Any]]], found: Iterable[list[NDArray[Any]]]) -> float:
    """Squared error over variance, summed over outputs; infinite where an output is not finite."""
    gaps: dict[int, float] = {}
    sizes: dict[int, float] = {}
    for batch, other in zip(wanted, found, strict=True):
        for number, pair in enumerate(zip(batch, other, strict=True)):
            a, b = (value.astype(np.float64) for value in pair)
            gap = float(np.square(b - a).sum())
            gaps[number] = gaps.get(number, 0.0) + (gap if np.isfinite(gap) else np.inf)
            sizes[number] = sizes.get(number, 0.0) + float(np.square(a - a.mean(axis=0)).sum())
    return sum(gaps[number] / (sizes[number] + 1e-30) for number in gaps)
