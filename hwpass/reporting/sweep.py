"""What a sweep reports: one row per point, as JSON, CSV and a table; the points on the Pareto front are marked."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from hwpass.errors import in_words, option
from hwpass.figures import brief, counted, human_bytes, human_count, human_seconds
from hwpass.node_names import Printable, short_path
from hwpass.reporting.schema import Costs, ExactnessVerdict, FidelityVerdict, ModelInfo, Ratios
from hwpass.reporting.tables import print_line, print_table
from hwpass.reporting.words import figure, milliseconds
from hwpass.verdicts.states import state_of

#: The costs that a sweep may go along, and where a report keeps their ratios.
ALONG = {"latency": "latency", "energy": "energy", "memory": "peak_memory", "size": "size", "macs": "macs"}

Status = Literal["dense", "pruned", "unreachable", "failed"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, ser_json_inf_nan="null")


class SweepPoint(_Part):
    """One budget: the model that meets it at the least loss, or why there is none."""

    asked: str = Field(description="the budget, as a share of the dense model")
    status: Status = Field(description="dense (as given), pruned, unreachable, or failed (a verdict; not written)")
    front: bool = Field(default=False, description="no other model costs no more and is no worse")
    costs: Costs | None = None
    ratio: Ratios | None = None
    metric: float | None = None
    drop: float | None = Field(default=None, description="the dense model's metric minus this one's")
    fidelity: FidelityVerdict | None = Field(default=None, description="against the original")
    exactness: ExactnessVerdict | None = None
    file: Printable | None = Field(default=None, description="where the model was written")
    reason: str | None = Field(default=None, description="why there is no model, or which verdict failed")

    def __repr__(self) -> str:
        return brief(self, self.asked, self.status, "on the front" if self.front else "", self.reason)

    def error(self) -> float | None:
        """The relative L2 error of the worst output; 0 of the dense model."""
        return 0.0 if self.status == "dense" else max(self._figures("rel_l2"), default=None)

    def agreement(self) -> float | None:
        """The share of equal first choices of the worst output; 1 of the dense model."""
        return 1.0 if self.status == "dense" else min(self._figures("top1"), default=None)

    def _figures(self, name: str) -> list[float]:
        found = [] if self.fidelity is None else [figures.get(name) for figures in self.fidelity.outputs.values()]
        return [value for value in found if value is not None]

    def cost(self, along: str) -> float | None:
        """The share of the dense model's cost that is left."""
        return None if self.ratio is None else getattr(self.ratio, ALONG[along])


class SweepReport(_Part):
    """The points of a sweep, the dense model first. The front weighs the cost swept along against the metric,
    or without one against the relative L2 error of the worst output on the user's data; without both there is none."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    hwpass: str = Field(description="version of the program")
    model: ModelInfo
    target: str
    budget: str = Field(description="the cost swept along: latency, energy, memory, size or macs")
    metric: str | None = Field(default=None, description="the metric's name")
    data: bool = Field(default=False, description="whether fidelity is on the user's data, not on random inputs")
    front_note: str | None = Field(default=None, description="why no point is marked as the front")
    points: list[SweepPoint]
    warnings: list[str] = Field(default_factory=list)
    seconds: float = 0.0

    def __repr__(self) -> str:
        points = counted(len(self.points), "point")
        return brief(self, short_path(self.model.path), self.target, f"along {self.budget}", points)

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """One line per point under a heading; empty cells where there is no figure."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        costs, ratios = list(Costs.model_fields), list(Ratios.model_fields)
        headings = ["asked", "status", "front", *costs, *(f"{name}_ratio" for name in ratios)]
        quality = ["metric", "drop", "fidelity", "data", "rel_l2", "top1"]
        writer.writerow([*headings, *quality, "exact", "max_rel", "file", "reason"])
        for point in self.points:
            exact = point.exactness
            cells: list[str | float | None] = [point.asked, point.status, str(point.front).lower()]
            cells += [getattr(point.costs, name, None) for name in costs]
            cells += [getattr(point.ratio, name, None) for name in ratios]
            close = point.fidelity
            cells += [point.metric, point.drop]
            cells += [None, None] if close is None else [close.state, "given" if self.data else "random"]
            cells += [point.error(), point.agreement()]
            cells += [None, None] if exact is None else [_boolean(exact.passed), exact.max_rel]
            writer.writerow([*cells, point.file, point.reason])
        return text.getvalue()


def no_front() -> str:
    """Why no point is marked where nothing judges quality."""
    return (
        "no point is marked as the front: agreement on random inputs says little about quality;"
        f" give {option('metric')}, or inputs with {option('calib')}"
    )


def _boolean(passed: bool | None) -> str:
    return "" if passed is None else str(passed).lower()


def marked(points: Sequence[SweepPoint], along: str) -> list[SweepPoint]:
    """The points with those on the Pareto front marked: sorted by cost, quality rises strictly along the front."""
    found: list[tuple[float, float, int]] = []
    for place, point in enumerate(points):
        cost, error = point.cost(along), point.error()
        quality = point.metric if point.metric is not None else None if error is None else -error
        if point.status in ("dense", "pruned") and cost is not None and quality is not None:
            found.append((cost, -quality, place))
    front: set[int] = set()
    best = float("inf")
    for _, loss, place in sorted(found):
        if loss < best:
            best = loss
            front.add(place)
    return [point.model_copy(update={"front": place in front}) for place, point in enumerate(points)]


def render_sweep(report: SweepReport, console: Console) -> None:
    """Print the table, one line per point, and what of it could not be had."""
    along = "" if report.budget == "latency" else f" along {report.budget}"
    print_line(console, f"{short_path(report.model.path)} for {report.target}{along}", "bold")
    scored = report.metric is not None
    apart = "" if report.data else " (random)"
    quality = ("metric", "drop") if scored else (f"rel_l2{apart}", f"top1{apart}")
    headings = ("asked", "latency", "ratio", "MACs", "size", *quality, "exact", "front")
    rows = [_row(point, scored) for point in report.points if point.costs is not None]
    more = in_words("--json or --csv", "to_json or to_csv")
    print_table(console, headings, rows, "r" * (len(headings) - 2) + "ll", more)
    if report.front_note is not None:
        print_line(console, report.front_note)
    alarming = [point.asked for point in report.points if point.fidelity is not None and point.fidelity.alarming]
    if alarming:
        print_line(console, f"far from the original on your data: {', '.join(alarming)}", "bold red")
    for point in report.points:
        if point.reason is not None:
            print_line(console, f"{point.asked} {point.status}: {point.reason}")
    for point in report.points:
        if point.file is not None:
            print_line(console, f"{point.asked} is {short_path(point.file)}", "dim")
    for warning in report.warnings:
        print_line(console, f"warning: {warning}")
    print_line(console, f"{human_seconds(report.seconds)} in all", "dim")


def _row(point: SweepPoint, scored: bool) -> tuple[str, ...]:
    assert point.costs is not None
    assert point.ratio is not None
    state = None if point.exactness is None else state_of(point.exactness.passed)
    exact = "-" if state is None else "FAILED" if state == "failed" else state
    if scored:
        quality = ("-" if point.metric is None else f"{point.metric:.4g}", figure(point.drop))
    else:
        quality = (figure(point.error()), figure(point.agreement()))
    ratio = "-" if point.ratio.latency is None else f"{point.ratio.latency:.3f}x"
    costs = (human_count(point.costs.macs), human_bytes(point.costs.size_bytes))
    front = "*" if point.front else ""
    return (point.asked, milliseconds(point.costs.latency_ms), ratio, *costs, *quality, exact, front)
