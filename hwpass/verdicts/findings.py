"""What the passes of one run found out, typed, and the models on the way that the proof goes through."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from hwpass.figures import brief, counted
from hwpass.planning.stages import Stage
from hwpass.verdicts.notes import Note, as_note

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from hwpass.cost_models.work import Floats
    from hwpass.model.model import Model
    from hwpass.planning.stages import Effect, Pruned
    from hwpass.verdicts.fidelity import Fidelity
    from hwpass.verdicts.legs import Proof


@dataclass(frozen=True)
class MetricFound:
    """The task metric before and after, and the drop that is allowed (None: any)."""

    name: str
    before: float
    after: float
    max_drop: float | None = None


@dataclass(frozen=True)
class Trial:
    """A latency budget that the search for --max-drop tried."""

    asked: str
    latency: Annotated[float, Field(description="predicted, over the dense model's")]
    metric: float
    drop: Annotated[float, Field(description="the original's metric minus this one's")]
    passed: bool


@dataclass(frozen=True)
class Measured:
    """A model on the way: predicted costs where there is a target, closeness to the original where that was asked for.

    `activations` are the bytes of all of them, `peak` the most bytes that are live at once. `rel_l2` is the largest of
    any output.
    """

    after: str
    params: int
    size_bytes: int
    macs: float | None = None
    activations: float | None = None
    peak: float | None = None
    latency: float | None = None
    rel_l2: float | None = None


@dataclass
class Findings:
    """What passes leave for each other, for the proof and for the report. Fresh for each run of a pipeline."""

    preparation: list[str] = field(default_factory=list)  # the passes before channels are coupled, as text
    prepared: bool = False  # whether channels have been coupled, so that what runs now prepares nothing
    given: dict[str, float] = field(default_factory=dict)  # what the model costs that a preparation pass priced
    centred_norms: dict[str, bool] = field(default_factory=dict)  # of rotate-streams: outputs, and whether centred
    stages: list[Stage] = field(default_factory=list)
    whole: Pruned | None = None  # of a plan that removes nothing
    gains: list[tuple[str, float, float]] = field(default_factory=list)  # compensation, per layer: before, after
    moved: dict[str, Floats] = field(default_factory=dict)  # what was added to biases, by the output of the layer
    proof: Proof | None = None
    fidelity: Fidelity | None = None
    metric: MetricFound | None = None
    trials: list[Trial] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)  # the model as given, and after each pass
    unmet: str | None = None
    notes: dict[str, Note] = field(default_factory=dict)  # a pass's own findings, by its name, for the report
    read_back: Callable[[Path], None] | None = None  # proves the bytes of a file that is about to get its name

    def __repr__(self) -> str:
        removed = "" if self.last is None else repr(self.last.plan)
        proof = "" if self.proof is None else f"exactness {self.proof.state}"
        close = "" if self.fidelity is None else f"fidelity {self.fidelity.state}"
        return brief(self, counted(len(self.stages), "stage"), removed, proof, close)

    @property
    def pruned(self) -> list[Pruned]:
        """Every removal of channels, in order."""
        return [stage.pruned for stage in self.stages if stage.pruned is not None]

    @property
    def masked(self) -> bool:
        """Whether weights have zeros that were asked for, and no cut took away: a refit would fill them."""
        effects = [stage.effect for stage in self.stages]
        behind = effects[len(effects) - effects[::-1].index("cut") :] if "cut" in effects else effects
        return "mask" in behind

    @property
    def last(self) -> Pruned | None:
        """The latest removal of channels, or the plan that removes none."""
        return self.pruned[-1] if self.pruned else self.whole

    def note(self, name: str, found: Mapping[str, Any]) -> None:
        """Enter what the pass of a name found out: the report shows it. Of two notes on one thing the later stays.

        Values are numbers, texts, lists and mappings of them, NumPy's too. Raises TypeError for others.
        """
        # A new mapping: attempts that share what was found before have notes of their own.
        self.notes[name] = {**self.notes.get(name, {}), **as_note(found)}

    def add(self, stage: Stage) -> None:
        """Enter a model; passes that change no value are taken together. What was proved before is not of this one."""
        self.proof = self.read_back = None
        before = self.stages[-1] if self.stages else None
        if before is not None and stage.effect == before.effect == "exact":
            self.stages[-1] = Stage("exact", (*before.passes, *stage.passes), stage.model)
        else:
            self.stages.append(stage)

    def holds(self, model: Model, effect: Effect) -> bool:
        """Whether the proof needs a model as it now is, so that no pass of this effect may edit it.

        Passes that change no value may go on editing what such a pass left.
        """
        if self.whole is not None and self.whole.coupling.build.model is model:
            return True
        return any(stage.model is model and (stage.effect, effect) != ("exact", "exact") for stage in self.stages)
