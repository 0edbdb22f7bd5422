"""What a cost model is: pure functions from (work, target) to seconds and joules per kernel, and their
registry.

A new kind of hardware is one class under `@register`, in a module of this package or one that an entry point of
another distribution names; a new target of a known kind is one TOML file. Nothing else has to change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from hwpass import plugins
from hwpass.cost_models.target import DTYPE_BYTES, Target, first_complaint
from hwpass.cost_models.work import Floats, Work
from hwpass.errors import InputError


class Figures(BaseModel):
    """Base of the tables (`layout`, `constants`) that belong to one model class: no key missing, none
    unknown."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class CostModel(ABC):
    """Predicts latency and energy of every kernel of a Work on one target.

    A subclass names the figures it wants from the target's `layout` and `constants` tables by two `Figures`
    classes; they are validated when the model is made, so that a wrong key is an InputError that names it.
    """

    #: Whether `threads` of the target change what it predicts.
    threaded: ClassVar[bool] = False
    Layout: ClassVar[type[Figures]] = Figures
    Constants: ClassVar[type[Figures]] = Figures

    def __init__(self, target: Target) -> None:
        self.target = target
        self._layout = self._figures(self.Layout, "layout")
        self._constants = self._figures(self.Constants, "constants")
        levels = list(target.memory.values())
        kib = [np.inf if level.capacity_kib is None else level.capacity_kib for level in levels]
        self._capacity = np.array(kib) * 1024.0
        self._seconds_per_byte = np.array([1e-9 / level.bandwidth_gbs for level in levels])
        self._joules_per_byte = np.array([1e-12 * level.byte_pj for level in levels])

    def _figures(self, schema: type[Figures], table: str) -> Figures:
        try:
            return schema.model_validate(getattr(self.target, table))
        except ValidationError as error:
            complaint = first_complaint(error, f"{table}.", schema.model_fields)
            raise InputError(f"target '{self.target.name}': {complaint}") from error

    @abstractmethod
    def latency(self, work: Work) -> Floats:
        """Seconds per kernel, [P, K]."""

    def energy(self, work: Work) -> Floats:
        """Joules per kernel, [P, K].

        pJ/MAC x MACs + pJ/byte x traffic + static power x latency. Activations come from the level that holds
        the kernel's own working set; constants from the level that holds all constants of the model, since
        each is used once per inference.
        """
        compute = work.macs * self._by_dtype(self.target.energy.mac_pj, work) * 1e-12
        found = compute + self.traffic_energy(work) + self.target.energy.static_w * self.latency(work)
        return np.asarray(found * (work.kind != "free"))

    def idle(self, work: Work) -> NDArray[np.bool_]:
        """Kernels that cost nothing at any width, [K], and without which the others cost the same, if what they hand on
        comes from outside: they need not be priced. None unless a kind of hardware knows better."""
        return np.zeros(len(work.kind), bool)

    def traffic_energy(self, work: Work) -> Floats:
        """Joules to move each kernel's activations and constants once, [P, K]."""
        activations = work.read + work.written
        moved = activations * self.per_byte(activations, self._joules_per_byte)
        return np.asarray(moved + work.weights * self.per_byte(self.resident_set(work), self._joules_per_byte))

    def peak(self, work: Work) -> Floats:
        """Peak multiply-accumulates per second of each kernel's number format, [K]."""
        return self._by_dtype(self.target.peak, work) * 1e9

    def _by_dtype(self, table: dict[str, float], work: Work) -> Floats:
        """A per-dtype figure for each kernel, [K]; a dtype without one takes that of the next wider format
        given, as runtimes widen what the hardware lacks, or else the narrowest given."""
        return work.kept("by dtype", lambda: self._table(table, work), table)

    @staticmethod
    def _table(table: dict[str, float], work: Work) -> Floats:
        widths = sorted((DTYPE_BYTES[dtype], figure) for dtype, figure in table.items())
        bytes_ = np.array([width for width, _ in widths], dtype=np.float64)
        figures = np.array([figure for _, figure in widths], dtype=np.float64)
        place = np.searchsorted(bytes_, work.itemsize)
        return np.asarray(figures[np.minimum(place, len(figures) - 1)])

    def per_byte(self, working_set: Floats, cost: Floats) -> Floats:
        """Mean cost per byte of bytes that are revisited in order, any shape -> the same shape.

        A working set of S bytes is found in the first level that holds it. Beyond its capacity C a cache that
        evicts the oldest line finds ever less, and nothing from 2C on: share max(0, min(1, 2 - S/C)), the
        rest one level further. `cost` [levels] rises with the level. Continuous in S, and S x mean never
        falls as S grows.
        """
        mean = np.full_like(working_set, cost[-1], dtype=np.float64)
        for capacity, each in zip(self._capacity[-2::-1], cost[-2::-1], strict=True):
            found = np.minimum(np.maximum(2 - working_set / capacity, 0.0), 1.0)
            mean = found * each + (1 - found) * mean
        return np.asarray(mean)

    def resident_set(self, work: Work) -> Floats:
        """Bytes that one inference touches again in the next: all constants and the largest kernel's
        activations, [P, 1]."""
        busy = work.kind != "free"
        largest = ((work.read + work.written) * busy).max(axis=1, keepdims=True, initial=0.0)
        return np.asarray((work.weights * busy).sum(axis=1, keepdims=True) + largest)

    def memory_seconds(self, traffic: Floats, working_set: Floats) -> Floats:
        """Seconds to move `traffic` bytes whose working set is `working_set` bytes, any one shape."""
        return np.asarray(traffic * self.per_byte(working_set, self._seconds_per_byte))


#: By class name, the `model` key of a target.
_CLASSES: plugins.Classes[type[CostModel]] = plugins.Classes(
    plugins.Kind(CostModel, "hwpass.cost_models.CostModel", "cost model", "cost models"),
    "hwpass.cost_models",
    plugins.COST_MODELS,
    lambda cls: (cls.__name__,),
)
_Model = TypeVar("_Model", bound=type[CostModel])


def register(cls: _Model) -> _Model:
    """Class decorator: makes a cost model available under its class name, the `model` key of a target.

    Raises TypeError for what is no cost model, ValueError for a name that is taken.
    """
    _CLASSES.register(cls)
    return cls


def model_names() -> list[str]:
    """Names of all registered cost model classes, sorted."""
    return sorted(model_classes())


def model_classes() -> dict[str, type[CostModel]]:
    """Every cost model class by name: those of this package, and those of installed packages (entry points
    `hwpass.cost_models`)."""
    return _CLASSES.known()


def cost_model(target: Target) -> CostModel:
    """The cost model that interprets `target`; InputError names the key when the target asks for none we
    have."""
    known = model_classes()
    if target.model not in known:
        raise InputError(
            f"target '{target.name}': model: expected one of {', '.join(known)}, got {target.model!r}"
            + plugins.why_not(plugins.COST_MODELS, target.model)
        )
    return known[target.model](target)
