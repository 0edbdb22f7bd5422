"""What of a model is coupled and what is frozen: `hwpass groups`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from hwpass.cost.kernels import Kernels
from hwpass.coupling.chains import frozen_layers
from hwpass.coupling.groups import Coupling
from hwpass.errors import in_words
from hwpass.figures import human_count
from hwpass.node_names import Printable, short, short_path, shortened
from hwpass.reporting.tables import print_line, print_table

__all__ = ["GroupsReport", "groups_json", "groups_report", "render_groups"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GroupEntry(_Part):
    """Channels that can only go together, and the layers whose weights they are in."""

    name: str
    width: int
    layers: list[str]


class FrozenEntry(_Part):
    """A layer no output channel of which may go, why, and the multiply-accumulates it takes."""

    node: str
    reason: str
    macs: int


class Reach(_Part):
    """Shares, 0 to 1, of what lies on at least one channel that could be removed."""

    weights: float = Field(description="of the bytes of all constants")
    macs: float = Field(description="of the multiply-accumulates")


class GroupsReport(_Part):
    """What `hwpass groups --json` writes. Groups are in graph order, frozen layers by falling MACs."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    model: Printable
    sha256: str
    reach: Reach
    groups: list[GroupEntry]
    frozen: list[FrozenEntry]


def groups_report(coupling: Coupling) -> GroupsReport:
    """The groups and what is frozen, as data."""
    kernels = Kernels(coupling, ())
    # With no channel left in any group, what remains is what no plan can touch.
    none = np.zeros(len(coupling.groups))
    dense, rest = (kernels.values(widths[None, :].astype(np.float64)) for widths in (kernels.dense, none))
    work = kernels.work_of(dense).macs[0]
    macs = macs_by_layer(kernels)
    model = coupling.build.model
    return GroupsReport(
        schema=1,
        model=model.path or "model",
        sha256=model.sha256,
        reach=Reach(
            weights=_gone(float(kernels.size(dense)[0]), float(kernels.size(rest)[0])),
            macs=_gone(float(work.sum()), float(kernels.work_of(rest).macs.sum())),
        ),
        groups=[GroupEntry(name=g.name, width=g.width, layers=list(g.layers)) for g in coupling.groups],
        frozen=[
            FrozenEntry(node=node, reason=reason, macs=macs.get(node, 0))
            for node, reason in frozen_by_macs(coupling, macs)
        ],
    )


def frozen_by_macs(coupling: Coupling, macs: Mapping[str, int] | None = None) -> list[tuple[str, str]]:
    """The frozen layers and their reasons, those that take most multiply-accumulates first."""
    macs = macs_by_layer(Kernels(coupling, ())) if macs is None else macs
    return sorted(frozen_layers(coupling), key=lambda item: -macs.get(item[0], 0))


def macs_by_layer(kernels: Kernels) -> dict[str, int]:
    """Multiply-accumulates of the dense model by layer: products come first in the kernels they are fused into."""
    work = kernels.work(kernels.dense[None, :]).macs[0]
    return {kernel.name: round(float(m)) for kernel, m in zip(kernels.kernels, work, strict=True)}


def _gone(dense: float, rest: float) -> float:
    return round(1 - rest / dense, 4) if dense else 0.0


def groups_json(coupling: Coupling) -> str:
    """The groups as JSON text; the same model gives the same text."""
    return groups_report(coupling).model_dump_json(by_alias=True, indent=2) + "\n"


def render_groups(coupling: Coupling, console: Console) -> None:
    """Print the groups, how much of the model they reach, and what is frozen by what."""
    found = groups_report(coupling)
    count = len(found.groups)
    print_line(console, f"{short_path(found.model)}: {count} group{'' if count == 1 else 's'}", "bold")
    print_line(
        console,
        f"{found.reach.weights:.0%} of the weights and {found.reach.macs:.0%} of the MACs"
        " belong to channels that could be removed",
    )
    if found.groups:
        print_line(console, "")
        names = shortened([g.name for g in found.groups], max(20, console.width // 2))
        rows = []
        for group in found.groups:
            others = ", ".join(short(layer) for layer in group.layers if layer != group.name)
            rows.append((names[group.name], str(group.width), str(len(group.layers)), others))
        print_table(console, ("group", "channels", "layers", "together with"), rows, "lrrl")
    if found.frozen:
        print_line(console, "")
        names = shortened([f.node for f in found.frozen], max(20, console.width // 2))
        frozen = [(names[f.node], human_count(f.macs), f.reason) for f in found.frozen]
        print_table(console, ("frozen layer", "MACs", "because"), frozen, "lrl")
    asking = in_words("--why NODE", "render_why")
    print_line(console, f"{asking} shows what ties a layer to others, or what freezes it", "dim")
