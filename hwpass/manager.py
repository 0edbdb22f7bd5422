"""Passes, their registry, and the manager that runs pipelines written as text."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, ClassVar, TypeVar

from hwpass import pipeline_text
from hwpass.blas import limited
from hwpass.calibration import Calibration
from hwpass.cost_models import Target
from hwpass.errors import VerdictError
from hwpass.findings import Effect, Findings, Pruned, Stage
from hwpass.ir import Model
from hwpass.sessions import ModelLike

if TYPE_CHECKING:
    from hwpass.plan import Plan
    from hwpass.study import Study


@dataclass
class Shared:
    """What may serve more than one run: each user asks whether it is still about the same model and data."""

    study: Study | None = None
    metrics: list[tuple[str, ModelLike, float]] = field(default_factory=list)  # of originals, by name


@dataclass
class Context:
    """What passes share: the request, and what earlier passes of the run found out.

    `original` is what the verdicts compare with; without one it is the model as it was given. `findings` are those of
    the latest run: `PassManager.run` makes them anew.
    """

    target: Target | None = None
    original: ModelLike | None = None
    calibration: Calibration | None = None
    threads: int = 1
    seed: int = 0
    force: bool = False
    plan: Plan | None = None  # what apply-plan applies
    progress: Callable[[str], None] = lambda text: None
    warnings: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    shared: Shared = field(default_factory=Shared)
    _bound: str | None = None  # the digest of the model that `original` belongs to

    def bind(self, model: Model) -> None:
        """Begin a run on a model: findings and warnings of an earlier one are gone, and so is its original."""
        if self.original is None or self._bound not in (None, model.sha256):
            self.original = model.source if model.source is not None else model.proto()
        self._bound = model.sha256
        self.findings = Findings()
        self.warnings = []

    def warn(self, text: str) -> None:
        """Add a warning to the report, once."""
        if text not in self.warnings:
            self.warnings.append(text)


@dataclass(frozen=True)
class PassResult:
    """What a pass did: the model (the same object when it was edited in place) and whether it changed.

    A pass that removes channels says which in `pruned`.
    """

    model: Model
    modified: bool
    pruned: Pruned | None = None


@dataclass(frozen=True)
class PassRecord:
    """One step of a run: its text, seconds, and whether it changed the model."""

    name: str
    seconds: float
    changed: bool


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite or a check. Subclasses are frozen dataclasses whose fields are their options everywhere.

    A field's `metadata["help"]` is its description. A value that makes no sense is a UsageError when the pass is made.
    `run` computes first and edits last: all or nothing.
    """

    name: ClassVar[str] = ""
    #: Whether it prepares a model for pruning by its own weights alone: only such a pass may stand in a plan's file.
    preparation: ClassVar[bool] = False

    #: What it does to the values that the model computes; the proof holds it to that.
    effect: ClassVar[Effect] = "exact"

    @abstractmethod
    def run(self, model: Model, context: Context) -> PassResult:
        """Do it. Raises HwpassError with one line when it cannot."""

    def ready(self) -> None:
        """Find what the options name outside the model, before any pass of the pipeline runs. Raises UsageError."""
        return None

    def __str__(self) -> str:
        """The pass as pipeline text; options at their defaults are left out."""
        given = []
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if value != option.default:
                given.append(f"{option.name.replace('_', '-')}={pipeline_text.written(value)}")
        return self.name + ("{" + ",".join(given) + "}" if given else "")


_PASSES: dict[str, type[Pass]] = {}
_P = TypeVar("_P", bound=type[Pass])


def register(cls: _P) -> _P:
    """Class decorator: enter a pass into the registry under its name."""
    if cls.name in _PASSES:
        raise ValueError(f"two passes named {cls.name}")
    _PASSES[cls.name] = cls
    return cls


def passes() -> dict[str, type[Pass]]:
    """Every pass by name: those of `hwpass.passes`, and those of installed packages (entry points `hwpass.passes`)."""
    _load_passes()
    return dict(sorted(_PASSES.items()))


@cache
def _load_passes() -> None:
    """Looking through what is installed takes longer than a small pass."""
    import hwpass.passes as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for entry in entry_points(group="hwpass.passes"):
        entry.load()


class PassManager:
    """Runs passes in order, checks what comes out of those that changed something, and keeps their times.

    >>> str(PassManager.parse("fold, fuse-bn,prune-channels{macs=0.5x,score=l2}"))
    'fold,fuse-bn,prune-channels{macs=0.5x,score=l2}'
    """

    def __init__(self, steps: Sequence[Pass], *, check: bool = True) -> None:
        self.steps = tuple(steps)
        self.check = check
        self.records: list[PassRecord] = []

    @classmethod
    def parse(cls, text: str, *, check: bool = True) -> PassManager:
        """A pipeline from text: `name,name{option=value,option=value}`. Raises UsageError that names the word."""
        return cls(pipeline_text.parse(text), check=check)

    def __str__(self) -> str:
        return ",".join(str(step) for step in self.steps)

    def run(self, model: Model, context: Context | None = None, *, further: bool = False) -> Model:
        """Run the pipeline on a copy; the given model stays as it is. `records` tells what happened.

        `further` goes on from what an earlier run with this context found out.
        """
        context = context or Context()
        if not further:
            context.bind(model)
        findings = context.findings
        self.records = []
        for step in self.steps:
            step.ready()
        model = model.copy()
        for step in self.steps:
            context.progress(step.name)
            start = time.perf_counter()
            if not findings.stages and step.effect in ("refit", "any"):
                findings.add(Stage("exact", (), model))
            if findings.holds(model, step.effect):
                model = model.copy()
            with limited(1):
                result = step.run(model, context)
            model = result.model
            if result.modified:
                if self.check:
                    _check(model, step.name)
                findings.add(Stage(step.effect, (step.name,), model, result.pruned))
            elif result.pruned is not None:
                findings.whole = result.pruned
            findings.prepared |= step.effect not in ("none", "exact")
            if step.preparation and not findings.prepared:
                findings.preparation.append(str(step))
            self.records.append(PassRecord(str(step), time.perf_counter() - start, result.modified))
        return model


def _check(model: Model, name: str) -> None:
    """The graph is one that could be saved: every input of a node is made before it is read."""
    made = {t.name for t in model.graph.inputs}
    from onnx_graphsurgeon import Constant

    for node in model.graph.nodes:
        for tensor in node.inputs:
            if tensor.name and not isinstance(tensor, Constant) and tensor.name not in made:
                raise VerdictError(f"pass {name} left {node.op} {node.name} reading {tensor.name}, which nothing makes")
        made.update(t.name for t in node.outputs)
