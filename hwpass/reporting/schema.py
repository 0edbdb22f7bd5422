"""What a run reports: the stable JSON schema, and its rendering in the terminal and as one HTML file."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from hwpass.errors import option
from hwpass.figures import brief, human_bytes, human_count, human_energy, human_seconds, shown
from hwpass.node_names import Printable, short_path
from hwpass.reporting.schema_of_passes import Asked, MeasuredPart, Part, PassRecord
from hwpass.reporting.words import MEASURED, abbreviated, figure, milliseconds
from hwpass.verdicts.findings import Trial
from hwpass.verdicts.notes import Note
from hwpass.verdicts.states import State, state_of

if TYPE_CHECKING:
    from hwpass.verdicts.fidelity import Fidelity
    from hwpass.verdicts.findings import MetricFound

__all__ = [
    "Costs",
    "ExactnessVerdict",
    "FidelityVerdict",
    "Frozen",
    "GroupChange",
    "MetricVerdict",
    "ModelInfo",
    "PassRecord",
    "ProofLeg",
    "Ratios",
    "Report",
    "Trial",
    "VerdictRow",
    "Verdicts",
    "abbreviated",
    "human_bytes",
    "human_count",
    "human_energy",
    "human_seconds",
]


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A float, or null where there is no finite figure."""


class ModelInfo(Part):
    """The model that was given."""

    path: Printable
    sha256: str
    nodes: int
    opset: int = Field(description="version of the default operator set")


class Costs(Part):
    """Predicted costs of one inference, and what the model needs; null without a target that models them."""

    latency_ms: Figure = None
    energy_mj: Figure = None
    macs: int
    params: int
    size_bytes: int
    activation_bytes: int | None = Field(default=None, description="of all activations of an inference")
    peak_activation_bytes: int | None = Field(default=None, description="most bytes of them live at once")
    peak_memory_bytes: int | None = Field(
        default=None, description="of live activations and weights, and the runtime's"
    )


class Ratios(Part):
    """After over before, so that 0.6 is what `--latency 0.6x` asks for.

    `compression` is the other way round: bytes before over bytes after.
    """

    latency: Figure = None
    energy: Figure = None
    macs: Figure = None
    params: Figure = None
    size: Figure = None
    activations: Figure = None
    peak_activations: Figure = None
    peak_memory: Figure = None
    compression: Figure = None

    @classmethod
    def of(cls, before: Costs, after: Costs) -> Ratios:
        """The ratios of two costs; null where the cost before is unknown or zero."""
        return cls(
            latency=_over(after.latency_ms, before.latency_ms),
            energy=_over(after.energy_mj, before.energy_mj),
            macs=_over(after.macs, before.macs),
            params=_over(after.params, before.params),
            size=_over(after.size_bytes, before.size_bytes),
            activations=_over(after.activation_bytes, before.activation_bytes),
            peak_activations=_over(after.peak_activation_bytes, before.peak_activation_bytes),
            peak_memory=_over(after.peak_memory_bytes, before.peak_memory_bytes),
            compression=_over(before.size_bytes, after.size_bytes),
        )


class ProofLeg(Part):
    """One comparison of the proof: two models on the way that must give the same."""

    name: str
    sides: str
    state: State
    max_abs: Figure = None
    max_rel: Figure = None
    note: str | None = None


class _Judged(Part):
    """A verdict of three states."""

    passed: bool | None = Field(description="null where it was not judged")
    state: State
    note: str = Field(default="", description="the verdict as a sentence")

    @model_validator(mode="before")
    @classmethod
    def _state(cls, given: Any) -> Any:
        """The state of a verdict that was written before there were three."""
        if isinstance(given, dict) and "passed" in given and "state" not in given:
            return {**given, "state": state_of(given["passed"])}
        return given

    @model_validator(mode="after")
    def _agrees(self) -> _Judged:
        if self.state != state_of(self.passed):
            raise ValueError(f"a verdict that {self.state} cannot have passed={self.passed}")
        return self


class ExactnessVerdict(_Judged):
    """Whether the result is what the plan says, leg by leg; not judged where a leg is missing."""

    max_abs: Figure = None
    max_rel: Figure = None
    legs: list[ProofLeg] = Field(default_factory=list)


class FidelityVerdict(_Judged):
    """The result against the original, on data: figures by output and metric."""

    alarming: bool = Field(default=False, description="far from the original on the user's data, though not judged")
    outputs: dict[str, dict[str, Figure]] = Field(
        default_factory=dict,
        description="`drop` is by how much the share of right first choices is predicted to fall, `drop_low` to "
        "`drop_high` an interval of 90 %",
    )

    @classmethod
    def of(cls, found: Fidelity) -> FidelityVerdict:
        """The verdict as reports show it."""
        figures = {name: output.reported() for name, output in found.outputs.items()}
        return cls.model_validate({"passed": found.passed, "state": found.state, "note": found.note,
                                   "alarming": found.alarming, "outputs": figures})  # fmt: skip


