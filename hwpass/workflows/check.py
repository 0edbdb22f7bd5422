"""Whether a model stays within budgets on a target, as it is: `hwpass check`, for continuous integration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from hwpass.cost.budgets import Budget, hard_limits, parse_budgets
from hwpass.cost.prediction import Cost
from hwpass.cost_models import Target, load_target
from hwpass.coupling.walk import dynamic_dimensions
from hwpass.errors import UsageError, option
from hwpass.figures import brief, human_bytes, human_count, human_energy, human_seconds
from hwpass.model.model import Model
from hwpass.model.sources import Source
from hwpass.node_names import Printable, short_path
from hwpass.reporting.tables import print_line, print_table
from hwpass.runtime.dim_ranges import dim_ranges
from hwpass.workflows.inspect import coupled

#: How a figure of each metric is written, in the units of `Cost`.
_WRITTEN: dict[str, Callable[[float], str]] = {
    "latency": human_seconds, "energy": lambda joules: human_energy(joules * 1e3), "macs": human_count,
    "memory": human_bytes, "size": human_bytes, "ram": human_bytes, "flash": human_bytes,
}  # fmt: skip


class Checked(BaseModel):
    """One budget: what the model takes of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    of: str = Field(description="the target, for a limit of its own; empty for a budget that was asked for")
    taken: float = Field(description="in seconds, joules, bytes or multiply-accumulates")
    bound: float
    passed: bool


class Check(BaseModel):
    """What `hwpass check --json` writes."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    model: Printable
    target: str
    passed: bool
    budgets: list[Checked]
    notes: list[str]

    def __repr__(self) -> str:
        return brief(self, short_path(self.model), self.target, "passed" if self.passed else "failed")


def check_model(
    source: Source | Model,
    target: str | os.PathLike[str] | Target,
    budgets: Mapping[str, str | float | None],
    *,
    dtype: str | None = None,
    dim: str | Iterable[str] = (),
    threads: int = 1,
    allow_external: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Check:
    """Compare what a model is predicted to take with absolute budgets and with the target's own limits.

    `budgets` are texts such as `12ms` by metric. Raises UsageError for none at all, and for a share of the model.
    """
    asked = parse_budgets(budgets)
    relative = next((b for b in asked if b.relative), None)
    if relative is not None:
        raise UsageError(
            f"{option(relative.metric, relative.text)}: a share of the model itself says nothing; give 12ms or the like"
        )
    chosen = load_target(target).variant(dtype, threads if threads > 1 else None)
    if not asked and not chosen.limits:
        raise UsageError(f"nothing to check: give a budget such as {option('latency', '12ms')}")
    model = source if isinstance(source, Model) else Model.load(source, allow_external=allow_external)
    sizes = {name: high for name, (_, high) in dim_ranges(dim, dynamic_dimensions(model.graph)).items()}
    cost = Cost(coupled(model, progress, dims=sizes), chosen)
    found = [_checked(budget, cost.base) for budget in (*asked, *hard_limits(cost))]
    return Check(
        schema=1,
        model=model.path or "model",
        target=chosen.name,
        passed=all(each.passed for each in found),
        budgets=found,
        notes=cost.notes(),
    )


def _checked(budget: Budget, base: Mapping[str, float]) -> Checked:
    taken = base[budget.metric]
    return Checked(
        metric=budget.metric, of=budget.of, taken=taken, bound=budget.value, passed=taken <= budget.value * (1 + 1e-9)
    )


def over(check: Check) -> str:
    """The budgets that the model breaks, in a line."""
    texts = []
    for each in check.budgets:
        if not each.passed:
            written = _WRITTEN[each.metric]
            whose = f" that {each.of} has" if each.of else ""
            texts.append(f"{each.metric} {written(each.taken)} is more than the {written(each.bound)}{whose}")
    return "; ".join(texts)


def render_check(check: Check, console: Console) -> None:
    """Print a line for each budget."""
    print_line(console, f"{short_path(check.model)} for {check.target}", "bold")
    for note in check.notes:
        print_line(console, note, "yellow")
    rows = []
    for each in check.budgets:
        written = _WRITTEN[each.metric]
        share = f"{each.taken / each.bound:.0%}"
        verdict = "passed" if each.passed else "failed"
        rows.append((each.metric, written(each.taken), written(each.bound), share, each.of or "asked for", verdict))
    print_table(console, ("metric", "predicted", "at most", "used", "whose", "verdict"), rows, "lrrrll")
