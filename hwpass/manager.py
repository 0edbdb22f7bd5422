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
from hwpass.analyses import ANALYSES
from hwpass.contract import Condition
from hwpass.contract_check import Contract
from hwpass.errors import HwpassError, InputError, UsageError, option
from hwpass.figures import brief, counted, shown_path
from hwpass.instrument import Instrument, PassRecord
from hwpass.pipeline import Group, Repeat, flat
from hwpass.planning.stages import Effect, Pruned, Stage
from hwpass.spans import collected

if TYPE_CHECKING:
    from pathlib import Path

    from hwpass.context import Context
    from hwpass.model.model import Model
    from hwpass.planning.plan import Plan
    from hwpass.surgery.declared import Declared


@dataclass(frozen=True)
class PassResult:
    """What a pass did: the model (the same object when it was edited in place) and whether it changed.

    A pass that removes channels says which in `pruned`; one that masks or factors weights says so in `declared`. One
    that had nothing to work on says why in `reason`. A preparation pass that decides by more than the model says in
    `again` how a plan repeats what it did; None is its own text.
    """

    model: Model
    modified: bool
    pruned: Pruned | None = None
    declared: Declared | None = None
    reason: str = ""
    again: str | None = None

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
    #: What must hold before it runs, and what holds when it ran: the manager checks both.
    requires: ClassVar[tuple[Condition, ...]] = ()
    ensures: ClassVar[tuple[Condition, ...]] = ()
    #: The analyses, of `hwpass.analyses.ANALYSES`, that give the same after it as before; checked by `--verify-each`.
    preserves: ClassVar[tuple[str, ...]] = ()
    #: True: a changed model is the one that it was given, which is a copy; False: it is a new one, and the one that it
    #: was given is as it was; None: it may do either. The manager checks it.
    in_place: ClassVar[bool | None] = None

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
    if cls.name in pipeline_text.WORDS:
        raise ValueError(f"{cls.__name__}.name: {cls.name} means something else in a pipeline")
    for analysis in cls.preserves:
        if analysis not in ANALYSES:
            raise ValueError(f"{cls.__name__}.preserves: there is no analysis {analysis!r}; {', '.join(ANALYSES)}")
    for condition in (*cls.requires, *cls.ensures):
        if not isinstance(condition, Condition):
            raise TypeError(f"{cls.__name__}: requires and ensures are tuples of hwpass.contract.Condition")
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
        for word in pipeline_text.names(pipeline_text.steps(plan.prepare)):
            if word in known and not known[word].preparation:
                allowed = ", ".join(name for name, cls in known.items() if cls.preparation)
                raise InputError(f"{where}: {word} is no preparation pass; a plan may name {allowed}")
        return list(flat(pipeline_text.parse(plan.prepare, known)))
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
    """Runs passes in order, holds each to its contract, and keeps their times.

    A pass edits a copy: where one fails, `last_good` is the model that it was given, as it was.

    `instruments` watch: their hooks are called in order around every pass, see `hwpass.instrument.Instrument`.

    >>> str(PassManager.parse("fold, fuse-bn,prune-channels{macs=0.5x,score=l2}"))
    'fold,fuse-bn,prune-channels{macs=0.5x,score=l2}'
    """

    def __init__(
        self, steps: Sequence[Pass | Group], *, check: bool = True, instruments: Sequence[Instrument] = ()
    ) -> None:
        self.pipeline = tuple(steps)
        self.steps: tuple[Pass, ...] = tuple(flat(steps))
        self.check = check
        self.instruments = tuple(instruments)
        self.records: list[PassRecord] = []
        self.last_good: Model | None = None

    @classmethod
    def parse(cls, text: str, *, check: bool = True, instruments: Sequence[Instrument] = ()) -> PassManager:
        """A pipeline from text, see `hwpass.pipeline_text`. Raises UsageError that points at the character."""
        return cls(pipeline_text.parse(text, passes()), check=check, instruments=instruments)

    def __repr__(self) -> str:
        return brief(self, str(self) or "no passes")

    def __str__(self) -> str:
        return ",".join(map(str, self.pipeline))

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

        context = context or Context()
        if not further:
            context.bind(model)
        self.records = []
        for step in self.steps:
            step.ready()
        model = model.copy()
        for watcher in self.instruments:
            watcher.begin(self.steps, model, context)
        model = self._all(self.pipeline, model, context)
        for watcher in self.instruments:
            watcher.end(model, context)
        return model

    def _all(self, steps: Sequence[Pass | Group], model: Model, context: Context) -> Model:
        """Run steps in order, what is in brackets and what is repeated too."""
        for step in steps:
            if isinstance(step, Repeat):
                model = self._repeated(step, model, context)
            elif isinstance(step, Group):
                model = self._all(step.steps, model, context)
            else:
                model = self._one(step, model, context)
        return model

    def _repeated(self, step: Repeat, model: Model, context: Context) -> Model:
        """Rounds until one changes nothing, as many as there may be."""
        number, changed = 0, True
        while changed and number < step.n:
            start, number = len(self.records), number + 1
            model = self._all(step.steps, model, context)
            changed = any(record.changed for record in self.records[start:])
        end = "the last one still changed the model" if changed else "the last one changed nothing"
        context.findings.note("repeat", {str(step): f"{counted(number, 'round')} of at most {step.n}, {end}"})
        return model

    def _one(self, step: Pass, model: Model, context: Context) -> Model:
        """Run one pass, unless somebody who watches refuses that."""
        from hwpass.runtime.memory import release_memory

        reason = next(filter(None, (w.refuses(step, model, context) for w in self.instruments)), None)
        if reason is not None:
            self.records.append(PassRecord(str(step), 0.0, False, reason))
            for watcher in self.instruments:
                watcher.skipped(step, model, self.records[-1], context)
            return model
        self.last_good = model
        with self._placed(step), self._told(step, model, context):
            model = self._step(step, model, context)
        release_memory()
        return model

    def _step(self, step: Pass, before: Model, context: Context) -> Model:
        """Run one pass, check and enter what it made."""
        from hwpass.planning.analyses import moved
        from hwpass.proto.put_aside import put_aside
        from hwpass.proto.streaming import release_pages
        from hwpass.runtime.blas_threads import limited

        findings = context.findings
        for watcher in self.instruments:
            watcher.before(step, before, context)
        context.progress(step.name)
        with collected(step.name) as span:
            if not findings.stages and step.effect in ("refit", "mask", "factor", "format", "any"):
                findings.add(Stage("exact", (), before))
            contract = Contract(step, before, context, self.check)
            with limited(1):
                result = step.run(contract.given, context)
            # Who says that nothing changed has its copy thrown away: what it did to it would go by the proof.
            model = result.model if result.modified else before
            contract.kept(result)
            if result.modified:
                moved(context, contract.mark, model, step.preserves)
                put_aside(list(model.constants().values()))
            release_pages([*before.constants().values(), *model.constants().values()])
            if result.modified:
                findings.add(Stage(step.effect, (step.name,), model, result.pruned, result.declared))
            elif result.pruned is not None:
                findings.whole = result.pruned
            contract.ensured(model)
            findings.prepared |= step.effect not in ("none", "exact")
            again = str(step) if result.again is None else result.again
            if step.preparation and not findings.prepared and again:
                findings.preparation.append(again)
        reason = result.reason if result.reason and not result.modified else None
        record = PassRecord(str(step), span.seconds, result.modified, reason, span=span)
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
