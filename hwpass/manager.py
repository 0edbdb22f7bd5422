"""Passes, their registry, and the manager that runs pipelines written as text."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_type_hints

from hwpass import pipeline_text, plugins
from hwpass.errors import HwpassError, InputError, ProofError, UsageError, option
from hwpass.figures import brief, shown_path
from hwpass.instrument import Instrument, PassRecord
from hwpass.planning.stages import Effect, Pruned, Stage
from hwpass.spans import collected

if TYPE_CHECKING:
    from pathlib import Path

    from hwpass.context import Context
    from hwpass.model.model import Model
    from hwpass.planning.plan import Plan


@dataclass(frozen=True)
class PassResult:
    """What a pass did: the model (the same object when it was edited in place) and whether it changed.

    A pass that removes channels says which in `pruned`.
    """

    model: Model
    modified: bool
    pruned: Pruned | None = None

    def __repr__(self) -> str:
        return brief(self, repr(self.model), "modified" if self.modified else "as it was")


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

    def __init_subclass__(cls, **extra: Any) -> None:
        super().__init_subclass__(**extra)
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Pass.__repr__  # type: ignore[method-assign]  # or a dataclass would make one of any length

    def __repr__(self) -> str:
        return brief(self, str(self))

    def __post_init__(self) -> None:
        """Raise UsageError for options that are not of their types; a subclass that checks more calls this first."""
        types = get_type_hints(type(self))
        for item in dataclasses.fields(self):
            if not _is_a(value := getattr(self, item.name), types[item.name]):
                kind = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
                wanted = kind.get(types[item.name], "a tuple of texts")
                raise UsageError(f"{option(item.name)}: a {type(value).__name__} is not {wanted}")

    @abstractmethod
    def run(self, model: Model, context: Context) -> PassResult:
        """Do it. Raises HwpassError with one line when it cannot."""

    def ready(self) -> None:
        """Find what the options name outside the model, before any pass of the pipeline runs. Raises UsageError."""
        return None

    def __str__(self) -> str:
        """The pass as pipeline text; options at their defaults are left out."""
        given = []
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value != item.default:
                given.append(f"{item.name.replace('_', '-')}={pipeline_text.written(value)}")
        return self.name + ("{" + ",".join(given) + "}" if given else "")


def _names(cls: type[Pass]) -> tuple[str, ...]:
    if not pipeline_text.is_name(cls.name):
        raise ValueError(f"{cls.__name__}.name {cls.name!r} is no name for a pass: write letters, digits, - and _")
    return (cls.name,)


#: By name; a pass's options are read by their types, so those have to be known.
_PASSES: plugins.Classes[type[Pass]] = plugins.Classes(
    plugins.Kind(Pass, "hwpass.Pass", "pass", "passes"), "hwpass.passes", plugins.PASSES, _names, get_type_hints
)
_P = TypeVar("_P", bound=type[Pass])


def register(cls: _P) -> _P:
    """Class decorator: enter a pass into the registry under its name.

    Raises TypeError for what is no pass, ValueError for a name that is taken or cannot be written in a pipeline.
    """
    _PASSES.register(cls)
    return cls


def passes() -> dict[str, type[Pass]]:
    """Every pass by name: those of `hwpass.passes`, and those of installed packages (entry points `hwpass.passes`).

    An entry point that is broken is left out, with one warning that names it, see `hwpass.plugins`.
    """
    return _PASSES.known()


def preparation(plan: Plan, origin: str = "plan") -> list[Pass]:
    """The passes of a plan's `prepare`. Raises InputError for any that is not a preparation pass, before it is made:
    a plan is data, and runs nothing of its own."""
    where = f"{origin}: prepare"
    try:
        if plan.prepare.rstrip().endswith(","):
            raise UsageError("pipeline: it ends in a comma, expected the name of a pass")
        known = passes()
        for step in pipeline_text.steps(plan.prepare):
            if step.name in known and not known[step.name].preparation:
                allowed = ", ".join(name for name, cls in known.items() if cls.preparation)
                raise InputError(f"{where}: {step.name} is no preparation pass; a plan may name {allowed}")
        return pipeline_text.parse(plan.prepare, known)
    except UsageError as error:
        raise InputError(f"{where}: {error}") from None


def read_plan(path: str | Path) -> Plan:
    """The plan in a file, its preparation passes looked up too; `-` is standard input. Raises InputError."""
    from hwpass.planning.plan import Plan

    plan = Plan.read(path)
    preparation(plan, shown_path(str(path)))
    return plan


def _is_a(value: object, kind: Any) -> bool:
    """Whether a value may stand in a field; a type that pipelines do not know takes anything."""
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    return kind != tuple[str, ...] or (isinstance(value, tuple) and all(isinstance(item, str) for item in value))


class PassManager:
    """Runs passes in order, checks what comes out of those that changed something, and keeps their times.

    `instruments` watch: their hooks are called in order around every pass, see `hwpass.instrument.Instrument`.

    >>> str(PassManager.parse("fold, fuse-bn,prune-channels{macs=0.5x,score=l2}"))
    'fold,fuse-bn,prune-channels{macs=0.5x,score=l2}'
    """

    def __init__(self, steps: Sequence[Pass], *, check: bool = True, instruments: Sequence[Instrument] = ()) -> None:
        self.steps = tuple(steps)
        self.check = check
        self.instruments = tuple(instruments)
        self.records: list[PassRecord] = []

    @classmethod
    def parse(cls, text: str, *, check: bool = True, instruments: Sequence[Instrument] = ()) -> PassManager:
        """A pipeline from text: `name,name{option=value,option=value}`. Raises UsageError that names the word."""
        return cls(pipeline_text.parse(text, passes()), check=check, instruments=instruments)

    def __repr__(self) -> str:
        return brief(self, str(self) or "no passes")

    def __str__(self) -> str:
        return ",".join(str(step) for step in self.steps)

    @contextmanager
    def _placed(self, step: Pass) -> Iterator[None]:
        """Errors of a pass say which one, and what ran before."""
        try:
            yield
        except Exception as error:
            ran = ", ".join(record.name.partition("{")[0] for record in self.records)
            place = f"in pass {step.name}, {f'after {ran}' if ran else 'the first'}"
            error.add_note(place)
            if isinstance(error, HwpassError):
                error.place = place
            raise

    def run(self, model: Model, context: Context | None = None, *, further: bool = False) -> Model:
        """Run the pipeline on a copy; the given model stays as it is. `records` tells what happened.

        `further` goes on from what an earlier run with this context found out.
        """
        from hwpass.context import Context
        from hwpass.runtime.memory import release_memory

        context = context or Context()
        if not further:
            context.bind(model)
        self.records = []
        for step in self.steps:
            step.ready()
        model = model.copy()
        for watcher in self.instruments:
            watcher.begin(self.steps, model, context)
        for step in self.steps:
            reason = next(filter(None, (w.refuses(step, model, context) for w in self.instruments)), None)
            if reason is not None:
                self.records.append(PassRecord(str(step), 0.0, False, reason))
                for watcher in self.instruments:
                    watcher.skipped(step, model, self.records[-1], context)
                continue
            with self._placed(step), self._told(step, model, context):
                model = self._step(step, model, context)
            release_memory()
        for watcher in self.instruments:
            watcher.end(model, context)
        return model

    def _step(self, step: Pass, model: Model, context: Context) -> Model:
        """Run one pass, check and enter what it made."""
        from hwpass.proto.put_aside import put_aside
        from hwpass.proto.streaming import release_pages
        from hwpass.runtime.blas_threads import limited

        findings = context.findings
        for watcher in self.instruments:
            watcher.before(step, model, context)
        context.progress(step.name)
        with collected(step.name) as span:
            if not findings.stages and step.effect in ("refit", "format", "any"):
                findings.add(Stage("exact", (), model))
            before = model
            if findings.holds(model, step.effect) or any(w.needs_before for w in self.instruments):
                model = model.copy()
            with limited(1):
                result = step.run(model, context)
            # Who says that nothing changed has its copy thrown away: what it did to it would go by the proof.
            model = result.model if result.modified else before
            if result.modified:
                put_aside(list(model.constants().values()))
            release_pages([*before.constants().values(), *model.constants().values()])
            if result.modified:
                if self.check:
                    _check(model, step.name)
                findings.add(Stage(step.effect, (step.name,), model, result.pruned))
            elif result.pruned is not None:
                findings.whole = result.pruned
            findings.prepared |= step.effect not in ("none", "exact")
            if step.preparation and not findings.prepared:
                findings.preparation.append(str(step))
        record = PassRecord(str(step), span.seconds, result.modified, span=span)
        for watcher in self.instruments:
            watcher.after(step, before, model, record, context)
        self.records.append(record)
        return model

    @contextmanager
    def _told(self, step: Pass, model: Model, context: Context) -> Iterator[None]:
        """Errors of a pass reach those who watch."""
        try:
            yield
        except Exception as error:
            for watcher in self.instruments:
                watcher.failed(step, model, error, context)
            raise


def _check(model: Model, name: str) -> None:
    """The graph is one that could be saved: every input of a node is made before it is read."""
    made = {t.name for t in model.graph.inputs}
    from onnx_graphsurgeon import Constant

    for node in model.graph.nodes:
        for tensor in node.inputs:
            if tensor.name and not isinstance(tensor, Constant) and tensor.name not in made:
                raise ProofError(f"pass {name} left {node.op} {node.name} reading {tensor.name}, which nothing makes")
        made.update(t.name for t in node.outputs)
