"""The plan: which channels of every group stay. Editable JSON, and the hinge between choosing and rewriting."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator
from pydantic import ValidationInfo as Info

from hwpass.coupling.branches import branches
from hwpass.coupling.groups import Coupling
from hwpass.errors import InputError
from hwpass.figures import brief, counted, shown, shown_path
from hwpass.files.data_files import read_data
from hwpass.files.index_ranges import from_ranges, to_ranges

#: Bytes of the largest plan file that is read, and how many channels all its lists may name together.
LARGEST = 1 << 24
MOST_CHANNELS = 1 << 23


def _from_text(value: Any, info: Info) -> Any:
    """Ranges as the list they mean. A file's lists are counted: a few bytes of ranges may mean gigabytes."""
    left: int = MOST_CHANNELS if info.context is None else info.context["left"]
    if isinstance(value, str):
        value = from_ranges(value, left)
    if isinstance(value, list) and len(value) > left:
        raise ValueError(f"the lists of the plan name more than {MOST_CHANNELS} channels")
    if info.context is not None and isinstance(value, list):
        info.context["left"] = left - len(value)
    return value


def _as_ranges(value: Sequence[int] | None) -> str | None:
    return None if value is None else to_ranges(value)


_RANGES = PlainSerializer(_as_ranges, return_type=str | None, when_used="json")
Kept = Annotated[
    list[Annotated[int, Field(ge=0)]],
    Field(fail_fast=True),
    BeforeValidator(_from_text, json_schema_input_type=str),
    _RANGES,
    Field(description='positions as ranges, "0-15,20", ascending; a list of integers is read as well'),
]
Positive = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]