class MetricVerdict(_Judged):
    """The user's own metric; `drop` is before minus after. Not judged without a largest drop."""

    name: str
    before: float
    after: float
    drop: float
    max_drop: float | None = None

    @classmethod
    def of(cls, found: MetricFound) -> MetricVerdict:
        """The verdict on a metric."""
        drop, max_drop = found.before - found.after, found.max_drop
        passed = None if max_drop is None else drop <= max_drop + 1e-12
        note = f"no largest drop is set; judge it with {option('max_drop')}"
        if passed is not None:
            note = f"the drop of {drop:.3g} is {'within' if passed else 'more than'} the {max_drop:g} allowed"
        return cls.model_validate({"passed": passed, "note": note, "name": found.name, "before": found.before,
                                   "after": found.after, "drop": drop, "max_drop": max_drop})  # fmt: skip


class VerdictRow(NamedTuple):
    """A verdict for people: its state and what belongs to it, as text."""

    name: str
    state: State
    text: str
    alarming: bool = False


class Verdicts(Part):
    """Null for a verdict that was not asked for."""

    exactness: ExactnessVerdict | None = None
    fidelity: FidelityVerdict | None = None
    metric: MetricVerdict | None = None

    def __repr__(self) -> str:
        return brief(self, *self.states())

    def states(self) -> list[str]:
        """Name and state of each verdict that was asked for."""
        named = (("exactness", self.exactness), ("fidelity", self.fidelity), ("metric", self.metric))
        return [f"{name} {verdict.state}" for name, verdict in named if verdict is not None]

    def rows(self) -> list[VerdictRow]:
        """Each verdict that was asked for."""
        rows = []
        if (exact := self.exactness) is not None:
            text = f"largest relative difference {figure(exact.max_rel)}, absolute {figure(exact.max_abs)}"
            rows.append(VerdictRow("exactness", exact.state, text if exact.state == "passed" else exact.note))
        if (close := self.fidelity) is not None:
            parts = [
                f"{output}: " + ", ".join(f"{m} {figure(v)}" for m, v in figures.items() if not m.startswith("drop"))
                for output, figures in close.outputs.items()
                if figures
            ]
            more = f"; and {len(parts) - 3} more outputs" if len(parts) > 3 else ""
            shown = "; ".join(parts[:3]) + more
            text = f"{close.note} ({shown})" if close.note and shown else close.note or shown
            rows.append(VerdictRow("fidelity", close.state, text, close.alarming))
        if (metric := self.metric) is not None:
            text = f"{metric.name}: {metric.before:.4g} before, {metric.after:.4g} after"
            if metric.max_drop is not None:
                text += f" (drop {metric.drop:.3g}, at most {metric.max_drop:g} allowed)"
            elif metric.note:
                text += f" (drop {metric.drop:.3g}; {metric.note})"
            rows.append(VerdictRow("metric", metric.state, text))
        return rows


class GroupChange(Part):
    """Channels that go together: how many there were and are, what removing them cost and gained."""

    name: str
    before: int
    after: int
    loss: Figure = Field(default=None, description="importance removed, in the unit of the score")
    latency_gain_ms: Figure = Field(
        default=None, description="predicted latency with this group alone left whole, minus the result's"
    )
    layers: list[str] = Field(default_factory=list, description="whose weights have these channels")


class Frozen(Part):
    """A node whose channels may not be touched, and why; the most expensive first."""

    node: str
    reason: str


