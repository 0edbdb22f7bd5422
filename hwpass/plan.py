"""The plan: which channels of every group stay. Editable JSON, and the hinge between choosing and rewriting."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hwpass.coupling import Coupling
from hwpass.errors import InputError


class PlannedGroup(BaseModel):
    """The fate of one group: `kept` are the surviving channels' positions, 0 .. width - 1.

    None of them stays where a whole branch goes.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    width: int
    kept: list[Annotated[int, Field(ge=0)]]
    layers: list[str]


class PlannedWeight(BaseModel):
    """What stays of one tensor of the model, per axis; null where the axis is whole. Applies outside ONNX too."""

    model_config = ConfigDict(extra="forbid")

    node: str
    input: int
    tensor: str
    kept: list[list[int] | None]


class Plan(BaseModel):
    """A plan and the model it belongs to. `prepare` are the passes that ran before the groups were named."""

    model_config = ConfigDict(extra="forbid")

    schema_: Literal[1] = Field(1, alias="schema")
    model_sha256: str
    prepare: str
    groups: list[PlannedGroup]
    weights: list[PlannedWeight] = []

    def to_json(self) -> str:
        """The plan as text; the same plan gives the same text."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: str = "plan") -> Plan:
        """Read a plan. Raises InputError that names the field."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise InputError(f"{origin}: not a plan: {where}: {first['msg']}") from None

    @classmethod
    def of(cls, coupling: Coupling, kept: list[NDArray[np.int64]], prepare: str) -> Plan:
        """The plan that keeps the given channels of each group."""
        groups = [
            PlannedGroup(name=g.name, width=g.width, kept=[int(i) for i in k], layers=list(g.layers))
            for g, k in zip(coupling.groups, kept, strict=True)
        ]
        return cls(schema=1, model_sha256=coupling.build.model.sha256, prepare=prepare, groups=groups)

    def keep(self, coupling: Coupling) -> NDArray[np.bool_]:
        """The mask over components. Raises InputError where the plan does not fit the model's groups."""
        keep = np.ones(int(coupling.component.max()) + 1, bool)
        known = {g.name: g for g in coupling.groups}
        branches = {g.name: b for g, b in zip(coupling.groups, coupling.branches, strict=True)}
        for planned in self.groups:
            group = known.get(planned.name)
            if group is None:
                raise InputError(f"the plan names group {planned.name}, which the model does not have")
            if group.width != planned.width or max(planned.kept, default=0) >= group.width:
                raise InputError(
                    f"the plan's group {planned.name} has {planned.width} channels, the model's has {group.width}"
                )
            if not planned.kept and branches[planned.name] is None:
                raise InputError(f"the plan leaves group {planned.name} without a channel, which its readers cannot do")
            mask = np.zeros(group.width, bool)
            mask[planned.kept] = True
            keep[group.components[~mask]] = False
        return keep

    def widths(self) -> dict[str, int]:
        """How many channels of each group stay."""
        return {group.name: len(set(group.kept)) for group in self.groups}
