"""What a run reports: the stable JSON schema, and its rendering in the terminal and as one HTML file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from rich.console import Console

from hwpass.formatting import human_bytes, human_count, human_energy, human_seconds
from hwpass.naming import Printable

__all__ = [
    "Costs",
    "ExactnessVerdict",
    "FidelityVerdict",
    "Frozen",
    "GroupChange",
    "MetricVerdict",
    "ModelInfo",
    "PassRecord",
    "Ratios",
    "Report",
    "Trial",
    "Verdicts",
    "abbreviated",
    "frozen_by_reason",
    "html",
    "human_bytes",
    "human_count",
    "human_energy",
    "human_seconds",
    "render",
]


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A float, or null where there is no finite figure."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, ser_json_inf_nan="null")


class ModelInfo(_Part):
    """The model that was given."""

    path: Printable
    sha256: str
    nodes: int
    opset: int = Field(description="version of the default operator set")


class Costs(_Part):
    """Predicted costs of one inference, and what the model needs; null without a target that models them."""

    latency_ms: Figure = None
    energy_mj: Figure = None
    macs: int
    params: int
    size_bytes: int
    peak_memory_bytes: int | None = None


class Ratios(_Part):
    """After over before, so that 0.6 is what `--latency 0.6x` asks for.

    `compression` is the other way round: bytes before over bytes after.
    """

    latency: Figure = None
    energy: Figure = None
    macs: Figure = None
    params: Figure = None
    size: Figure = None
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
            peak_memory=_over(after.peak_memory_bytes, before.peak_memory_bytes),
            compression=_over(before.size_bytes, after.size_bytes),
        )


class ExactnessVerdict(_Part):
    """The rewrite against the original graph with the removed channels at zero."""

    passed: bool
    max_abs: Figure = None
    max_rel: Figure = None


class FidelityVerdict(_Part):
    """The result against the original, on data: figures by output and metric."""

    passed: bool
    outputs: dict[str, dict[str, Figure]] = Field(default_factory=dict)


class MetricVerdict(_Part):
    """The user's own metric; `drop` is before minus after."""

    passed: bool
    name: str
    before: float
    after: float
    drop: float
    max_drop: float | None = None


class Verdicts(_Part):
    """Null for a verdict that was not asked for."""

    exactness: ExactnessVerdict | None = None
    fidelity: FidelityVerdict | None = None
    metric: MetricVerdict | None = None

    def rows(self) -> list[tuple[str, bool, str]]:
        """Name, outcome and figures of each verdict that was asked for."""
        rows = []
        if (exact := self.exactness) is not None:
            text = f"largest relative difference {figure(exact.max_rel)}, absolute {figure(exact.max_abs)}"
            rows.append(("exactness", exact.passed, text))
        if (close := self.fidelity) is not None:
            parts = [
                f"{output}: " + ", ".join(f"{metric} {figure(value)}" for metric, value in figures.items())
                for output, figures in close.outputs.items()
            ]
            more = f"; and {len(parts) - 3} more outputs" if len(parts) > 3 else ""
            rows.append(("fidelity", close.passed, "; ".join(parts[:3]) + more))
        if (metric := self.metric) is not None:
            text = f"{metric.name}: {metric.before:.4g} before, {metric.after:.4g} after"
            if metric.max_drop is not None:
                text += f" (drop {metric.drop:.3g}, at most {metric.max_drop:g} allowed)"
            rows.append(("metric", metric.passed, text))
        return rows


class GroupChange(_Part):
    """Channels that go together: how many there were and are, what removing them cost and gained."""

    name: str
    before: int
    after: int
    loss: Figure = Field(default=None, description="importance removed, in the unit of the score")
    latency_gain_ms: Figure = Field(
        default=None, description="predicted latency with this group alone left whole, minus the result's"
    )
    layers: list[str] = Field(default_factory=list, description="whose weights have these channels")


class Frozen(_Part):
    """A node whose channels may not be touched, and why; the most expensive first."""

    node: str
    reason: str


class Trial(_Part):
    """A latency budget that the search for --max-drop tried."""

    asked: str
    latency: float = Field(description="predicted, over the dense model's")
    metric: float
    drop: float = Field(description="the original's metric minus this one's")
    passed: bool


class PassRecord(_Part):
    """One pass of the pipeline."""

    name: str
    seconds: float
    changed: bool


class Report(_Part):
    """Everything about one run; `to_json` is the stable file format."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    hwpass: str = Field(description="version of the program")
    model: ModelInfo
    target: str | None = None
    budget: dict[str, str] = Field(
        default_factory=dict, description="as given (or found within --max-drop), for example latency: 0.6x"
    )
    before: Costs
    after: Costs
    ratio: Ratios
    verdicts: Verdicts = Verdicts()
    groups: list[GroupChange] = Field(default_factory=list)
    frozen: list[Frozen] = Field(default_factory=list)
    passes: list[PassRecord] = Field(default_factory=list)
    seconds: float = 0.0
    warnings: list[str] = Field(default_factory=list)
    trials: list[Trial] = Field(default_factory=list, description="what --max-drop tried, in order; else empty")

    def to_json(self) -> str:
        """JSON in the order of the schema, with mappings sorted: the same report gives the same text."""
        data = self.model_dump(mode="json")
        data["budget"] = dict(sorted(data["budget"].items()))
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

    def changed_groups(self) -> list[GroupChange]:
        """Groups that lost channels, in the report's order."""
        return [group for group in self.groups if group.after != group.before]


def abbreviated(names: Sequence[str], limit: int = 3) -> str:
    """The first names and how many more there are.

    >>> abbreviated(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def frozen_by_reason(frozen: Sequence[Frozen]) -> list[tuple[str, list[str]]]:
    """Reasons with their nodes, the reason with most nodes first."""
    nodes: dict[str, list[str]] = {}
    for item in frozen:
        nodes.setdefault(item.reason, []).append(item.node)
    return sorted(nodes.items(), key=lambda entry: -len(entry[1]))


def render(report: Report, console: Console) -> None:
    """Print the report as tables of one line per row; names from the model are never taken for markup."""
    from hwpass.terminal_report import show  # it imports this module

    show(report, console)


def html(report: Report) -> str:
    """The report as one HTML file that needs nothing else."""
    from hwpass.html_report import page  # it imports this module

    return page(report)


def _over(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def figure(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3g}"


def milliseconds(value: float | None) -> str:
    """Milliseconds as people read them."""
    return human_seconds(None if value is None else value / 1e3)