class Report(Part):
    """Everything about one run; `to_json` is the stable file format."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    hwpass: str = Field(description="version of the program")
    model: ModelInfo
    target: str | None = None
    budget: dict[str, str] = Field(
        default_factory=dict, description="as given (or found by the search within a drop), for example latency: 0.6x"
    )
    options: dict[str, Asked] = Field(default_factory=dict, description="what was asked for, and where")
    before: Costs
    after: Costs
    ratio: Ratios
    verdicts: Verdicts = Verdicts()
    groups: list[GroupChange] = Field(default_factory=list)
    frozen: list[Frozen] = Field(default_factory=list)
    passes: list[PassRecord] = Field(default_factory=list)
    seconds: float = 0.0
    warnings: list[str] = Field(default_factory=list)
    trials: list[Trial] = Field(
        default_factory=list, description="what the search within a drop tried, in order; else empty"
    )
    measured: list[MeasuredPart] = Field(
        default_factory=list, description="the model as it was given, and after each pass that changed it"
    )
    notes: dict[str, Note] = Field(
        default_factory=dict, description="what passes found out that has no other place here, by the pass's name"
    )

    def __repr__(self) -> str:
        costs = {"latency": self.ratio.latency, "MACs": self.ratio.macs, "size": self.ratio.size}
        left = [f"{name} {ratio:.3g}x" for name, ratio in costs.items() if ratio is not None]
        return brief(self, short_path(self.model.path), self.target, *left, *self.verdicts.states())

    def to_json(self) -> str:
        """JSON in the order of the schema, with mappings sorted: the same report gives the same text."""
        data = self.model_dump(mode="json")
        for key in ("budget", "options", "notes"):  # what stands in a note is in the order of its pass
            data[key] = dict(sorted(data[key].items()))
        if data["verdicts"]["fidelity"]:
            outputs = data["verdicts"]["fidelity"]["outputs"]
            data["verdicts"]["fidelity"]["outputs"] = {
                name: dict(sorted(figures.items())) for name, figures in sorted(outputs.items())
            }
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` wrote."""
        return cls.model_validate_json(text)

    def cost_rows(self) -> list[tuple[str, str, str, str, str]]:
        """Name, before, after, ratio and what was asked for of each known cost, as text."""
        before, after, ratio = self.before, self.after, self.ratio
        peaks = (before.peak_memory_bytes, after.peak_memory_bytes)
        flows = (before.activation_bytes, after.activation_bytes)
        rows = [
            (
                "latency",
                milliseconds(before.latency_ms),
                milliseconds(after.latency_ms),
                ratio.latency,
                "latency",
            ),
            ("energy", human_energy(before.energy_mj), human_energy(after.energy_mj), ratio.energy, "energy"),
            ("MACs", human_count(before.macs), human_count(after.macs), ratio.macs, "macs"),
            ("parameters", human_count(before.params), human_count(after.params), ratio.params, ""),
            ("size", human_bytes(before.size_bytes), human_bytes(after.size_bytes), ratio.size, "size"),
            ("activations", human_bytes(flows[0]), human_bytes(flows[1]), ratio.activations, ""),
            ("peak memory", human_bytes(peaks[0]), human_bytes(peaks[1]), ratio.peak_memory, "memory"),
        ]
        return [
            (name, old, new, "-" if value is None else f"{value:.3g}x", self.budget.get(asked, ""))
            for name, old, new, value, asked in rows
            if (old, new) != ("-", "-")
        ]

    def trial_rows(self) -> list[tuple[str, str, str, str, str]]:
        """Budget, latency, metric, drop and outcome of what --max-drop tried, the fastest first."""
        return [
            (t.asked, f"{t.latency:.3g}x", f"{t.metric:.4g}", f"{t.drop:.3g}", "within" if t.passed else "dropped")
            for t in sorted(self.trials, key=lambda t: t.latency)
        ]

    def measured_table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Headings, and a row for each model on the way, its costs as shares of the first; no rows where no pass
        changed anything. What nobody measured is left out."""
        rows = self._measured_rows() if len(self.measured) > 1 else []
        known = [place for place in range(len(MEASURED)) if any(row[place] != "-" for row in rows)]
        return tuple(MEASURED[place] for place in known), [tuple(row[place] for place in known) for row in rows]

    def _measured_rows(self) -> list[tuple[str, ...]]:
        first = self.measured[0] if self.measured else None

        def share(item: MeasuredPart, metric: str) -> str:
            value, base = getattr(item, metric), getattr(first, metric)
            return "-" if value is None else "1x" if item is first else f"{value / base:.3g}x" if base else "-"

        metrics = ("params", "size_bytes", "activation_bytes", "peak_activation_bytes", "macs", "latency_ms")
        return [
            (shown(item.after, 60), *(share(item, metric) for metric in metrics),
             "-" if item.rel_l2 is None else f"{item.rel_l2:.3g}")
            for item in self.measured
        ]  # fmt: skip

    def note_rows(self) -> list[tuple[str, str, str]]:
        """Pass, finding and value of everything in the notes, as text on one line."""
        return [
            (shown(name), shown(key), shown(value if isinstance(value, str) else json.dumps(value), 500))
            for name, note in sorted(self.notes.items())
            for key, value in note.items()
        ]

    def frozen_by_reason(self) -> list[tuple[str, list[str]]]:
        """Reasons with their nodes, the reason with most nodes first."""
        nodes: dict[str, list[str]] = {}
        for item in self.frozen:
            nodes.setdefault(item.reason, []).append(item.node)
        return sorted(nodes.items(), key=lambda entry: -len(entry[1]))

    def changed_groups(self) -> list[GroupChange]:
        """Groups that lost channels, in the report's order."""
        return [group for group in self.groups if group.after != group.before]


def _over(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None