class PlannedGroup(BaseModel):
    """The fate of one group: `kept` are the surviving channels' positions, 0 .. width - 1.

    None of them stays where a whole branch goes.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    width: Positive
    kept: Kept
    layers: Annotated[list[str], Field(fail_fast=True)]

    def __repr__(self) -> str:
        return brief(self, self.name, f"{len(self.kept)} of {self.width} channels stay")

    @model_validator(mode="after")
    def _in_range(self) -> PlannedGroup:
        self.kept = _distinct(self.kept)
        if self.kept and self.kept[-1] >= self.width:
            raise ValueError(f"group {self.name} keeps channel {self.kept[-1]}, but its {self.width} are 0 to"
                             f" {self.width - 1}")  # fmt: skip
        return self


class PlannedWeight(BaseModel):
    """What stays of one tensor of the model, per axis; null where the axis is whole. Applies outside ONNX too.

    It follows from the groups: what an edited plan says here is worked out again when the plan is applied.
    """

    model_config = ConfigDict(extra="forbid")

    node: str
    input: Annotated[int, Field(ge=0)]
    tensor: str
    kept: Annotated[list[Kept | None], Field(fail_fast=True)]

    def __repr__(self) -> str:
        return brief(self, self.node, f"input {self.input}", self.tensor)

    @model_validator(mode="after")
    def _in_order(self) -> PlannedWeight:
        self.kept = [None if positions is None else _distinct(positions) for positions in self.kept]
        return self


class Plan(BaseModel):
    """A plan and the model it belongs to. `prepare` are the passes that ran before the groups were named.

    A group of the model that is not listed stays whole.
    """

    model_config = ConfigDict(extra="forbid")

    schema_: Literal[1] = Field(1, alias="schema")
    model_sha256: str
    prepare: str
    groups: Annotated[list[PlannedGroup], Field(fail_fast=True)]
    weights: Annotated[list[PlannedWeight], Field(fail_fast=True)] = []

    def __repr__(self) -> str:
        whole, kept = (sum(sizes) for sizes in ([g.width for g in self.groups], [len(g.kept) for g in self.groups]))
        return brief(self, counted(len(self.groups), "group"), f"{kept} of {whole} channels stay", self.prepare)

    @model_validator(mode="after")
    def _one_object_per_group(self) -> Plan:
        seen: set[str] = set()
        for group in self.groups:
            if group.name in seen:
                raise ValueError(f"group {group.name} is there twice; keep one of the two")
            seen.add(group.name)
        return self

    def to_json(self) -> str:
        """The plan as text; the same plan gives the same text."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the decision as canonical JSON: model, preparation, and the groups that lose channels.

        Order, spelling of ranges, whole groups and `weights`, which follow from the groups, make no difference.
        """
        groups = [[g.name, g.width, to_ranges(sorted(g.kept))] for g in self.groups if len(set(g.kept)) < g.width]
        decision = {"model_sha256": self.model_sha256, "prepare": self.prepare, "groups": sorted(groups)}
        text = json.dumps(decision, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Plan:
        """The plan in a file; `-` is standard input. Raises InputError."""
        return cls.from_json(read_data(path, "plan", LARGEST), str(path))

    @classmethod
    def from_json(cls, text: str, origin: str = "plan") -> Plan:
        """Read a plan. Raises InputError, one line that names the field. What `prepare` may name is looked at where
        passes are known, see `hwpass.manager.preparation`."""
        origin = shown_path(origin)
        if len(text) > LARGEST:
            raise InputError(f"{origin}: not a plan: larger than {LARGEST >> 20} MiB, which none is")
        try:
            data = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
            plan = cls.model_validate(data, strict=True, context={"left": MOST_CHANNELS})
        except ValidationError as error:
            # A key that is wrong explains the one that is missing.
            first = min(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
            where = ".".join(shown(part, 40) for part in first["loc"]) or "the file"
            raise InputError(
                f"{origin}: not a plan: {where}: {shown(first['msg'].removeprefix('Value error, '), 200)}"
            ) from None
        except RecursionError:
            raise InputError(f"{origin}: not a plan: brackets are nested too deeply") from None
        except json.JSONDecodeError as error:
            raise InputError(f"{origin}: not a plan: the file: {error}") from None
        except ValueError as error:
            raise InputError(f"{origin}: not a plan: the file: {shown(str(error), 200)}") from None
        return plan

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
        gone = {g.name: b for g, b in zip(coupling.groups, branches(coupling), strict=True)}
        for planned in self.groups:
            name, group = shown(planned.name), known.get(planned.name)
            if group is None:
                raise InputError(f"the plan names group {name}, which the model does not have")
            if group.width != planned.width:
                raise InputError(f"the plan's group {name} has {planned.width} channels, the model's has {group.width}")
            # A plan's lists may have been changed in Python since they were checked.
            if planned.kept and not 0 <= min(planned.kept) <= max(planned.kept) < group.width:
                raise InputError(f"the plan keeps channels of group {name} outside 0 to {group.width - 1}")
            if not planned.kept and gone[planned.name] is None:
                raise InputError(f"the plan leaves group {name} without a channel, which its readers cannot do")
            mask = np.zeros(group.width, bool)
            mask[planned.kept] = True
            keep[group.components[~mask]] = False
        return keep

    def completed(self, coupling: Coupling, weights: list[PlannedWeight]) -> Plan:
        """The same plan with every group of the model, those it did not list as whole ones, and with its weights."""
        listed = {group.name: group for group in self.groups}
        groups = [
            listed.get(g.name)
            or PlannedGroup(name=g.name, width=g.width, kept=list(range(g.width)), layers=list(g.layers))
            for g in coupling.groups
        ]
        return self.model_copy(update={"groups": groups, "weights": weights})

    def widths(self) -> dict[str, int]:
        """How many channels of each group stay."""
        return {group.name: len(set(group.kept)) for group in self.groups}


def _distinct(positions: list[int]) -> list[int]:
    """The positions in ascending order; ValueError when one is there twice."""
    ascending = sorted(positions)
    for one, other in pairwise(ascending):
        if one == other:
            raise ValueError(f"channel {one} is there twice")
    return ascending


def _once(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"key {shown(twice)} is there twice in one object")
    return table


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of a plan")
